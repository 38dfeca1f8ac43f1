package locks

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// Holder is a process that holds a lock.
type Holder struct {
	process.Process
	// FD is its descriptor of the locked open file, -1 where only /proc/locks
	// names the process, which then took the lock and may have passed it on.
	FD   int
	Lock Lock
}

// Waiter is a process that waits for a lock.
type Waiter struct {
	process.Process // PID is -1 for an OFD lock whose waiter was not found
	Lock            Lock
	TID             int // the thread that sleeps, 0 where it was not found
	FD              int // the descriptor that it uses, -1 where the thread was not found
	// Among are the processes that it can be, where the thread was not found: they
	// wait for locks of fcntl(2) on the file, and which wants which bytes is not told.
	Among []process.Process
}

// Why a lock has no holder.
const (
	Outside = "outside" // held outside of our PID namespace
	Unseen  = "unseen"  // by processes that must not be looked at, through a descriptor in flight, on another machine (NFS)
)

// Held is a lock that is held.
type Held struct {
	// Lock is as /proc/locks has it. Of one that is held Outside, with PID 0, it is
	// not known whether it is exclusive.
	Lock
	// Path is the path of the file as the kernel writes it, empty where nobody was
	// seen with it.
	Path string
	// Foreign says that the file is on a mount that is not in our mount table: Path
	// is what another mount namespace has it as.
	Foreign bool
	// Within is the path from the root of the file system, which is one for all its
	// mounts; empty where it is not known.
	Within string
	// Mount is where the file's file system is mounted, if Path is empty and it is.
	Mount string
	// Holders are all who share the open file description, or the owner of a POSIX
	// lock; by process, then descriptor.
	Holders []Holder
	Waiters []Waiter // in the order in which they will be served, as far as it is one queue
	Where   string   // Outside or Unseen where Holders is empty, else ""
}

// Table is who held and who wanted which locks while [Scan] looked.
type Table struct {
	Locks []Held // by path, then file, then first byte
	// Incomplete says what could not be seen, in a few lines.
	Incomplete []string

	proc    *process.Proc
	options Options
	// requests are the threads that sleep for a lock, as far as their processes were
	// looked at.
	requests []request
	stats    map[int]process.Stat
	// loose says that any process may be missing, for a reason in Incomplete; refused
	// are those whose descriptors could not be seen.
	loose    bool
	refused  []int
	passedOn bool // a lock may have been passed on while we looked

	asleep map[int][]sleeper // see sleepers
	onFile map[File][]*Held

	details map[int]Details
	boot    time.Time
	bootErr error
}

// Options narrows a scan. The zero value takes all.
type Options struct {
	// Files, unless nil, picks the files. It must always give the same answer.
	Files func(File) bool

	whole bool // for tests: /proc/locks has all locks, whichever namespace we are in
}

// Scan looks for all locks. It reads /proc/locks first, then one statx(2) for each
// descriptor of each process, fdinfo for those of files that are locked, and for
// files that somebody waits for the system calls of threads.
func Scan(ctx context.Context, p *process.Proc, o Options) (*Table, error) {
	if o.Files == nil {
		o.Files = func(File) bool { return true }
	}
	for again := maxScans; ; again-- {
		t, err := scanOnce(ctx, p, o)
		if err != nil || again == 1 || !t.passedOn {
			return t, err
		}
	}
}

// maxScans bounds how often all is looked at anew because a lock was passed on from
// one process to another in that time, so that it was seen at neither.
const maxScans = 3

func scanOnce(ctx context.Context, p *process.Proc, o Options) (*Table, error) {
	s := &scan{
		options: o,
		finder:  finder{proc: p},
		paths:   map[File]place{},
		inos:    map[uint64]bool{},
		devs:    map[uint64]bool{},
		files:   map[node]File{},
	}
	s.records = s.read(s.want)
	if err := s.lookAround(ctx); err != nil {
		return nil, err
	}
	s.surroundings()
	t := &Table{proc: p, options: o}
	s.holders(t)
	s.orphans(t)
	s.waiters(t)
	s.places(t)
	slices.SortStableFunc(t.Locks, func(a, b Held) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), cmp.Compare(a.Major, b.Major), cmp.Compare(a.Minor, b.Minor),
			cmp.Compare(a.Ino, b.Ino), cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End))
	})
	t.Incomplete, t.stats, t.loose = s.why.lines(), s.stats, s.why.loose
	for pid, seen := range s.looked {
		if !seen {
			t.refused = append(t.refused, pid)
		}
	}
	return t, ctx.Err()
}

type scan struct {
	finder
	options Options
	records []record
	// all says that /proc/locks does not have all locks, so that fdinfo of every
	// descriptor has to be read.
	all bool
	// inos are the numbers of locked files; devs has the st_dev of file systems whose
	// files have the same number there as from stat(2), or false for those where it
	// is known that they need not (overlayfs).
	inos  map[uint64]bool
	devs  map[uint64]bool
	table []mounts.Mount
	files map[node]File // as far as lock lines tell
	paths map[File]place
	// foreign is the mount table of another namespace, that which was read last.
	foreign []mounts.Mount
}

