package linux

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Capabilities that a process keeps which may do as it likes with files of its
// own, and nothing to mounts, devices or processes of others: capabilities(7).
const (
	CAP_CHOWN            = unix.CAP_CHOWN
	CAP_DAC_OVERRIDE     = unix.CAP_DAC_OVERRIDE
	CAP_FOWNER           = unix.CAP_FOWNER
	CAP_FSETID           = unix.CAP_FSETID
	CAP_KILL             = unix.CAP_KILL
	CAP_SETGID           = unix.CAP_SETGID
	CAP_SETUID           = unix.CAP_SETUID
	CAP_SETPCAP          = unix.CAP_SETPCAP
	CAP_NET_BIND_SERVICE = unix.CAP_NET_BIND_SERVICE
	CAP_SYS_CHROOT       = unix.CAP_SYS_CHROOT
	CAP_AUDIT_WRITE      = unix.CAP_AUDIT_WRITE
	CAP_SETFCAP          = unix.CAP_SETFCAP
)

// DropBounding takes every capability that is not in keep (bit 1<<CAP_...) out
// of the bounding set of the calling thread, so that no program that it
// executes gets it: prctl(2) PR_CAPBSET_DROP. Lock the goroutine to its thread
// first; other threads keep theirs. EPERM without CAP_SETPCAP,
// unless nothing has to be taken out.
func DropBounding(keep uint64) error {
	for c := 0; c < 64; c++ {
		if keep>>c&1 == 1 {
			continue
		}
		switch err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err {
		case nil:
		case syscall.EINVAL: // beyond the kernel's last capability
			return nil
		case syscall.EPERM:
			if in, _, e := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0, 0); e != 0 || in != 0 {
				return wrap("prctl PR_CAPBSET_DROP", err)
			}
		default:
			return wrap("prctl PR_CAPBSET_DROP", err)
		}
	}
	return nil
}
