package process

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// ErrNoProcess says that no process has the number: it is free, or the number
// of a thread that leads no process (which has a directory in /proc all the
// same).
var ErrNoProcess = errors.New("no such process")

// ErrHidden says that the process may be there and the procfs does not show it
// (hidepid=).
var ErrHidden = errors.New("/proc does not show the process")

// Ident is a process that was proven: what it says was all true of one process
// at one time. With a pidfd in it that process is held: it cannot be taken for a
// later one of the same number.
type Ident struct {
	PID   int
	Start uint64 // clock ticks after the boot, whichever time namespace we are in
	Comm  string
	// Kernel is a thread of the kernel.
	Kernel bool
	// Dead is a zombie: it has ended, and its parent has not waited for it.
	Dead bool
	// PIDNS is the inode number of the PID namespace that it is in, 0 where we may
	// not see it.
	PIDNS uint64
	// Handle is its inode number on the pidfs, 0 before Linux 6.9.
	Handle uint64

	pidfd int // -1 without
}

// Ident finds out which process has the number pid in our PID namespace. A
// number that is free or a thread's is ErrNoProcess, and so is a process that
// ended while we looked; a zombie is an Ident that is Dead. Where the kernel has
// pidfds (Linux 5.3), everything is read while a pidfd shows that the process
// lives; without, the start time is read before and after the rest. Close the
// result.
func (p *Proc) Ident(pid int) (*Ident, error) {
	if pid <= 0 {
		return nil, fmt.Errorf("process %d: %w", pid, ErrNoProcess)
	}
	if err := p.ours(); err != nil {
		return nil, err
	}
	fd, err := linux.PidfdOpen(pid)
	switch {
	case err == nil:
		return p.held(pid, fd)
	case errors.Is(err, syscall.ENOSYS), errors.Is(err, syscall.EPERM): // before Linux 5.3, or a filter
		return p.unheld(pid)
	case errors.Is(err, syscall.ESRCH), errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.EINVAL):
		// ENOENT and EINVAL (before Linux 6.15) are for a thread.
		return nil, fmt.Errorf("process %d: %w", pid, ErrNoProcess)
	}
	return nil, fmt.Errorf("process %d: %w", pid, err)
}

// IdentByHandle is Ident for the number on the pidfs. It finds a process by any
// name: its PID in our namespace is in the result. ErrNoProcess: it has ended, or
// is not in our PID namespace or below it; errors.ErrUnsupported: this kernel
// (before Linux 6.14) or a filter cannot open handles.
func (p *Proc) IdentByHandle(handle uint64) (*Ident, error) {
	if err := p.ours(); err != nil {
		return nil, err
	}
	fd, err := linux.PidfdByHandle(handle)
	if errors.Is(err, syscall.ESTALE) || errors.Is(err, syscall.ESRCH) {
		return nil, fmt.Errorf("the process with pidfs handle %d: %w", handle, ErrNoProcess)
	}
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	pid, err := p.pidOf(fd)
	if err != nil {
		linux.Close(fd)
		return nil, err
	}
	return p.held(pid, fd)
}

// pidOf is the number behind a pidfd, from its fdinfo.
func (p *Proc) pidOf(fd int) (int, error) {
	text, err := p.ReadFile("self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(v))
			if err == nil && pid <= 0 { // -1: waited for; 0: of another namespace
				err = ErrNoProcess
			}
			return pid, err
		}
	}
	return 0, fmt.Errorf("fdinfo of a pidfd has no Pid line: %w", errors.ErrUnsupported)
}

// ours returns nil if the procfs counts processes as our own PID namespace does,
// so that a number in it and a number in a system call are of one process.
func (p *Proc) ours() error {
	p.oursOnce.Do(func() {
		text, err := p.ReadFile("self/status")
		if err != nil {
			p.oursErr = err
			return
		}
		// NSpid lists our number in the procfs's namespace, then in each below
		// it down to our own (proc_pid_status(5)).
		for line := range strings.Lines(string(text)) {
			if v, ok := strings.CutPrefix(line, "NSpid:"); ok && len(strings.Fields(v)) != 1 {
				p.oursErr = errors.New("/proc shows an outer PID namespace: its numbers are not ours; mount a /proc of this namespace")
			}
		}
	})
	return p.oursErr
}

