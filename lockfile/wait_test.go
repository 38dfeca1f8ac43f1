package lockfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
)

// queued waits until /proc/locks shows n waiters for the file.
func queued(t *testing.T, path string, n int) {
	t.Helper()
	var st syscall.Stat_t
	must(t, syscall.Stat(path, &st))
	inode := fmt.Sprintf(":%d ", st.Ino)
	for ctx := watchdog(t); ; runtime.Gosched() {
		text, err := os.ReadFile("/proc/locks")
		must(t, err)
		got := 0
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "->") && strings.Contains(line, inode) {
				got++
			}
		}
		if got == n {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("%d waiters, not %d:\n%s", got, n, text)
		}
	}
}

// waiter is a goroutine that waits for a lock.
type waiter struct {
	l      *Lock
	cancel context.CancelFunc
	done   chan error
}

func wait(t *testing.T, path string, o Options, lock func(*Lock, context.Context) error, then func(*Lock)) *waiter {
	ctx, cancel := context.WithCancel(watchdog(t))
	w := &waiter{open(t, path, o), cancel, make(chan error, 1)}
	go func() {
		err := lock(w.l, ctx)
		if err == nil && then != nil {
			then(w.l)
		}
		w.done <- err
	}()
	return w
}

// A waiter with a deadline keeps its place: others come behind it, give up in
// front of it and behind it, signals arrive, and it is served in its turn.
func TestPlaceInTheQueue(t *testing.T) {
	alarms := make(chan os.Signal, 1)
	signal.Notify(alarms, syscall.SIGALRM)
	defer signal.Stop(alarms)
	eachKind(t, func(t *testing.T, o Options) {
		path := temp(t)
		holder := open(t, path, o)
		must(t, holder.TryLock())
		const n = 8
		var served []int
		var mu sync.Mutex // for the race detector, which does not know of file locks
		var all []*waiter
		for i := range n {
			all = append(all, wait(t, path, o, (*Lock).Lock, func(l *Lock) {
				mu.Lock()
				served = append(served, i)
				mu.Unlock()
				l.Unlock()
			}))
			queued(t, path, i+1)
		}
		for i, k := range []int{0, 3, 7} {
			all[k].cancel()
			wantErr(t, <-all[k].done, context.Canceled)
			queued(t, path, n-1-i)
		}
		for range 1000 {
			must(t, syscall.Kill(os.Getpid(), syscall.SIGALRM))
		}
		<-alarms
		queued(t, path, n-3)
		must(t, holder.Unlock())
		for _, k := range []int{1, 2, 4, 5, 6} {
			must(t, <-all[k].done)
		}
		if got := fmt.Sprint(served); got != "[1 2 4 5 6]" {
			t.Errorf("served in the order %s", got)
		}
	})
}

func TestDeadline(t *testing.T) {
	eachKind(t, func(t *testing.T, o Options) {
		path := temp(t)
		holder, l := open(t, path, o), open(t, path, o)
		must(t, holder.TryRLock())
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		wantErr(t, l.Lock(ctx), context.DeadlineExceeded)
		wantErr(t, l.RLock(ctx), context.DeadlineExceeded) // free, but the time is up
		cause := errors.New("told to stop")
		done, stop := context.WithCancelCause(context.Background())
		stop(cause)
		err := l.Lock(done)
		wantErr(t, err, context.Canceled)
		wantErr(t, err, cause)
		must(t, l.RLock(watchdog(t)))
	})
}

// The waiting thread has the mask, or the test of what is left of it proves
// nothing.
func TestMaskWhileWaiting(t *testing.T) {
	path := temp(t)
	holder := open(t, path, Options{})
	must(t, holder.TryLock())
	w := wait(t, path, Options{}, (*Lock).Lock, nil)
	queued(t, path, 1)
	mask := linux.AllSignalsBut(append(unheld, syscall.SIGKILL, syscall.SIGSTOP)...)
	tasks, err := os.ReadDir("/proc/self/task")
	must(t, err)
	found := 0
	for _, task := range tasks {
		status, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
		found += strings.Count(string(status), fmt.Sprintf("\nSigBlk:\t%016x\n", mask))
	}
	if found != 1 {
		t.Errorf("%d threads have the mask of a wait, want 1", found)
	}
	w.cancel()
	<-w.done
}

