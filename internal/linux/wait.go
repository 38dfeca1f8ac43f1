package linux

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// WaitAny waits until any child ends, wait4(2) with -1. ECHILD where there is
// none. Whoever calls it must be the only one in the process to wait for
// children: it takes the end of each.
func WaitAny() (pid int, status syscall.WaitStatus, err error) {
	err = retry(func() (err error) {
		pid, err = syscall.Wait4(-1, &status, 0, nil)
		return err
	})
	return pid, status, wrap("wait4", err)
}

// CloseOnExec sets FD_CLOEXEC on a descriptor that came from the parent.
func CloseOnExec(fd int) { syscall.CloseOnExec(fd) }

// WaitEnded waits until any child has ended and returns its number without reaping
// it: waitid(2) with P_ALL, WEXITED and WNOWAIT. Until it is reaped the number
// belongs to it. ECHILD where there is no child. It allocates nothing.
func WaitEnded() (pid int, err error) {
	var info struct { // siginfo_t of a child on 64-bit machines, asm-generic/siginfo.h
		signo, errno, code, _ int32
		pid                   int32
		_                     [27]int32
	}
	for {
		_, _, e := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOWAIT, 0, 0)
		switch e {
		case 0:
			return int(info.pid), nil
		case syscall.EINTR:
		default:
			return 0, wrapErrno("waitid", e)
		}
	}
}

// Reap takes the end of the child pid, which has ended: wait4(2). It allocates
// nothing.
func Reap(pid int) (syscall.WaitStatus, error) {
	var status uint32
	for {
		_, _, e := unix.Syscall6(unix.SYS_WAIT4, uintptr(pid), uintptr(unsafe.Pointer(&status)), 0, 0, 0, 0)
		switch e {
		case 0:
			return syscall.WaitStatus(status), nil
		case syscall.EINTR:
		default:
			return 0, wrapErrno("wait4", e)
		}
	}
}

// ForkExec starts a program: fork(2) and execve(2) by package syscall. The child has
// the credentials, capabilities and signal mask of the calling thread, handled
// signals at their default, and the limit of open files that this process was
// started with. The error is a bare errno.
func ForkExec(path string, argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	return syscall.ForkExec(path, argv, attr)
}

// DupForExec is fcntl(F_DUPFD): another descriptor of the same open file, not
// below least, which stays open in the program that the process becomes and in its
// children.
func DupForExec(fd, least int) (int, error) {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD, least)
	return n, wrap("fcntl(F_DUPFD)", err)
}

// SetNonblock sets O_NONBLOCK on the open file description of fd.
func SetNonblock(fd int) error { return wrap("fcntl(F_SETFL)", unix.SetNonblock(fd, true)) }

// Inheritable reports whether fd is open and not close-on-exec, fcntl(2) F_GETFD.
func Inheritable(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0
}

// Getsid is the session of a process, getsid(2); of the caller for 0.
func Getsid(pid int) (int, error) {
	sid, err := unix.Getsid(pid)
	return sid, wrap("getsid", err)
}
