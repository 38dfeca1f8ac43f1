package tmpfiles

import (
	"math"
	"path"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/glob"
	"github.com/slashrun/slashrun/internal/linux"
)

// Stats is how far a clean-up is, for a person who waits.
type Stats struct {
	Seen    uint64 // entries of directories looked at
	Removed uint64 // of those, removed
}

// cleaner is what all walks of a run share: which paths have lines of their
// own, and what was found out about locks and sockets.
type cleaner struct {
	plain   *ownPath
	set     *glob.Set
	workers int
	sockets boundSockets
	locks   heldLocks // dry runs
	// remember says that a dry run has to remember every name that would be
	// gone, because something that follows could meet it again.
	remember bool
	noStatx  atomic.Bool
	seen     atomic.Uint64
	removed  atomic.Uint64
}

// ownPath is a component of a plain path, with those below it.
type ownPath struct {
	own   bool // a line is for this very path
	below map[string]*ownPath
}

// cleaning compiles what the configuration says about the paths that are left
// alone, once in a run. What has a line of its own, whatever its type, is
// never touched by the walk of another line.
func (r *run) cleaning() *cleaner {
	if r.clean != nil {
		return r.clean
	}
	c := &cleaner{workers: r.opt.Workers}
	if c.workers <= 0 {
		c.workers = runtime.GOMAXPROCS(0)
	}
	c.plain, c.set = r.cfg.governing()
	c.sockets.root = r.opt.Root
	if r.shadow != nil {
		c.workers = 1 // the shadow is not made for several
		c.remember = r.meetsItself()
	}
	r.clean = c
	return c
}

// meetsItself says that a run may come to what it removed before: what is
// created afterwards, or a second line that begins at the same node.
func (r *run) meetsItself() bool {
	if r.opt.Ops != Remove && r.opt.Ops != Clean && r.opt.Ops != Purge {
		return true
	}
	walks, patterns := 0, 0
	for _, t := range []*table{&r.cfg.plain, &r.cfg.globs} {
		for _, g := range t.order {
			for _, it := range g.items {
				switch {
				case r.opt.Ops == Remove && it.Type.in("DrR"), r.opt.Ops == Clean && it.Age.Set, r.opt.Ops == Purge && it.Mod.Purge:
					walks++
					if it.Type.Glob() {
						patterns++
					}
				}
			}
		}
	}
	return walks > 1 && patterns > 0
}

// governs gives what the configuration says about the entries of a directory.
func (c *cleaner) governs(dir string) (*ownPath, glob.Cursor) {
	own, cur := c.plain, c.set.Root()
	for part := range strings.SplitSeq(strings.Trim(dir, "/"), "/") {
		if part == "" {
			continue
		}
		own, cur = own.at(part), cur.Descend(part)
	}
	return own, cur
}

func (o *ownPath) at(name string) *ownPath {
	if o == nil {
		return nil
	}
	return o.below[name]
}

// cutoff is the moment before which all timestamps of a node must lie for it
// to be removed.
type cutoff struct {
	ever bool // everything is old enough
	sec  int64
	nsec uint32
	// Which timestamps count, for directories and for everything else.
	file, dir AgeBy
}

// cutoffOf is now minus the age of the line. Where the clock has not yet come
// that far, as with an infinite age, nothing is old.
func cutoffOf(it *Item, now time.Time) (c cutoff, ok bool) {
	usec := now.UnixMicro()
	if usec < 0 || it.Age.Usec > math.MaxInt64 || int64(it.Age.Usec) > usec {
		return c, false
	}
	usec -= int64(it.Age.Usec)
	return cutoff{sec: usec / 1e6, nsec: uint32(usec%1e6) * 1000, file: it.Age.File, dir: it.Age.Dir}, true
}

// keeps returns the name of a timestamp that is at or after the cutoff, or ""
// where the node is old. A time before 1970 is old, and so is one that the file
// system does not have.
func (c *cutoff) keeps(sx *linux.StatxT) string {
	if c.ever {
		return ""
	}
	by := c.file
	if sx.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		by = c.dir
	}
	young := func(sec int64, nsec uint32) bool {
		return sec >= 0 && (sec > c.sec || sec == c.sec && nsec >= c.nsec)
	}
	switch {
	case by&ByMtime != 0 && young(sx.Mtime.Sec, sx.Mtime.Nsec):
		return "modification time is too new"
	case by&ByAtime != 0 && young(sx.Atime.Sec, sx.Atime.Nsec):
		return "access time is too new"
	case by&ByCtime != 0 && young(sx.Ctime.Sec, sx.Ctime.Nsec):
		return "change time is too new"
	case by&ByBtime != 0 && sx.Mask&linux.STATX_BTIME != 0 && young(sx.Btime.Sec, sx.Btime.Nsec):
		return "birth time is too new"
	}
	return ""
}

// needs is the statx mask that judging by c and identifying a node takes.
func (c *cutoff) needs() int {
	mask := linux.STATX_TYPE | linux.STATX_MODE | linux.STATX_UID | linux.STATX_INO |
		linux.STATX_ATIME | linux.STATX_MTIME
	if (c.file|c.dir)&ByCtime != 0 {
		mask |= linux.STATX_CTIME
	}
	if (c.file|c.dir)&ByBtime != 0 {
		mask |= linux.STATX_BTIME
	}
	return mask
}

