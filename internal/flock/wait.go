package flock

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
)

// Wait says how long to wait for a lock, and what to do meanwhile.
type Wait struct {
	// Limit is how long; 0 is not at all, and less than 0 for as long as it takes.
	Limit time.Duration
	// Report, unless nil, is called when a wait begins, and again each Every unless
	// that is 0, for as long as it lasts: from a goroutine of its own, never twice at
	// a time. ctx ends with the wait. It disturbs nothing.
	Report func(ctx context.Context)
	Every  time.Duration
}

// Forever waits for as long as it takes.
const Forever = time.Duration(-1)

// Lock takes the lock. ErrHeld says that it is held and that w is not to wait,
// ErrTimeout that w's limit came first: then nobody waits any more, and nothing is
// locked.
func (f *File) Lock(w Wait) error {
	err := f.attempt(false)
	switch {
	case err != errBusy:
		return err
	case w.Limit == 0:
		return ErrHeld
	case w.Limit < 0 && w.Report == nil:
		return f.sleep()
	}
	f.sleeper = new(sleeper)
	done := make(chan error, 1)
	go func() { done <- f.sleep() }()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if w.Report != nil {
		go w.report(ctx)
	}
	var limit <-chan time.Time // nil never comes
	if w.Limit > 0 {
		limit = time.After(w.Limit)
	}
	select {
	case err := <-done:
		return err
	case <-limit:
		cancel()
		return f.end(done)
	}
}

// report calls Report for as long as the wait lasts.
func (w *Wait) report(ctx context.Context) {
	w.Report(ctx)
	if w.Every <= 0 {
		return
	}
	tick := time.NewTicker(w.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.Report(ctx)
		}
	}
}

// sleeper is a thread that waits, as those see it who may end that.
type sleeper struct {
	tid  atomic.Int64 // 0 until it is known
	over atomic.Bool  // no lock is to be waited for any more
}

// wake interrupts a wait: nothing is sent for it but at the end of a limit, because
// it does nothing by default, and until then it has no handler. The runtime's does
// nothing either.
const wake = syscall.SIGWINCH

// hangs is for how long a sleeper is waited for that is not to be had out of a system
// call which no signal interrupts: open(2) or a lock on a file system that does not
// answer.
const hangs = time.Second

// end takes the sleeper out and returns what it came back with, which may be the
// lock, granted at the last moment.
//
// A lock that were granted after ErrTimeout would stay with whoever handed an
// inherited descriptor down, without anybody's knowing. So the thread is signalled
// until it has come back: the first signal may come before the system call. Where it
// does not come back the program may end all the same if the open file description is
// ours alone, and its lock with it. Otherwise we go on, as flock(1) does.
func (f *File) end(done <-chan error) error {
	f.sleeper.over.Store(true)
	if err := linux.HandleInterrupting(wake, syscall.SIGURG); err != nil {
		return err
	}
	began := time.Now()
	for pause := time.Millisecond; ; pause = min(2*pause, hangs/4) {
		if tid := f.sleeper.tid.Load(); tid != 0 {
			_ = linux.TgkillSelf(int(tid), wake) // ESRCH: it has come back
		}
		select {
		case err := <-done:
			return err
		case <-time.After(pause):
		}
		if f.path != "" && time.Since(began) > hangs {
			return ErrTimeout
		}
	}
}

// sleep takes the lock and sleeps in the kernel's queue until it has it, on one
// thread. SIGURG is kept away from that: the runtime handles it.
func (f *File) sleep() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	mask, err := linux.Sigmask()
	if err != nil {
		return err
	}
	waiting := mask.With(syscall.SIGURG).Without(wake)
	if _, err := linux.SetThreadMask(&waiting); err != nil {
		return err
	}
	if s := f.sleeper; s != nil {
		s.tid.Store(int64(linux.Gettid()))
		defer s.tid.Store(0)
	}
	err = f.attempt(true)
	if _, e := linux.SetThreadMask(&mask); err == nil {
		err = e
	}
	return err
}

// blocking calls block, which sleeps until a lock is free, until no signal has
// interrupted it but the one that says that the wait is over: then it is ErrTimeout.
func (f *File) blocking(block func() error) error {
	for {
		if s := f.sleeper; s != nil && s.over.Load() {
			return ErrTimeout
		}
		if err := block(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
