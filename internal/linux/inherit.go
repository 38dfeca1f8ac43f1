package linux

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// OpenInheritable is openat(2) without O_CLOEXEC: the descriptor stays open in the
// programs that the process executes. EINTR is retried; where the opening sleeps
// (a FIFO, a terminal), it begins again.
func OpenInheritable(dirfd int, path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, path, flags, mode)
		if err == syscall.EINTR {
			continue
		}
		return fd, wrap("openat", err)
	}
}

// KeepOnExec takes FD_CLOEXEC from fd, so that it stays open in the programs that
// the process executes: fcntl(2) F_SETFD.
func KeepOnExec(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
	return wrap("fcntl(F_SETFD)", err)
}

// StatusFlags are the access mode and the flags of the open file description of
// fd, fcntl(2) F_GETFL. EBADF where fd is not open.
func StatusFlags(fd int) (int, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return flags, wrap("fcntl(F_GETFL)", err)
}

// SetStatusFlags is fcntl(2) F_SETFL: O_NONBLOCK, O_APPEND and their like.
func SetStatusFlags(fd, flags int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags)
	return wrap("fcntl(F_SETFL)", err)
}
