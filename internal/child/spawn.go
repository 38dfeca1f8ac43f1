package child

import (
	"os/signal"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// Plain makes this process one that signals do to what they would do to any that
// has set no handler: the runtime's handlers, which ignore SIGUSR1 and SIGPIPE and
// print stacks at SIGQUIT, go. Those of faults of ours stay, and SIGURG, by which the
// runtime preempts its threads. It is for a program that only waits for a child or a lock
// from now on, and whose end is nothing special; package os/signal does not know
// of it.
//
// What was ignored when the process began, as far as found has it, stays so, here
// and in the programs that are started. SIGQUIT is taken to have been ignored where
// SIGINT was: the runtime hides the one and keeps the other, and a shell without job
// control ignores both for what it runs in the background (POSIX, Shell Command
// Language, 2.11), which must not end when the terminal's user quits something else.
func (f *Found) Plain() error {
	if f.ignored.Has(syscall.SIGINT) {
		f.ignored = f.ignored.With(syscall.SIGQUIT)
	}
	for sig := syscall.Signal(1); sig <= linux.NumSignals; sig++ {
		if f.ignored.Has(sig) {
			// By the runtime, or a child would begin with the default.
			signal.Ignore(sig)
			continue
		}
		if runtimes.Has(sig) {
			continue
		}
		if err := linux.DefaultSignal(sig); err != nil {
			return err
		}
	}
	return nil
}

// runtimes are the signals that the runtime needs, those that it has no handler
// for, and those that nobody can handle.
var runtimes = unblockable.With(syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGURG, 32, 33, 34)

// Spawn starts the command as a child and returns its number. The child is in our
// process group and session and has our descriptors but those that are
// close-on-exec, as after fork(2) and execvp(3), and the one to Pass. Wait for it
// with Wait. An error is an *Error.
func Spawn(c Command) (pid int, err error) {
	attr := &syscall.ProcAttr{Env: c.Env, Files: []uintptr{0, 1, 2}}
	if c.Pass > 0 {
		for n := firstFree(); len(attr.Files) < n; {
			attr.Files = append(attr.Files, uintptr(len(attr.Files)))
		}
		attr.Files = append(attr.Files, uintptr(c.Pass))
	}
	start := func() {
		if err = prepare(&c); err == nil {
			pid, err = c.fork(attr)
		}
	}
	if c.ofThread() {
		onDyingThread(start)
	} else {
		start()
	}
	return pid, err
}

// Wait waits for the end of a child that Spawn started and returns its exit
// status, or 128 and the number of the signal that killed it.
func Wait(pid int) (status int, err error) {
	ws, err := linux.Reap(pid)
	if err != nil {
		return 0, failed(err)
	}
	return statusOf(ws), nil
}
