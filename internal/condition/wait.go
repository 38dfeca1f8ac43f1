package condition

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/slashrun/slashrun/internal/accounts"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
)

// Forever is the Timeout that never comes.
const Forever time.Duration = -1

// Options say how to wait.
type Options struct {
	// Any ends the wait with the first condition that holds; else all must hold at
	// the end.
	Any bool
	// Timeout is how long to wait at most. 0 looks once at each condition and waits
	// for nothing but the answers; Forever, and whatever is below zero, has no end.
	Timeout time.Duration
	// UserDir is where the runtime directories of users are: "/run/user".
	UserDir string
	// Getent says how a user's name is looked up that is in no file.
	Getent accounts.Getent
	// Exclusive are directories of which the user says that nobody outside of this
	// container uses them.
	Exclusive []string

	// Note, unless nil, is told once of each resource that has run out, in words:
	// the wait goes on, with looks every so often in the place of events.
	Note func(text string)
	// Changed, unless nil, is told each time that a condition begins or ends to hold.
	Changed func(r Result, after time.Duration)
	// Tick, unless nil, is called every second with how it stands.
	Tick func(r *Report)

	// For tests, to act at the worst of moments: watched is called between the watch
	// of a directory and the look into it, asleep before the loop sleeps, with the
	// nanoseconds or -1 for ever.
	watched func(path string)
	asleep  func(ns int64)
}

// Result is one condition and what the last look at it has found.
type Result struct {
	Condition string `json:"condition"`
	Holds     bool   `json:"holds"`
	Why       string `json:"why"`
	// Looks is how often it was looked at.
	Looks int `json:"looks"`
	// Polled is why it was looked at every so often, where the kernel could have told;
	// empty for kinds of which nothing tells.
	Polled string `json:"polled,omitempty"`
}

// Report is how a wait ended.
type Report struct {
	Met bool `json:"met"`
	Any bool `json:"any,omitempty"`
	// TimedOut and Never say why it is not met: the time was over, or what cannot be
	// found out here would have had to hold.
	TimedOut   bool          `json:"timed_out,omitempty"`
	Never      bool          `json:"never,omitempty"`
	Elapsed    time.Duration `json:"elapsed_ns"`
	Conditions []Result      `json:"conditions"`
}

// waiting is a condition that is waited for. The loop alone uses it, but for the
// fields that a look reads.
type waiting struct {
	Condition
	index      int
	literal    netip.Addr // of a TCP condition, if the host is no name
	unfinished unfinished // of a PID file; used by its look, of which there is one at a time

	f         finding // of the last look
	known     bool
	looks     int
	asked     time.Time // when the look began that f is of
	answered  time.Time // when f came
	running   bool
	begun     time.Time // the look that runs
	stuck     bool      // and has not answered for long
	try       *try
	dirty     bool // an event says that f may be out of date
	confirm   bool // all held, and whether f still does is asked at once
	log       []linux.InotifyEvent
	logFull   bool
	due       time.Time // of the next look where nothing tells; zero for none
	delay     time.Duration
	interests []interest
}

const (
	quickest  = time.Millisecond        // after a failure, before the next look
	breath    = 10 * time.Millisecond   // between the looks that events cause, at least
	share     = 4                       // and how many times as long as those took
	slowest   = 1024 * time.Millisecond // between two looks where nothing tells
	hung      = 250 * time.Millisecond  // after which others no longer wait for a look
	fresh     = 100 * time.Millisecond  // how far apart the answers of one round may be that count at the end
	onceLimit = 4 * time.Second         // for the answers to the one look of Timeout 0
	maxLog    = 4096
)

// waiter is one call of Wait.
type waiter struct {
	o        Options
	list     []*waiting
	start    time.Time
	deadline time.Time // zero for none
	tick     time.Time
	last     *waiting  // by whose answer all hold, nil if they do not
	confirm  time.Time // when that came
	noted    map[string]bool
	watches  watches
	mounts   mountCache
	mountFd  int // -1 without
	proc     *process.Proc
	noProc   error

	turned bool // a result came that the loop has not seen yet

	batch *batch // whose looks run, nil for none
	// rest is until when events cause no look: who may cause events must not keep us
	// busy with them.
	rest time.Time

	mu      sync.Mutex
	users   int // the loop and the looks under way
	ended   bool
	asks    int           // the questions to the name service under way
	asked   chan struct{} // closed when the last of them ends after the wait
	wake    int           // an eventfd
	results []result
}

// result is the end of a look.
type result struct {
	c *waiting
	f finding
}

