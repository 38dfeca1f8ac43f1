package linux

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SeccompFilter installs a classic BPF program as a system call filter on every
// thread of the process: seccomp(2), SECCOMP_SET_MODE_FILTER with
// SECCOMP_FILTER_FLAG_TSYNC. It cannot be undone and is inherited by children.
//
// Without CAP_SYS_ADMIN the kernel demands no_new_privs (prctl(2)); then that is
// set, on every thread too, and set-user-ID programs lose their effect.
func SeccompFilter(prog []syscall.SockFilter) error {
	fprog := syscall.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	set := func() error {
		// A positive result is the ID of a thread that could not be synchronised.
		n, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
			unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
		if errno != 0 {
			return errno
		}
		if n != 0 {
			return syscall.ESRCH
		}
		return nil
	}
	// no_new_privs belongs to the thread that calls seccomp.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := retry(set)
	if err == syscall.EACCES {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return wrap("prctl PR_SET_NO_NEW_PRIVS", err)
		}
		err = retry(set)
	}
	return wrap("seccomp", err)
}
