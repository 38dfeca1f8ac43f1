package locks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"

	"github.com/slashrun/slashrun/internal/process"
)

// look is what all threads of a process did at one moment.
type look struct {
	threads []process.Thread // by number
	// children are the processes that threads of it wait for, wait(2).
	children []int
	// wakers are processes whose end or stop would interrupt it: its children, if it
	// has a handler for SIGCHLD.
	wakers []int
	// awake says what of it is not asleep, and could end the wait of the rest; empty
	// where nothing is seen.
	awake string
	err   error
}

// maxLooks bounds how many processes are looked at for deadlocks.
const maxLooks = 4096

// lookAt looks at the processes that wait for a lock, at those that hold such a
// lock, and at the children that these wait for.
func (t *Table) lookAt(ctx context.Context) (map[int]*look, error) {
	list, err := t.proc.Processes()
	if err != nil {
		return nil, err
	}
	family := map[int][]int{}
	for _, st := range list {
		t.stats[st.PID] = st
		family[st.Parent] = append(family[st.Parent], st.PID)
	}
	looks := map[int]*look{}
	next := t.concerned()
	for len(next) > 0 && len(looks) < maxLooks {
		pid := next[0]
		next = next[1:]
		if looks[pid] != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l, ok := answer(func() *look { return t.lookOne(pid, family[pid]) })
		if !ok {
			l = &look{err: errNoAnswer}
		}
		looks[pid] = l
		next = append(next, looks[pid].children...)
	}
	return looks, nil
}

