package stale

import (
	"bytes"
	"errors"
	"strconv"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// unlocked reports whether no lock is seen on the held file; else f is decided.
// Nothing is locked in a look, because a lock of a moment could make somebody
// fail who starts right then. In the act flock(2) is taken, and o holds it until
// it is closed.
func (j *Judge) unlocked(f *Finding, o *object) bool {
	if !o.ground.local {
		return true // the network's locks are asked over the network; the ground decides
	}
	fd, err := o.node.OpenFile(linux.O_RDONLY)
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

// flocked decides f if /proc/locks shows a flock(2) on o. It shows none that was
// taken by a process outside of our PID namespace or one that has ended.
func (j *Judge) flocked(f *Finding, o *object) bool {
	m := o.ground.mount
	text, err := j.proc.ReadFile("locks")
	if err != nil || m == nil {
		return false
	}
	pid, held := holderOf(text, m.Major, m.Minor, o.st.Ino)
	if held {
		f.decide(Live, LockHeld, "a lock is held on it, taken by process %d", pid)
	}
	return held
}

// holderOf looks for a lock on an inode in the text of /proc/locks, proc_locks(5):
//
//	1: FLOCK  ADVISORY  WRITE 1234 00:2f:5678 0 EOF
//	1: -> FLOCK  ADVISORY  WRITE 1235 00:2f:5678 0 EOF
//
// The device is the superblock's. A line with "->" waits and holds nothing.
func holderOf(text []byte, major, minor uint32, ino uint64) (pid int, held bool) {
	for line := range bytes.Lines(text) {
		w := bytes.Fields(line)
		if len(w) < 6 || string(w[1]) == "->" {
			continue
		}
		at := bytes.Split(w[5], []byte(":"))
		if len(at) != 3 {
			continue
		}
		ma, err1 := strconv.ParseUint(string(at[0]), 16, 32)
		mi, err2 := strconv.ParseUint(string(at[1]), 16, 32)
		n, err3 := strconv.ParseUint(string(at[2]), 10, 64)
		if errors.Join(err1, err2, err3) != nil || uint32(ma) != major || uint32(mi) != minor || n != ino {
			continue
		}
		pid, _ = strconv.Atoi(string(w[4]))
		return pid, true
	}
	return 0, false
}

// heldByKin decides f if we or one of our ancestors have the file open: a lock of
// a description that we inherited (sh's "exec 9>file; flock 9") shows nowhere
// else.
func (j *Judge) heldByKin(f *Finding, o *object) bool {
	for _, who := range o.ground.kin {
		how, err := j.proc.Holds(who.PID, rawDev(&o.st), o.st.Ino, o.node.Fd())
		if err == nil && how != "" {
			f.decide(Live, InodeHeld, "process %d (%s) has it as its %s", who.PID, who.Comm, how)
			return true
		}
	}
	return false
}
