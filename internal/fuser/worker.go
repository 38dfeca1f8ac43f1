package fuser

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// spot is what is being looked at.
type spot struct {
	n      int // of the process in its list
	thread int // 0: the process
	what   place
	which  uint64 // the descriptor, the address of the mapping
}

type place int

const (
	atProcess place = iota // what asks no other file system than the procfs
	atCwd
	atRoot
	atExe
	atFD
	atMap
)

// link is the name of what was looked at, below the process's directory.
func (s spot) link() string {
	dir := ""
	if s.thread != 0 {
		dir = "task/" + strconv.Itoa(s.thread) + "/"
	}
	switch s.what {
	case atCwd:
		return dir + "cwd"
	case atRoot:
		return dir + "root"
	case atExe:
		return dir + "exe"
	case atFD:
		return dir + "fd/" + strconv.FormatUint(s.which, 10)
	}
	return ""
}

// hangs bounds how many descriptors may keep us waiting before all others are
// given up too.
const hangs = 8

// look goes through the list in another goroutine, which is left behind where it
// hangs: another begins with the same process, and does not touch that again, nor
// what is on the same mount.
func (s *scan) look(ctx context.Context, list []int) error {
	if err := process.Timers(); err != nil {
		return err
	}
	skip := map[spot]bool{}
	var dead []string
	for next, hung := 0, 0; next < len(list); {
		w := &worker{scan: s, list: list, skip: skip, dead: dead, out: make(chan *found), stop: make(chan struct{})}
		go w.run(next)
		stuck, at, err := s.gather(ctx, w, &next)
		if err != nil {
			return err
		}
		if !stuck {
			continue
		}
		s.unseen.hang(list[at.n])
		if hung++; hung > hangs {
			s.unseen.givenUp += len(list) - next
			return nil
		}
		skip = maps.Clone(skip) // the one left behind may read the old ones
		skip[at] = true
		if point := s.mountOf(at, list[at.n]); point != "" {
			dead = append(slices.Clip(dead), point)
		}
	}
	return nil
}

// mountOf is the mount point of what was looked at, if that is on a network file
// system or FUSE.
func (s *scan) mountOf(at spot, pid int) (point string) {
	link := at.link()
	if link == "" {
		return ""
	}
	path, err := s.proc.Readlink(strconv.Itoa(pid) + "/" + link)
	if err != nil {
		return ""
	}
	text, err := s.proc.MountInfo(false)
	if err != nil {
		return ""
	}
	table, err := mounts.ParseText(text)
	if err != nil {
		return ""
	}
	local := true
	for i := range table {
		if m := &table[i]; under(path, m.Point) && len(m.Point) >= len(point) {
			point, local = m.Point, plain(m.FSType) || m.Point == "/"
		}
	}
	if local {
		return ""
	}
	return point
}

// under reports whether the path p is dir or below it.
func under(p, dir string) bool {
	dir = strings.TrimSuffix(dir, "/")
	return strings.HasPrefix(p, dir) && (len(p) == len(dir) || p[len(dir)] == '/')
}

// gather takes what the worker finds until it is through or hangs at a spot. next
// is the process that comes next.
func (s *scan) gather(ctx context.Context, w *worker, next *int) (stuck bool, at spot, err error) {
	const looks = 4 // so that a pause of all of us is not taken for one of a file system
	tick := time.NewTicker(s.opts.Patience / looks)
	defer tick.Stop()
	defer close(w.stop)
	quiet, last := 0, uint64(0)
	for *next < len(w.list) {
		select {
		case <-ctx.Done():
			return false, spot{}, ctx.Err()
		case f := <-w.out:
			if f.err != nil {
				return false, spot{}, f.err
			}
			s.merge(f)
			*next++
			quiet = 0
		case <-tick.C:
			now, steps := w.where()
			if steps != last {
				quiet, last = 0, steps
			} else if quiet++; quiet >= looks {
				return true, now, nil
			}
		}
	}
	return false, spot{}, nil
}

// worker looks at processes in a goroutine of its own.
type worker struct {
	*scan       // of which a worker reads what does not change while workers are at work
	list  []int // processes
	skip  map[spot]bool
	dead  []string // mount points of file systems that do not answer
	out   chan *found
	stop  chan struct{}

	mu    sync.Mutex
	at    spot
	steps uint64

	text    []byte // of maps and stat, used again
	numbers []int
}

func (w *worker) run(from int) {
	top, err := w.proc.Dir(".")
	if err == nil {
		defer top.Close()
	}
	for n := from; n < len(w.list); n++ {
		f := &found{err: err}
		if err == nil && w.enter(spot{n: n}) {
			w.stat(f, top, w.list[n])
			if f.st.PID != 0 && !f.ended && !f.denied && !f.st.Kernel() && !w.stopped() {
				w.process(f, n)
			}
		} else {
			f.silent = true
		}
		select {
		case w.out <- f:
		case <-w.stop:
			return
		}
	}
}

// enter notes what is looked at next, and reports whether it is to be: not where
// it hung before.
func (w *worker) enter(at spot) bool {
	w.mu.Lock()
	w.at = at
	w.steps++
	w.mu.Unlock()
	return !w.skip[at]
}

func (w *worker) where() (spot, uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at, w.steps
}

// stopped reports whether nobody waits for us any more, as we hung.
func (w *worker) stopped() bool {
	select {
	case <-w.stop:
		return true
	default:
		return false
	}
}