// place is where a file is.
type place struct {
	path, within string
	foreign      bool
}

func (s *scan) want(l *Lock) bool { return s.options.Files(l.File()) }

// lookAround looks at the processes, if there is anything to look for.
func (s *scan) lookAround(ctx context.Context) error {
	// In a PID namespace below the machine's /proc/locks leaves out a flock whose
	// taker has ended. The descriptors that hold it have it.
	s.all = !s.proc.Initial() && !s.options.whole || len(s.why.order) > 0
	waited := false
	for _, r := range s.records {
		s.inos[r.held.Ino] = true
		waited = waited || len(r.waiting) > 0
	}
	if !s.all && len(s.records) == 0 {
		return nil
	}
	if err := s.superblocks(); err != nil {
		s.why.add(reason{text: "the mount table cannot be read: " + cause(err), loose: true}, "")
	}
	s.view = &scanView{scan: s, waited: waited, devs: s.devs}
	if err := s.processes(ctx); err != nil {
		return err
	}
	slices.SortFunc(s.found, func(a, b sighting) int { return cmp.Or(cmp.Compare(a.pid, b.pid), cmp.Compare(a.fd, b.fd)) })
	for i := range s.found {
		x := &s.found[i]
		if len(x.locks) > 0 {
			s.files[x.node] = x.locks[0].File()
		}
		if x.path != "" {
			s.reached(x, x.path)
		}
	}
	return nil
}

// scanView is the view of who looks for all locks.
type scanView struct {
	scan   *scan // of which nothing changes meanwhile
	waited bool  // somebody waits
	devs   map[uint64]bool
	had    map[File]bool // whose path was asked for
}

func (v *scanView) fork() view {
	return &scanView{v.scan, v.waited, maps.Clone(v.devs), map[File]bool{}}
}

// worth decides whether fdinfo of a file is read. /proc/locks has the inode number
// that the kernel counts by and the superblock's device. The number is that of
// stat(2) with few exceptions, files of overlayfs whose layers are on several file
// systems; the device is not on overlayfs and btrfs.
func (v *scanView) worth(n process.Inode) bool {
	if n.Mode&syscall.S_IFMT == syscall.S_IFSOCK {
		return false
	}
	return v.scan.all || v.scan.inos[n.Ino] || !v.devs[n.Dev]
}

// keep takes from a descriptor what it tells about the numbers of its file system.
// One without a lock may be what a thread waits with.
func (v *scanView) keep(x *sighting) (keep, path bool) {
	if _, known := v.devs[x.node.dev]; !known && x.info.Ino == x.node.ino {
		v.devs[x.node.dev] = true
	}
	if len(x.locks) == 0 {
		return v.waited || v.scan.all, false
	}
	file := x.locks[0].File()
	if !v.scan.want(&x.locks[0]) {
		return false, false
	}
	path = !v.had[file]
	if path {
		v.had[file] = mounts.ByID(v.scan.table, x.info.MountID) != nil // else rather another one
	}
	return true, path
}

// reached notes the path of a sighting: rather one that we can use ourselves.
func (s *scan) reached(x *sighting, path string) {
	m := mounts.ByID(s.table, x.info.MountID)
	now := place{path: path, foreign: m == nil}
	if m == nil {
		m = mounts.ByID(s.tableOf(x), x.info.MountID)
	}
	if m != nil {
		now.within, _ = within(m, path)
	}
	if file := s.fileOf(x); s.paths[file].path == "" || !now.foreign {
		s.paths[file] = now
	}
}

// tableOf is the mount table of a process, or what is left of the last one that has
// this mount.
func (s *scan) tableOf(x *sighting) []mounts.Mount {
	if mounts.ByID(s.foreign, x.info.MountID) == nil {
		if text, err := s.proc.ReadFile(strconv.Itoa(x.pid) + "/mountinfo"); err == nil {
			s.foreign, _ = mounts.ParseText(text)
		}
	}
	return s.foreign
}

// within is a path as seen from the root of the file system that is mounted by m.
func within(m *mounts.Mount, path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(m.Point, "/"))
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	return strings.TrimSuffix(m.Root, "/") + rest, true
}

// superblocks reads the mount table: the file systems in it are known.
func (s *scan) superblocks() error {
	text, err := s.proc.MountInfo(false)
	if err != nil {
		return err
	}
	if s.table, err = mounts.ParseText(text); err != nil {
		return err
	}
	for i := range s.table {
		m := &s.table[i]
		s.devs[linux.Makedev(m.Major, m.Minor)] = m.FSType != "overlay"
	}
	return nil
}

// fileOf is the file of a sighting. Where no lock has told its superblock, the
// mount table may.
func (s *scan) fileOf(x *sighting) File {
	if len(x.locks) > 0 {
		return x.locks[0].File()
	}
	if file, ok := s.files[x.node]; ok {
		return file
	}
	ino := x.info.Ino
	if ino == 0 {
		ino = x.node.ino
	}
	if m := mounts.ByID(s.table, x.info.MountID); m != nil {
		return File{m.Major, m.Minor, ino}
	}
	// A mount of another namespace. Of most file systems the device is stat's.
	return File{linux.Major(x.node.dev), linux.Minor(x.node.dev), ino}
}