// Wait waits until the conditions hold. What it returns is of the moment when it
// returns. An error means that it could not wait: ctx is done, or no descriptor is
// left for the very first.
func Wait(ctx context.Context, list []Condition, o Options) (*Report, error) {
	if len(list) == 0 {
		return nil, errors.New("no condition to wait for")
	}
	w := &waiter{o: o, start: time.Now(), users: 1, noted: map[string]bool{}, mountFd: -1}
	var err error
	if w.wake, err = linux.Eventfd(); err != nil {
		return nil, err
	}
	defer w.release()
	asking, cancel := context.WithCancel(ctx)
	w.o.Getent.Context = asking
	defer w.endAsking(cancel)
	w.open()
	for i, c := range list {
		v := &waiting{Condition: c, index: i, dirty: true, f: finding{pidfd: -1}}
		if c.Kind == TCP {
			v.literal, _ = netip.ParseAddr(c.Host)
		}
		w.list = append(w.list, v)
	}
	switch {
	case o.Timeout == 0:
		w.deadline = w.start.Add(onceLimit)
	case o.Timeout > 0:
		w.deadline = w.start.Add(o.Timeout)
	}
	if o.Tick != nil {
		w.tick = w.start.Add(time.Second)
	}
	stop := context.AfterFunc(ctx, w.rouse)
	defer stop()
	return w.run(ctx)
}

// open opens what all looks share. What cannot be had is noted where it matters.
func (w *waiter) open() {
	w.proc, w.noProc = process.Open()
	if err := w.watches.open(); err != nil {
		w.note("there is no inotify instance (" + err.Error() + "; fs.inotify.max_user_instances limits them)")
	}
	fd, err := linux.Openat(linux.AT_FDCWD, "/proc/self/mountinfo", linux.O_RDONLY, 0)
	if err != nil {
		w.note("mounts cannot be watched (" + err.Error() + ")")
		return
	}
	w.mountFd = fd
	linux.PollPriority(fd) // changes count from here on
}

// ask runs f, which starts a process, unless the wait has ended.
func (w *waiter) ask(f func() error) error {
	w.mu.Lock()
	if w.ended {
		w.mu.Unlock()
		return context.Canceled
	}
	w.asks++
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.asks--; w.asks == 0 && w.asked != nil {
			close(w.asked)
		}
	}()
	return f()
}

// endAsking has no process of ours be left when Wait returns: neither an orphan, nor
// a child that the command of an entry point knows nothing of. One that not even
// SIGKILL ends is not waited for. (Where nothing was asked there is no timer: the
// first one takes descriptors, without which the runtime ends the program.)
func (w *waiter) endAsking(cancel func()) {
	cancel()
	w.mu.Lock()
	w.ended = true
	if w.asks > 0 {
		w.asked = make(chan struct{})
	}
	asked := w.asked
	w.mu.Unlock()
	if asked == nil {
		return
	}
	select {
	case <-asked:
	case <-time.After(time.Second):
	}
}

// note tells of what is missing, once.
func (w *waiter) note(text string) {
	if w.noted[text] || len(w.noted) > 20 {
		return
	}
	w.noted[text] = true
	if w.o.Note != nil {
		w.o.Note(text)
	}
}

// rouse makes the loop turn once more.
func (w *waiter) rouse() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users > 0 {
		linux.EventfdAdd(w.wake)
	}
}

// release closes everything once nobody uses it any more: a look that a file system
// keeps for ever keeps its descriptors, too.
func (w *waiter) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users--; w.users > 0 {
		return
	}
	linux.Close(w.wake)
	w.watches.close()
	if w.mountFd >= 0 {
		linux.Close(w.mountFd)
	}
	if w.proc != nil {
		w.proc.Close()
	}
	for _, r := range w.results {
		r.f.closePidfd()
	}
}

// run is the loop.
func (w *waiter) run(ctx context.Context) (*Report, error) {
	defer func() {
		for _, c := range w.list {
			c.f.closePidfd()
			if c.try != nil {
				c.try.close()
			}
		}
	}()
	for {
		now := time.Now()
		w.turned = false
		w.collect(now)
		if err := ctx.Err(); err != nil {
			return w.report(now), err
		}
		switch {
		case w.met(now):
			r := w.report(now)
			r.Met = true
			return r, nil
		case w.never():
			r := w.report(now)
			r.Never = true
			return r, nil
		case w.over(now):
			r := w.report(now)
			r.TimedOut = true
			return r, nil
		}
		if !w.tick.IsZero() && !now.Before(w.tick) {
			w.tick = now.Add(time.Second)
			w.o.Tick(w.report(now))
		}
		w.turned = false
		w.begin(now)
		w.pass(now)
		if err := w.sleep(); err != nil {
			return w.report(time.Now()), err
		}
	}
}

