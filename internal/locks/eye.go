package locks

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"

	"github.com/slashrun/slashrun/internal/process"
)

// eye looks at one process after another. What it has seen of each goes into a
// result that is nobody else's, so that one that hangs can be left.
type eye struct {
	proc   *process.Proc
	view   view
	parsed *atomic.Int64

	fds   []int // reused, as buf
	buf   []byte
	lines int // of locks, in fdinfo of this process
	last  []string
	same  []Lock // what last says
	out   *result
}

// result is what was seen of a process.
type result struct {
	pid   int
	seen  bool
	err   error // about ourselves
	found []sighting
	stat  process.Stat
	known bool // stat is
	why   []noted
}

// noted is a reason and whom it is about.
type noted struct {
	reason reason
	who    string
}

func (f *finder) eye() *eye { return &eye{proc: f.proc, view: f.view.fork(), parsed: f.parsed} }

// work looks at processes of the round until there are no more.
func (e *eye) work(ctx context.Context, r *round) {
	for {
		i := int(r.next.Add(1)) - 1
		if i >= len(r.pids) || ctx.Err() != nil {
			return
		}
		r.began[i].Store(true)
		e.out = &result{pid: r.pids[i]}
		e.out.seen, e.out.err = e.process(r.pids[i], strconv.Itoa(r.pids[i]))
		r.results <- e.out
	}
}

func (e *eye) note(why reason, who string) { e.out.why = append(e.out.why, noted{why, who}) }

// process looks at one process and reports whether it could be seen. An error is
// about ourselves.
func (e *eye) process(pid int, at string) (seen bool, err error) {
	err = e.descriptors(pid, at)
	if err == nil && len(e.fds) > 0 {
		return true, nil
	}
	if process.Gone(err) {
		return true, nil // what has ended holds nothing
	}
	if ours(err) {
		return false, err
	}
	// It has no descriptors that we see: a thread of the kernel, one that must not
	// be looked at, or one whose first thread has ended. Its stat tells.
	st, err2 := statOf(e.proc, pid)
	if process.Gone(err2) {
		return true, nil
	}
	if err2 == nil {
		if st.Kernel() || st.Dead() {
			return true, nil
		}
		e.out.stat, e.out.known = st, true
		if lively := e.proc.Lively(st); lively != at {
			err = e.descriptors(pid, lively)
		}
	}
	if err == nil || process.Gone(err) {
		return true, nil
	}
	if ours(err) {
		return false, err
	}
	e.note(reason{text: "the descriptors of", cause: cause(err)}, whoIs(process.Process{PID: pid, Comm: st.Comm}))
	return false, nil
}

// descriptors looks at the descriptors of a process, whose directory in the procfs
// is at.
func (e *eye) descriptors(pid int, at string) error {
	e.fds, e.lines = e.fds[:0], 0
	top, err := e.proc.Dir(at)
	if err != nil {
		return err
	}
	defer top.Close()
	d, err := top.Dir("fd")
	if err != nil {
		return err
	}
	defer d.Close()
	if e.fds, err = d.Numbers(e.fds); err != nil {
		return err
	}
	for _, fd := range e.fds {
		if err := e.descriptor(top, d, pid, fd); err != nil && !process.Gone(err) {
			return err
		}
	}
	return nil
}

// descriptor looks at one. An error is about all of the process.
func (e *eye) descriptor(top, d *process.Dir, pid, fd int) error {
	name := strconv.Itoa(fd)
	inode, err := d.Node(name)
	switch {
	case process.Gone(err):
		return nil
	case err != nil:
		// Some file systems refuse to say (FUSE of another user). But whoever may list
		// the descriptors (CAP_DAC_OVERRIDE) need not be allowed to look into a process
		// that is privileged further: then every one is refused.
		if _, err := d.Readlink(name); err != nil {
			return err
		}
	case !e.view.worth(inode):
		return nil
	}
	if e.tooMany(pid) {
		return nil
	}
	s := sighting{pid: pid, fd: fd, node: node{inode.Dev, inode.Ino}}
	if s.info, e.buf, err = top.FDInfo(name, e.buf); err != nil {
		return err
	}
	e.parse(&s)
	keep, path := e.view.keep(&s)
	if !keep {
		return nil
	}
	if path {
		s.path, _ = d.Readlink(name)
	}
	e.out.found = append(e.out.found, s)
	if !e.out.known {
		// Cheaper here than later. In the directory of a thread it would be the thread's.
		if e.buf, err = top.Record("stat", e.buf); err == nil {
			if st, err := process.ParseStat(e.buf); err == nil && st.PID == pid {
				e.out.stat, e.out.known = st, true
			}
		}
	}
	return nil
}

// Who may have many locks (RLIMIT_NOFILE open files, each with any number of bytes
// locked) must not make us use all memory. A process of which more is seen is left,
// and that is told.
const (
	maxLines  = 1 << 17 // of locks in fdinfo, for each process
	maxParsed = 1 << 20 // locks that are kept, of all
)

// parse reads the lock lines of a sighting. Those of a descriptor that is a dup(2) of
// the one before are the same.
func (e *eye) parse(s *sighting) {
	lines := s.info.Locks
	s.info.Locks = nil
	if len(lines) == 0 {
		return
	}
	if e.lines += len(lines); slices.Equal(lines, e.last) {
		s.locks = e.same
		return
	}
	s.locks = make([]Lock, 0, len(lines))
	for _, line := range lines {
		if l, err := Parse(line); err != nil {
			e.note(reason{text: "fdinfo has a line that we do not know: " + err.Error(), loose: true}, "")
		} else if !l.Waiting {
			s.locks = append(s.locks, l)
		}
	}
	e.parsed.Add(int64(len(s.locks)))
	e.last, e.same = lines, s.locks
}

// tooMany reports whether no more is to be read of this process.
func (e *eye) tooMany(pid int) bool {
	if e.lines < maxLines && e.parsed.Load() < maxParsed {
		return false
	}
	e.note(reason{text: "not all of the many locks of", cause: "that would take too much memory", loose: true}, "process "+strconv.Itoa(pid))
	return true
}

// ours reports whether an error is about us and not about whom we look at.
func ours(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}
