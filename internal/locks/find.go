package locks

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/slashrun/slashrun/internal/process"
)

// sighting is a descriptor of a file that matters.
type sighting struct {
	pid, fd int
	node    node
	info    process.FDInfo
	locks   []Lock // of its open file description
	path    string // if it was asked for
}

// node is the identity of a file as stat(2) gives it.
type node struct{ dev, ino uint64 }

// view decides what of a process matters. Each eye has one of its own.
type view interface {
	// worth decides by what stat(2) gives whether fdinfo is read, which takes three
	// system calls to stat's one.
	worth(process.Inode) bool
	// keep decides whether what was read matters, and whether its path does.
	keep(*sighting) (keep, path bool)
	fork() view
}

// finder looks at the descriptors of all processes.
type finder struct {
	proc   *process.Proc
	view   view
	parsed *atomic.Int64 // locks that are kept

	found []sighting
	// looked has the processes that were listed: whether their descriptors could be
	// read.
	looked map[int]bool
	stats  map[int]process.Stat // of those that were sighted, or refused to be
	why    reasons
}

const (
	// maxRounds bounds how often the processes are listed until nobody is new.
	maxRounds = 8
	// patience is for how long nothing may happen before the processes that are being
	// looked at are given up: one that hangs in execve(2), because a file that it
	// closes does not answer, holds up everybody who follows its links.
	patience = 2 * time.Second
	// maxStuck bounds how many are waited for so.
	maxStuck = 8
	// maxEyes bounds how many are looked at at the same time.
	maxEyes = 4
	// enough processes make up for the start of another thread.
	enoughForEye = 48
)

// processes looks at every process. One that is forked meanwhile, by one that was
// looked at and has ended since, is in a later list.
func (f *finder) processes(ctx context.Context) error {
	if f.looked == nil {
		f.looked, f.stats, f.parsed = map[int]bool{}, map[int]process.Stat{}, new(atomic.Int64)
	}
	var pids []int
	for range maxRounds {
		top, err := f.proc.Dir(".")
		if err == nil {
			pids, err = top.Numbers(pids[:0])
			top.Close()
		}
		if err != nil {
			return fmt.Errorf("the processes cannot be listed: %w", err)
		}
		var fresh []int
		for _, pid := range pids {
			if _, known := f.looked[pid]; !known {
				fresh = append(fresh, pid)
			}
		}
		if len(fresh) == 0 {
			return nil
		}
		if err := f.look(ctx, fresh); err != nil {
			return err
		}
	}
	f.why.add(reason{text: "processes come and go faster than they can be listed", loose: true}, "")
	return nil
}

// round is one list of processes, of which each eye takes the next.
type round struct {
	pids    []int
	next    atomic.Int64
	began   []atomic.Bool
	results chan *result // has room for all, so that nobody waits for us
}

// look looks at the processes, some at the same time.
func (f *finder) look(ctx context.Context, pids []int) error {
	r := &round{pids: pids, began: make([]atomic.Bool, len(pids)), results: make(chan *result, len(pids))}
	eyes := max(1, min(runtime.GOMAXPROCS(0), maxEyes, len(pids)/enoughForEye))
	for range eyes {
		go f.eye().work(ctx, r)
	}
	clock := time.NewTimer(patience)
	defer clock.Stop()
	for stuck, got := 0, 0; got < len(pids); {
		select {
		case x := <-r.results:
			if _, known := f.looked[x.pid]; known {
				continue // given up before
			}
			if got++; x.err != nil {
				return x.err
			}
			f.take(x)
			clock.Reset(patience)
		case <-ctx.Done():
			return ctx.Err()
		case <-clock.C:
			for i := range r.began {
				if _, known := f.looked[pids[i]]; r.began[i].Load() && !known {
					f.giveUp(pids[i])
					stuck, got = stuck+1, got+1
					if stuck <= maxStuck {
						go f.eye().work(ctx, r) // in the place of the one that hangs
					}
				}
			}
			if stuck > maxStuck {
				f.rest(pids)
				return nil
			}
			clock.Reset(patience)
		}
	}
	return nil
}

// errNoAnswer is said of a process that does not let us look.
var errNoAnswer = errors.New("no answer in " + patience.String())

// answer calls f, which may hang, and gives it up after a while.
func answer[T any](f func() T) (T, bool) {
	done := make(chan T, 1)
	go func() { done <- f() }()
	clock := time.NewTimer(patience)
	defer clock.Stop()
	select {
	case x := <-done:
		return x, true
	case <-clock.C:
		var none T
		return none, false
	}
}

// giveUp notes a process that does not let us look.
func (f *finder) giveUp(pid int) {
	f.looked[pid] = false
	f.why.add(reason{text: "the descriptors of", cause: errNoAnswer.Error(), loose: true}, strconv.Itoa(pid))
}

// rest gives up all who were not looked at.
func (f *finder) rest(pids []int) {
	for _, pid := range pids {
		if _, known := f.looked[pid]; !known {
			f.giveUp(pid)
		}
	}
}

// take adds what an eye has seen.
func (f *finder) take(x *result) {
	f.looked[x.pid] = x.seen
	f.found = append(f.found, x.found...)
	if x.known {
		f.stats[x.pid] = x.stat
	}
	for _, n := range x.why {
		f.why.add(n.reason, n.who)
	}
}

// stat reads the stat line of a process, once.
func (f *finder) stat(pid int) (process.Stat, error) {
	if st, ok := f.stats[pid]; ok {
		return st, nil
	}
	st, err := statOf(f.proc, pid)
	if err == nil {
		f.stats[pid] = st
	}
	return st, err
}

func statOf(p *process.Proc, pid int) (process.Stat, error) {
	b, err := p.ReadRecord(strconv.Itoa(pid)+"/stat", make([]byte, 0, 512))
	if err != nil {
		return process.Stat{}, err
	}
	return process.ParseStat(b)
}

// name is the process with this number; it has no name if it is gone.
func (f *finder) name(pid int) process.Process {
	st, _ := f.stat(pid)
	return process.Process{PID: pid, Comm: st.Comm}
}

// alive reports whether a process of our PID namespace has the number, and whether
// its descriptors could be read.
func (f *finder) alive(pid int) (alive, seen bool) {
	seen, listed := f.looked[pid]
	if pid <= 0 || !listed {
		return false, false
	}
	st, err := f.stat(pid)
	return err == nil && !st.Dead(), seen
}