// collect takes the results of looks that have ended.
func (w *waiter) collect(now time.Time) {
	w.mu.Lock()
	results := w.results
	w.results = nil
	w.mu.Unlock()
	for _, r := range results {
		if r.f.dial != nil {
			r.c.stuck = false
			w.dial(r.c, r.f.dial, now)
			continue
		}
		w.settle(r.c, r.f, now)
	}
}

// settle takes the result of a look, and says when the next one is.
func (w *waiter) settle(c *waiting, f finding, now time.Time) {
	w.turned = true
	held, known := c.f.holds, c.known
	if c.f.holds != f.holds || c.f.why != f.why {
		c.delay = 0 // it is in the making
	}
	c.f.closePidfd()
	c.f, c.known, c.answered = f, true, now
	c.running, c.stuck, c.try = false, false, nil
	c.looks++
	w.watches.set(c, f.interests)
	changed := c.logFull || happened(c.log, f.interests)
	c.log, c.logFull = nil, false
	if f.note != "" {
		w.note(f.note)
	}
	if w.watches.fd < 0 && f.dial == nil {
		c.f.pace = poll
	}
	if w.schedule(c, now); changed {
		w.touch(c)
	}
	if w.o.Changed != nil && (f.holds != held || !known && f.holds) {
		w.o.Changed(w.result(c, now), now.Sub(w.start))
	}
}

// schedule sets when to look at c again without an event.
func (w *waiter) schedule(c *waiting, now time.Time) {
	most := c.f.most
	if most == 0 {
		most = slowest
	}
	c.due = time.Time{}
	if c.f.holds || c.f.pace == told || c.f.pace == settle && c.delay >= slowest || w.o.Timeout == 0 {
		return // what holds is looked at once more at the end
	}
	c.delay = min(max(2*c.delay, quickest), most)
	// All that have the same delay look at the same time, and share what they read.
	after := now.Sub(w.start) + c.delay
	c.due = w.start.Add(after - after%c.delay)
}

// happened reports whether an event of the log is one that list waits for.
func happened(log []linux.InotifyEvent, list []interest) bool {
	for _, e := range log {
		for _, i := range list {
			if i.in(e) {
				return true
			}
		}
	}
	return false
}

// met reports whether the wait is over. All must have held at one time: what was
// found out before, and may have changed without an event, is looked at again.
func (w *waiter) met(now time.Time) bool {
	holding := 0
	for _, c := range w.list {
		if c.known && c.f.holds {
			holding++
		}
	}
	if w.o.Any {
		return holding > 0
	}
	if holding < len(w.list) {
		w.last = nil
		return false
	}
	if w.last == nil {
		w.last = w.list[0]
		for _, c := range w.list {
			if c.answered.After(w.last.answered) {
				w.last = c
			}
		}
		w.confirm = w.last.answered
	}
	done := true
	for _, c := range w.list {
		switch {
		case c.dirty || c.running:
			done = false
		case !w.counts(c):
			c.dirty, c.confirm, done = true, true, false
		}
	}
	return done
}

// counts reports whether what was found of c still counts at the end: it was found
// out when the last condition was found to hold or later, or by the same round of
// looks and hardly before. (That the kernel told of no change is not enough: what it
// tells may lie in a queue that was not read yet.)
func (w *waiter) counts(c *waiting) bool {
	return !c.answered.Before(w.confirm) ||
		c.asked.Equal(w.last.asked) && w.confirm.Sub(c.answered) < fresh
}

// never reports whether the wait can never be met.
func (w *waiter) never() bool {
	n := 0
	for _, c := range w.list {
		if c.known && c.f.never {
			n++
		}
	}
	return n > 0 && (!w.o.Any || n == len(w.list))
}

// over reports whether there is no time left.
func (w *waiter) over(now time.Time) bool {
	if w.o.Timeout == 0 {
		open := false
		for _, c := range w.list {
			open = open || !c.known || c.f.holds && (c.dirty || c.running)
		}
		if !open {
			return true
		}
	}
	return !w.deadline.IsZero() && !now.Before(w.deadline)
}

// report says how it stands.
func (w *waiter) report(now time.Time) *Report {
	r := &Report{Any: w.o.Any, Elapsed: now.Sub(w.start)}
	for _, c := range w.list {
		r.Conditions = append(r.Conditions, w.result(c, now))
	}
	return r
}

func (w *waiter) result(c *waiting, now time.Time) Result {
	r := Result{Condition: c.String(), Holds: c.known && c.f.holds, Why: c.f.why, Looks: c.looks, Polled: c.f.blind}
	switch {
	case c.running && c.stuck:
		r.Holds = false
		r.Why = fmt.Sprintf("no answer for %.1f s: a file system hangs, or the name service", now.Sub(c.begun).Seconds())
	case !c.known && c.try != nil:
		r.Why = c.try.pending()
	case !c.known:
		r.Why = "it was not looked at yet"
	}
	return r
}
