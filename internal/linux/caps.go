package linux

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Capabilities of linux/capability.h that something asks for.
const (
	CAP_MKNOD      = unix.CAP_MKNOD
	CAP_SYS_ADMIN  = unix.CAP_SYS_ADMIN
	CAP_SYS_PTRACE = unix.CAP_SYS_PTRACE
)

var effective = sync.OnceValue(func() uint64 {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, (*unix.CapUserData)(unsafe.Pointer(&data))) != nil {
		return ^uint64(0) // not known: the call that needs it tells
	}
	return uint64(data[0].Effective) | uint64(data[1].Effective)<<32
})

// HasCap says whether a capability is in the effective set that the process
// had when it first asked. Where the kernel does not tell, it says yes.
func HasCap(c int) bool { return effective()>>c&1 == 1 }

// Geteuid is geteuid(2), which cannot fail.
func Geteuid() uint32 { return uint32(unix.Geteuid()) }

// Getegid is getegid(2).
func Getegid() uint32 { return uint32(unix.Getegid()) }
