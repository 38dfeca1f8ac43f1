package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/slashrun/slashrun/internal/child"
	"github.com/slashrun/slashrun/internal/flock"
)

// run takes the lock and runs the command.
func (r *lockRun) run() int {
	var err error
	if r.found, err = child.Find(); err == nil {
		err = r.found.Plain()
	}
	if err != nil {
		r.env.Errorf("%v", err)
		return exitLockSystem
	}
	if r.noClock == nil && (r.o.NoWait || r.limit == 0) {
		r.limit, r.o.NoWait = 0, true
	}
	if r.unlock {
		r.o.Shared, r.o.Fair = true, false // for which opening for reading is enough
	}
	f, code := r.open()
	if f == nil {
		return code
	}
	if r.noClock != nil {
		r.env.Errorf("the time of -w: %v", r.noClock)
		return exitLockSystem
	}
	if code, ok := r.take(f); !ok || len(r.command) == 0 {
		return code
	}
	return r.start(f)
}

// open opens what is to be locked. A nil File comes with an exit code.
func (r *lockRun) open() (*flock.File, int) {
	var f *flock.File
	var err error
	switch {
	case r.named:
		var dir string
		if os.Geteuid() == 0 {
			f, dir, err = flock.OpenRootName(r.name, 0, r.o)
		} else if dir = r.env.Getenv("XDG_RUNTIME_DIR"); dir == "" || dir[0] != '/' { // relative ones are to be ignored
			r.env.Errorf("no directory for the lock %s: XDG_RUNTIME_DIR is not set; set it, or give a FILE", Quote(r.name))
			return nil, exitLockNoFile
		} else {
			f, err = flock.OpenName(dir, r.name, uint32(os.Geteuid()), r.o)
		}
		r.file = dir + "/" + r.name
	case len(r.command) > 0:
		f, err = flock.Open(r.file, r.o)
	default:
		f, err = flock.OfDescriptor(r.fd, r.o)
	}
	switch {
	case err == nil:
		return f, ExitOK
	case errors.Is(err, flock.ErrRange):
		return nil, r.usage("--start and --length with --fair: %v", err)
	case len(r.command) == 0:
		return nil, r.refused(err)
	}
	return nil, r.noFile(err)
}

// noFile tells why the file cannot be opened.
func (r *lockRun) noFile(err error) int {
	code, what := exitLockNoFile, ""
	switch {
	case errors.Is(err, flock.ErrUntrusted):
		code = exitLockDistrusted
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOMEM):
		code = exitLockSystem
	case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		code, what = exitLockNotMade, "; a lock in /run needs no disk"
	case errors.Is(err, syscall.ENOENT):
		what = "; make its directory first"
	}
	r.env.Errorf("cannot open the lock file %s: %s%s", r.subject(), visible(err.Error()), what)
	return code
}

// refused tells why there is no lock.
func (r *lockRun) refused(err error) int {
	code, what := exitLockRefused, ""
	switch {
	case errors.Is(err, syscall.ENOLCK), errors.Is(err, syscall.ENOMEM):
		code, what = exitLockSystem, "; the kernel has no memory for locks, or a network file system no lock service"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		code = exitLockSystem
	case errors.Is(err, flock.ErrClosed), errors.Is(err, flock.ErrNoQueue):
	case errors.Is(err, syscall.EBADF) && len(r.command) == 0 && !r.o.Record && !r.o.Fair:
		what = fmt.Sprintf("; have the shell open it: exec %d>FILE", r.fd)
	case errors.Is(err, syscall.EBADF):
		what = "; it is not open, or not for writing, which this kind of lock takes"
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.EOPNOTSUPP):
		what = "; these bytes cannot be locked, or nothing can on this file system"
	}
	r.env.Errorf("cannot lock %s: %s%s", r.subject(), visible(err.Error()), what)
	return code
}

// visible is a message, in which names may be that others chose, fit for a terminal.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// subject is what is locked, for messages.
func (r *lockRun) subject() string {
	if r.named || len(r.command) > 0 {
		return Quote(r.file)
	}
	return "descriptor " + strconv.Itoa(r.fd)
}

// take takes the lock, or gives it up. The exit code is for where that is not ok; -E
// can make it 0.
func (r *lockRun) take(f *flock.File) (code int, ok bool) {
	if r.unlock {
		if err := f.Unlock(); err != nil {
			return r.refused(err), false
		}
		return ExitOK, true
	}
	w := flock.Wait{Limit: r.limit, Every: r.every}
	if r.verbose || r.every > 0 {
		w.Report = func(ctx context.Context) { r.report(ctx, f) }
	}
	began := time.Now()
	switch err := f.Lock(w); {
	case err == nil:
		if r.verbose {
			fmt.Fprintf(r.env.Stdout, "%s: locked %s after %.6f seconds\n", r.env.Prog, r.subject(), time.Since(began).Seconds())
		}
		return ExitOK, true
	case errors.Is(err, flock.ErrHeld), errors.Is(err, flock.ErrTimeout):
		if r.verbose {
			r.env.Errorf("no lock on %s: %v; %s", r.subject(), err, r.holders(context.Background(), f, lookAtExit))
		}
		return r.conflict, false
	case f.Fd() < 0 && len(r.command) > 0: // it was removed, and the next one is not to be had
		return r.noFile(err), false
	default:
		return r.refused(err), false
	}
}

// report says who holds the lock for which f waits.
func (r *lockRun) report(ctx context.Context, f *flock.File) {
	who := r.holders(ctx, f, lookMeantime)
	if ctx.Err() == nil {
		r.env.Errorf("waiting for %s: %s", r.subject(), who)
	}
}

// start runs the command, or becomes it.
func (r *lockRun) start(f *flock.File) int {
	c := child.Command{Args: r.command, Env: r.env.Environ, Found: r.found, Scripts: true}
	if !r.close {
		c.Pass = f.Fd()
	}
	if r.verbose {
		fmt.Fprintf(r.env.Stdout, "%s: running %s\n", r.env.Prog, Quote(r.command[0]))
	}
	var err error
	if r.noFork {
		r.looks.finish() // the command must not have a child that it knows nothing of
		err = child.Become(c)
	} else {
		var pid, status int
		if pid, err = child.Spawn(c); err == nil {
			status, err = child.Wait(pid)
		}
		if err == nil {
			return status
		}
	}
	r.env.Errorf("%s", visible(err.Error()))
	for _, shortage := range []error{syscall.ENOMEM, syscall.EAGAIN, syscall.EMFILE, syscall.ENFILE} {
		if errors.Is(err, shortage) {
			return exitLockSystem
		}
	}
	var failed *child.Error
	if errors.As(err, &failed) && failed.Status == child.StatusFailed {
		return exitLockSystem
	}
	return exitLockNotRun
}
