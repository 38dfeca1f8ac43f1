package flock

import (
	"context"
	"runtime"
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
// ErrTimeout that w's limit came first: then a thread goes on to wait, and the
// program must end.
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
	}
	select {
	case err := <-done: // at the last moment
		return err
	default:
		return ErrTimeout
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

// sleep takes the lock and sleeps in the kernel's queue until it has it, on one
// thread. SIGURG is kept away from that: the runtime handles it.
func (f *File) sleep() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	mask, err := linux.Sigmask()
	if err != nil {
		return err
	}
	waiting := mask.With(syscall.SIGURG)
	if _, err := linux.SetThreadMask(&waiting); err != nil {
		return err
	}
	err = f.attempt(true)
	if _, e := linux.SetThreadMask(&mask); err == nil {
		err = e
	}
	return err
}
