package pidfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/locks"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/stale"
)

// errUnderWay says that another start is just taking the file over.
var errUnderWay error = underWayError{}

type underWayError struct{}

func (underWayError) Error() string { return ErrHeld.Error() + " that starts just now" }
func (underWayError) Unwrap() error { return ErrHeld }

// contend locks the open file and takes it over. It closes fd, or returns it.
// again says that everything has to be looked at anew; with ErrHeld, that somebody
// may only be looking at the lock.
func (c *creation) contend(fd int, st *fsat.Stat) (again bool, newFd int, inPlace bool, err error) {
	err = linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		defer linux.Close(fd)
		if c.abandoned(fd) {
			newFd, err := c.replace(st, func() bool { return c.abandoned(fd) })
			if err == nil || !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EPERM) {
				return errors.Is(err, ErrLost), newFd, false, ignoreLost(err)
			}
		}
		held, certain := c.holder(fd)
		return !certain, -1, false, held
	}
	if err != nil {
		linux.Close(fd)
		return false, -1, false, fmt.Errorf("%w; PID files belong on a local file system such as /run", err)
	}
	if !c.current(st) {
		linux.Close(fd)
		return true, -1, false, nil
	}
	// We hold the file: only who ignores locks could change it now.
	return c.takeOver(fd, st)
}

// ignoreLost is nil for ErrLost, after which everything is looked at anew.
func ignoreLost(err error) error {
	if errors.Is(err, ErrLost) {
		return nil
	}
	return err
}

// holder says who holds the lock on fd. It is certain if the process that the
// file names lives; else somebody may only be looking at the lock.
func (c *creation) holder(fd int) (err *HeldError, certain bool) {
	e := &HeldError{Path: c.path, Why: "it is locked"}
	if c.proc == nil {
		return e, false
	}
	r, _, perr := stale.ReadHeld(fd)
	if perr == nil {
		if id := c.find(r); id != nil {
			defer id.Close()
			e.PID, e.Name, e.Why = id.PID, id.Comm, "it is locked, and names this process"
			return e, true
		}
	}
	// A child of the dead daemon that shares its lock, somebody who may read the file
	// and has locked it, or a process out of our sight.
	if report, err := locks.Of(context.Background(), c.proc, fd); err == nil && len(report.Holders) > 0 {
		h := report.Holders[0]
		e.PID, e.Name = h.PID, h.Comm
		e.Why = "it is locked by this process, which it does not name"
		return e, false
	}
	e.Why = "it is locked by somebody who cannot be seen from here, in another PID namespace perhaps"
	return e, false
}

// abandoned reports whether the locked file is proven to be nobody's: we wrote it,
// that process has ended, and whoever has the lock is no heir of it. An heir shares
// the open file, which is open for writing. A stranger who may only read the file can lock
// it all the same, and keep the daemon from starting for as long as he likes.
func (c *creation) abandoned(fd int) bool {
	r, _, err := stale.ReadHeld(fd)
	if err != nil || !r.Own() || !r.Locked || c.proc == nil || !local(fd) {
		return false
	}
	id, err := c.proc.Find(r)
	if err == nil {
		dead := id.Dead
		id.Close()
		if !dead {
			return false
		}
	} else if !errors.Is(err, process.ErrNoProcess) {
		return false
	}
	report, err := locks.Of(context.Background(), c.proc, fd)
	if err != nil || len(report.Incomplete) > 0 || len(report.Unseen) > 0 {
		return false
	}
	for _, h := range report.Holders {
		info, err := c.proc.FDInfo(strconv.Itoa(h.PID), h.FD)
		if h.FD < 0 || err != nil || len(info.Locks) == 0 || info.Flags&syscall.O_ACCMODE != syscall.O_RDONLY {
			return false
		}
	}
	return true
}

