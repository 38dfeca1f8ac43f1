package lockfile

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
)

// rounds goes on for as long as a test of a race should: $SLASHRUN_SOAK, which is
// a duration and what "make soak" sets, else n rounds.
func rounds(t *testing.T, n int64) func() bool {
	t.Helper()
	if text := os.Getenv("SLASHRUN_SOAK"); text != "" {
		d, err := time.ParseDuration(text)
		must(t, err)
		end := time.Now().Add(d)
		return func() bool { return time.Now().Before(end) }
	}
	var done atomic.Int64
	return func() bool { return done.Add(1) <= n }
}

// Eight workers lock a file, and each removes it before it lets go: never are two
// of them inside at a time. The file is looked at as others would see it.
func TestSoakDeleteRace(t *testing.T) {
	eachKind(t, func(t *testing.T, o Options) {
		path := temp(t)
		o.Remove, o.Perm = true, 0o644
		more := rounds(t, 400)
		var inside, violations, acquired atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			l := open(t, path, o)
			wg.Go(func() {
				for more() {
					if err := l.Lock(t.Context()); err != nil {
						t.Error(err)
						return
					}
					if inside.Add(1) != 1 {
						violations.Add(1)
					}
					if l.Check() != nil {
						violations.Add(1)
					}
					runtime.Gosched()
					inside.Add(-1)
					acquired.Add(1)
					if err := l.Unlock(); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		t.Logf("%d violations in %d acquisitions", violations.Load(), acquired.Load())
		if violations.Load() != 0 || acquired.Load() == 0 {
			t.Errorf("%d violations in %d acquisitions", violations.Load(), acquired.Load())
		}
		if names, _ := os.ReadDir(filepath.Dir(path)); len(names) != 0 {
			t.Errorf("left behind: %v", names)
		}
	})
}

// The same without the comparison with the path: were there no violations, the
// test above would prove nothing.
func TestDeleteRaceOfTheNaive(t *testing.T) {
	path := temp(t)
	var inside, violations atomic.Int64
	var wg sync.WaitGroup
	ctx := watchdog(t)
	for range 8 {
		wg.Go(func() {
			for violations.Load() == 0 && ctx.Err() == nil {
				fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_RDWR|linux.O_CREAT, 0o600)
				if err != nil {
					t.Error(err)
					return
				}
				for linux.FlockWait(fd, linux.LOCK_EX) != nil {
				}
				if inside.Add(1) != 1 {
					violations.Add(1)
				}
				runtime.Gosched()
				inside.Add(-1)
				syscall.Unlink(path)
				linux.Close(fd)
			}
		})
	}
	wg.Wait()
	if violations.Load() == 0 {
		t.Error("no violation: this machine does not show the race")
	}
}

// In fair mode nobody overtakes a writer who waits, in which way ever.
func TestFairOrder(t *testing.T) {
	for name, o := range map[string]Options{"flock": {Fair: true}, "ofd": {Kind: OFD, Fair: true}} {
		t.Run(name, func(t *testing.T) {
			path := temp(t)
			reader, late := open(t, path, o), open(t, path, o)
			must(t, reader.TryRLock())
			must(t, late.TryRLock()) // nobody waits
			must(t, late.Unlock())
			order := make(chan string, 3)
			served := func(who string) func(l *Lock) {
				return func(l *Lock) {
					order <- who
					l.Unlock()
				}
			}
			w1 := wait(t, path, o, (*Lock).Lock, served("writer"))
			queued(t, path, 1)
			wantErr(t, late.TryRLock(), ErrHeld) // somebody does
			r := wait(t, path, o, (*Lock).RLock, served("reader"))
			queued(t, path, 2)
			w2 := wait(t, path, o, (*Lock).Lock, served("second writer"))
			queued(t, path, 3)
			// While locks of others come and go /proc/locks may show one twice.
			for ctx, waiting := watchdog(t), 0; waiting != 3; {
				h, err := late.Holders(ctx)
				must(t, err)
				waiting = h.Waiting
			}
			must(t, reader.Unlock())
			for _, w := range []*waiter{w1, r, w2} {
				must(t, <-w.done)
			}
			for _, want := range []string{"writer", "reader", "second writer"} {
				if got := <-order; got != want {
					t.Errorf("%s was served in the place of %s", got, want)
				}
			}
			// A writer that gives up lets the others through.
			must(t, reader.TryRLock())
			w1 = wait(t, path, o, (*Lock).Lock, nil)
			queued(t, path, 1)
			r = wait(t, path, o, (*Lock).RLock, nil)
			queued(t, path, 2)
			w1.cancel()
			wantErr(t, <-w1.done, context.Canceled)
			must(t, <-r.done)
		})
	}
}

// One who locks again as soon as it has released does not overtake a writer who
// waits with the turnstile in hand.
func TestFairAgainstTheGreedy(t *testing.T) {
	for name, o := range map[string]Options{"flock": {Fair: true}, "ofd": {Kind: OFD, Fair: true}} {
		t.Run(name, func(t *testing.T) {
			path := temp(t)
			greedy := open(t, path, o)
			for turn := range 50 {
				must(t, greedy.TryLock())
				var served atomic.Bool
				w := wait(t, path, o, (*Lock).Lock, func(l *Lock) {
					served.Store(true)
					l.Unlock()
				})
				queued(t, path, 1)
				must(t, greedy.Unlock())
				err := ErrHeld
				if turn%2 == 0 {
					err = greedy.TryLock()
				}
				if err != nil {
					wantErr(t, err, ErrHeld)
					must(t, greedy.Lock(watchdog(t)))
				}
				if !served.Load() {
					t.Fatal("the writer was overtaken")
				}
				must(t, greedy.Unlock())
				must(t, <-w.done)
			}
		})
	}
}

// Readers that overlap without end: each holds the lock until another does. In
// fair mode a writer is served all the same.
func TestStarvingWriter(t *testing.T) {
	for name, o := range map[string]Options{"flock": {Fair: true}, "ofd": {Kind: OFD, Fair: true}} {
		t.Run(name, func(t *testing.T) {
			path := temp(t)
			ctx := watchdog(t)
			var asked, served atomic.Bool // by and to the writer
			var asking, inside, grants atomic.Int64
			var wg sync.WaitGroup
			for range 4 {
				l := open(t, path, o)
				wg.Go(func() {
					for !served.Load() && ctx.Err() == nil {
						asking.Add(1)
						if err := l.RLock(ctx); err != nil {
							t.Error(err)
							return
						}
						asking.Add(-1)
						grants.Add(1)
						inside.Add(1)
						for inside.Load() < 2 && !(asked.Load() && asking.Load() > 0) && !served.Load() && ctx.Err() == nil {
							runtime.Gosched()
						}
						inside.Add(-1)
						l.Unlock()
					}
				})
			}
			for grants.Load() < 200 && ctx.Err() == nil {
				runtime.Gosched()
			}
			writer := open(t, path, o)
			before := grants.Load()
			asked.Store(true)
			must(t, writer.Lock(ctx))
			served.Store(true)
			t.Logf("the writer was served after %d more grants to readers", grants.Load()-before)
			must(t, writer.Unlock())
			wg.Wait()
		})
	}
}

// Readers alone, who try and who wait: nobody is refused, because nobody holds the
// lock exclusively and so nobody ever waits.
func TestFairReadersAlone(t *testing.T) {
	for name, o := range map[string]Options{"flock": {Fair: true}, "ofd": {Kind: OFD, Fair: true}} {
		t.Run(name, func(t *testing.T) {
			path := temp(t)
			ctx := watchdog(t)
			var refused atomic.Int64
			var wg sync.WaitGroup
			for i := range 4 {
				l := open(t, path, o)
				wg.Go(func() {
					for n := range 3000 {
						err := l.TryRLock()
						if i == 0 && n%2 == 0 {
							if err == nil {
								l.Unlock()
							}
							err = l.RLock(ctx)
						}
						switch {
						case errors.Is(err, ErrHeld):
							refused.Add(1)
						case err != nil:
							t.Error(err)
							return
						default:
							l.Unlock()
						}
					}
				})
			}
			wg.Wait()
			if n := refused.Load(); n != 0 {
				t.Errorf("%d attempts were refused", n)
			}
		})
	}
}