// held identifies the process behind the pidfd fd, which it takes over.
func (p *Proc) held(pid, fd int) (*Ident, error) {
	id := &Ident{PID: pid, pidfd: fd}
	if err := p.fill(id); err != nil {
		id.Close()
		return nil, err
	}
	return id, nil
}

func (p *Proc) fill(id *Ident) error {
	st, err := p.stat(id.PID)
	if err != nil {
		if ended, _ := id.Ended(); !ended && errors.Is(err, ErrNoProcess) {
			err = fmt.Errorf("process %d: %w", id.PID, ErrHidden) // it lives, so it is in some /proc
		}
		return err
	}
	if id.Start, err = p.ticks(st); err != nil {
		return err
	}
	id.Comm, id.Kernel = st.Comm, st.Kernel()
	id.PIDNS = p.pidNamespace(id.PID)
	id.Handle = pidfsInode(id.pidfd)
	// Only now: while the process lives its number is no other's, so what was
	// read so far was its own.
	if id.Dead, err = id.Ended(); err != nil {
		return err
	}
	if id.Dead && !st.Dead() {
		// It ended in between, and what was read may be of a successor.
		return fmt.Errorf("process %d: %w", id.PID, ErrNoProcess)
	}
	return nil
}

// unheld identifies the process with the number pid without a pidfd: a process
// that starts at another time is another one. The kernel gives a number again
// after all others, so two of them within one clock tick are not to be expected.
func (p *Proc) unheld(pid int) (*Ident, error) {
	id := &Ident{PID: pid, pidfd: -1}
	st, err := p.stat(pid)
	if err != nil {
		return nil, err
	}
	text, err := p.ReadFile(strconv.Itoa(pid) + "/status")
	if gone(err) {
		return nil, fmt.Errorf("process %d: %w", pid, ErrNoProcess)
	}
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "Tgid:"); ok && strings.TrimSpace(v) != strconv.Itoa(pid) {
			return nil, fmt.Errorf("process %d: %w: the number is a thread's", pid, ErrNoProcess)
		}
	}
	id.PIDNS = p.pidNamespace(pid)
	again, err := p.stat(pid)
	if err != nil {
		return nil, err
	}
	if again.Start != st.Start {
		return nil, fmt.Errorf("process %d: %w: the number changed hands", pid, ErrNoProcess)
	}
	if id.Start, err = p.ticks(again); err != nil {
		return nil, err
	}
	id.Comm, id.Dead, id.Kernel = again.Comm, again.Dead(), again.Kernel()
	return id, nil
}

// stat reads /proc/PID/stat.
func (p *Proc) stat(pid int) (Stat, error) {
	b, err := p.ReadFile(strconv.Itoa(pid) + "/stat")
	if gone(err) {
		return Stat{}, p.absent(pid)
	}
	if err != nil {
		return Stat{}, err
	}
	st, err := ParseStat(b)
	if err != nil {
		return Stat{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return st, nil
}

// absent is why /proc has no such process.
func (p *Proc) absent(pid int) error {
	// A signal 0 finds whom hidepid hides: EPERM, or success in our own user's
	// case.
	if err := linux.KillZero(pid); err == nil || errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("process %d: %w", pid, ErrHidden)
	}
	return fmt.Errorf("process %d: %w", pid, ErrNoProcess)
}

// pidNamespace is the inode number of a process's PID namespace, 0 where we may
// not see it.
func (p *Proc) pidNamespace(pid int) uint64 {
	link, err := linux.Readlinkat(p.fd, strconv.Itoa(pid)+"/ns/pid")
	if err != nil {
		return 0
	}
	v, ok := strings.CutPrefix(link, "pid:[")
	if !ok {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSuffix(v, "]"), 10, 64)
	return n
}

// pidfsInode is the number of a pidfd's inode, 0 where all share one.
func pidfsInode(fd int) uint64 {
	if magic, err := linux.Fstatfs(fd); err != nil || magic != linux.PidfsMagic {
		return 0
	}
	var st syscall.Stat_t
	if linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st) != nil {
		return 0
	}
	return st.Ino
}