// find is the living process that a record names, nil where there is none.
func (c *creation) find(r process.Record) *process.Ident {
	var id *process.Ident
	var err error
	if r.Own() {
		id, err = c.proc.Find(r)
	} else {
		id, err = c.proc.Ident(r.PID)
	}
	if err != nil {
		return nil
	}
	if id.Dead {
		id.Close()
		return nil
	}
	return id
}

// takeOver replaces the file at the path, which we hold as fd, if it may go. It
// closes fd, or returns it. again says that everything has to be looked at anew.
func (c *creation) takeOver(fd int, st *fsat.Stat) (again bool, newFd int, inPlace bool, err error) {
	keep := false // fd is not to be closed, or is already
	defer func() {
		if !keep {
			linux.Close(fd)
		}
	}()
	r, text, err := stale.ReadHeld(fd)
	switch {
	case err != nil && !errors.Is(err, process.ErrNoPID):
		return false, -1, false, err
	case err != nil && len(bytes.Trim(text, "\x00 \t\r\n")) == 0:
		// Empty, or zeroes as a crash leaves them: it says nothing.
	case err != nil:
		return false, -1, false, fmt.Errorf("%w, so it will not be overwritten: %s", ErrNoPIDFile,
			strings.TrimPrefix(err.Error(), process.ErrNoPID.Error()+": "))
	case r.Locked && local(fd):
		// Whoever wrote it keeps it locked while it lives, and we have the lock. Only
		// one who lost its descriptor could be alive.
		if r.Own() && c.proc != nil {
			if id := c.find(r); id != nil {
				defer id.Close()
				if id.PID != c.pid {
					return false, -1, false, &HeldError{c.path, id.PID, id.Comm, "it names this process, which lives but has given up its lock"}
				}
			}
		}
	case c.judged != seen{true, st.Dev, st.Ino, string(text)}:
		// The look must not find our own lock and descriptor. What it finds counts if
		// the file is still the same when it is locked again.
		linux.Close(fd)
		keep = true
		if err := c.look(); err != nil {
			return false, -1, false, err
		}
		c.judged = seen{true, st.Dev, st.Ino, string(text)}
		return true, -1, false, nil
	}
	newFd, err = c.replace(st, func() bool { return true })
	if errors.Is(err, ErrLost) {
		return true, -1, false, nil
	}
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
		if werr := rewrite(fd, len(text), c.text); werr == nil {
			keep = true
			return false, fd, true, nil
		}
	}
	return false, newFd, false, err
}

// look judges a file that another program may have written.
func (c *creation) look() error {
	if c.proc == nil {
		return fmt.Errorf("%w: there is no /proc; remove the file if you know that it does not", ErrUncertain)
	}
	j, err := newJudge(c.proc, nil)
	if err != nil {
		return err
	}
	n, err := j.LookPID(context.Background(), c.dir, c.name, c.path)
	if fsat.NotExist(err) || errors.Is(err, stale.ErrChanged) {
		return nil // then it is not what was judged
	}
	if err != nil {
		return err
	}
	defer n.Close()
	last := n.Evidence[len(n.Evidence)-1].Proof
	switch {
	case n.Verdict == stale.Stale:
		return nil
	case n.PID == c.pid && ourNumber(last):
		return nil // a file of before, or one that whoever started the process wrote for it
	case n.Verdict == stale.Live:
		e := &HeldError{Path: c.path, Why: printable(n.Why())}
		if n.Process != nil {
			e.PID, e.Name = n.Process.PID, n.Process.Comm
		}
		return e
	}
	return fmt.Errorf("%w: %s; remove the file if you know that it does not", ErrUncertain, printable(n.Why()))
}

// ourNumber reports whether the number in the file is one of our own PID namespace,
// by the evidence that decided.
func ourNumber(p stale.Proof) bool {
	switch p {
	case stale.ProcessAlive, stale.OlderThanFile, stale.ClockUnproven, stale.OfThisRun, stale.LeftBehind, stale.StartTime:
		return true
	}
	return false
}
