package tmpfiles

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/glob"
	"github.com/slashrun/slashrun/internal/linux"
)

// The walk of a clean-up. A directory is listed once: what is no directory is
// judged at once, the names of directories are kept until the listing is done.
// Then they are entered one after the other, and when nothing is left below
// one, it is judged by the times that it had before, and removed from the one
// above by whoever finished last.
//
// Workers share a walk by giving away, to one that has nothing to do, a piece
// of a listing or half of the directories that are still to be entered. What a
// worker works on does not change what is judged, so neither do the results.

// heldDirs is how many directories all workers of a walk hold open together.
// Above that depth the upper ones are closed and opened again through "..",
// which is believed only if it is the same inode. A lock on them is lost in
// between; if somebody else has it on the way back, the directory is left.
const heldDirs = 256

// listBuffer is the size of a getdents64 buffer: some two thousand names.
// A walk begins with a buffer of firstBuffer: most are over with that.
const (
	listBuffer  = 64 << 10
	firstBuffer = 4 << 10
)

// hireAfter is the number of entries after which a run gets help.
const hireAfter = 512

// namedPath is how long the path of a directory grows that is kept for
// messages, PATH_MAX of limits.h: nobody could use a longer one. Of those only
// the beginning is told, so much of it.
const (
	namedPath = 4096
	shownPath = 256
)

// sweepOf says how a walk judges.
type sweepOf struct {
	cut       cutoff
	keepFirst bool // what lies in the top itself stays
	restore   bool // the top gets back its times, as all below it do
}

// sweep is one walk.
type sweep struct {
	sweepOf
	r       *run
	c       *cleaner
	it      *Item
	line    string
	mask    int
	top     *sweepDir
	mount   mountID // of the top, where the kernel does not tell mount roots
	dry     bool
	verbose bool
	changes bool // somebody wants to hear of them
	window  int  // directories that one worker holds
	mem     linux.InMemory

	tasks   chan task
	idle    atomic.Int32
	done    chan struct{}
	workers sync.WaitGroup
	buffers sync.Pool

	held atomic.Int32 // directories that are open

	mu       sync.Mutex
	failed   error // of the failures the one with the lowest path
	failedAt string
}

// sweepDir is a directory of a walk that is not finished.
type sweepDir struct {
	up   *sweepDir
	name []byte // in up, ending in a NUL byte
	path string
	deep bool // path stops at a directory far above

	id        inodeKey
	times     [2]linux.StatxTimestamp // of access and modification, before anything in it was touched
	own       *ownPath                // what lines say about its entries; nil for nothing
	cur       *glob.Cursor
	rec       *shadowInode // dry runs: what would have changed in it before
	old       bool         // its own times let it go
	keepFirst bool
	mountRoot bool
	asked     bool // dry runs: whether it is read-only
	readOnly  bool

	// pending counts what is still to be done: pieces of the directory itself
	// and directories in it. Who brings it to 0 finishes it.
	pending atomic.Int32
	removed atomic.Bool
	kept    atomic.Bool

	lost atomic.Bool // it could not be opened again, or somebody locked it

	mu    sync.Mutex
	fd    int // -1 while it is closed
	users int
}

// task is a piece of work on one directory, which it has a use of.
type task struct {
	d     *sweepDir
	list  bool   // list it
	chunk []byte // or judge these records
	names []byte // or enter these, each ending in a NUL byte
}

// frame is a directory on a worker's way, with what is to be entered there.
type frame struct {
	d      *sweepDir
	names  []byte // each ending in a NUL byte
	at     int    // the next one
	parked bool   // the frame has no use of d's descriptor for now
}

type sweeper struct {
	*sweep
	first bool // it hires the others
	hired bool
	stack []frame
	// sharable is below the uppermost frame of which there is something to give
	// away: names only become fewer, until a frame is had back.
	sharable int
	buf      []byte
	spare    [][]byte // for names
	seen     uint64
	removed  uint64
	sx, now  linux.StatxT
}

