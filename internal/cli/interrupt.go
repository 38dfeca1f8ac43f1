package cli

import (
	"context"
	"os/signal"
	"sync"
	"sync/atomic"
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
	c := &lateContext{start: time.Now()}
	c.Context, c.cancel = context.WithCancel(parent)
	return c, c.stop
}

// lateContext catches signals from the first question for it that comes after
// patience. (A timer would do it too, and takes descriptors: the runtime ends the
// program where there are none.)
type lateContext struct {
	context.Context
	cancel context.CancelFunc
	start  time.Time

	caught atomic.Bool
	mu     sync.Mutex
	free   context.CancelFunc
}

func (c *lateContext) Err() error {
	if !c.caught.Load() && time.Since(c.start) > patience {
		c.catch()
	}
	return c.Context.Err()
}

func (c *lateContext) Done() <-chan struct{} {
	c.catch()
	return c.Context.Done()
}

func (c *lateContext) catch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.caught.Swap(true) {
		return
	}
	signals, free := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(signals, c.cancel)
	c.free = free
}

func (c *lateContext) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.caught.Store(true)
	if c.free != nil {
		c.free()
	}
	c.cancel()
}
