package stale

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/sockdiag"
)

// newborn is how long a socket file counts as being made: bind(2) makes the file
// first and binds the socket to it some microseconds later.
const newborn = int64(time.Second)

// socket judges by the probe. It needs no exclusive ground, because the kernel
// knows the sockets of all namespaces; but another kernel knows others.
func (j *Judge) socket(ctx context.Context, f *Finding, o *object) error {
	bound, err := sockdiag.Probe(o.node.Fd())
	switch {
	case err != nil:
		if s := j.inDump(o); s != nil {
			f.decide(Live, SocketBound, "a socket is bound to it, says sock_diag")
			return nil
		}
		f.decide(CannotTell, NoPermission, "the socket cannot be probed: %v", err)
		return nil
	case bound:
		f.decide(Live, SocketBound, "a socket is bound to it")
		if s := j.inDump(o); s != nil && s.State == sockdiag.Listening {
			f.note(SocketBound, "it listens, %d of %d connections wait to be accepted", s.Queue, s.Backlog)
		}
		return nil
	case !o.ground.local:
		if o.ground.mount == nil {
			f.decide(CannotTell, UnknownMount, "nothing of this machine is bound to it, but %s", o.ground.notOurs)
			return nil
		}
		f.decide(CannotTell, NetworkFS, "nothing of this machine is bound to it, but another machine's process may be")
		return nil
	}
	if o.ground.exclusive && j.older(o, o.born()) == nil {
		f.decide(Stale, ConnectRefused, "nothing is bound to the socket, and nobody can be about to")
		return nil
	}
	switch why, err := j.layer(ctx, o.ground, o); {
	case err != nil:
		return err
	case why != "":
		f.decide(CannotTell, Layer, "nothing is bound to it here, but %s, where another inode counts", why)
		return nil
	}
	now, _, err := j.clocks()
	if age := now - o.born(); err != nil || age < j.newborn {
		f.decide(CannotTell, JustMade, "nothing is bound to the socket, but it was made just now, and bind(2) may be under way")
		return nil
	}
	f.decide(Stale, ConnectRefused, "nothing is bound to the socket")
	return nil
}

// inDump finds the socket that is bound to o in the list of this network
// namespace, nil where it is not there.
func (j *Judge) inDump(o *object) *sockdiag.Socket {
	m := o.ground.mount
	if m == nil {
		return nil
	}
	list := j.seen.sockets()
	for i := range list {
		if list[i].File.Is(m.Major, m.Minor, o.st.Ino) {
			return &list[i]
		}
	}
	return nil
}

// leftBehind judges what is used by its name: only on exclusive ground, and only
// what is older than this run and held by none of those who are alive.
func (j *Judge) leftBehind(ctx context.Context, f *Finding, o *object, otherwise string) error {
	if !o.ground.exclusive {
		f.decide(CannotTell, UsedByName, "%s, and this is not exclusively ours", otherwise)
		return nil
	}
	if err := j.before(o); err != nil {
		f.decide(CannotTell, OfThisRun, "it may be of this very run: %v", err)
		return nil
	}
	kin := o.ground.kin
	if o.st.IsDir() {
		kin = kin[1:] // whoever walks a tree holds its directories
	}
	for _, who := range kin {
		how, err := j.proc.Holds(who.PID, rawDev(&o.st), o.st.Ino, j.notUses(o)...)
		switch {
		case err != nil:
			f.decide(CannotTell, NoPermission, "whether process %d (%s), which started us, has it open cannot be seen: %v", who.PID, who.Comm, err)
			return nil
		case how != "":
			f.decide(Live, InodeHeld, "process %d (%s) has it as its %s", who.PID, who.Comm, how)
			return nil
		}
	}
	f.decide(Stale, LeftBehind, "it is older than this run, and whoever left it is gone")
	return ctx.Err()
}

// directory is stale only where the caller asks for it as a directory of the
// previous run, and only when nothing is in it any more.
func (j *Judge) directory(ctx context.Context, f *Finding, o *object) error {
	if f.asked != Directory {
		f.decide(CannotTell, UsedByName, "a directory is not stale by itself; what is in it may be")
		return nil
	}
	names, err := fsat.DirOf(o.node.Fd()).Names()
	switch {
	case err != nil:
		f.decide(CannotTell, NoPermission, "it cannot be listed: %v", err)
		return nil
	case len(names) > 0:
		f.decide(CannotTell, NotEmpty, "it holds %d entries: look at those", len(names))
		return nil
	}
	return j.leftBehind(ctx, f, o, "a directory is used by its name")
}

