package lockfile

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"strings"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/locks"
	"github.com/slashrun/slashrun/internal/process"
)

// Holder is a process that holds the lock.
type Holder struct {
	PID       int
	Comm      string // at most 15 bytes, which the process chose itself
	Exclusive bool
	// Taker says that the process took the lock, and that it cannot be seen
	// whether it still has it or a child of it has: its descriptors are not ours
	// to look at.
	Taker bool
}

// Holders is who held the lock at some moment while [Lock.Holders] looked.
type Holders struct {
	// Processes hold the lock, each once; all of those that share the open file,
	// as a daemon's children do that inherited it.
	Processes []Holder
	// Waiting is how many waits for the lock are visible.
	Waiting int
	// Outside says that none of the processes that can be seen holds the lock,
	// and that this does not make it free: it may be held, or is, in another PID
	// namespace, or by processes that must not be looked at.
	Outside bool
	// Incomplete says why processes may be missing, one reason each.
	Incomplete []string
}

// String is a sentence for a message: "held by process 812 (nginx)".
func (h Holders) String() string {
	if len(h.Processes) == 0 && !h.Outside {
		return "free by now"
	}
	if len(h.Processes) == 0 {
		s := "no process that can be seen holds it; it is held outside, or free by now"
		if len(h.Incomplete) > 0 {
			s += " (" + h.Incomplete[0] + ")"
		}
		return s
	}
	var b strings.Builder
	b.WriteString("held ")
	if !h.Processes[0].Exclusive {
		b.WriteString("shared ")
	}
	b.WriteString("by process ")
	const enough = 5
	for i, p := range h.Processes {
		if i == enough {
			fmt.Fprintf(&b, " and %d more", len(h.Processes)-enough)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d (%s)", p.PID, strings.ToValidUTF8(p.Comm, "?"))
	}
	return b.String()
}

// Holders looks for who holds the lock on the file that is at the path now, this
// Lock included. It reads the descriptors of all processes, which takes
// milliseconds, and is for messages: whether the lock can be had, TryLock knows.
// It may be called at any time. It takes a mounted /proc; without root the
// descriptors of other users' processes stay unknown, which Incomplete then says.
func (l *Lock) Holders(ctx context.Context) (Holders, error) {
	h, err := l.holders(ctx)
	if err != nil {
		return Holders{}, l.fail("find holders of", err)
	}
	return h, nil
}

func (l *Lock) holders(ctx context.Context) (Holders, error) {
	fd, err := l.look()
	if err != nil {
		return Holders{}, err
	}
	defer linux.Close(fd)
	p, err := process.Open()
	if err != nil {
		return Holders{}, err
	}
	defer p.Close()
	r, err := locks.Of(ctx, p, fd)
	if err != nil {
		return Holders{}, err
	}
	h := Holders{Incomplete: r.Incomplete}
	known := map[int]int{}
	for _, x := range r.Holders {
		if !l.ours(&x.Lock) {
			continue
		}
		i, ok := known[x.PID]
		if !ok {
			i = len(h.Processes)
			known[x.PID] = i
			h.Processes = append(h.Processes, Holder{PID: x.PID, Comm: x.Comm, Taker: true})
		}
		h.Processes[i].Exclusive = h.Processes[i].Exclusive || x.Lock.Exclusive
		h.Processes[i].Taker = h.Processes[i].Taker && x.FD < 0
	}
	for _, w := range r.Waiters {
		turn := l.opts.Fair && w.Lock.Kind == locks.OFD && w.Lock.Overlaps(turnstileStart, turnstileStart)
		if turn || l.ours(&w.Lock) {
			h.Waiting++
		}
	}
	h.Outside = len(h.Processes) == 0 && len(r.Incomplete) > 0
	for _, u := range r.Unseen {
		h.Outside = h.Outside || len(h.Processes) == 0 && l.ours(&u)
	}
	return h, nil
}

// look opens what is at the path, to look at it alone. The Lock's own descriptor
// may be another goroutine's to change just now.
func (l *Lock) look() (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == closed {
		return -1, fs.ErrClosed
	}
	return linux.Openat(l.dir, string(l.name[:len(l.name)-1]), linux.O_PATH|linux.O_NOFOLLOW, 0)
}

// ours reports whether x is a lock that ours must not conflict with.
func (l *Lock) ours(x *locks.Lock) bool {
	if l.opts.Kind == Flock {
		return x.Kind == locks.Flock
	}
	return (x.Kind == locks.OFD || x.Kind == locks.POSIX) && x.Overlaps(mainStart, math.MaxInt64-2)
}
