package linux

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Operations of flock(2) and types of fcntl(2)'s struct flock.
const (
	LOCK_SH = unix.LOCK_SH
	LOCK_EX = unix.LOCK_EX
	LOCK_NB = unix.LOCK_NB
	LOCK_UN = unix.LOCK_UN

	F_RDLCK = unix.F_RDLCK
	F_WRLCK = unix.F_WRLCK
	F_UNLCK = unix.F_UNLCK

	F_SETLKW     = unix.F_SETLKW
	F_OFD_SETLKW = unix.F_OFD_SETLKW
)

// Flock is flock(2) with LOCK_NB or LOCK_UN, which never sleep: EINTR is retried.
func Flock(fd, how int) error {
	for {
		switch _, _, e := unix.Syscall(unix.SYS_FLOCK, uintptr(fd), uintptr(how), 0); e {
		case 0:
			return nil
		case syscall.EINTR:
		default:
			return wrap("flock", e)
		}
	}
}

// FlockWait is flock(2) that sleeps until the lock is free. EINTR is not
// retried: a signal is how a wait is interrupted.
func FlockWait(fd, how int) error {
	_, _, e := unix.Syscall(unix.SYS_FLOCK, uintptr(fd), uintptr(how), 0)
	if e != 0 {
		return wrap("flock", e)
	}
	return nil
}

// OFDLock is fcntl(F_OFD_SETLK): an open file description lock, Linux 3.15, on
// length bytes from start on, or to the end of all files for 0. It never sleeps;
// a conflict is EAGAIN or EACCES.
func OFDLock(fd int, typ int16, start, length int64) error {
	fl := unix.Flock_t{Type: typ, Start: start, Len: length}
	for {
		switch e := fcntlFlock(fd, unix.F_OFD_SETLK, &fl); e {
		case 0:
			return nil
		case syscall.EINTR:
		default:
			return wrap("fcntl(F_OFD_SETLK)", e)
		}
	}
}

// OFDLockWait is fcntl(F_OFD_SETLKW): OFDLock that sleeps until the range is
// free. EINTR is not retried, as in FlockWait.
func OFDLockWait(fd int, typ int16, start, length int64) error {
	fl := unix.Flock_t{Type: typ, Start: start, Len: length}
	if e := fcntlFlock(fd, unix.F_OFD_SETLKW, &fl); e != 0 {
		return wrap("fcntl(F_OFD_SETLKW)", e)
	}
	return nil
}

// OFDConflict is fcntl(F_OFD_GETLK): whether another lock of fcntl(2), of
// whichever kind, would refuse this one. pid is its owner, -1 for an open file
// description lock and 0 for a process outside of this PID namespace.
func OFDConflict(fd int, typ int16, start, length int64) (conflict bool, pid int32, err error) {
	fl := unix.Flock_t{Type: typ, Start: start, Len: length}
	for {
		switch e := fcntlFlock(fd, unix.F_OFD_GETLK, &fl); e {
		case 0:
			return fl.Type != unix.F_UNLCK, fl.Pid, nil
		case syscall.EINTR:
		default:
			return false, 0, wrap("fcntl(F_OFD_GETLK)", e)
		}
	}
}

func fcntlFlock(fd, cmd int, fl *unix.Flock_t) syscall.Errno {
	_, _, e := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), uintptr(cmd), uintptr(unsafe.Pointer(fl)))
	return e
}

// FstatatNul is newfstatat(2) for a name that ends in a NUL byte: it does not
// copy the name, and st stays where the caller has it.
func FstatatNul(dirfd int, name []byte, st *syscall.Stat_t, flags int) error {
	for {
		_, _, e := unix.Syscall6(unix.SYS_NEWFSTATAT, uintptr(dirfd), uintptr(unsafe.Pointer(&name[0])),
			uintptr(unsafe.Pointer(st)), uintptr(flags), 0, 0)
		switch e {
		case 0:
			return nil
		case syscall.EINTR:
		default:
			return wrap("newfstatat", e)
		}
	}
}

// Dup3 is dup3(2) with O_CLOEXEC: from now on newfd is what oldfd is. The number
// newfd is at no moment free for others to get.
func Dup3(oldfd, newfd int) error {
	return wrap("dup3", retry(func() error { return unix.Dup3(oldfd, newfd, unix.O_CLOEXEC) }))
}

// Gettid is the id of the calling thread; without runtime.LockOSThread it is
// another one's at once.
func Gettid() int { return unix.Gettid() }

// TgkillSelf sends sig to the thread tid of this process, tgkill(2).
func TgkillSelf(tid int, sig syscall.Signal) error {
	return wrap("tgkill", retry(func() error { return unix.Tgkill(os.Getpid(), tid, sig) }))
}

// CompareFile is kcmp(KCMP_FILE), Linux 3.5: it puts open file descriptions in an
// order, 0 if descriptor fd1 of process pid1 and descriptor fd2 of process pid2 are
// the same one. It takes the right to look into both, PTRACE_MODE_READ_REALCREDS of
// ptrace(2). EBADF: one of them is not open any more.
func CompareFile(pid1, fd1, pid2, fd2 int) (int, error) {
	const kcmpFile = 0 // linux/kcmp.h
	for {
		r, _, e := unix.Syscall6(unix.SYS_KCMP, uintptr(pid1), uintptr(pid2), kcmpFile, uintptr(fd1), uintptr(fd2), 0)
		switch {
		case e == syscall.EINTR:
			continue
		case e != 0:
			return 0, wrap("kcmp", e)
		case r == 1:
			return -1, nil
		}
		return int(min(r, 1)), nil // 2 is greater, 3 not equal and without an order
	}
}
