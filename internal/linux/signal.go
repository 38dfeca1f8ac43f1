package linux

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sigset is a set of signals as the kernel has it (rt_sigprocmask(2)): bit n-1 is
// signal n, 1 to 64.
type Sigset uint64

// NumSignals is the number of the last signal, _NSIG of the kernel.
const NumSignals = 64

// Without returns the set with sigs not in it.
func (s Sigset) Without(sigs ...syscall.Signal) Sigset { return s &^ Sigset(0).With(sigs...) }

// Has reports whether sig is in the set.
func (s Sigset) Has(sig syscall.Signal) bool { return s>>(sig-1)&1 == 1 }

// With returns the set with sigs in it.
func (s Sigset) With(sigs ...syscall.Signal) Sigset {
	for _, sig := range sigs {
		s |= 1 << (sig - 1)
	}
	return s
}

// AllSignalsBut is every signal without those that are named.
func AllSignalsBut(but ...syscall.Signal) Sigset { return ^Sigset(0).With(but...) }

// Sigmask returns the signals that the calling thread has blocked.
func Sigmask() (old Sigset, err error) {
	err = procmask(nil, &old)
	return old, err
}

// SetThreadMask makes set the signals that the calling thread does not take, and
// returns those of before: rt_sigprocmask(2). The goroutine must be locked to its
// thread, and before it is unlocked the old mask must come back. A thread that
// runs Go code for long keeps unblocked what the runtime needs.
func SetThreadMask(set *Sigset) (old Sigset, err error) {
	err = procmask(set, &old)
	return old, err
}

func procmask(set, old *Sigset) error {
	_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), unsafe.Sizeof(*old), 0, 0)
	return wrapErrno("rt_sigprocmask", e)
}

// Dispositions of asm-generic/signal-defs.h; anything else is a handler.
const (
	sigDefault = 0
	sigIgnore  = 1
)

// sigaction is struct sigaction of the kernel on 64-bit machines with sa_restorer,
// which amd64 and arm64 have: handler, flags, restorer, mask.
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     Sigset
}

// HandleInterrupting gives sig the handler that the runtime has for like, but so that
// a system call in which it runs ends with EINTR and is not begun again: without
// SA_RESTART. The runtime's handler does nothing at a signal that package os/signal
// was not asked for and that does nothing by default, such as SIGWINCH.
func HandleInterrupting(sig, like syscall.Signal) error {
	const restart = 0x10000000 // SA_RESTART of asm-generic/signal-defs.h
	var act sigaction
	_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(like), 0, uintptr(unsafe.Pointer(&act)), unsafe.Sizeof(Sigset(0)), 0, 0)
	if e != 0 {
		return wrapErrno("rt_sigaction", e)
	}
	if act.handler == sigDefault || act.handler == sigIgnore {
		return wrapErrno("rt_sigaction: no handler to copy", syscall.EINVAL)
	}
	act.flags &^= restart
	_, _, e = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&act)), 0, unsafe.Sizeof(Sigset(0)), 0, 0)
	return wrapErrno("rt_sigaction", e)
}

func getaction(sig syscall.Signal) (handler uintptr, err error) {
	var act sigaction
	_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), 0, uintptr(unsafe.Pointer(&act)), unsafe.Sizeof(Sigset(0)), 0, 0)
	return act.handler, wrapErrno("rt_sigaction", e)
}

// SignalHandled reports whether the process has a handler for sig, so that it
// neither is ignored nor does what it does by default: rt_sigaction(2), which
// changes nothing here.
func SignalHandled(sig syscall.Signal) (bool, error) {
	h, err := getaction(sig)
	return h != sigDefault && h != sigIgnore, err
}

// IgnoredSignals returns those of sigs that the process ignores, signal(7).
func IgnoredSignals(sigs ...syscall.Signal) (Sigset, error) {
	var set Sigset
	for _, sig := range sigs {
		h, err := getaction(sig)
		if err != nil {
			return 0, err
		}
		if h == sigIgnore {
			set = set.With(sig)
		}
	}
	return set, nil
}

// IgnoreSignal makes the process ignore sig, behind the back of the runtime, whose
// handler it replaces: os/signal does not know.
func IgnoreSignal(sig syscall.Signal) error { return setaction(sig, sigIgnore) }

// DefaultSignal gives sig its default action, behind the back of the runtime.
func DefaultSignal(sig syscall.Signal) error { return setaction(sig, sigDefault) }

func setaction(sig syscall.Signal, handler uintptr) error {
	act := sigaction{handler: handler}
	_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&act)), 0, unsafe.Sizeof(Sigset(0)), 0, 0)
	return wrapErrno("rt_sigaction", e)
}

// ParentDeathSignal returns the signal that the calling thread gets when its
// parent ends, 0 for none: prctl(2) PR_GET_PDEATHSIG.
func ParentDeathSignal() (syscall.Signal, error) {
	var sig int32
	_, _, e := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&sig)), 0, 0, 0, 0)
	return syscall.Signal(sig), wrapErrno("prctl PR_GET_PDEATHSIG", e)
}

// SetParentDeathSignal is prctl(2) PR_SET_PDEATHSIG for the calling thread; 0 is
// none. It belongs to the thread and ends with it, an execve(2) of the thread
// keeps it, and a change of user clears it.
func SetParentDeathSignal(sig syscall.Signal) error {
	_, _, e := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(sig), 0, 0, 0, 0)
	return wrapErrno("prctl PR_SET_PDEATHSIG", e)
}

// SetChildSubreaper makes the process the parent of orphans among its
// descendants: prctl(2) PR_SET_CHILD_SUBREAPER.
func SetChildSubreaper() error {
	_, _, e := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0, 0)
	return wrapErrno("prctl PR_SET_CHILD_SUBREAPER", e)
}

// wrapErrno is wrap for the result of a raw system call.
func wrapErrno(call string, e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return wrap(call, e)
}