// holders brings the locks and the descriptors together.
func (s *scan) holders(t *Table) {
	sights := map[Lock][]int{} // indices in s.found
	for i := range s.found {
		for _, l := range s.found[i].locks {
			sights[l] = append(sights[l], i)
		}
	}
	count := map[Lock]int{}
	for _, r := range s.records {
		count[r.held]++
	}
	groups := map[Lock][][]int{}
	for l, list := range sights {
		if count[l] == 1 {
			groups[l] = [][]int{list}
		} else {
			groups[l] = s.descriptions(list)
		}
	}
	for _, r := range s.records {
		h := Held{Lock: r.held}
		for _, l := range r.waiting {
			h.Waiters = append(h.Waiters, Waiter{Process: process.Process{PID: l.PID}, Lock: l, FD: -1})
		}
		if g := groups[r.held]; len(g) > 0 {
			h.Holders, groups[r.held] = s.sharers(r.held, g[0]), g[1:]
		}
		t.Locks = append(t.Locks, h)
	}
	// What /proc/locks did not have: taken since, or by one who has ended.
	for l, left := range groups {
		for _, g := range left {
			t.Locks = append(t.Locks, Held{Lock: l, Holders: s.sharers(l, g)})
		}
	}
}

// places gives every lock the path of its file.
func (s *scan) places(t *Table) {
	for i := range t.Locks {
		h := &t.Locks[i]
		file := h.File()
		if s.paths[file].path == "" {
			s.pathOfWaiter(file)
		}
		h.Path, h.Within, h.Foreign = s.paths[file].path, s.paths[file].within, s.paths[file].foreign
		for k := range s.table {
			if m := &s.table[k]; h.Path == "" && m.Major == h.Major && m.Minor == h.Minor {
				h.Mount = m.Point
				break
			}
		}
	}
}

// pathOfWaiter looks for the path of a file at those who have it open without a
// lock.
func (s *scan) pathOfWaiter(file File) {
	for i := range s.found {
		x := &s.found[i]
		if len(x.locks) > 0 || s.fileOf(x) != file {
			continue
		}
		path, ok := answer(func() string {
			path, _ := s.proc.Readlink(strconv.Itoa(x.pid) + "/fd/" + strconv.Itoa(x.fd))
			return path
		})
		if ok && path != "" {
			s.reached(x, path)
			return
		}
	}
}

// sharers are the holders that were sighted.
func (s *scan) sharers(l Lock, list []int) []Holder {
	holders := make([]Holder, 0, len(list))
	for _, i := range list {
		x := &s.found[i]
		holders = append(holders, Holder{s.name(x.pid), x.fd, l})
	}
	slices.SortFunc(holders, func(a, b Holder) int { return cmp.Or(cmp.Compare(a.PID, b.PID), cmp.Compare(a.FD, b.FD)) })
	return holders
}

// descriptions splits descriptors with locks that look the same by their open file
// description, of which each has a lock of its own. Where the kernel does not say
// which is which they stay together.
func (s *scan) descriptions(list []int) (groups [][]int) {
	var failed error
	order := func(i, k int) int {
		x, y := &s.found[i], &s.found[k]
		n, err := linux.CompareFile(x.pid, x.fd, y.pid, y.fd)
		if err != nil {
			failed = err
		}
		return n
	}
	list = slices.DeleteFunc(list, func(i int) bool { // closed since
		failed = nil
		order(i, i)
		return errors.Is(failed, syscall.EBADF) || errors.Is(failed, syscall.ESRCH)
	})
	if failed = nil; len(list) == 0 {
		return nil
	}
	slices.SortStableFunc(list, order)
	for n, i := range list {
		if n > 0 && order(list[n-1], i) == 0 {
			groups[len(groups)-1] = append(groups[len(groups)-1], i)
		} else {
			groups = append(groups, []int{i})
		}
	}
	if failed != nil {
		return [][]int{list}
	}
	return groups
}

// orphans takes out the locks that were released while the processes were looked
// at, and says why others have no holder.
func (s *scan) orphans(t *Table) {
	orphan := func(h Held) bool { return len(h.Holders) == 0 }
	if !slices.ContainsFunc(t.Locks, orphan) {
		return
	}
	left := map[Lock]int{}
	for _, r := range s.read(s.want) {
		left[r.held]++
	}
	for _, h := range t.Locks {
		if !orphan(h) {
			left[h.Lock]--
		}
	}
	t.Locks = slices.DeleteFunc(t.Locks, func(h Held) bool {
		if orphan(h) {
			left[h.Lock]--
		}
		return orphan(h) && left[h.Lock] < 0
	})
	for i := range t.Locks {
		h := &t.Locks[i]
		switch {
		case !orphan(*h):
		case s.taker(h.Lock):
			h.Holders = []Holder{{s.name(h.PID), -1, h.Lock}}
		case s.proc.Initial():
			h.Where = Unseen
			t.passedOn = true
		default:
			h.Where = Outside
		}
	}
}