// file judges a PID file or lock file: by who locks it, then by the PID in it, as
// UUCP locks have one, too. Without a PID only what is left behind is stale: a PID
// file may be in the making, and a lock file that nobody locks is not in the way
// of anybody who uses flock(2).
func (j *Judge) file(ctx context.Context, f *Finding, o *object) error {
	if !o.ground.local { // it is not even opened: a server that is gone would let us wait
		p := NetworkFS
		if o.ground.mount == nil {
			p = UnknownMount
		}
		f.decide(CannotTell, p, "%s", o.ground.notOurs)
		return nil
	}
	if l, held := j.lease(o, o.ground); held { // which opening it would break
		f.decide(Live, LockHeld, "a lease is held on it, taken by process %d", l.PID)
		return nil
	}
	if !j.unlocked(f, o) {
		return nil
	}
	r, ok, err := j.record(f, o)
	if err != nil || !ok {
		return err
	}
	switch {
	case r == nil:
		return j.leftBehind(ctx, f, o, "it may be in the making, or locked later")
	case r.Own():
		err = j.ownRecord(ctx, f, o, r)
	default:
		err = j.bareRecord(f, o, r)
	}
	if err == nil && f.Verdict == Stale && !o.act && !o.ground.exclusive {
		return j.sharedLock(ctx, f, o)
	}
	return err
}