// Held reports whether a pidfd holds the process.
func (id *Ident) Held() bool { return id.pidfd >= 0 }

// Pidfd is the descriptor, -1 without. It stays the Ident's.
func (id *Ident) Pidfd() int { return id.pidfd }

// Ended reports whether the held process has ended, with all its threads:
// poll(2) says so from the moment it is a zombie.
func (id *Ident) Ended() (bool, error) {
	if !id.Held() {
		return false, errors.ErrUnsupported
	}
	return linux.PollIn(id.pidfd, 0)
}

// Signal sends sig to the held process, and to no other whatever happens;
// without a pidfd it is errors.ErrUnsupported. ErrNoProcess: it has ended.
func (id *Ident) Signal(sig syscall.Signal) error {
	if !id.Held() {
		return errors.ErrUnsupported
	}
	if ended, err := id.Ended(); err != nil {
		return err
	} else if ended {
		return fmt.Errorf("process %d: %w", id.PID, ErrNoProcess) // a zombie would take it and say nothing
	}
	err := linux.PidfdSendSignal(id.pidfd, sig)
	if errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("process %d: %w", id.PID, ErrNoProcess)
	}
	return err
}

// Close lets the process go.
func (id *Ident) Close() {
	if id.pidfd >= 0 {
		linux.Close(id.pidfd)
		id.pidfd = -1
	}
}

// Record is what a PID file of this process says: pid, and which process of
// which run that is. It fails where a part cannot be read (hidepid, a process of
// another user).
func (p *Proc) Record(pid int) (Record, error) {
	run, err := p.Identity()
	if err != nil {
		return Record{}, err
	}
	id, err := p.Ident(pid)
	if err != nil {
		return Record{}, err
	}
	defer id.Close()
	if id.Dead {
		return Record{}, fmt.Errorf("process %d has ended: %w", pid, ErrNoProcess)
	}
	// The number is one of our own namespace, whichever the process is in.
	ns := p.PIDNamespace()
	if ns == 0 {
		return Record{}, &fs.PathError{Op: "readlink", Path: "/proc/self/ns/pid", Err: fs.ErrPermission}
	}
	return Record{PID: pid, BootID: run.BootID, InitStart: run.InitStart, PIDNS: ns, Start: id.Start, Handle: id.Handle}, nil
}

// ErrElsewhere says that a record is of a PID namespace whose processes cannot be
// looked up by their numbers from ours.
var ErrElsewhere = errors.New("of another PID namespace")

// Find holds the very process that a record of our own format (Own) names,
// under whichever number it has here. It is a zombie where the result is Dead.
// ErrNoProcess: it has ended, and another may have its number now. ErrElsewhere:
// this cannot be told from here. Close the result.
func (p *Proc) Find(r Record) (*Ident, error) {
	if !r.Own() {
		return nil, fmt.Errorf("process %d: %w: the record does not say which", r.PID, errors.ErrUnsupported)
	}
	run, err := p.Identity()
	if err != nil {
		return nil, err
	}
	if r.BootID != run.BootID {
		return nil, fmt.Errorf("process %d of another boot: %w", r.PID, ErrNoProcess)
	}
	ns := p.PIDNamespace()
	if r.Handle != 0 {
		id, err := p.IdentByHandle(r.Handle)
		// All are visible from the machine's namespace. One with our number is ours,
		// or ended before ours began.
		if err == nil || errors.Is(err, ErrNoProcess) && (ns == InitialPIDNS || ns == r.PIDNS) {
			return id, err
		}
	}
	switch {
	case ns == 0 || ns != r.PIDNS:
		return nil, fmt.Errorf("process %d: %w", r.PID, ErrElsewhere)
	case r.InitStart != run.InitStart:
		return nil, fmt.Errorf("process %d of an earlier run: %w", r.PID, ErrNoProcess)
	}
	id, err := p.Ident(r.PID)
	if err != nil {
		return nil, err
	}
	if id.Start != r.Start || id.Handle != 0 && r.Handle != 0 && id.Handle != r.Handle {
		id.Close()
		return nil, fmt.Errorf("process %d: %w: it is %s now, which started at another time", r.PID, ErrNoProcess, id.Comm)
	}
	return id, nil
}
