package linux

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Credentials belong to threads (credentials(7)). The functions of package syscall
// change all threads of the process; those here change the calling thread alone,
// so the goroutine must be locked to it and must not unlock it again: what comes
// of the thread is an execve(2) or its end.

// Setgroups is setgroups(2) for the calling thread.
func Setgroups(groups []uint32) error {
	var p unsafe.Pointer
	if len(groups) > 0 {
		p = unsafe.Pointer(&groups[0])
	}
	_, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(p), 0)
	return wrapErrno("setgroups", e)
}

// Getgroups is getgroups(2): the supplementary groups of the calling thread.
func Getgroups() ([]uint32, error) {
	for {
		n, _, e := unix.RawSyscall(unix.SYS_GETGROUPS, 0, 0, 0)
		if e != 0 || n == 0 {
			return nil, wrapErrno("getgroups", e)
		}
		list := make([]uint32, n)
		n, _, e = unix.RawSyscall(unix.SYS_GETGROUPS, n, uintptr(unsafe.Pointer(&list[0])), 0)
		if e == syscall.EINVAL {
			continue // there are more now
		}
		if e != 0 {
			return nil, wrapErrno("getgroups", e)
		}
		return list[:n], nil
	}
}

// Setresgid is setresgid(2) for the calling thread; ^uint32(0) leaves an id.
func Setresgid(real, effective, saved uint32) error {
	_, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(real), uintptr(effective), uintptr(saved))
	return wrapErrno("setresgid", e)
}

// Setresuid is setresuid(2) for the calling thread; ^uint32(0) leaves an id.
func Setresuid(real, effective, saved uint32) error {
	_, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(real), uintptr(effective), uintptr(saved))
	return wrapErrno("setresuid", e)
}

// Getresuid is getresuid(2): real, effective and saved user id of the calling
// thread. It cannot fail.
func Getresuid() (ids [3]uint32) {
	unix.RawSyscall(unix.SYS_GETRESUID, uintptr(unsafe.Pointer(&ids[0])), uintptr(unsafe.Pointer(&ids[1])), uintptr(unsafe.Pointer(&ids[2])))
	return ids
}

// Getresgid is getresgid(2), for groups.
func Getresgid() (ids [3]uint32) {
	unix.RawSyscall(unix.SYS_GETRESGID, uintptr(unsafe.Pointer(&ids[0])), uintptr(unsafe.Pointer(&ids[1])), uintptr(unsafe.Pointer(&ids[2])))
	return ids
}

// CapSets are the capability sets of a thread that capget(2) tells, bit 1<<CAP_...
type CapSets struct{ Effective, Permitted, Inheritable uint64 }

// Capget is capget(2) for the calling thread.
func Capget() (CapSets, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	_, _, e := unix.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&d)), 0)
	both := func(lo, hi uint32) uint64 { return uint64(lo) | uint64(hi)<<32 }
	return CapSets{
		Effective:   both(d[0].Effective, d[1].Effective),
		Permitted:   both(d[0].Permitted, d[1].Permitted),
		Inheritable: both(d[0].Inheritable, d[1].Inheritable),
	}, wrapErrno("capget", e)
}

// Capset is capset(2) for the calling thread.
func Capset(s CapSets) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	d := [2]unix.CapUserData{
		{Effective: uint32(s.Effective), Permitted: uint32(s.Permitted), Inheritable: uint32(s.Inheritable)},
		{Effective: uint32(s.Effective >> 32), Permitted: uint32(s.Permitted >> 32), Inheritable: uint32(s.Inheritable >> 32)},
	}
	_, _, e := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&d)), 0)
	return wrapErrno("capset", e)
}

// ClearAmbient empties the ambient capability set of the calling thread: prctl(2)
// PR_CAP_AMBIENT_CLEAR_ALL, Linux 4.3.
func ClearAmbient() error {
	_, _, e := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0)
	return wrapErrno("prctl PR_CAP_AMBIENT_CLEAR_ALL", e)
}

// SetNoNewPrivs is prctl(2) PR_SET_NO_NEW_PRIVS for the calling thread: no program
// that it executes gains anything by a set-user-ID bit or by file capabilities.
func SetNoNewPrivs() error {
	_, _, e := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	return wrapErrno("prctl PR_SET_NO_NEW_PRIVS", e)
}

// OnMainThread reports whether the calling thread is the one that the process
// began with.
func OnMainThread() bool { return unix.Gettid() == unix.Getpid() }
