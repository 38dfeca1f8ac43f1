package stale

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/locks"
)

// unlocked reports whether no lock is seen on the held file; else f is decided.
// Nothing is locked in a look, because a lock of a moment could make somebody
// fail who starts right then. In the act flock(2) is taken, and o holds it until
// it is closed.
func (j *Judge) unlocked(f *Finding, o *object) bool {
	fd, err := o.open()
	if err != nil {
		f.decide(CannotTell, NoPermission, "it cannot be opened to look for locks: %v", err)
		return false
	}
	switch conflict, pid, err := linux.OFDConflict(fd, linux.F_WRLCK, 0, 0); {
	case err != nil && !errors.Is(err, syscall.EINVAL):
		f.decide(CannotTell, NoPermission, "fcntl locks on it cannot be seen: %v", err)
	case conflict && pid > 0:
		f.decide(Live, LockHeld, "process %d holds a lock on it", pid)
	case conflict:
		f.decide(Live, LockHeld, "somebody holds a lock on it")
	case o.act:
		err := linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB)
		if err == nil {
			o.hold = append(o.hold, fd)
			return true
		}
		f.decide(Live, LockHeld, "somebody holds a flock on it, or it cannot be locked: %v", err)
	default:
		linux.Close(fd)
		return !j.flocked(f, o) && !j.heldByKin(f, o)
	}
	linux.Close(fd)
	return false
}

// flocked decides f if /proc/locks shows a lock on o. It shows none that was taken
// by a process outside of our PID namespace, nor in a namespace below the initial
// one any whose taker has ended.
func (j *Judge) flocked(f *Finding, o *object) bool {
	m := o.ground.mount
	l, held := j.locked(o, m.Major, m.Minor)
	if held {
		f.decide(Live, LockHeld, "a %s lock is held on it, taken by process %d", l.Kind, l.PID)
	}
	return held
}

// lockKey is an inode as /proc/locks has it.
type lockKey struct {
	major, minor uint32
	ino          uint64
}

// locked is the lock on o that /proc/locks shows. A walk reads that file once.
func (j *Judge) locked(o *object, major, minor uint32) (locks.Lock, bool) {
	if o.last || j.opts.MayBeOld == 0 {
		text, err := j.proc.ReadFile("locks")
		if err != nil {
			return locks.Lock{}, false
		}
		return holderOf(string(text), major, minor, o.st.Ino)
	}
	s := &j.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readLocks(j, false) != nil {
		return locks.Lock{}, false
	}
	l, held := s.locks[lockKey{major, minor, o.st.Ino}]
	return l, held
}

// holderOf looks for a lock on an inode in the text of /proc/locks. The device is
// the superblock's.
func holderOf(text string, major, minor uint32, ino uint64) (locks.Lock, bool) {
	for line := range strings.Lines(text) {
		l, err := locks.Parse(line)
		if err == nil && !l.Waiting && l.Kind != locks.Lease && l.Major == major && l.Minor == minor && l.Ino == ino {
			return l, true
		}
	}
	return locks.Lock{}, false
}

// Leased reports whether somebody holds a lease (fcntl(2)) on the held object of the directory, as far as
// /proc/locks shows it: to open the file would have the kernel ask him to give it up.
func (j *Judge) Leased(node *fsat.Node, dir *fsat.Dir) bool {
	o := &object{node: node, dir: dir}
	g, err := j.lies(o)
	if err != nil || o.stat(g) != nil {
		return false
	}
	_, held := j.lease(o, g)
	return held
}

// lease is the lease on o, which lies on g.
func (j *Judge) lease(o *object, g *ground) (locks.Lock, bool) {
	s := &j.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.mount == nil || s.readLocks(j, o.last) != nil {
		return locks.Lock{}, false
	}
	l, held := s.leases[lockKey{g.mount.Major, g.mount.Minor, o.st.Ino}]
	return l, held
}

// readLocks reads /proc/locks, unless that was done lately.
func (s *seen) readLocks(j *Judge, fresh bool) error {
	if s.locks != nil && !fresh && time.Since(s.lockedAt) <= j.opts.MayBeOld {
		return nil
	}
	text, err := j.proc.ReadFile("locks")
	if err != nil {
		return err
	}
	s.locks, s.leases, s.lockedAt = map[lockKey]locks.Lock{}, map[lockKey]locks.Lock{}, time.Now()
	for line := range strings.Lines(string(text)) {
		l, err := locks.Parse(line)
		if err != nil || l.Waiting {
			continue
		}
		to := s.locks
		if l.Kind == locks.Lease {
			to = s.leases
		}
		key := lockKey{l.Major, l.Minor, l.Ino}
		if _, first := to[key]; !first {
			to[key] = l
		}
	}
	return nil
}

// sharedLock looks whether a process holds a lock that another one took which has
// ended (sh's "exec 9>file; flock 9"): the descriptors of all processes tell.
func (j *Judge) sharedLock(ctx context.Context, f *Finding, o *object) error {
	r, err := locks.Of(ctx, j.proc, o.node.Fd())
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		f.decide(CannotTell, NoPermission, "who holds locks on it cannot be seen: %v", err)
	case len(r.Holders) > 0:
		h := r.Holders[0]
		f.decide(Live, LockHeld, "process %d (%s) holds a %s lock on it", h.PID, h.Comm, h.Lock.Kind)
	case len(r.Unseen) > 0:
		f.decide(Live, LockHeld, "somebody holds a %s lock on it", r.Unseen[0].Kind)
	}
	return nil
}

// heldByKin decides f if we or one of our ancestors have the file open: a lock of
// a description that we inherited (sh's "exec 9>file; flock 9") shows nowhere
// else.
func (j *Judge) heldByKin(f *Finding, o *object) bool {
	for _, who := range o.ground.kin {
		how, err := j.proc.Holds(who.PID, rawDev(&o.st), o.st.Ino, j.notUses(o)...)
		if err == nil && how != "" {
			f.decide(Live, InodeHeld, "process %d (%s) has it as its %s", who.PID, who.Comm, how)
			return true
		}
	}
	return false
}