// sweep walks below t and removes what is old. emptied says that nothing is
// left in it, as far as the walk knows.
func (r *run) sweep(it *Item, t *top, of sweepOf) (emptied bool, err error) {
	c := r.cleaning()
	s := &sweep{
		sweepOf: of, r: r, c: c, it: it, line: it.Source.String(), mask: of.cut.needs(),
		dry: r.shadow != nil, verbose: r.opt.Report.Verbose(), changes: r.opt.Report.Changes(),
		window: max(8, heldDirs/c.workers),
		tasks:  make(chan task), done: make(chan struct{}), mem: linux.FSInMemory(t.fd),
	}
	s.buffers.New = func() any { b := make([]byte, listBuffer); return &b }
	d := newSweepDir(&t.sx, t.fd)
	d.path, d.keepFirst, d.mountRoot = t.path, of.keepFirst, t.mountRoot()
	own, cur := c.governs(t.path)
	d.governed(own, cur)
	s.recall(d)
	s.top = d
	if t.sx.Attributes_mask&linux.STATX_ATTR_MOUNT_ROOT == 0 {
		s.mount = mountIDOf(t.fd)
	}
	defer s.progress()()

	before := c.removed.Load()
	w := &sweeper{sweep: s, first: true, buf: make([]byte, firstBuffer)}
	w.work(task{d: d, list: true})
	w.serve()
	s.workers.Wait()

	if c.removed.Load() != before {
		r.walk.stale = true // one of the directories on paths may be gone
	}
	if s.failed != nil {
		return false, &reportedError{s.failed}
	}
	if r.ctx.Err() != nil {
		return false, nil
	}
	return !d.kept.Load(), nil
}

// progress calls Options.Progress now and then, until what it returns is called.
func (s *sweep) progress() (end func()) {
	tell := s.r.opt.Progress
	if tell == nil {
		return func() {}
	}
	now := func() { tell(Stats{s.c.seen.Load(), s.c.removed.Load()}) }
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				now()
			case <-quit:
				now()
				return
			}
		}
	}()
	return func() { close(quit); <-ended }
}

func (s *sweep) buffer() []byte { return *s.buffers.Get().(*[]byte) }

// hire starts the other workers, once there is something to share.
func (w *sweeper) hire() {
	if !w.first || w.hired || w.c.seen.Load() < hireAfter {
		return
	}
	w.hired = true
	for range w.c.workers - 1 {
		w.workers.Add(1)
		go func() {
			defer w.workers.Done()
			helper := &sweeper{sweep: w.sweep, buf: w.buffer()}
			helper.serve()
		}()
	}
}

// serve does what others give away, until the walk is over.
func (w *sweeper) serve() {
	for {
		w.idle.Add(1)
		select {
		case t := <-w.tasks:
			w.idle.Add(-1)
			w.work(t)
		case <-w.done:
			return
		}
	}
}

// give hands t to a worker that waits for something to do.
func (w *sweeper) give(t task) bool {
	t.d.pending.Add(1)
	t.d.use()
	select {
	case w.tasks <- t:
		return true
	default:
		t.d.pending.Add(-1) // our own piece of it is still pending
		w.unuse(t.d, false)
		return false
	}
}

// work does t and everything that it leads to.
func (w *sweeper) work(t task) {
	w.stack, w.sharable = append(w.stack[:0], frame{d: t.d, names: t.names}), 0
	switch {
	case t.chunk != nil:
		w.chunk(t.d, t.chunk)
		t.chunk = t.chunk[:cap(t.chunk)]
		w.buffers.Put(&t.chunk)
	case t.list:
		w.list(t.d)
	}
	for len(w.stack) > 0 {
		f := &w.stack[len(w.stack)-1]
		if f.at == len(f.names) || w.stopped() || f.d.lost.Load() {
			if f.at < len(f.names) {
				f.d.kept.Store(true)
			}
			w.leave()
			continue
		}
		w.share()
		if d := w.enter(f.d, f.next()); d != nil {
			w.push(d)
			w.list(d)
		}
	}
	w.flush()
}

// next is the next name, with its NUL byte.
func (f *frame) next() []byte {
	rest := f.names[f.at:]
	n := bytes.IndexByte(rest, 0) + 1
	f.at += n
	return rest[:n:n]
}

func (w *sweeper) flush() {
	w.c.seen.Add(w.seen)
	w.c.removed.Add(w.removed)
	w.seen, w.removed = 0, 0
}

// stopped says that the run is to end. Directories still get their times back.
func (s *sweep) stopped() bool { return s.r.ctx.Err() != nil }

// share gives half of what is to be entered, as far up as possible, to a worker
// that waits.
func (w *sweeper) share() {
	w.hire()
	if w.idle.Load() == 0 {
		return
	}
	for ; w.sharable < len(w.stack); w.sharable++ {
		f := &w.stack[w.sharable]
		rest := f.names[f.at:]
		cut := len(rest) / 2
		cut += bytes.IndexByte(rest[cut:], 0) + 1
		if f.parked || cut == len(rest) {
			continue
		}
		if w.give(task{d: f.d, names: bytes.Clone(rest[cut:])}) {
			f.names = f.names[:f.at+cut]
		}
		return
	}
}

