package locks

import (
	"context"
	"fmt"
	"slices"

	"github.com/slashrun/slashrun/internal/process"
)

// Deadlock is a circle of processes each of which waits for another.
type Deadlock struct {
	Waits []Wait // each waits for the next and the last for the first, where the circle is simple
	// Certain says that nobody in it can go on unless somebody outside kills or
	// signals one.
	Certain bool
	// Proof says what was seen, or where it is not certain, why not.
	Proof []string
}

// Wait is one process of a circle and what it waits for: a lock, or the end of a
// child.
type Wait struct {
	process.Process
	TID  int    // 0 where it was not found
	Lock Lock   // the zero Lock where it waits for a child
	Path string // of the file, as in Held
	// On are the processes that have the lock, or the child.
	On []process.Process
}

// ForChild reports whether it waits for a child.
func (w *Wait) ForChild() bool { return w.Lock.Kind == "" }

// Deadlocks looks for circles among those who wait in the table. Where it finds
// one it looks at all locks a second time, and before and after that at the threads
// of all who are concerned: who slept in the same system call both times, with as
// many context switches, slept all the time. If all threads in a circle did, each
// for a lock whose every holder is in the circle or hangs on it, or for a child
// that does, it is Certain. A process that cannot be looked at makes it doubtful if
// it is an ancestor of a holder or descends from one; else it is only mentioned.
//
// What it cannot see: an alarm(2) whose signal is not caught, which would kill the
// process; a descriptor that is in flight in a socket; a thread with descriptors of
// its own; 32-bit programs on a 64-bit machine are never called certain.
func (t *Table) Deadlocks(ctx context.Context) ([]Deadlock, error) {
	if len(t.concerned()) == 0 {
		return nil, nil
	}
	first, err := t.lookAt(ctx)
	if err != nil || len(t.mayBeStuck(first, nil)) == 0 {
		return nil, err
	}
	second, err := Scan(ctx, t.proc, t.options)
	if err != nil {
		return nil, err
	}
	last, err := second.lookAt(ctx)
	if err != nil {
		return nil, err
	}
	g := &graph{Table: second, first: first, last: last}
	g.maybe = second.mayBeStuck(last, func(w *Waiter) bool { return t.had(w, first[w.PID], last[w.PID]) })
	g.judge()
	var list []Deadlock
	for _, circle := range g.circles() {
		list = append(list, g.report(circle))
	}
	return list, nil
}

// had reports whether the table has the waiter w of a later one, and it has not run
// since, as far as that can be seen.
func (t *Table) had(w *Waiter, first, last *look) bool {
	if first != nil && last != nil && first.err == nil && last.err == nil && w.TID != 0 {
		tid := func(x process.Thread) bool { return x.TID == w.TID }
		i, k := slices.IndexFunc(first.threads, tid), slices.IndexFunc(last.threads, tid)
		return i >= 0 && k >= 0 && first.threads[i] == last.threads[k]
	}
	for i := range t.Locks {
		for _, x := range t.Locks[i].Waiters {
			if x.PID == w.PID && x.Lock == w.Lock {
				return true
			}
		}
	}
	return false
}

// inTheWay are the locks that keep w from having its own.
func (t *Table) inTheWay(w *Waiter) (list []*Held) {
	for i := range t.Locks {
		h := &t.Locks[i]
		own := slices.ContainsFunc(h.Holders, func(x Holder) bool {
			return x.PID == w.PID && (h.Kind == POSIX && w.Lock.Kind == POSIX || h.Kind != POSIX && x.FD == w.FD && w.FD >= 0)
		})
		if !own && h.Conflicts(&w.Lock) {
			list = append(list, h)
		}
	}
	return list
}

