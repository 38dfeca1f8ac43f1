package stale

import (
	"context"
	"errors"
	"fmt"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
)

// Named is a finding about a PID file together with the process that the file
// names.
type Named struct {
	*Finding
	// Record is what the file says; nil where it says nothing that is a PID.
	Record *process.Record
	// Process has the number, or is the very process that a record of our own
	// format means, and is held; nil where there is none. Close it.
	Process *process.Ident
	// Proven says that Process is the one that the file was written for. A process
	// that is merely alive, and seems to be older than the file, keeps a file from
	// being removed; to be signalled it has to be proven.
	Proven bool
}

// Close lets the process go.
func (n *Named) Close() {
	if n.Process != nil {
		n.Process.Close()
		n.Process = nil
	}
}

// LookPID is Look for a PID file, and for the process that it names. The process
// is held before it is judged: what the verdict says of a number is true of it.
func (j *Judge) LookPID(ctx context.Context, dir *fsat.Dir, name, shown string) (*Named, error) {
	if err := fsat.ValidName(name); err != nil {
		return nil, fmt.Errorf("%s: %w", shown, err)
	}
	node, err := dir.OpenNode(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", shown, err)
	}
	defer node.Close()
	return j.LookPIDHeld(ctx, node, dir, name, shown)
}

// LookPIDHeld is LookPID for whoever holds the file, as LookHeld is.
func (j *Judge) LookPIDHeld(ctx context.Context, node *fsat.Node, dir *fsat.Dir, name, shown string) (*Named, error) {
	o := &object{node: node, dir: dir, name: name}
	g, err := j.lies(o)
	if err == nil {
		err = o.stat(g)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", shown, err)
	}
	n := &Named{}
	var held error
	if _, leased := j.lease(o, g); g.answers && !leased {
		held = n.hold(j, o)
	}
	n.Finding, err = j.LookHeld(ctx, node, dir, name, shown, PIDFile)
	if err != nil {
		n.Close()
		return nil, err
	}
	if n.Record != nil && (n.PID != 0 && n.PID != n.Record.PID || n.Identity.Inode != o.st.Ino) {
		n.Close()
		return nil, fmt.Errorf("%s: %w", shown, ErrChanged)
	}
	if n.Verdict == CannotTell && errors.Is(held, process.ErrNoPID) {
		n.note(NoPID, "%v", held) // which is more than that it may be used
	}
	n.prove(j, o)
	if n.Verdict != Live {
		n.Close()
	}
	return n, nil
}

// hold reads the record and holds its process, as far as there are any. It needs
// no /proc, which a chroot may not have. The file is closed when it returns, or the
// look would find that we have it open.
func (n *Named) hold(j *Judge, o *object) error {
	if !o.st.IsRegular() {
		return nil
	}
	text, err := content(o)
	if errors.Is(err, fsat.ErrNeedsProc) {
		text, err = o.contentByName()
	}
	if err != nil {
		return err
	}
	r, err := process.ParseRecord(text)
	if err != nil {
		return err
	}
	n.Record = &r
	if r.Own() {
		n.Process, err = j.proc.Find(r)
	} else {
		n.Process, err = j.proc.Ident(r.PID)
	}
	if err != nil {
		n.Process = nil
	} else if n.Process.Dead {
		n.Close()
	}
	return nil
}

// contentByName is content where /proc is missing.
func (o *object) contentByName() ([]byte, error) {
	file, err := o.dir.OpenWork(o.name, linux.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var st fsat.Stat
	if err := file.Stat(&st); err != nil {
		return nil, err
	}
	if !st.SameInode(&o.st) {
		return nil, ErrChanged
	}
	return readAll(file.Fd())
}

// prove finds out whether the held process is the one that is meant.
func (n *Named) prove(j *Judge, o *object) {
	if n.Process == nil {
		return
	}
	if n.Process.Held() {
		if ended, err := n.Process.Ended(); err != nil || ended {
			n.Close()
			return
		}
	}
	switch {
	case n.Record.Own():
		n.Proven = true
		if n.Verdict != Live || n.Finding.Evidence[len(n.Finding.Evidence)-1].Proof != ProcessAlive {
			n.decide(Live, ProcessAlive, "process %d (%s) is the very one that it names", n.Process.PID, n.Process.Comm)
		}
	case n.Verdict == Live && n.last() == ProcessAlive && !n.Process.Kernel:
		why := j.writtenFor(n.Process.Start, o)
		n.Proven = why == nil
		if n.Proven {
			n.note(OlderThanFile, "it is older than the file, and the clock was not set since: the file was written for it")
		} else {
			n.note(ClockUnproven, "that the file was written for it is not proven: %v", why)
		}
	}
}

func (n *Named) last() Proof {
	if len(n.Evidence) == 0 {
		return ""
	}
	return n.Evidence[len(n.Evidence)-1].Proof
}

// writtenFor returns nil if a process that started at that many ticks after the boot is
// proven to be older than the file, so that its number cannot have been given to
// it since. The comparison is wrong only if the clock was set back after the file
// was written: either the boot stamp, or /proc (see readClock), shows that it was
// not.
func (j *Judge) writtenFor(start uint64, o *object) error {
	now, offset, err := j.clocks()
	if err != nil {
		return err
	}
	// Not o.written(): chmod, chown and rename make the change time younger than the
	// content. A modification time that was set into the future does not count.
	w := min(o.st.Mtime, o.st.Ctime)
	switch started := int64(start)*tick + offset; {
	case w > now+coarse:
		return errors.New("the file's time is in the future")
	case started > w+coarse+tick:
		return errors.New("it is not older than the file")
	}
	s := j.opts.Stamp
	if s != nil && j.runErr == nil && s.SameRun(j.run) {
		if d := offset - s.Offset; d > stepTolerance || d < -stepTolerance {
			return errors.New("the clock was set since the boot stamp was made")
		}
		if w >= s.Made {
			return nil
		}
	}
	return j.readClock().why
}

// ReadHeld is the record of a PID file that is open for reading. An error that is
// process.ErrNoPID says that it holds none.
func ReadHeld(fd int) (process.Record, []byte, error) {
	if err := linux.SeekStart(fd); err != nil {
		return process.Record{}, nil, err
	}
	text, err := readAll(fd)
	if err != nil {
		return process.Record{}, nil, err
	}
	r, err := process.ParseRecord(text)
	return r, text, err
}
