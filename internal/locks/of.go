package locks

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// Report is who uses the locks of one file.
type Report struct {
	Holders []Holder // by process, then descriptor; one that has two of the description is there twice
	Waiters []Waiter // in the order of /proc/locks; without thread and descriptor
	// Unseen are locks that are held by nobody whom we can see.
	Unseen []Lock
	// Incomplete says why holders may be missing, in a few lines.
	Incomplete []string
}

// Free reports whether it is proven that nobody held a lock on the file.
func (r *Report) Free() bool {
	return len(r.Holders) == 0 && len(r.Unseen) == 0 && len(r.Incomplete) == 0
}

// Of reports on the file that is open as fd, which may be an O_PATH descriptor.
// The caller's own locks are in it too.
func Of(ctx context.Context, p *process.Proc, fd int) (*Report, error) {
	var st syscall.Stat_t
	if err := linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st); err != nil {
		return nil, err
	}
	file, err := FileOf(p, fd)
	known := err == nil
	if err != nil && !errors.Is(err, ErrNoMount) {
		return nil, err
	}
	for again := maxScans; ; again-- {
		f := &finder{proc: p}
		if !known {
			f.why.add(reason{text: ErrNoMount.Error() + ", so /proc/locks cannot be searched"}, "")
		}
		r, err := f.report(ctx, uint64(st.Dev), st.Ino, func(l *Lock) bool { return known && l.File() == file })
		if err != nil || again == 1 || len(r.Unseen) == 0 { // a lock that was passed on meanwhile is nobody's
			return r, err
		}
	}
}

// oneFile is the view of who looks for one file.
type oneFile struct {
	node
	want func(*Lock) bool
}

func (o oneFile) worth(i process.Inode) bool { return node{i.Dev, i.Ino} == o.node }

func (o oneFile) keep(s *sighting) (keep, path bool) {
	// Where stat(2) was refused the locks tell which file it is.
	return s.node == o.node || len(s.locks) > 0 && o.want(&s.locks[0]), false
}

func (o oneFile) fork() view { return o }

// report looks once: dev and ino are the file as stat(2) gives it, want picks its
// locks.
func (f *finder) report(ctx context.Context, dev, ino uint64, want func(*Lock) bool) (*Report, error) {
	f.view = oneFile{node{dev, ino}, want}
	records := f.read(want)
	if err := f.processes(ctx); err != nil {
		return nil, err
	}
	f.surroundings()
	r := new(Report)
	for _, s := range f.found {
		for _, l := range s.locks {
			r.Holders = append(r.Holders, Holder{f.name(s.pid), s.fd, l})
		}
	}
	slices.SortFunc(r.Holders, func(a, b Holder) int {
		return cmp.Or(cmp.Compare(a.PID, b.PID), cmp.Compare(a.FD, b.FD), strings.Compare(a.Lock.Kind, b.Lock.Kind), cmp.Compare(a.Lock.Start, b.Lock.Start))
	})
	r.rest(f, records, want)
	r.Incomplete = f.why.lines()
	return r, nil
}

// read reads /proc/locks and notes what is wrong with it.
func (f *finder) read(want func(*Lock) bool) []record {
	t, err := readLocks(f.proc, want)
	if err != nil {
		f.why.add(reason{text: "/proc/locks cannot be read: " + cause(err), loose: true}, "")
	}
	if t.torn {
		f.why.add(reason{text: "locks come and go faster than /proc/locks can be read", loose: true}, "")
	}
	if t.unknown != nil {
		f.why.add(reason{text: t.unknown.Error(), loose: true}, "")
	}
	return t.records
}

// surroundings notes why processes may not even be in the procfs.
func (f *finder) surroundings() {
	if !f.proc.Initial() {
		f.why.add(reason{text: "processes outside of this PID namespace cannot be seen"}, "")
	}
	if why := f.proc.Hidden(); why != "" {
		f.why.add(reason{text: why, loose: true}, "")
	}
}

// rest sorts what only /proc/locks has.
func (r *Report) rest(f *finder, records []record, want func(*Lock) bool) {
	var open []Lock // held by no descriptor that was seen
	for _, rec := range records {
		for _, l := range rec.waiting {
			r.Waiters = append(r.Waiters, Waiter{Process: f.name(l.PID), Lock: l, FD: -1})
		}
		if !slices.ContainsFunc(r.Holders, func(h Holder) bool { return h.Lock == rec.held }) {
			open = append(open, rec.held)
		}
	}
	for _, l := range f.still(open, want) {
		if f.taker(l) {
			r.Holders = append(r.Holders, Holder{f.name(l.PID), -1, l})
		} else {
			r.Unseen = append(r.Unseen, l)
		}
	}
}

// still is those of the locks that /proc/locks still has. The others were released
// while the processes were looked at.
func (f *finder) still(list []Lock, want func(*Lock) bool) []Lock {
	if len(list) == 0 {
		return nil
	}
	now := f.read(want)
	return slices.DeleteFunc(list, func(l Lock) bool {
		return !slices.ContainsFunc(now, func(r record) bool { return r.held == l })
	})
}

// taker reports whether the process that took a lock counts as its holder though
// none of its descriptors was seen with it: because they must not be looked at, or
// because a thread of it has descriptors of its own, and the lock can belong to no
// other process.
func (f *finder) taker(l Lock) bool {
	alive, seen := f.alive(l.PID)
	return alive && (!seen || l.Kind == POSIX || l.Kind == Lease)
}

// ErrNoMount says that the superblock of a file is unknown.
var ErrNoMount = errors.New("the file's mount is not in our mount table")

// FileOf is the file that is open as fd, as the kernel's locks have it. It is
// ErrNoMount for one whose mount is in another mount namespace, or in none.
func FileOf(p *process.Proc, fd int) (File, error) {
	file, _, err := PlaceOf(p, fd)
	return file, err
}

// PlaceOf is FileOf, and its path from the root of the file system, as Held.Within
// has it.
func PlaceOf(p *process.Proc, fd int) (File, string, error) {
	info, err := p.FDInfo("self", fd)
	if err != nil {
		return File{}, "", err
	}
	text, err := p.MountInfo(false)
	if err != nil {
		return File{}, "", err
	}
	all, err := mounts.ParseText(text)
	if err != nil {
		return File{}, "", err
	}
	m := mounts.ByID(all, info.MountID)
	if m == nil {
		return File{}, "", ErrNoMount
	}
	if info.Ino == 0 { // before Linux 5.14
		var st syscall.Stat_t
		if err := linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st); err != nil {
			return File{}, "", err
		}
		info.Ino = st.Ino
	}
	path, err := p.FdPath(fd)
	if err != nil {
		return File{}, "", err
	}
	path, _ = within(m, path)
	return File{m.Major, m.Minor, info.Ino}, path, nil
}
