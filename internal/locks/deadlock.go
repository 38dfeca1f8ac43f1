package locks

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/slashrun/slashrun/internal/process"
)

// Deadlock is a circle of processes each of which waits for another.
type Deadlock struct {
	Waits []Wait // each waits for the next and the last for the first, where the circle is simple
	// Certain says that nobody in it can go on unless somebody outside kills or
	// signals one, or an alarm(2) that it has set does, which is shown to nobody.
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
	// Foreign and Within are as in Held.
	Foreign bool
	Within  string
	// Unsure says that Lock is one of several on the file that it may be: it is not
	// told which bytes it wants.
	Unsure bool
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
// that does, it is Certain. A process that cannot be looked at may share a lock, so
// that nothing is certain where there is one, but for the first process of the
// machine, which releases no lock of others; nor is it in a PID namespace below the
// machine's.
//
// What it cannot see: an alarm(2), which would kill the process that has it, and
// which Certain is therefore always but for; a descriptor that is in flight in a
// socket; a thread with descriptors of its own; 32-bit programs on a 64-bit machine
// are never called certain.
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
	g.maybe = second.mayBeStuck(last, func(w *sleeper) bool { return t.had(w, first[w.pid], last[w.pid]) })
	g.judge()
	var list []Deadlock
	for _, circle := range g.circles() {
		list = append(list, g.report(circle))
	}
	return list, nil
}

// had reports whether the table has the sleeper w of a later one, and it has not run
// since, as far as that can be seen.
func (t *Table) had(w *sleeper, first, last *look) bool {
	if first != nil && last != nil && first.err == nil && last.err == nil && w.tid != 0 {
		tid := func(x process.Thread) bool { return x.TID == w.tid }
		i, k := slices.IndexFunc(first.threads, tid), slices.IndexFunc(last.threads, tid)
		return i >= 0 && k >= 0 && first.threads[i] == last.threads[k]
	}
	return slices.ContainsFunc(t.sleepers()[w.pid], func(x sleeper) bool { return slices.Equal(x.locks, w.locks) })
}

