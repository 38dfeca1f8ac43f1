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
// belongs to it. ECHILD where there is no child.
func WaitEnded() (pid int, err error) {
	var info unix.Siginfo
	err = retry(func() error { return unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil) })
	// si_pid is the first of the fields behind three ints and, on 64-bit machines,
	// one int of padding: asm-generic/siginfo.h.
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), 16))), wrap("waitid", err)
}

// Reap takes the end of the child pid, which has ended: wait4(2).
func Reap(pid int) (status syscall.WaitStatus, err error) {
	err = retry(func() error {
		_, err := syscall.Wait4(pid, &status, 0, nil)
		return err
	})
	return status, wrap("wait4", err)
}

// ForkExec starts a program: fork(2) and execve(2) by package syscall. The child has
// the credentials, capabilities and signal mask of the calling thread, handled
// signals at their default, and the limit of open files that this process was
// started with. The error is a bare errno.
func ForkExec(path string, argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	return syscall.ForkExec(path, argv, attr)
}

// KeepOnExec is fcntl(F_SETFD, 0): the descriptor stays open in the program that
// the process becomes, and in its children.
func KeepOnExec(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
	return wrap("fcntl(F_SETFD)", err)
}

// SetNonblock sets O_NONBLOCK on the open file description of fd.
func SetNonblock(fd int) error { return wrap("fcntl(F_SETFL)", unix.SetNonblock(fd, true)) }
