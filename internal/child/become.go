package child

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// Become replaces this process by the command, execve(2): it has the same number,
// the same descriptors but those of ours, and what Find found. It returns only
// where that fails, with an *Error. By then this thread may have changed its user:
// tell the error and exit with its Status.
func Become(c Command) error {
	if c.ofThread() {
		runtime.LockOSThread()
	}
	if err := prepare(&c); err != nil {
		return err
	}
	if c.Pass > 0 {
		n := firstFree()
		if err := pass(c.Pass, n); err != nil {
			return failed(fmt.Errorf("cannot hand down descriptor %d as %d: %w", c.Pass, n, err))
		}
	}
	return c.run(func(path string, argv []string) error { return syscall.Exec(path, argv, c.Env) })
}

// ofThread reports whether prepare changes what belongs to one thread: credentials,
// the signal mask. Otherwise any thread can execute the command, and the runtime
// need not start the one more that it wants beside a locked one, which execve(2)
// would have to wait for.
func (c *Command) ofThread() bool {
	return c.User != nil || c.NoNewPrivs || c.DropBounding || c.Found.masked() || c.Found.deathSig != 0
}

// firstFree is the lowest descriptor from 3 on that was free when this process
// began: execve(2) hands down none that is close-on-exec, so those that are belong
// to us, or to the runtime.
func firstFree() int {
	for n := 3; ; n++ {
		if ours, err := linux.CloseOnExecSet(n); ours || err != nil {
			return n
		}
	}
}

// pass makes the descriptor n what fd is, and has execve(2) hand it down. Whatever
// of ours n was is lost, so it comes right before that.
func pass(fd, n int) error {
	if fd != n {
		if err := linux.Dup3(fd, n); err != nil {
			return err
		}
	}
	return linux.KeepOnExec(n)
}

// prepare makes the calling thread one whose execve(2) gives the command what it
// is to have. Where ofThread says so the goroutine must be locked to it for good.
func prepare(c *Command) error {
	if len(c.Args) == 0 {
		return failed(errors.New("there is no command to run"))
	}
	for _, list := range [][]string{c.Args, c.Env} {
		for _, s := range list {
			if strings.IndexByte(s, 0) >= 0 {
				return failed(fmt.Errorf("%.60q holds a NUL byte, which no argument and no environment variable can", s))
			}
		}
	}
	if err := c.drop(); err != nil {
		return failed(err)
	}
	if err := c.Found.restore(); err != nil {
		return failed(fmt.Errorf("cannot give the command the signals that this process was started with: %w", err))
	}
	return nil
}

// run calls try with the paths that Args[0] can mean and the arguments, one after
// the other, until one is executed: execvp(3), but for ENOEXEC, where that would
// start a shell and we do so only for Scripts.
func (c *Command) run(try func(path string, argv []string) error) error {
	name := c.Args[0]
	attempt := func(path string) error {
		err := try(path, c.Args)
		if err == syscall.ENOEXEC && c.Scripts {
			return try(shell, append([]string{shell, path}, c.Args[1:]...))
		}
		return err
	}
	if name == "" || strings.Contains(name, "/") {
		return explain(name, name, attempt(name))
	}
	path, set := lookup(c.Env, "PATH")
	if !set {
		path = defaultPath
	}
	var denied, missing string // the first path that was there all the same
	last := error(syscall.ENOENT)
	for _, dir := range strings.Split(path, ":") {
		file := name
		if dir != "" { // empty is the working directory
			file = dir + "/" + name
		}
		err := attempt(file)
		switch {
		case err == nil:
			return nil
		case err == syscall.EACCES:
			if denied == "" {
				denied = file
			}
		case err == syscall.ENOENT, err == syscall.ENOTDIR, err == syscall.ESTALE, err == syscall.ENODEV, err == syscall.ETIMEDOUT:
			last = err
			if missing == "" && exists(file) {
				missing = file
			}
		default:
			return explain(name, file, err)
		}
	}
	switch {
	case denied != "":
		return explain(name, denied, syscall.EACCES)
	case missing != "":
		return explain(name, missing, last)
	}
	return &Error{Status: StatusNotFound, Err: fmt.Errorf("%s: not found in PATH=%s; give its path, or set PATH", name, path)}
}

// shell is what execvp(3) has run a file that is executable and has no format.
const shell = "/bin/sh"

// defaultPath is where execvp(3) looks without PATH: _CS_PATH of confstr(3).
const defaultPath = "/bin:/usr/bin"

// lookup is getenv(3) in env.
func lookup(env []string, name string) (string, bool) {
	for _, kv := range env {
		if len(kv) > len(name) && kv[len(name)] == '=' && kv[:len(name)] == name {
			return kv[len(name)+1:], true
		}
	}
	return "", false
}

// exists reports whether there is something at path, whatever it is.
func exists(path string) bool {
	var st syscall.Stat_t
	return linux.Fstatat(linux.AT_FDCWD, path, 0, &st) == nil
}
