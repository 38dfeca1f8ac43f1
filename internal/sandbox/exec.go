package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// keep are the capabilities of programs inside: enough for a daemon that sets up
// its files and changes its user, and nothing that reaches mounts, devices or
// PID 1 (which has more, and so cannot be traced).
const keep = 1<<linux.CAP_CHOWN | 1<<linux.CAP_DAC_OVERRIDE | 1<<linux.CAP_FOWNER | 1<<linux.CAP_FSETID |
	1<<linux.CAP_KILL | 1<<linux.CAP_SETGID | 1<<linux.CAP_SETUID | 1<<linux.CAP_SETPCAP |
	1<<linux.CAP_NET_BIND_SERVICE | 1<<linux.CAP_SYS_CHROOT | 1<<linux.CAP_AUDIT_WRITE | 1<<linux.CAP_SETFCAP

// Exit statuses of a program that could not be run, as env(1) and sh(1) have them.
const (
	StatusFailed      = 125 // the sandbox itself
	StatusNotRunnable = 126
	StatusNotFound    = 127
)

// Command is a program to be run inside.
type Command struct {
	Args []string // argv; PATH finds Args[0]
	Env  []string
	// Dir is the working directory; "/" where it is not there.
	Dir   string
	Files []*os.File // descriptors 0 to 2
	// Foreground gives it a process group of its own and the terminal Files[0],
	// which the caller has. An interactive shell needs that: the group that it
	// would share with the outside has no number inside, so it could not give the
	// terminal back to it. Any other program is better off in the group of the
	// outside, where Ctrl-Z stops both.
	Foreground bool
}

// Exec runs c. The result is its exit status, or 126 or 127 with the reason. As
// PID 1 does, it also reaps every orphan, so it must be the only one that waits
// for children.
func (in *Inside) Exec(c Command) (status int, err error) {
	if fd, err := linux.Openat(linux.AT_FDCWD, c.Dir, linux.O_PATH|linux.O_DIRECTORY, 0); err == nil {
		_ = linux.Fchdir(fd) // a directory that may not be entered: stay in /
		linux.Close(fd)
	}
	path, err := exec.LookPath(c.Args[0])
	if err != nil {
		return notRun(err), err
	}
	// Before the start, so that nothing is lost; a program starts with default
	// actions again, which is why they are not ignored here.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	linux.Umask(in.umask)
	attr := &os.ProcAttr{Env: c.Env, Files: c.Files}
	if c.Foreground {
		attr.Sys = &syscall.SysProcAttr{Foreground: true, Ctty: int(c.Files[0].Fd())}
	}
	p, err := startBounded(path, c.Args, attr)
	if err != nil {
		return notRun(err), err
	}
	go func() {
		for s := range signals {
			if s != syscall.SIGINT && s != syscall.SIGQUIT { // the terminal sends these to both
				_ = p.Signal(s)
			}
		}
	}()
	for {
		pid, ws, err := linux.WaitAny()
		if err != nil {
			return StatusFailed, err
		}
		if pid == p.Pid {
			return statusOf(ws), nil
		}
	}
}

// errBounding is a failure to take capabilities away from a program.
var errBounding = errors.New("cannot take capabilities away from it")

func notRun(err error) int {
	if errors.Is(err, errBounding) {
		return StatusFailed
	}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return StatusNotFound
	}
	return StatusNotRunnable
}

// startBounded starts a program without the capabilities that it must not have.
// The bounding set belongs to a thread, and a child has it from the thread that
// forked it; that thread then ends with its goroutine.
func startBounded(path string, argv []string, attr *os.ProcAttr) (p *os.Process, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = linux.DropBounding(keep); err != nil {
			err = fmt.Errorf("%w: %w", errBounding, err)
			return
		}
		p, err = os.StartProcess(path, argv, attr)
	}()
	<-done
	return p, err
}
