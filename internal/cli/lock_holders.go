package cli

import (
	"bufio"
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
	sync.Mutex                 // one at a time; it is held for no longer than the limit
	ended      <-chan struct{} // the last process
}

// finish waits for the end of the last look, but not for long: the end can hang.
func (l *looks) finish() {
	l.Lock()
	defer l.Unlock()
	if l.ended == nil {
		return
	}
	select {
	case <-l.ended:
	case <-time.After(lookAtExit):
	}
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
	answer := make(chan string, 1)
	go func() {
		// To the end of the line: of the process the end may hang.
		line, _ := bufio.NewReader(io.LimitReader(in, 1<<16)).ReadString('\n')
		answer <- line
	}()
	ended := make(chan struct{})
	r.looks.ended = ended
	defer func() {
		// Nobody has waited for it, so the number is its own.
		_ = syscall.Kill(pid, syscall.SIGKILL)
		go func() {
			_, _ = linux.Reap(pid)
			close(ended)
		}()
	}()
	select {
	case line := <-answer:
		text, ok := strings.CutPrefix(line, lookAnswer)
		if !ok {
			return "", errors.New("the look for it failed: " + strings.TrimSuffix(line, "\n"))
		}
		return strings.TrimSuffix(text, "\n"), nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// lookAnswer is how an answer begins; else it is an error.
const lookAnswer = "answer: "

// runLook is the other side of look.
func runLook(ctx context.Context, env *Env, request string, fd int) int {
	if err := closeInherited(fd); err != nil {
		fmt.Fprintf(env.Stdout, "%s\n", visible(err.Error()))
		return ExitUsage
	}
	h, err := flock.Look(ctx, request, fd)
	if err != nil {
		fmt.Fprintf(env.Stdout, "%s\n", visible(err.Error()))
		return ExitUsage
	}
	fmt.Fprintf(env.Stdout, "%s%s\n", lookAnswer, visible(h.String()))
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
