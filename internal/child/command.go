package child

import (
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// Exit statuses where there is no status of a command: as env(1), docker and sh(1)
// have them.
const (
	StatusFailed        = 125 // something before the command
	StatusNotExecutable = 126 // the command is there and cannot be executed
	StatusNotFound      = 127 // there is no such command
	StatusSignalled     = 128 // and the number of the signal that ended it
)

// Command is what to run, and as whom.
type Command struct {
	// Args is the argument vector. Args[0] without a slash is looked for in the
	// directories of PATH as Env has it.
	Args []string
	// Env is the whole environment. Of a User, see Environ.
	Env []string
	// User is whom to become; nil stays as found.
	User *User
	// Found is how this process was started.
	Found Found
	// NoNewPrivs says that nothing it executes gains privileges: prctl(2).
	NoNewPrivs bool
	// DropBounding empties the capability bounding set, and with it the inheritable
	// and ambient ones, so that no program that it executes has a capability, not
	// even as root.
	DropBounding bool
	// Scripts has /bin/sh run a file that is executable and has no format that the
	// kernel knows, as execvp(3) does. Without it that is an error which says what
	// is missing.
	Scripts bool
	// Pass is a close-on-exec descriptor of ours that the command gets, with the
	// lowest number from 3 on that was free when this process began; 0 for none.
	// Spawn and Become know of it.
	Pass int
}

// Error is a command that did not run.
type Error struct {
	// Status is what to exit with: 125, 126 or 127.
	Status int
	// Err says what, where and why, and what to do.
	Err error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// failed is an Error of our own side.
func failed(err error) *Error { return &Error{Status: StatusFailed, Err: err} }

// Environ returns env with HOME set to the user's home directory, as gosu sets it.
func (u *User) Environ(env []string) []string {
	out := make([]string, 0, len(env)+1)
	for _, kv := range env {
		if !strings.HasPrefix(kv, "HOME=") {
			out = append(out, kv)
		}
	}
	return append(out, "HOME="+u.Home)
}

// Found is how this process was started, as far as a command should find it the
// same way: what execve(2) hands on and a Go program may have changed by then.
type Found struct {
	mask     linux.Sigset
	ignored  linux.Sigset
	deathSig syscall.Signal
	umask    int
	parent   int
	known    bool
}

// Find looks at the process. Call it first, from the goroutine that came from
// main: the parent-death signal belongs to the thread that the process began
// with.
func Find() (f Found, err error) {
	if f.mask, err = linux.Sigmask(); err != nil {
		return f, err
	}
	// The runtime unblocks what it needs, so of these nobody knows any more. Whoever
	// blocked everything else blocked them too.
	if f.mask|needed|unblockable == ^linux.Sigset(0) {
		f.mask |= needed &^ reserved
	}
	// All others the runtime has given a handler, whatever they had (sigtable in
	// runtime/sigtab_linux_generic.go): there is nothing left to ask.
	if f.ignored, err = linux.IgnoredSignals(syscall.SIGHUP, syscall.SIGINT, syscall.SIGCONT, syscall.SIGTSTP,
		syscall.SIGTTIN, syscall.SIGTTOU, 32, 34); err != nil {
		return f, err
	}
	if linux.OnMainThread() {
		if f.deathSig, err = linux.ParentDeathSignal(); err != nil {
			return f, err
		}
	}
	f.umask = linux.Umask(0o077)
	linux.Umask(f.umask)
	f.parent = syscall.Getppid()
	f.known = true
	return f, nil
}

// needed are the signals that the runtime unblocks in each thread (blockableSig in
// runtime/signal_unix.go).
var needed = linux.Sigset(0).With(syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGILL, syscall.SIGTRAP,
	syscall.SIGABRT, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGSEGV, syscall.SIGTERM, syscall.SIGSTKFLT,
	syscall.SIGCHLD, syscall.SIGPROF, syscall.SIGURG, syscall.SIGSYS, 32, 33, 34)

// reserved are the first two real-time signals, which glibc keeps for itself and
// leaves out of sigfillset(3).
var reserved = linux.Sigset(0).With(32, 33)

// unblockable are those that the kernel takes out of every mask.
var unblockable = linux.Sigset(0).With(syscall.SIGKILL, syscall.SIGSTOP)

// masked reports whether the command gets a signal mask that is not the one which
// our threads have, all of them the same.
func (f *Found) masked() bool {
	mask, err := linux.Sigmask()
	return f.known && (err != nil || mask != f.mask)
}

// restore gives the calling thread, and where it belongs to the process the
// process, what was found.
func (f *Found) restore() error {
	if !f.known {
		return nil
	}
	linux.Umask(f.umask)
	for sig := syscall.Signal(1); sig <= linux.NumSignals; sig++ {
		if f.ignored.Has(sig) {
			if err := linux.IgnoreSignal(sig); err != nil {
				return err
			}
		}
	}
	_, err := linux.SetThreadMask(&f.mask)
	return err
}