// edges are the processes that pid may have to wait for: one of those that hold a
// lock, and the children that it waits for.
func (t *Table) edges(pid int, looks map[int]*look, counts func(*Waiter) bool) (list []int) {
	for i := range t.Locks {
		for k := range t.Locks[i].Waiters {
			w := &t.Locks[i].Waiters[k]
			if w.PID != pid || counts != nil && !counts(w) {
				continue
			}
			for _, h := range t.inTheWay(w) {
				for _, x := range h.Holders {
					// Another thread of ours may be the one that has it.
					if l := looks[pid]; x.PID != pid || l != nil && l.err == nil && len(l.threads) == 1 {
						list = append(list, x.PID)
					}
				}
			}
		}
	}
	if l := looks[pid]; l != nil {
		list = append(list, l.children...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// mayBeStuck is the greatest set of processes of which each waits for another one
// of the set. It has all circles in it.
func (t *Table) mayBeStuck(looks map[int]*look, counts func(*Waiter) bool) map[int][]int {
	set := map[int][]int{}
	for _, pid := range t.concerned() {
		set[pid] = nil
	}
	for pid := range looks {
		set[pid] = nil
	}
	for pid := range set {
		set[pid] = t.edges(pid, looks, counts)
	}
	for changed := true; changed; {
		changed = false
		for pid, to := range set {
			if !slices.ContainsFunc(to, func(other int) bool { _, ok := set[other]; return ok }) {
				delete(set, pid)
				changed = true
			}
		}
	}
	for pid, to := range set {
		set[pid] = slices.DeleteFunc(to, func(other int) bool { _, ok := set[other]; return !ok })
	}
	return set
}

// graph is what two looks have told.
type graph struct {
	*Table
	first, last map[int]*look
	maybe       map[int][]int // with those that each waits for
	stuck       map[int]bool
	why         map[int]string // those that are not: what is seen of them
}

// judge finds the greatest set of processes that cannot go on by themselves: all
// threads of each sleep, each for a lock that is in the hands of members alone, or
// for a child that is a member.
func (g *graph) judge() {
	g.stuck, g.why = map[int]bool{}, map[int]string{}
	for pid := range g.last {
		if why := g.doubt(pid, g.first[pid], g.last[pid]); why != "" {
			g.why[pid] = why
		} else {
			g.stuck[pid] = !g.loose
		}
	}
	g.strangers()
	for changed := true; changed; {
		changed = false
		for pid, is := range g.stuck {
			if is && !g.sleepsFor(pid) {
				g.stuck[pid], changed = false, true
			}
		}
	}
}

// strangers takes out who holds a lock that somebody else may share who cannot be
// seen: his ancestors that cannot be looked at, but for the first of all, who starts
// everybody; his descendants; or the one outside of our PID namespace who took it.
func (g *graph) strangers() {
	line := func(pid int) (list []int) { // it and its ancestors
		for ; pid > 1 && !slices.Contains(list, pid); pid = g.stats[pid].Parent {
			list = append(list, pid)
		}
		return list
	}
	for pid := range g.last {
		up := line(pid)
		for _, other := range g.refused {
			if slices.Contains(up, other) || slices.Contains(line(other), pid) {
				g.stuck[pid] = false
				g.why[pid] = fmt.Sprintf("process %s, a relative of process %s, may share its locks and cannot be looked at", whoIs(g.name(other)), whoIs(g.name(pid)))
			}
		}
	}
	for i := range g.Locks {
		for _, x := range g.Locks[i].Holders {
			if g.Locks[i].Kind == Flock && x.Lock.PID == 0 && g.last[x.PID] != nil {
				g.stuck[x.PID] = false
				g.why[x.PID] = fmt.Sprintf("process %s has a lock that was taken outside of this PID namespace, where it may be released", whoIs(g.name(x.PID)))
			}
		}
	}
}

// sleepsFor reports whether every thread of the process waits for stuck processes.
func (g *graph) sleepsFor(pid int) bool {
	for _, thread := range g.last[pid].threads {
		if _, ok := waitsForChild(&thread.Call); ok {
			continue // all children that it waits for, below
		}
		w := g.waiter(pid, thread.TID)
		if w == nil || !slices.ContainsFunc(g.inTheWay(w), g.kept) {
			return false
		}
	}
	return !slices.ContainsFunc(g.last[pid].children, func(child int) bool { return !g.stuck[child] })
}

// kept reports whether all who could release the lock are stuck.
func (g *graph) kept(h *Held) bool {
	return len(h.Holders) > 0 && !slices.ContainsFunc(h.Holders, func(x Holder) bool { return x.FD < 0 || !g.stuck[x.PID] })
}

// circles are the strongly connected parts of maybe: in each everybody waits for
// everybody, by others. They are in order, each beginning with its least process.
func (g *graph) circles() (list [][]int) {
	reach := map[int]map[int]bool{}
	for pid := range g.maybe {
		seen, next := map[int]bool{}, slices.Clone(g.maybe[pid])
		for len(next) > 0 {
			to := next[len(next)-1]
			next = next[:len(next)-1]
			if !seen[to] {
				seen[to] = true
				next = append(next, g.maybe[to]...)
			}
		}
		reach[pid] = seen
	}
	done := map[int]bool{}
	var pids []int
	for pid := range g.maybe {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	for _, pid := range pids {
		if done[pid] || !reach[pid][pid] {
			continue
		}
		circle := []int{pid}
		for done[pid] = true; ; {
			// Follow the circle as long as it leads to somebody new.
			last := circle[len(circle)-1]
			inside := func(to int) bool { return !done[to] && reach[to][pid] && reach[pid][to] }
			i := slices.IndexFunc(g.maybe[last], inside)
			var next int
			if i >= 0 {
				next = g.maybe[last][i]
			} else if i = slices.IndexFunc(pids, inside); i >= 0 {
				next = pids[i]
			} else {
				break
			}
			circle = append(circle, next)
			done[next] = true
		}
		list = append(list, circle)
	}
	return list
}

// report is what is said of a circle.
func (g *graph) report(circle []int) Deadlock {
	d := Deadlock{Certain: true}
	for _, pid := range circle {
		d.Waits = append(d.Waits, g.waitsOf(pid)...)
		d.Certain = d.Certain && g.stuck[pid]
	}
	if !d.Certain {
		d.Proof = g.doubts(circle)
		return d
	}
	for _, pid := range g.behind(circle) {
		n, sleeps, switches := len(g.last[pid].threads), "its thread sleeps", uint64(0)
		if n > 1 {
			sleeps = fmt.Sprintf("all its %d threads sleep", n)
		}
		for _, thread := range g.last[pid].threads {
			switches += thread.Switches
		}
		d.Proof = append(d.Proof, fmt.Sprintf("process %s: %s, and did not run while all locks were read a second time (%d context switches before and after)",
			whoIs(g.name(pid)), sleeps, switches))
	}
	d.Proof = append(d.Proof, "nobody else who can be seen has the descriptors of these locks")
	d.Proof = append(d.Proof, g.Incomplete...)
	return d
}

func (g *graph) name(pid int) process.Process {
	return process.Process{PID: pid, Comm: g.stats[pid].Comm}
}

// waitsOf is what the process waits for, with those in maybe it waits for.
func (g *graph) waitsOf(pid int) (list []Wait) {
	for i := range g.Locks {
		for k := range g.Locks[i].Waiters {
			w := &g.Locks[i].Waiters[k]
			if w.PID != pid {
				continue
			}
			wait := Wait{Process: g.name(pid), TID: w.TID, Lock: w.Lock, Path: g.Locks[i].Path}
			for _, h := range g.inTheWay(w) {
				for _, x := range h.Holders {
					if who := g.name(x.PID); !slices.Contains(wait.On, who) {
						wait.On = append(wait.On, who)
					}
				}
			}
			list = append(list, wait)
		}
	}
	if l := g.last[pid]; l != nil && len(l.children) > 0 {
		wait := Wait{Process: g.name(pid)}
		for _, child := range l.children {
			wait.On = append(wait.On, g.name(child))
		}
		list = append(list, wait)
	}
	return list
}

// behind are the processes of a circle and all on whom it depends.
func (g *graph) behind(circle []int) []int {
	list := slices.Clone(circle)
	for i := 0; i < len(list); i++ {
		for _, to := range g.edges(list[i], g.last, nil) {
			if !slices.Contains(list, to) {
				list = append(list, to)
			}
		}
	}
	return list
}

// doubts is why a circle is not certain.
func (g *graph) doubts(circle []int) (list []string) {
	const enough = 8
	for _, pid := range g.behind(circle) {
		if why := g.why[pid]; why != "" && len(list) < enough {
			list = append(list, why)
		}
	}
	for i := range g.Locks {
		h := &g.Locks[i]
		for _, x := range h.Holders {
			if x.FD < 0 && slices.Contains(circle, x.PID) && len(list) < enough {
				list = append(list, fmt.Sprintf("process %s took a %s lock, and whether it still has it cannot be seen", whoIs(g.name(x.PID)), h.Kind))
			}
		}
	}
	return append(list, g.Incomplete...)
}
