package pidfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/stale"
)

// Process is the proven process of a trusted PID file, held by a pidfd: it cannot
// become another one, whatever happens to the file and to the number. Its
// methods may be called from several goroutines.
type Process struct {
	pid  int
	name string

	mu sync.RWMutex // held for reading while the pidfd is in use
	id *process.Ident
}

// Find reads the PID file and holds the process that it names, if
//
//   - only root and the caller can have written the file: it and every directory
//     on its way are theirs, and nobody else may write to them (else ErrUntrusted;
//     the error names who could have);
//   - the process is proven to be the one that the file was written for (else
//     ErrNotRunning, or ErrUncertain with the reason);
//   - the kernel has pidfds (else ErrNoPidfd).
//
// PID 1, or the caller itself, is ErrUncertain, unless it wrote the file itself, by
// Create.
//
// Files that Create wrote prove themselves. Of others it has to be known that the
// clock was not set back since, which Status.Evidence tells.
func Find(path string) (*Process, error) {
	p, err := find(path)
	if err != nil {
		return nil, &fs.PathError{Op: "find", Path: path, Err: err}
	}
	return p, nil
}

func find(path string) (*Process, error) {
	p, err := process.Open()
	if err != nil {
		return nil, err
	}
	defer p.Close()
	dir, name, err := walk(p, path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := trustFile(dir, name, path); err != nil {
		return nil, err
	}
	n, err := lookAt(p, dir, name, path, nil)
	if err != nil {
		return nil, err
	}
	// In a directory that only we can write to, what was trusted is what was read.
	s := status(path, n)
	switch {
	case n.Record == nil && n.Evidence[len(n.Evidence)-1].Proof == stale.NoPID:
		err = fmt.Errorf("%w: %s", ErrNoPIDFile, s.Why())
	case s.Verdict == Stale:
		err = fmt.Errorf("%w: %s", ErrNotRunning, s.Why())
	case s.Verdict == Unknown || !s.Proven: // also where it cannot be read
		err = fmt.Errorf("%w: %s", ErrUncertain, s.Why())
	case !(n.Record.Own() && n.Record.Locked) && (n.Process.PID == 1 || n.Process.PID == os.Getpid()):
		err = fmt.Errorf("%w: it names process %d, which did not write it itself", ErrUncertain, n.Process.PID)
	case !n.Process.Held():
		err = ErrNoPidfd
	}
	if err != nil {
		n.Close()
		return nil, err
	}
	return &Process{pid: n.Process.PID, name: n.Process.Comm, id: n.Process}, nil
}

// PID is the number of the process in our own PID namespace.
func (p *Process) PID() int { return p.pid }

// Name is the name of the process, at most 15 bytes, which it has chosen itself.
func (p *Process) Name() string { return p.name }

// Signal sends sig, through the pidfd. Signal 0 sends nothing and says whether it
// could. A process that has ended is ErrNotRunning; EPERM says that the caller may
// not signal it.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.id == nil {
		return fs.ErrClosed
	}
	err := p.id.Signal(sig)
	if errors.Is(err, process.ErrNoProcess) {
		return fmt.Errorf("process %d: %w", p.pid, ErrNotRunning)
	}
	if fsAbsent(err) {
		return fmt.Errorf("process %d: %w: %w", p.pid, ErrNoPidfd, err)
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", p.pid, err)
	}
	return nil
}

// fsAbsent: pidfd_open is there, and a filter denies pidfd_send_signal. EPERM is
// an answer about the process.
func fsAbsent(err error) bool { return errors.Is(err, syscall.ENOSYS) }

// Wait waits until the process has ended, all its threads with it, or until ctx
// is. It need not be a child.
func (p *Process) Wait(ctx context.Context) error {
	p.mu.RLock()
	if p.id == nil {
		p.mu.RUnlock()
		return fs.ErrClosed
	}
	fd, err := linux.Dup(p.id.Pidfd())
	p.mu.RUnlock()
	if err != nil {
		return err
	}
	if err := linux.SetNonblock(fd); err != nil { // so that the runtime's poller waits, and no thread
		linux.Close(fd)
		return err
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var ended bool
	var pollErr error
	err = conn.Read(func(fd uintptr) bool {
		ended, pollErr = linux.PollIn(int(fd), 0)
		return ended || pollErr != nil
	})
	switch {
	case ended:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case pollErr != nil:
		return pollErr
	}
	return err
}

// Close lets the process go.
func (p *Process) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.id == nil {
		return fs.ErrClosed
	}
	p.id.Close()
	p.id = nil
	return nil
}

// Signal is Find, Process.Signal and Process.Close: it sends sig to the process
// that the PID file names, or to nobody.
func Signal(path string, sig syscall.Signal) error {
	p, err := Find(path)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.Signal(sig); err != nil {
		return &fs.PathError{Op: "signal", Path: path, Err: err}
	}
	return nil
}