// concerned are the processes that wait for a lock, or hold one that others wait
// for.
func (t *Table) concerned() []int {
	set := map[int]bool{}
	for pid, all := range t.sleepers() {
		set[pid] = true
		for i := range all {
			for _, other := range t.holdersAgainst(&all[i]) {
				set[other] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// holdersAgainst are the processes that hold what s waits for.
func (t *Table) holdersAgainst(s *sleeper) (list []int) {
	for i := range s.locks {
		for _, h := range t.inTheWay(s, &s.locks[i]) {
			for _, x := range h.Holders {
				list = append(list, x.PID)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (t *Table) lookOne(pid int, family []int) *look {
	l := new(look)
	tids, err := t.proc.Threads(pid)
	if err != nil {
		return &look{err: err}
	}
	slices.Sort(tids)
	for _, tid := range tids {
		thread, err := t.proc.Thread(pid, tid)
		if err != nil {
			return &look{err: err}
		}
		l.threads = append(l.threads, thread)
		if child, ok := waitsForChild(&thread.Call); ok && child > 0 {
			l.children = append(l.children, child)
		} else if ok {
			l.children = append(l.children, family...)
		}
	}
	n, err := t.proc.Timers(pid)
	signals, err2 := t.proc.Signals(pid)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return &look{err: err}
	}
	if err2 != nil {
		return &look{err: err2}
	}
	switch caught := signals.Caught; {
	case n > 0:
		l.awake = "has a timer that may end its wait"
	case process.Has(caught, syscall.SIGALRM):
		l.awake = "has a handler for SIGALRM: an alarm may end its wait"
	case process.Has(caught, syscall.SIGIO), process.Has(caught, syscall.SIGURG):
		l.awake = "has a handler for SIGIO or SIGURG: what it has open may end its wait"
	case signals.Waiting != 0:
		l.awake = "has a signal to see to"
	}
	if process.Has(signals.Caught, syscall.SIGCHLD) {
		l.wakers = family
	}
	return l
}

// waitsForChild reports whether a sleeping thread waits for a child to end, and
// for which; 0 is any.
func waitsForChild(c *process.Syscall) (pid int, ok bool) {
	const (
		pAll = 0 // linux/wait.h
		pPID = 1
	)
	if !c.Asleep {
		return 0, false
	}
	switch c.Number {
	case syscall.SYS_WAIT4:
		pid = int(int32(c.Args[0]))
		return max(pid, 0), (pid == -1 || pid > 0) && c.Args[2]&syscall.WNOHANG == 0
	case syscall.SYS_RT_SIGSUSPEND: // as shells do until SIGCHLD comes
		return 0, true
	case syscall.SYS_WAITID:
		ok = c.Args[3]&syscall.WNOHANG == 0 && c.Args[3]&syscall.WEXITED != 0
		switch c.Args[0] {
		case pAll:
			return 0, ok
		case pPID:
			return int(int32(c.Args[1])), ok
		}
	}
	return 0, false
}

// same reports whether nothing of the process ran between the looks l and later.
func (l *look) same(later *look) bool {
	return l.err == nil && later.err == nil && len(l.threads) > 0 && slices.Equal(l.threads, later.threads) &&
		!slices.ContainsFunc(l.threads, func(t process.Thread) bool { return !t.Call.Asleep })
}

// doubt is why a process that was looked at twice may not be stuck in what it waits
// for; empty where all of its threads sleep for a lock of the table or for a child.
func (t *Table) doubt(pid int, first, second *look) string {
	who := "process " + whoIs(process.Process{PID: pid, Comm: t.stats[pid].Comm})
	switch {
	case first == nil || second == nil:
		return who + " was not there in both looks"
	case first.err != nil:
		return fmt.Sprintf("what %s does cannot be seen: %s", who, cause(first.err))
	case second.err != nil:
		return fmt.Sprintf("what %s does cannot be seen: %s", who, cause(second.err))
	}
	if slices.ContainsFunc(second.threads, func(x process.Thread) bool { child, ok := waitsForChild(&x.Call); return ok && child == 0 }) && len(second.children) == 0 {
		return who + " waits for a child or a signal, and has no child"
	}
	for _, thread := range second.threads {
		name := who
		if len(second.threads) > 1 {
			name = fmt.Sprintf("thread %d of %s", thread.TID, who)
		}
		if !thread.Call.Asleep {
			return name + " runs"
		}
		if _, ok := waitsForChild(&thread.Call); ok {
			continue
		}
		if r, ok := requestOf(pid, &thread.Call); !ok {
			return fmt.Sprintf("%s does not wait for a lock (it sleeps in system call %d)", name, thread.Call.Number)
		} else if !slices.ContainsFunc(t.sleepers()[pid], func(x sleeper) bool { return x.tid == thread.TID }) {
			return fmt.Sprintf("%s waits for a lock by descriptor %d, and for which cannot be told", name, r.fd)
		}
	}
	if !first.same(second) {
		return who + " ran between two looks"
	}
	if second.awake != "" {
		return who + " " + second.awake
	}
	return ""
}

// sleeper is a thread that waits for a lock.
type sleeper struct {
	pid, tid, fd int
	locks        []Lock // it is one of these
}

// sleepers are those who wait, by process.
func (t *Table) sleepers() map[int][]sleeper {
	if t.asleep != nil {
		return t.asleep
	}
	t.asleep, t.onFile = map[int][]sleeper{}, map[File][]*Held{}
	for i := range t.Locks {
		h := &t.Locks[i]
		t.onFile[h.File()] = append(t.onFile[h.File()], h)
		for _, w := range h.Waiters {
			if w.PID > 0 {
				t.asleep[w.PID] = append(t.asleep[w.PID], sleeper{w.PID, w.TID, w.FD, []Lock{w.Lock}})
			}
		}
	}
	for _, r := range t.requests {
		if len(r.among) > 0 {
			t.asleep[r.pid] = append(t.asleep[r.pid], sleeper{r.pid, r.tid, r.fd, r.among})
		}
	}
	return t.asleep
}

// inTheWay are the locks that keep s from having l.
func (t *Table) inTheWay(s *sleeper, l *Lock) (list []*Held) {
	for _, h := range t.onFile[l.File()] {
		own := slices.ContainsFunc(h.Holders, func(x Holder) bool {
			return x.PID == s.pid && (h.Kind == POSIX && l.Kind == POSIX || h.Kind != POSIX && x.FD == s.fd && s.fd >= 0)
		})
		if !own && h.Conflicts(l) {
			list = append(list, h)
		}
	}
	return list
}
