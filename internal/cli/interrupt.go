package cli

import (
	"context"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// patience is how long a run may take before SIGINT and SIGTERM are caught.
const patience = 30 * time.Millisecond

// interruptible gives a context that ends with SIGINT or SIGTERM, so that a long
// run stops between two acts and says so. A short one is over before: catching
// signals starts two threads, which takes longer than many a whole run. Until
// then the signals kill, as SIGKILL may at any time: every act survives that.
func interruptible(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	var mu sync.Mutex
	var release context.CancelFunc
	stopped := false
	timer := time.AfterFunc(patience, func() {
		mu.Lock()
		defer mu.Unlock()
		if stopped {
			return
		}
		caught, free := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
		context.AfterFunc(caught, cancel)
		release = free
	})
	return ctx, func() {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		if release != nil {
			release()
		}
		cancel()
	}
}