// edges are the processes that pid may have to wait for: one of those that hold a
// lock, and the children that it waits for.
func (t *Table) edges(pid int, looks map[int]*look, counts func(*sleeper) bool) (list []int) {
	l := looks[pid]
	all := t.sleepers()[pid]
	for i := range all {
		if counts != nil && !counts(&all[i]) {
			continue
		}
		for _, other := range t.holdersAgainst(&all[i]) {
			// Another thread of ours may be the one that has it.
			if other != pid || l != nil && l.err == nil && len(l.threads) == 1 {
				list = append(list, other)
			}
		}
	}
	if l != nil {
		list = append(list, l.children...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// mayBeStuck is the greatest set of processes of which each waits for another one
// of the set. It has all circles in it.
func (t *Table) mayBeStuck(looks map[int]*look, counts func(*sleeper) bool) map[int][]int {
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
	takers      map[int]bool   // of locks that they do not seem to hold
}

// judge finds the greatest set of processes that cannot go on by themselves: all
// threads of each sleep, each for a lock that is in the hands of members alone, or
// for a child that is a member.
func (g *graph) judge() {
	g.stuck, g.why, g.takers = map[int]bool{}, map[int]string{}, map[int]bool{}
	blind := g.loose || !g.proc.Initial() || slices.ContainsFunc(g.refused, func(pid int) bool { return pid != 1 })
	for pid := range g.last {
		if why := g.doubt(pid, g.first[pid], g.last[pid]); why != "" {
			g.why[pid] = why
		} else {
			g.stuck[pid] = !blind // Incomplete has the reasons
		}
	}
	for changed := true; changed; {
		changed = false
		for pid, is := range g.stuck {
			if is && !g.sleepsFor(pid) {
				g.stuck[pid], changed = false, true
			}
		}
	}
}

// sleepsFor reports whether every thread of the process waits for stuck processes.
func (g *graph) sleepsFor(pid int) bool {
	free := func(other int) bool { return !g.stuck[other] }
	l := g.last[pid]
	for _, thread := range l.threads {
		if _, ok := waitsForChild(&thread.Call); ok {
			continue // all children that it waits for, below
		}
		all := g.sleepers()[pid]
		i := slices.IndexFunc(all, func(x sleeper) bool { return x.tid == thread.TID })
		// Whichever of the locks it wants, it cannot have it.
		if i < 0 || slices.ContainsFunc(all[i].locks, func(want Lock) bool { return !slices.ContainsFunc(g.inTheWay(&all[i], &want), g.kept) }) {
			return false
		}
	}
	if slices.ContainsFunc(l.wakers, free) {
		g.why[pid] = fmt.Sprintf("process %s has a handler for SIGCHLD, and a child that may end and so interrupt its wait", whoIs(g.name(pid)))
		return false
	}
	return !slices.ContainsFunc(l.children, free)
}

// kept reports whether all who could release the lock are stuck.
func (g *graph) kept(h *Held) bool {
	if st, known := g.stats[h.PID]; h.Kind == Flock && known && !st.Dead() &&
		!slices.ContainsFunc(h.Holders, func(x Holder) bool { return x.PID == h.PID }) {
		// A thread of it may have descriptors of its own, or the lock is in a mapping.
		g.why[h.PID] = fmt.Sprintf("process %s took a lock and lives, and none of its descriptors has it", whoIs(g.name(h.PID)))
		g.takers[h.PID] = true
		return false
	}
	return len(h.Holders) > 0 && !slices.ContainsFunc(h.Holders, func(x Holder) bool { return x.FD < 0 || !g.stuck[x.PID] })
}

// circles are the strongly connected parts of maybe: in each everybody waits for
// everybody, by others. They are in order, each beginning with its least process.
func (g *graph) circles() (list [][]int) {
	// Tarjan, Depth-first search and linear graph algorithms (1972).
	index, low, onStack := map[int]int{}, map[int]int{}, map[int]bool{}
	var stack []int
	var visit func(pid int)
	visit = func(pid int) {
		index[pid] = len(index) + 1
		low[pid] = index[pid]
		stack = append(stack, pid)
		onStack[pid] = true
		for _, to := range g.maybe[pid] {
			if index[to] == 0 {
				visit(to)
				low[pid] = min(low[pid], low[to])
			} else if onStack[to] {
				low[pid] = min(low[pid], index[to])
			}
		}
		if low[pid] != index[pid] {
			return
		}
		i := slices.Index(stack, pid)
		part := slices.Clone(stack[i:])
		for _, other := range part {
			onStack[other] = false
		}
		if stack = stack[:i]; len(part) > 1 || slices.Contains(g.maybe[pid], pid) {
			list = append(list, g.inOrder(part))
		}
	}
	for _, pid := range slices.Sorted(maps.Keys(g.maybe)) {
		if index[pid] == 0 {
			visit(pid)
		}
	}
	slices.SortFunc(list, func(a, b []int) int { return cmp.Compare(a[0], b[0]) })
	return list
}

// inOrder follows the circle from its least process as long as it leads to somebody
// new, and so on.
func (g *graph) inOrder(part []int) []int {
	slices.Sort(part)
	left := map[int]bool{}
	for _, pid := range part {
		left[pid] = true
	}
	var order []int
	for _, pid := range part {
		for left[pid] {
			order = append(order, pid)
			delete(left, pid)
			if i := slices.IndexFunc(g.maybe[pid], func(to int) bool { return left[to] }); i >= 0 {
				pid = g.maybe[pid][i]
			}
		}
	}
	return order
}

// maxProof bounds the lines about processes.
const maxProof = 32

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
	all := g.behind(circle)
	for i, pid := range all {
		if i == maxProof {
			d.Proof = append(d.Proof, fmt.Sprintf("the same goes for %d more processes", len(all)-i))
			break
		}
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

// waitsOf is what the process waits for.
func (g *graph) waitsOf(pid int) (list []Wait) {
	all := g.sleepers()[pid]
	for i := range all {
		x := &all[i]
		wait := Wait{Process: g.name(pid), TID: x.tid, Lock: x.locks[0], Unsure: len(x.locks) > 1}
		if on := g.onFile[wait.Lock.File()]; len(on) > 0 {
			wait.Path, wait.Foreign, wait.Within = on[0].Path, on[0].Foreign, on[0].Within
		}
		for _, other := range g.holdersAgainst(x) {
			wait.On = append(wait.On, g.name(other))
		}
		list = append(list, wait)
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
	list, known := slices.Clone(circle), map[int]bool{}
	for _, pid := range circle {
		known[pid] = true
	}
	for i := 0; i < len(list); i++ {
		for _, to := range g.edges(list[i], g.last, nil) {
			if !known[to] {
				known[to] = true
				list = append(list, to)
			}
		}
	}
	return list
}

// doubts is why a circle is not certain.
func (g *graph) doubts(circle []int) (list []string) {
	const enough = 8
	for _, pid := range slices.Concat(g.behind(circle), slices.Sorted(maps.Keys(g.takers))) {
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