// A Lock that waits is in use, and is as before after its wait was ended.
func TestInUseWhileWaiting(t *testing.T) {
	path := temp(t)
	holder := open(t, path, Options{})
	must(t, holder.TryLock())
	w := wait(t, path, Options{}, (*Lock).Lock, nil)
	queued(t, path, 1)
	wantErr(t, w.l.TryLock(), ErrInUse)
	wantErr(t, w.l.Close(), ErrInUse)
	wantErr(t, w.l.Unlock(), ErrNotHeld)
	w.cancel()
	wantErr(t, <-w.done, context.Canceled)
	must(t, holder.Unlock())
	must(t, w.l.TryLock())
}

// Grants and cancellations at the same moment: what is reported as taken is held,
// what is not, is not. The lock changes hands while the contexts end.
func TestCancelAtOnce(t *testing.T) {
	eachKind(t, func(t *testing.T, o Options) {
		path := temp(t)
		a, b, probe := open(t, path, o), open(t, path, o), open(t, path, o)
		granted := 0
		const turns = 200
		for turn := range turns {
			must(t, a.TryLock())
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- b.Lock(ctx) }()
			queued(t, path, 1)
			var wg sync.WaitGroup
			start := make(chan struct{})
			after := func(spins int, f func()) {
				wg.Go(func() {
					<-start
					for range spins {
						runtime.Gosched()
					}
					f()
				})
			}
			after(turn%20, cancel)
			after(20-turn%20, func() { a.Unlock() })
			close(start)
			err := <-done
			wg.Wait()
			switch {
			case err == nil:
				granted++
				wantErr(t, probe.TryLock(), ErrHeld)
				must(t, b.Unlock())
			case !errors.Is(err, context.Canceled):
				t.Fatal(err)
			}
			must(t, probe.TryLock())
			must(t, probe.Unlock())
		}
		t.Logf("%d of %d were granted", granted, turns)
	})
}

// Thousands of waits that are ended leave no thread, no descriptor and no changed
// signal mask.
func TestCancelsLeaveNothing(t *testing.T) {
	eachKind(t, func(t *testing.T, o Options) {
		path := temp(t)
		holder, l := open(t, path, o), open(t, path, o)
		must(t, holder.TryLock())
		once := func() {
			ctx, cancel := context.WithCancel(context.Background())
			go cancel()
			wantErr(t, l.Lock(ctx), context.Canceled)
		}
		for range 50 {
			once()
		}
		threads, fds := count(t, "/proc/self/task"), count(t, "/proc/self/fd")
		for range 1000 {
			once()
		}
		if n := count(t, "/proc/self/fd"); n != fds {
			t.Errorf("%d descriptors, %d before", n, fds)
		}
		// Go starts threads as it likes, but not one for each of a thousand.
		if n := count(t, "/proc/self/task"); n > threads+20 {
			t.Errorf("%d threads, %d before", n, threads)
		}
		mask := linux.AllSignalsBut(append(unheld, syscall.SIGKILL, syscall.SIGSTOP)...)
		tasks, err := os.ReadDir("/proc/self/task")
		must(t, err)
		for _, task := range tasks {
			status, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/status")
			if strings.Contains(string(status), fmt.Sprintf("\nSigBlk:\t%016x\n", mask)) {
				t.Errorf("thread %s has the mask of a wait:\n%s", task.Name(), status)
			}
		}
		must(t, holder.Unlock())
		must(t, l.TryLock())
	})
}

