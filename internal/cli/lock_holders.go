package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/flock"
	"github.com/slashrun/slashrun/internal/linux"
)

// How long a look for the holders may take: one that holds up the exit, and one while
// nothing happens anyway.
const (
	lookAtExit   = time.Second
	lookMeantime = 10 * time.Second
)

// lookOption has this program tell who holds a lock, and is for itself alone: see
// flock.Look. It is an option so that no FILE can have its name. With lookOption3 the
// request's descriptor is 3; else that is anybody's.
const (
	lookOption  = "--look-for-holders="
	lookOption3 = "--look-for-holders-of-3="
)

// looks are the looks for holders of one run.
type looks struct {
	sync.Mutex // one at a time; it is held for no longer than the limit and lookAtExit
}

// holders says who holds the lock, or why that cannot be told. It comes back at the
// end of ctx or the limit, whatever the processes do that are looked at: a process of
// its own does it, which is killed then. If it hangs in the kernel, so that not even
// that ends it, it is left behind.
func (r *lockRun) holders(ctx context.Context, f *flock.File, limit time.Duration) string {
	r.looks.Lock()
	defer r.looks.Unlock()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	text, err := r.look(ctx, f)
	switch {
	case err == nil:
		return visible(text)
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("it was not found out within %v", limit)
	}
	return "who holds it cannot be told: " + visible(err.Error())
}

func (r *lockRun) look(ctx context.Context, f *flock.File) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	in, out, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer in.Close()
	request, fd := f.Request()
	// A new process may have no descriptor 0, 1 or 2 but the pipe: what it inherited
	// from us could be somebody's lock or terminal, and it may stay for long.
	files := []uintptr{out.Fd(), out.Fd(), out.Fd()}
	option := lookOption
	if fd >= 0 {
		files = append(files, uintptr(fd))
		option = lookOption3
	}
	argv := []string{"slashrun", "lock", option + request}
	pid, err := linux.ForkExec("/proc/self/exe", argv, &syscall.ProcAttr{Env: r.env.Environ, Files: files})
	out.Close()
	if err != nil {
		return "", fmt.Errorf("cannot start this program, /proc/self/exe, to look for it: %w", err)
	}
	read := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(io.LimitReader(in, 1<<16))
		read <- string(text)
	}()
	select {
	case text := <-read:
		ws, err := reap(pid)
		if err == nil && ws != 0 || text == "" {
			err = errors.New("the look for it failed: " + text)
		}
		return text, err
	case <-ctx.Done():
	}
	// Nobody has waited for it, so the number is its own.
	_ = syscall.Kill(pid, syscall.SIGKILL)
	// The command that we may become must not have a child that it knows nothing of.
	_, _ = reap(pid)
	return "", ctx.Err()
}

// reap waits for the end of a process that is about to end, but not for long: its end
// can hang.
func reap(pid int) (syscall.WaitStatus, error) {
	ended := make(chan syscall.WaitStatus, 1)
	go func() {
		ws, err := linux.Reap(pid)
		if err != nil { // SIGCHLD is ignored: the kernel keeps no status
			ws = 0
		}
		ended <- ws
	}()
	select {
	case ws := <-ended:
		return ws, nil
	case <-time.After(lookAtExit):
		return 0, errors.New("the look for it does not end")
	}
}

// runLook is the other side of look.
func runLook(ctx context.Context, env *Env, request string, fd int) int {
	if err := closeInherited(fd); err != nil {
		fmt.Fprintf(env.Stdout, "%v", err)
		return ExitUsage
	}
	h, err := flock.Look(ctx, request, fd)
	if err != nil {
		fmt.Fprintf(env.Stdout, "%v", err)
		return ExitUsage
	}
	fmt.Fprint(env.Stdout, h.String())
	return ExitOK
}

// closeInherited closes what was inherited from descriptor 3 on, but for the one that
// is given.
func closeInherited(but int) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil || n < 3 || n == but {
			continue
		}
		// Those that are close-on-exec are the runtime's.
		if cloexec, err := linux.CloseOnExecSet(n); err == nil && !cloexec {
			linux.Close(n)
		}
	}
	return nil
}

// lookRequest is the request of a command line that is one, and its descriptor.
func lookRequest(args []string) (request string, fd int, ok bool) {
	if len(args) != 1 {
		return "", -1, false
	}
	if request, ok = strings.CutPrefix(args[0], lookOption); ok {
		return request, -1, true
	}
	request, ok = strings.CutPrefix(args[0], lookOption3)
	return request, 3, ok
}