// push goes down into d, which the worker has a use of.
func (w *sweeper) push(d *sweepDir) {
	var names []byte
	if n := len(w.spare); n > 0 {
		names, w.spare = w.spare[n-1], w.spare[:n-1]
	}
	w.stack = append(w.stack, frame{d: d, names: names})
	if i := len(w.stack) - 1 - w.window; i >= 0 && !w.stack[i].parked {
		w.stack[i].parked = true
		w.unuse(w.stack[i].d, true)
	}
}

// leave goes up again. It is not finished below, perhaps, where others work.
func (w *sweeper) leave() {
	i := len(w.stack) - 1
	d := w.stack[i].d
	if names := w.stack[i].names; cap(names) > 0 && cap(names) <= listBuffer && len(w.spare) < 8 {
		w.spare = append(w.spare, names[:0])
	}
	w.stack = w.stack[:i]
	w.sharable = min(w.sharable, max(i-1, 0))
	if i > 0 && w.stack[i-1].parked {
		w.stack[i-1].parked = false
		w.reuse(w.stack[i-1].d, d)
	}
	if d.pending.Add(-1) == 0 {
		w.finish(d)
		return
	}
	w.unuse(d, w.held.Load() > heldDirs)
}

// finish ends a directory below which nothing is left to do, and those above it
// that only waited for that.
func (w *sweeper) finish(d *sweepDir) {
	for d.up != nil {
		up := d.up
		w.reuse(up, d)
		gone := d.old && !up.keepFirst && !w.stopped() &&
			!d.lost.Load() && up.fd >= 0 && w.rmdir(up, d)
		if !gone {
			up.kept.Store(true)
			w.restoreTimes(d)
		}
		w.unuse(d, true)
		if up.pending.Add(-1) != 0 {
			w.unuse(up, w.held.Load() > heldDirs)
			return
		}
		d = up
	}
	if w.restore {
		w.restoreTimes(d)
	}
	w.flush()
	close(w.done)
}

// restoreTimes gives back the times that the directory had before something in
// it was removed: being cleaned is no use of it.
func (w *sweeper) restoreTimes(d *sweepDir) {
	if !d.removed.Load() || d.fd < 0 || w.dry {
		return
	}
	if err := linux.FutimensOf(d.fd, d.times); err != nil && w.verbose {
		w.r.debug(w.it, d.path, "its times cannot be restored: "+err.Error())
	}
}

// use and unuse count who needs the descriptor to stay open.
func (d *sweepDir) use() {
	d.mu.Lock()
	d.users++
	d.mu.Unlock()
}

// The top is the caller's, it stays open.
func (s *sweep) unuse(d *sweepDir, shut bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users--; d.users == 0 && shut && d.fd >= 0 && d.up != nil {
		linux.Close(d.fd)
		d.fd = -1
		s.held.Add(-1)
	}
}

// reuse is use of a directory that may have been closed, with one that lies in
// it. If it cannot be had back, it is left alone, as all above it.
func (w *sweeper) reuse(d, below *sweepDir) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.users++
	if d.fd >= 0 || d.lost.Load() {
		return
	}
	err := error(syscall.ESTALE)
	if below.fd >= 0 {
		err = w.reopen(d, below.fd)
	}
	if err != nil {
		d.lost.Store(true)
		d.kept.Store(true)
		if below.fd >= 0 {
			w.problem(d.path, fmt.Errorf("what is above %s cannot be finished: %w", w.pathIn(d, below.name), err))
		}
	}
}

var errMoved = errors.New("a directory was moved away while it was cleaned")

func (w *sweeper) reopen(d *sweepDir, below int) error {
	fd, err := fsat.OpenForListing(below, "..")
	if err != nil {
		return err
	}
	var sx linux.StatxT
	if err = w.c.statx(w.mem, fd, []byte{0}, w.mask, &sx); err == nil && keyOfStatx(&sx) != d.id {
		err = errMoved
	}
	if err != nil {
		linux.Close(fd)
		return err
	}
	if !w.dry && w.mem.TryFlock(fd) != nil {
		d.lost.Store(true) // somebody has begun to use it
		d.kept.Store(true)
		w.keep(d.up, d.name, whyLocked)
	}
	d.fd = fd
	w.held.Add(1)
	return nil
}