// cleanItem is --clean: it removes by age what lies in the directories of the
// line; r and R remove by age what they name.
func (r *run) cleanItem(it *Item) error {
	if !it.Age.Set {
		return nil
	}
	cut, ok := cutoffOf(it, time.Now())
	if !ok {
		return nil
	}
	switch {
	case it.Type.in("dDvqQC"):
		m, err := r.named(it)
		if m == nil || err != nil {
			return err
		}
		return r.cleanDir(it, *m, cut)
	case it.Type.in("exX"):
		return r.eachMatch(it, func(it *Item, m match) error { return r.cleanDir(it, m, cut) })
	case it.Type.in("rR"):
		return r.eachMatch(it, func(it *Item, m match) error { return r.removeAged(it, m, cut) })
	}
	return nil
}

func (r *run) cleanDir(it *Item, m match, cut cutoff) error {
	t, err := r.findTop(m, &cut)
	if t == nil || err != nil {
		return err
	}
	if !t.isDir() {
		r.debug(it, m.path, "is no directory, there is nothing to clean in it")
		return nil
	}
	if err := t.safeBelow(); err != nil {
		return err
	}
	defer t.close()
	if found, err := t.open(&cut); !found {
		return err
	}
	_, err = r.sweep(it, t, sweepOf{cut: cut, keepFirst: it.Age.KeepFirst, restore: true})
	return err
}

// named finds the node of a line with a plain path, as far as the directory
// that it lies in; nil where that does not exist.
func (r *run) named(it *Item) (*match, error) {
	dir, name := path.Split(it.Path)
	if name == "" {
		return &match{spot{place: r.walk.root}, ".", "/"}, nil
	}
	var at spot
	var err error
	if normalized(it.Path) {
		at, err = r.walk.dirAt(path.Clean(dir), false)
	} else {
		// Nothing is made here, so ".." is followed to where it leads.
		at, name, err = r.leadsTo(spot{place: r.walk.root}, owner{}, it.Path, it.Path)
	}
	switch {
	case nowhere(err):
		r.debug(it, it.Path, err.Error())
		return nil, nil
	case err != nil:
		return nil, err
	}
	if !normalized(it.Path) {
		return &match{at, name, path.Join(at.real, name)}, nil
	}
	return &match{at, name, it.Path}, nil
}

// nowhere says that a path does not lead to anything.
func nowhere(err error) bool {
	return err != nil && (isErrno(err, syscall.ENOENT) || isErrno(err, syscall.ENOTDIR))
}

// rawFd is the descriptor of a directory that really exists, or -1.
func rawFd(d directory) int {
	switch d := d.(type) {
	case realDir:
		return d.Fd()
	case *shadowDir:
		if d.under != nil {
			return d.under.Fd()
		}
	}
	return -1
}

// statx is statx(2) or, where that is absent, what an older call tells. name
// ends in a NUL byte; an empty one means fd itself.
func (c *cleaner) statx(mem linux.InMemory, fd int, name []byte, mask int, sx *linux.StatxT) error {
	flags := linux.AT_SYMLINK_NOFOLLOW | linux.AT_NO_AUTOMOUNT
	if len(name) == 1 {
		flags = linux.AT_EMPTY_PATH
	}
	if !c.noStatx.Load() {
		err := mem.StatxNul(fd, name, flags, mask, sx)
		if err == nil || !fsat.Absent(err) {
			return err
		}
	}
	var st fsat.Stat
	if err := fsat.StatAt(fd, string(name[:len(name)-1]), &st); err != nil {
		return err
	}
	if !st.MountRootKnown && st.Btime == fsat.NoTime {
		c.noStatx.Store(true)
	}
	setStatx(sx, &st)
	return nil
}

// setStatx is the way back from fsat.Stat.
func setStatx(sx *linux.StatxT, st *fsat.Stat) {
	*sx = linux.StatxT{
		Mask: linux.STATX_BASIC_STATS, Mode: uint16(st.Mode), Uid: st.UID, Ino: st.Ino,
		Dev_major: uint32(st.Dev >> 32), Dev_minor: uint32(st.Dev),
	}
	sx.Atime, sx.Mtime, sx.Ctime = statxTime(st.Atime), statxTime(st.Mtime), statxTime(st.Ctime)
	if st.Btime != fsat.NoTime {
		sx.Mask |= linux.STATX_BTIME
		sx.Btime = statxTime(st.Btime)
	}
	if st.MountRootKnown {
		sx.Attributes_mask |= linux.STATX_ATTR_MOUNT_ROOT
		if st.MountRoot {
			sx.Attributes |= linux.STATX_ATTR_MOUNT_ROOT
		}
	}
}

func statxTime(ns int64) linux.StatxTimestamp {
	sec, nsec := ns/1e9, ns%1e9
	if nsec < 0 {
		sec, nsec = sec-1, nsec+1e9
	}
	return linux.StatxTimestamp{Sec: sec, Nsec: uint32(nsec)}
}

func sameInode(a, b *linux.StatxT) bool {
	return a.Ino == b.Ino && a.Dev_major == b.Dev_major && a.Dev_minor == b.Dev_minor
}

func keyOfStatx(sx *linux.StatxT) inodeKey {
	return inodeKey{uint64(sx.Dev_major)<<32 | uint64(sx.Dev_minor), sx.Ino}
}
