package lockfile

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// A thread that sleeps in flock(2) or fcntl(F_OFD_SETLKW) leaves the kernel's
// queue for a moment when any signal handler runs on it: the system call begins
// again, at the queue's end. So a waiting thread takes no signals but these.
var (
	// wakeSignal interrupts a wait. Go's runtime sends it to its own threads to
	// preempt them and has a handler in every build mode; it is documented that
	// a spurious one does nothing, and its default action is nothing too.
	wakeSignal = syscall.SIGURG
	// unheld are the wake signal, those that Go and the C library send to every
	// thread and then wait for (setuid and its like), and those that the thread
	// itself causes.
	unheld = []syscall.Signal{
		wakeSignal, 32, 33, 34,
		syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGSYS,
	}
)

// errInterrupted says that a wait was ended by its context.
var errInterrupted = errors.New("interrupted")

// sleep calls block, a system call that sleeps until a lock on the descriptor
// that it is given is free, and returns errInterrupted if ctx ends first. The
// thread sleeps in the kernel's queue all the time.
//
// # How a wait is interrupted
//
// All handlers of a Go program have SA_RESTART: after a signal the kernel makes
// the same system call again, and to change that would be to change the handlers
// of a program that is not ours. So the thread waits on a second descriptor of
// the same open file description, and what interrupts it first puts an O_PATH
// descriptor in that one's place, and sends the signal then. The system call
// that begins again (or that had not begun yet) finds a descriptor that cannot be
// locked and fails with EBADF. There is no moment at which the signal could come
// too early, and a lock that was granted before the signal is granted: block
// returns nil, and so does sleep.
func sleep(ctx context.Context, fd int, block func(fd int) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tid, waitFd := linux.Gettid(), fd
	stop := func() {}
	if ctx.Done() != nil {
		var err error
		if waitFd, stop, err = interruptible(ctx, fd, tid); err != nil {
			return err
		}
	}
	err := held(func() error {
		for {
			err := block(waitFd)
			// A handler without SA_RESTART, which C code may have installed.
			if !errors.Is(err, syscall.EINTR) {
				return err
			}
		}
	})
	stop()
	if errors.Is(err, syscall.EBADF) && ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

// interruptible makes the second descriptor and arranges that the end of ctx
// interrupts the thread tid. stop undoes both; when it returns, nothing touches
// the descriptor or the thread any more.
func interruptible(ctx context.Context, fd, tid int) (waitFd int, stop func(), err error) {
	if ok, err := linux.SignalHandled(wakeSignal); err == nil && !ok {
		return -1, nil, fmt.Errorf("%v is ignored in this process, so that a waiting lock could not be interrupted; let it be, or wait without a deadline", wakeSignal)
	}
	dead, err := linux.Openat(linux.AT_FDCWD, "/", linux.O_PATH|linux.O_DIRECTORY, 0)
	if err != nil {
		return -1, nil, fmt.Errorf("a descriptor to wait with: %w", err)
	}
	if waitFd, err = linux.Dup(fd); err != nil {
		linux.Close(dead)
		return -1, nil, fmt.Errorf("a descriptor to wait with: %w", err)
	}
	done := make(chan struct{})
	pending := context.AfterFunc(ctx, func() {
		linux.Dup3(dead, waitFd) // both are open: nothing can fail
		linux.TgkillSelf(tid, wakeSignal)
		close(done)
	})
	return waitFd, func() {
		if !pending() {
			<-done
		}
		linux.Close(waitFd)
		linux.Close(dead)
	}, nil
}

// held runs f with all signals but unheld kept away from this thread.
func held(f func() error) error {
	mask := linux.AllSignalsBut(unheld...)
	old, err := linux.SetThreadMask(&mask)
	if err != nil {
		return err
	}
	err = f()
	linux.SetThreadMask(&old)
	return err
}
