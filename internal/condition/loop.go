package condition

import (
	"net/netip"
	"sync"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
)

// batch is looks that are done one after the other, on a goroutine of their own,
// because a file system may keep one for ever. The loop gives the rest to another
// goroutine then: there are as many more of them as looks that hang.
type batch struct {
	w      *waiter
	list   []*look
	shared shared

	mu    sync.Mutex
	next  int
	turn  int // of the goroutine that may take the next look
	begun time.Time
	left  int // looks that have not ended
	cost  time.Duration
}

// begin starts the looks that are due.
func (w *waiter) begin(now time.Time) {
	if w.batch != nil && !w.batch.taken() {
		return // the loop turns again when it has ended
	}
	w.retire(now)
	var list []*look
	b := &batch{w: w}
	b.shared.mounts = &w.mounts
	for _, c := range w.list {
		if at, ok := w.at(c); c.running || !ok || now.Before(at) {
			continue
		}
		c.dirty, c.confirm, c.running, c.stuck, c.begun, c.asked, c.due = false, false, true, false, now, now, time.Time{}
		c.log, c.logFull = nil, false
		if c.literal.IsValid() {
			w.dial(c, &dial{addrs: []netip.Addr{c.literal}}, now)
			continue
		}
		list = append(list, &look{c: c, o: &w.o, proc: w.proc, noProc: w.noProc, shared: &b.shared, ask: w.ask})
	}
	if len(list) == 0 {
		return
	}
	if w.watches.fd < 0 {
		w.watches.open() // there may be one again
	}
	for _, l := range list {
		l.inotify = w.watches.fd
		if w.mountFd < 0 {
			l.blind("mounts cannot be watched")
		}
	}
	b.list, b.left, b.begun = list, len(list), now
	w.batch = b
	w.run1(b, 0)
}

// at is when to look at c, if at all.
func (w *waiter) at(c *waiting) (time.Time, bool) {
	switch {
	case c.confirm || !c.known:
		return time.Time{}, true
	case c.dirty:
		return w.rest, true
	}
	return c.due, !c.due.IsZero()
}

// run1 starts the goroutine that has the turn.
func (w *waiter) run1(b *batch, turn int) {
	w.mu.Lock()
	w.users++
	w.mu.Unlock()
	go func() {
		defer w.release()
		b.run(turn)
	}()
}

func (b *batch) run(turn int) {
	for {
		b.mu.Lock()
		if b.turn != turn {
			b.mu.Unlock()
			return
		}
		if b.next == len(b.list) {
			b.turn = -1 // what is left hangs, and nobody waits for it
			left := b.left
			b.mu.Unlock()
			if left > 0 {
				b.w.rouse()
			}
			return
		}
		l := b.list[b.next]
		b.next++
		b.begun = time.Now()
		b.mu.Unlock()
		begun := time.Now()
		f := l.run()
		took := time.Since(begun)
		b.mu.Lock()
		b.left--
		if b.turn == turn {
			b.cost += took
		}
		last := b.left == 0 || b.turn != turn
		b.mu.Unlock()
		b.w.deliver(result{l.c, f}, last || f.holds)
	}
}

// deliver hands a result to the loop, which looks at it at once if rouse says so.
func (w *waiter) deliver(r result, rouse bool) {
	w.mu.Lock()
	w.results = append(w.results, r)
	w.mu.Unlock()
	if rouse {
		w.rouse()
	}
}

// retire takes note of what a batch cost whose looks have ended, or hang.
func (w *waiter) retire(now time.Time) {
	if w.batch == nil {
		return
	}
	w.batch.mu.Lock()
	cost := w.batch.cost
	w.batch.mu.Unlock()
	w.rest = now.Add(min(max(share*cost, breath), slowest))
	w.batch = nil
}

// taken reports whether no look of the batch waits for its turn, and none but hung
// ones run.
func (b *batch) taken() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left == 0 || b.turn < 0
}

// pass gives the rest of the batch to another goroutine, if the one that has the
// turn hangs.
func (w *waiter) pass(now time.Time) {
	b := w.batch
	if b == nil {
		return
	}
	b.mu.Lock()
	if b.left == 0 {
		b.mu.Unlock()
		w.retire(now)
		return
	}
	if b.turn < 0 || now.Sub(b.begun) < hung || b.next == 0 {
		b.mu.Unlock()
		return
	}
	c := b.list[b.next-1].c
	c.stuck, c.begun = true, b.begun
	if b.next == len(b.list) {
		b.turn = -1
		b.mu.Unlock()
		return
	}
	b.turn++
	turn := b.turn
	b.begun = now
	b.mu.Unlock()
	w.run1(b, turn)
}

