package linux

import "golang.org/x/sys/unix"

// KeepOnExec takes FD_CLOEXEC from fd, so that it stays open in the programs that
// the process executes: fcntl(2) F_SETFD.
func KeepOnExec(fd int) error {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
	return wrap("fcntl(F_SETFD)", err)
}

// CloseOnExecSet reports whether fd is open and close-on-exec, fcntl(2) F_GETFD. The
// error is EBADF where it is not open.
func CloseOnExecSet(fd int) (bool, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return flags&unix.FD_CLOEXEC != 0, wrap("fcntl(F_GETFD)", err)
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