// record reads the file. Nothing is decided if ok is false; a nil record means
// that it holds no PID.
func (j *Judge) record(f *Finding, o *object) (r *process.Record, ok bool, err error) {
	text, err := content(o)
	if err != nil {
		f.decide(CannotTell, NoPermission, "it cannot be read: %v", err)
		return nil, false, nil
	}
	rec, err := process.ParseRecord(text)
	if errors.Is(err, process.ErrNoPID) {
		f.note(NoPID, "%v", err)
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	f.PID = rec.PID
	return &rec, true, nil
}

// maxContent is more than ParseRecord takes.
const maxContent = 4096 + 1

// open opens the held file for reading, and leaves its access time alone where the
// kernel allows that: for its owner, and with CAP_FOWNER.
func (o *object) open() (int, error) {
	fd, err := o.node.OpenFile(linux.O_RDONLY | linux.O_NOATIME)
	if errors.Is(err, syscall.EPERM) {
		fd, err = o.node.OpenFile(linux.O_RDONLY)
	}
	return fd, err
}

// content reads the held file through its descriptor.
func content(o *object) ([]byte, error) {
	fd, err := o.open()
	if err != nil {
		return nil, err
	}
	defer linux.Close(fd)
	return readAll(fd)
}

// readAll reads an open file, and no more of it than a PID file can have.
func readAll(fd int) ([]byte, error) {
	buf := make([]byte, maxContent)
	used := 0
	for used < len(buf) {
		n, err := linux.Read(fd, buf[used:])
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		used += n
	}
	return buf[:used], nil
}

// bareRecord judges a PID alone. Whose PID it is decides the ground. Yesterday's
// daemon and today's entry point often have the same number, and we and our
// ancestors are alive in any case: there the age of the file decides.
func (j *Judge) bareRecord(f *Finding, o *object, r *process.Record) error {
	if !o.ground.ours {
		f.decide(CannotTell, ForeignNamespace, "it names PID %d, which may be of another PID namespace or machine: %s", r.PID, o.ground.notOurs)
		return nil
	}
	id, err := j.proc.Ident(r.PID)
	switch {
	case errors.Is(err, process.ErrNoProcess):
		// On exclusive ground a thread of that number is of ourselves.
		if err := linux.KillZero(r.PID); !o.ground.exclusive && !errors.Is(err, syscall.ESRCH) {
			f.decide(CannotTell, NoPermission, "%d, which it names, is the number of a thread of another process", r.PID)
			return nil
		}
		f.decide(Stale, ProcessGone, "process %d, which it names, is gone", r.PID)
		return nil
	case err != nil:
		f.decide(CannotTell, NoPermission, "process %d, which it names, cannot be looked at: %v", r.PID, err)
		return nil
	}
	defer id.Close()
	if id.Dead {
		f.decide(Stale, ProcessGone, "process %d (%s), which it names, has ended and waits for its parent", r.PID, id.Comm)
		return nil
	}
	old := j.before(o)
	if old == nil {
		f.decide(Stale, LeftBehind, "it is older than this run, and so than process %d (%s), whose number it names", id.PID, id.Comm)
		return nil
	}
	for _, who := range o.ground.kin {
		if who.PID == r.PID {
			f.decide(CannotTell, OfThisRun, "it names process %d (%s), which is one of ours, and may be of this run: %v", id.PID, id.Comm, old)
			return nil
		}
	}
	younger, why := j.younger(id.Start, o)
	switch {
	case younger && why == nil:
		f.decide(Stale, StartTime, "process %d (%s), which it names, started after it was written: the number was given again", r.PID, id.Comm)
	case younger:
		f.decide(CannotTell, ClockUnproven, "process %d (%s), which it names, seems to be younger than it, but %v", r.PID, id.Comm, why)
	case why != nil:
		f.decide(CannotTell, ClockUnproven, "process %d (%s), which it names, is alive; its age cannot be compared: %v", r.PID, id.Comm, why)
	default:
		f.decide(Live, ProcessAlive, "process %d (%s), which it names, is alive", r.PID, id.Comm)
	}
	return nil
}

// ownRecord judges a file that says which run its PID is of.
func (j *Judge) ownRecord(ctx context.Context, f *Finding, o *object, r *process.Record) error {
	if j.runErr != nil || j.ourNS == 0 {
		f.decide(CannotTell, NoPermission, "which run this is cannot be read: %v", j.runErr)
		return nil
	}
	if r.BootID == j.run.BootID && r.PIDNS == j.ourNS && r.InitStart == j.run.InitStart {
		return j.sameRun(f, r)
	}
	other := "another run or PID namespace"
	if r.BootID != j.run.BootID {
		other = "another boot"
	}
	if j.restored && !errors.Is(linux.KillZero(r.PID), syscall.ESRCH) {
		f.decide(CannotTell, ClockUnproven, "a process has the number %d, which it names, and %v", r.PID, errRestored)
		return nil
	}
	if o.ground.exclusive {
		f.decide(Stale, OtherRun, "process %d, which it names, was of %s, and nobody else uses this place", r.PID, other)
		return nil
	}
	if r.BootID == j.run.BootID && j.initial {
		return j.fromTheTop(ctx, f, r)
	}
	if o.ground.ours {
		f.decide(Stale, OtherRun, "process %d, which it names, was of %s, and no other PID namespace uses this place", r.PID, other)
		return nil
	}
	f.decide(CannotTell, ForeignNamespace, "it was written in another PID namespace or boot, and whether its process %d lives there cannot be seen: %s", r.PID, o.ground.notOurs)
	return nil
}

// fromTheTop judges a record of this boot and another PID namespace, from the
// initial one, which shows all processes by some number.
func (j *Judge) fromTheTop(ctx context.Context, f *Finding, r *process.Record) error {
	if r.Handle != 0 {
		id, err := j.proc.IdentByHandle(r.Handle)
		if err == nil {
			id.Close()
			f.decide(Live, ProcessAlive, "process %d (%s), which it names as PID %d of its own namespace, is alive", id.PID, id.Comm, r.PID)
			return nil
		}
		if errors.Is(err, process.ErrNoProcess) {
			f.decide(Stale, ProcessGone, "the process that it names by its pidfs handle is gone, and from here all are in sight")
			return nil
		}
	}
	switch who, err := j.proc.Inhabitant(ctx, r.PIDNS); {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		f.decide(CannotTell, NoPermission, "%v", err)
	case who.PID != 0:
		f.decide(CannotTell, ForeignNamespace, "process %d (%s) is alive in the PID namespace that it is of, where its process %d may be, too", who.PID, who.Comm, r.PID)
	default:
		f.decide(Stale, ProcessGone, "nobody is alive any more in the PID namespace that its process %d was in", r.PID)
	}
	return nil
}

// sameRun judges a record of this run and PID namespace: start times count ticks
// of a clock that nobody can set.
func (j *Judge) sameRun(f *Finding, r *process.Record) error {
	id, err := j.proc.Ident(r.PID)
	switch {
	case errors.Is(err, process.ErrNoProcess):
		f.decide(Stale, ProcessGone, "process %d, which it names, is gone", r.PID)
		return nil
	case err != nil:
		f.decide(CannotTell, NoPermission, "process %d, which it names, cannot be looked at: %v", r.PID, err)
		return nil
	}
	defer id.Close()
	switch {
	case id.Start != r.Start, id.Handle != 0 && r.Handle != 0 && id.Handle != r.Handle:
		f.decide(Stale, StartTime, "process %d (%s) is another one than it names: the number was given again", r.PID, id.Comm)
	case id.Dead:
		f.decide(Stale, ProcessGone, "process %d (%s), which it names, has ended and waits for its parent", r.PID, id.Comm)
	default:
		f.decide(Live, ProcessAlive, "process %d (%s), which it names, is alive", r.PID, id.Comm)
	}
	return nil
}