// nextTurn is when pass has something to do, zero for never.
func (w *waiter) nextTurn() time.Time {
	b := w.batch
	if b == nil {
		return time.Time{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == 0 || b.turn < 0 {
		return time.Time{}
	}
	return b.begun.Add(hung)
}

// until is how many nanoseconds the loop may sleep, -1 for ever.
func (w *waiter) until(now time.Time) int64 {
	if w.turned {
		return 0
	}
	end := w.deadline
	earlier := func(t time.Time) {
		if !t.IsZero() && (end.IsZero() || t.Before(end)) {
			end = t
		}
	}
	earlier(w.tick)
	earlier(w.nextTurn())
	free := w.batch == nil || w.batch.taken()
	for _, c := range w.list {
		switch {
		case c.try != nil:
			earlier(c.try.until)
		case c.running:
		case free:
			if at, ok := w.at(c); ok && at.IsZero() {
				return 0
			} else if ok {
				earlier(at)
			}
		}
	}
	if end.IsZero() {
		return -1
	}
	return max(end.Sub(now).Nanoseconds(), 0)
}

// owner is whom a polled descriptor belongs to: a try, or a condition that holds a
// process.
type owner struct {
	c   *waiting
	try *try
}

// sleep waits for the next thing that happens, and takes it.
func (w *waiter) sleep() error {
	fds := []linux.PollFd{{Fd: int32(w.wake), Events: linux.POLLIN}, {Fd: int32(w.watches.fd), Events: linux.POLLIN}, {Fd: int32(w.mountFd), Events: linux.POLLPRI}}
	const fixed = 3 // descriptors of -1 among them poll(2) passes over
	var owners []owner
	for _, c := range w.list {
		if c.try != nil {
			fds = c.try.polled(fds)
		} else if c.f.pidfd >= 0 && !c.running {
			fds = append(fds, linux.PollFd{Fd: int32(c.f.pidfd), Events: linux.POLLIN})
		}
		for len(owners) < len(fds)-fixed {
			owners = append(owners, owner{c, c.try})
		}
	}
	ns := w.until(time.Now())
	if w.o.asleep != nil {
		w.o.asleep(ns)
	}
	n, err := linux.Poll(fds, ns)
	if err != nil {
		return err
	}
	now := time.Now()
	if n > 0 {
		if fds[0].Revents != 0 {
			linux.EventfdReset(w.wake)
		}
		if fds[1].Revents != 0 {
			w.events()
		}
		if fds[2].Revents != 0 {
			w.remounted()
		}
		for i, o := range owners {
			switch f := fds[fixed+i]; {
			case f.Revents == 0:
			case o.try == nil:
				o.c.f.closePidfd() // the process has ended
				w.touch(o.c)
			case o.c.try == o.try: // which another of its descriptors may have ended
				o.try.ready(int(f.Fd), now)
			}
		}
	}
	for _, c := range w.list {
		if c.try != nil && !now.Before(c.try.until) {
			c.try.expire(now)
		}
	}
	return nil
}

// touch says that what is known of c may be out of date.
func (w *waiter) touch(c *waiting) {
	switch {
	case c.Kind == TCP, w.o.Timeout == 0 && c.known && !c.f.holds:
		return
	case c.running:
		c.logFull = true // the look may have been too early
	default:
		c.dirty = true
	}
}

// events takes the events of inotify.
func (w *waiter) events() {
	list, overflow := w.watches.read(nil)
	if overflow {
		for _, c := range w.list {
			w.touch(c)
		}
		return
	}
	for _, e := range list {
		w.watches.meant(e, func(c *waiting) {
			if !c.running {
				w.touch(c)
			}
		})
		// Those that are being looked at may have a watch already that the table
		// does not know yet.
		for _, c := range w.list {
			switch {
			case !c.running || c.try != nil:
			case len(c.log) == maxLog:
				c.logFull = true
			default:
				c.log = append(c.log, e)
			}
		}
	}
}

// remounted is for a mount or an unmount: any path may lead elsewhere.
func (w *waiter) remounted() {
	for _, c := range w.list {
		if c.Kind == User && c.known && c.f.most == nameService {
			continue // mounts are no reason to ask a name service; it is asked every so often
		}
		w.touch(c)
	}
}
