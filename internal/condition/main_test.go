package condition

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
)

func TestMain(m *testing.M) {
	if os.Getenv("SLASHRUN_TEST_ROLE") != "" {
		os.Exit(role())
	}
	seccomptest.Setup()
	nstest.Main(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// running is a Wait under way.
type running struct {
	t      *testing.T
	cancel func()
	done   chan struct{}
	report *Report
	err    error

	mu    sync.Mutex
	sleep int64
	slept int
	turn  *sync.Cond
	ended bool
}

// begin starts to wait for the conditions.
func begin(t *testing.T, o Options, texts ...string) *running {
	t.Helper()
	if o.UserDir == "" {
		o.UserDir = "/run/user"
	}
	var list []Condition
	for _, s := range texts {
		c, err := Parse(s)
		must(t, err)
		list = append(list, c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, cancel: cancel, done: make(chan struct{})}
	r.turn = sync.NewCond(&r.mu)
	before := o.asleep
	o.asleep = func(ns int64) {
		if before != nil {
			before(ns)
		}
		r.mu.Lock()
		r.sleep, r.slept = ns, r.slept+1
		r.turn.Broadcast()
		r.mu.Unlock()
	}
	t.Cleanup(func() { cancel(); <-r.done })
	go func() {
		defer close(r.done)
		r.report, r.err = Wait(ctx, list, o)
		r.mu.Lock()
		r.ended = true
		r.turn.Broadcast()
		r.mu.Unlock()
	}()
	return r
}

// idle returns when the loop is about to sleep until the kernel tells of something:
// without an end.
func (r *running) idle() {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.sleep != -1 && !r.ended {
		r.turn.Wait()
	}
	if r.ended {
		r.t.Fatalf("it has ended: %+v, %v", r.report, r.err)
	}
	r.sleep = 0
}

// turns is how often the loop has slept.
func (r *running) turns() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.slept
}

// polls returns once the loop has slept n times more.
func (r *running) polls(n int) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for until := r.slept + n; r.slept < until && !r.ended; {
		r.turn.Wait()
	}
	if r.ended {
		r.t.Fatalf("it has ended: %+v, %v", r.report, r.err)
	}
}

// holds waits for the end, and says that the conditions must hold.
func (r *running) holds() *Report {
	r.t.Helper()
	<-r.done
	if r.err != nil || !r.report.Met {
		r.t.Fatalf("%+v, %v", r.report, r.err)
	}
	return r.report
}

// once looks once.
func once(t *testing.T, o Options, text string) Result {
	t.Helper()
	o.Timeout = 0
	r := begin(t, o, text)
	<-r.done
	must(t, r.err)
	if got := r.report.Conditions[0]; got.Holds != r.report.Met {
		t.Errorf("%s: %+v", text, r.report)
	}
	return r.report.Conditions[0]
}

func forever(o Options) Options {
	o.Timeout = Forever
	return o
}
