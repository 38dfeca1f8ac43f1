package seccomptest

import (
	"fmt"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// A Profile is a set of system calls and the error that they give.
type Profile string

// The profiles; the package documentation says what each denies.
const (
	None      Profile = "" // no filter: for tables of profiles
	EPERM     Profile = "eperm"
	ENOSYS    Profile = "enosys"
	OldEPERM  Profile = "old-eperm"
	OldENOSYS Profile = "old-enosys"
)

// All is every profile, None first.
var All = []Profile{None, EPERM, ENOSYS, OldEPERM, OldENOSYS}

// String makes a name for a subtest.
func (p Profile) String() string {
	if p == None {
		return "none"
	}
	return string(p)
}

// spec says what the profile denies.
func (p Profile) spec() (errno syscall.Errno, old bool, err error) {
	switch p {
	case EPERM:
		return syscall.EPERM, false, nil
	case ENOSYS:
		return syscall.ENOSYS, false, nil
	case OldEPERM:
		return syscall.EPERM, true, nil
	case OldENOSYS:
		return syscall.ENOSYS, true, nil
	}
	return 0, false, fmt.Errorf("no seccomp profile is called %q (they are eperm, enosys, old-eperm, old-enosys)", string(p))
}

// Numbers that all architectures share.
const (
	firstNew = 424 // pidfd_send_signal, the first of Linux 5.1
	nrClone3 = 435
)

// Offsets in struct seccomp_data, and actions: linux/seccomp.h.
const (
	offNr   = 0
	offArch = 4
	offArg4 = 16 + 4*8 // low half, on a little-endian machine

	retAllow = 0x7fff0000
	retErrno = 0x00050000
)

// program assembles the filter. A jump in classic BPF skips that many
// instructions, so each test stands right before what it decides about.
func program(errno syscall.Errno, old bool) []syscall.SockFilter {
	load := func(off uint32) syscall.SockFilter {
		return syscall.SockFilter{Code: syscall.BPF_LD | syscall.BPF_W | syscall.BPF_ABS, K: off}
	}
	ret := func(v uint32) syscall.SockFilter {
		return syscall.SockFilter{Code: syscall.BPF_RET | syscall.BPF_K, K: v}
	}
	jump := func(op uint16, k uint32, yes, no uint8) syscall.SockFilter {
		return syscall.SockFilter{Code: syscall.BPF_JMP | op | syscall.BPF_K, K: k, Jt: yes, Jf: no}
	}
	deny := ret(retErrno | uint32(errno))
	prog := []syscall.SockFilter{
		load(offArch),
		jump(syscall.BPF_JEQ, auditArch, 1, 0),
		ret(retAllow),
		load(offNr),
		jump(syscall.BPF_JEQ, nrClone3, 0, 1),
		ret(retErrno | uint32(syscall.ENOSYS)),
		jump(syscall.BPF_JGE, firstNew, 0, 1),
		deny,
	}
	if old {
		for _, nr := range oldCalls {
			prog = append(prog, jump(syscall.BPF_JEQ, nr, 0, 1), deny)
		}
		prog = append(prog, // renameat2, if its fifth argument is not 0
			jump(syscall.BPF_JEQ, nrRenameat2, 0, 3),
			load(offArg4),
			jump(syscall.BPF_JEQ, 0, 1, 0),
			deny,
		)
	}
	return append(prog, ret(retAllow))
}

// Install puts the process under p, for good, with all its threads and all
// processes that it starts from now on.
func Install(p Profile) error {
	if p == None {
		return nil
	}
	errno, old, err := p.spec()
	if err != nil {
		return err
	}
	return linux.SeccompFilter(program(errno, old))
}