// Many wait, and one context ends for all of them.
func TestCancelTogether(t *testing.T) {
	eachKind(t, func(t *testing.T, o Options) {
		path := temp(t)
		holder := open(t, path, o)
		must(t, holder.TryLock())
		ctx, cancel := context.WithCancel(t.Context())
		const n = 64
		done := make(chan error, n)
		for range n {
			l := open(t, path, o)
			go func() { done <- l.Lock(ctx) }()
		}
		queued(t, path, n)
		cancel()
		for range n {
			wantErr(t, <-done, context.Canceled)
		}
		queued(t, path, 0)
		must(t, holder.Unlock())
		must(t, holder.TryLock())
	})
}

func count(t *testing.T, dir string) int {
	t.Helper()
	names, err := os.ReadDir(dir)
	must(t, err)
	return len(names)
}

// A system call that Go makes on every thread (setuid(2) and its like) does not
// have to wait for the lock.
func TestSetuidWhileWaiting(t *testing.T) {
	eachKind(t, func(t *testing.T, o Options) {
		path := temp(t)
		holder := open(t, path, o)
		must(t, holder.TryLock())
		w := wait(t, path, o, (*Lock).Lock, nil)
		queued(t, path, 1)
		must(t, syscall.Setreuid(-1, -1)) // changes nothing, everywhere
		queued(t, path, 1)
		must(t, holder.Unlock())
		must(t, <-w.done)
	})
}

// Signals of all sorts pour in while many wait; each is served or told.
func TestFloodOfSignals(t *testing.T) {
	sink := make(chan os.Signal, 1)
	flood := []syscall.Signal{syscall.SIGURG, syscall.SIGALRM, syscall.SIGCHLD, syscall.SIGWINCH, syscall.SIGUSR1}
	for _, s := range flood {
		signal.Notify(sink, s)
	}
	defer signal.Stop(sink)
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			for _, s := range flood {
				syscall.Kill(os.Getpid(), s)
				if tid := int(waiting.Load()); tid != 0 {
					linux.TgkillSelf(tid, syscall.SIGURG) // spurious wake-ups
				}
			}
		}
	})
	defer wg.Wait()
	defer stop.Store(true)
	eachKind(t, func(t *testing.T, o Options) {
		path := temp(t)
		var inside, served atomic.Int32
		var all sync.WaitGroup
		for i := range 8 {
			l := open(t, path, o)
			all.Go(func() {
				waiting.Store(int32(linux.Gettid()))
				for k := range 25 {
					ctx, cancel := context.WithCancel(watchdog(t))
					if (i+k)%4 == 0 {
						go cancel()
					}
					err := l.Lock(ctx)
					if err == nil {
						if inside.Add(1) != 1 {
							t.Error("two inside")
						}
						served.Add(1)
						runtime.Gosched()
						inside.Add(-1)
						l.Unlock()
					} else if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					cancel()
				}
			})
		}
		all.Wait()
		if n := served.Load(); n < 8*25*3/4 {
			t.Errorf("%d served", n)
		}
	})
}

// waiting is some thread that may wait.
var waiting atomic.Int32

// With SIGURG ignored a wait could not be interrupted: it is refused before it
// begins, and a context that cannot end is waited with all the same.
func TestSIGURGIgnored(t *testing.T) {
	if os.Getenv("LOCKFILE_IGNORE") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestSIGURGIgnored$", "-test.v")
		cmd.Env = append(os.Environ(), "LOCKFILE_IGNORE=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	signal.Ignore(syscall.SIGURG)
	path := temp(t)
	holder, l := open(t, path, Options{}), open(t, path, Options{})
	must(t, holder.TryLock())
	ctx := watchdog(t) // its timer starts the runtime's poller, which has descriptors
	fds := count(t, "/proc/self/fd")
	if err := l.Lock(ctx); err == nil || !strings.Contains(err.Error(), "ignored") {
		t.Errorf("%v", err)
	}
	if n := count(t, "/proc/self/fd"); n != fds {
		t.Errorf("%d descriptors, %d before", n, fds)
	}
	done := make(chan error, 1)
	go func() { done <- l.Lock(context.Background()) }()
	queued(t, path, 1)
	must(t, holder.Unlock())
	must(t, <-done)
}
