package tmpfiles

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
)

// maxLinks is how many links one walk follows, as the reference does; the
// kernel's own limit is 40 (path_resolution(7)).
const maxLinks = 32

// cachedPlaces is how many directories a run holds between two lines. One line
// may hold its own chain on top of that.
const cachedPlaces = 256

// UnsafeError says that a walk would go from a node that an unprivileged user
// owns to one that somebody else owns: that user could exchange what is below
// for something else at any time.
type UnsafeError struct {
	Path  string // the node that may not be trusted to lead on
	Owner uint32
	Next  string // where it leads
	Other uint32 // who owns that
	Link  bool   // Path is a link
}

func (e *UnsafeError) Error() string {
	what := "directory"
	if e.Link {
		what = "link"
	}
	return fmt.Sprintf("unsafe path: the %s %s belongs to uid %d, but leads to %s, which belongs to uid %d; "+
		"uid %d could exchange it at any moment. Give both the same owner, or %s to root",
		what, e.Path, e.Owner, e.Next, e.Other, e.Owner, e.Path)
}

// Is lets it be recognised as the errno that chase-like functions use.
func (e *UnsafeError) Is(t error) bool { return t == syscall.ENOLINK }

// errAutofs says that the path lies below an automount point, which is left
// alone: triggering it could hang the boot.
var errAutofs = errors.New("below an automount point (autofs), skipped")

// place is a directory that was reached from the root, held open. There is one
// for each directory: real names it without links.
type place struct {
	dir  directory
	st   fsat.Stat
	up   *place // the directory above it; the root is its own
	real string
	used uint64
	// fresh says that the last line for a directory in it made one: so does the
	// next, probably.
	fresh bool
}

// spot is a place as a configured path leads to it.
type spot struct {
	*place
	// unsafe is the first unsafe transition on the way: nothing is changed
	// there, but patterns may look whether they match.
	unsafe *UnsafeError
}

// owner is the node that a walk passed last: a directory or a link.
type owner struct {
	uid  uint32
	path string
	link bool
}

// unsafeTo judges the transition to a node of another owner.
func (o owner) unsafeTo(uid uint32, path string) *UnsafeError {
	if o.uid == 0 || o.uid == uid {
		return nil
	}
	return &UnsafeError{Path: o.path, Owner: o.uid, Next: path, Other: uid, Link: o.link}
}

// walker resolves paths below a root handle, one component at a time, by
// descriptor, and keeps the directories that it passed. A directory that was
// judged safe when it was opened stays held: if it is moved afterwards, work
// goes on in that same directory.
type walker struct {
	root  *place
	real  map[string]*place // owns the descriptors
	paths map[string]spot   // where configured paths lead
	tick  uint64
	stale bool                                   // a directory on some path was replaced or removed by this line
	make  func(at spot, name, path string) error // makes a missing parent
}

func newWalker(root directory) (*walker, error) {
	p := &place{dir: root, real: "/"}
	if err := root.Stat("", &p.st); err != nil {
		return nil, err
	}
	p.up = p
	return &walker{root: p, real: make(map[string]*place), paths: make(map[string]spot)}, nil
}

// forget drops every held directory but the root: something on a path was
// replaced or removed.
func (w *walker) forget() {
	for _, p := range w.real {
		p.dir.Close()
	}
	clear(w.real)
	clear(w.paths)
}

// settle makes room between two lines: nothing that a line holds may be closed
// while it works.
func (w *walker) settle() {
	if w.stale {
		w.stale = false
		w.forget()
		return
	}
	if len(w.real) <= cachedPlaces {
		return
	}
	limit := w.tick - min(w.tick, cachedPlaces/2)
	keep := make(map[*place]bool)
	for _, p := range w.real {
		for q := p; p.used > limit && q != w.root && !keep[q]; q = q.up {
			keep[q] = true
		}
	}
	for real, p := range w.real {
		if !keep[p] {
			p.dir.Close()
			delete(w.real, real)
		}
	}
	for path, s := range w.paths {
		if s.place != w.root && !keep[s.place] {
			delete(w.paths, path)
		}
	}
}

// missingError says which component of a path does not exist.
type missingError struct {
	at   *place
	name string
	path string
}

func (e *missingError) Error() string { return e.path + ": no such file or directory" }
func (e *missingError) Unwrap() error { return syscall.ENOENT }

// dirAt holds the directory at a cleaned absolute path. With parents set,
// missing components are made, which is refused below an unsafe transition.
func (w *walker) dirAt(path string, parents bool) (spot, error) {
	if path == "/" {
		return spot{place: w.root}, nil
	}
	if s, ok := w.paths[path]; ok {
		w.tick++
		s.used = w.tick
		return s, nil
	}
	i := strings.LastIndexByte(path, '/')
	parent, err := w.dirAt(path[:max(i, 1)], parents)
	if err != nil {
		return spot{}, err
	}
	name := path[i+1:]
	s, err := w.enter(parent, name, path)
	var miss *missingError
	if parents && errors.As(err, &miss) && miss.at == parent.place && miss.name == name {
		if parent.unsafe != nil {
			return spot{}, parent.unsafe
		}
		if err := w.make(parent, name, path); err != nil && !errors.Is(err, syscall.EEXIST) {
			return spot{}, err
		}
		s, err = w.enter(parent, name, path)
	}
	if err != nil {
		return spot{}, err
	}
	w.paths[path] = s
	return s, nil
}

// enter steps from a held directory into name, following links.
func (w *walker) enter(at spot, name, path string) (spot, error) {
	links := 0
	return w.step(at, owner{at.st.UID, at.real, false}, name, path, &links)
}

// step goes from at, the last passed node being from, into name.
func (w *walker) step(at spot, from owner, name, path string, links *int) (spot, error) {
	if name == ".." {
		up := spot{at.up, at.unsafe}
		if up.unsafe == nil {
			up.unsafe = from.unsafeTo(up.st.UID, up.real)
		}
		return up, nil
	}
	real := join(at.real, name)
	p := w.real[real]
	if p == nil {
		// Mostly it is a directory; what else it may be is asked where it is none.
		var err error
		p, err = w.hold(at.place, name, real)
		if isErrno(err, syscall.ENOENT) {
			return spot{}, &missingError{at.place, name, path}
		}
		if isErrno(err, syscall.ENOTDIR) || isErrno(err, syscall.ELOOP) {
			var st fsat.Stat
			if at.dir.Stat(name, &st) == nil && st.IsSymlink() {
				return w.follow(at, from, name, path, &st, links)
			}
		}
		if err != nil {
			return spot{}, err
		}
	}
	w.tick++
	p.used = w.tick
	s := spot{p, at.unsafe}
	if s.unsafe == nil {
		s.unsafe = from.unsafeTo(p.st.UID, path)
	}
	return s, nil
}

// hold opens a directory and keeps it.
func (w *walker) hold(at *place, name, real string) (*place, error) {
	d, err := at.dir.OpenDir(name)
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return nil, fmt.Errorf("%s: %w; raise the limit on open files (ulimit -n)", real, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", real, err)
	}
	p := &place{dir: d, up: at, real: real}
	if err := d.Stat("", &p.st); err != nil {
		d.Close()
		return nil, err
	}
	if p.st.Dev != at.st.Dev {
		if magic, err := d.Magic(); err == nil && magic == linux.AUTOFS_SUPER_MAGIC {
			d.Close()
			return nil, errAutofs
		}
	}
	w.real[real] = p
	return p, nil
}

// follow goes where the link at name leads. The link counts as a node: its
// owner decides where it leads.
func (w *walker) follow(at spot, from owner, name, path string, st *fsat.Stat, links *int) (spot, error) {
	if *links++; *links > maxLinks {
		return spot{}, &linkLoopError{path}
	}
	target, err := at.dir.Readlink(name)
	if err != nil {
		return spot{}, err
	}
	cur := at
	if cur.unsafe == nil {
		cur.unsafe = from.unsafeTo(st.UID, path)
	}
	from = owner{st.UID, path, true}
	if strings.HasPrefix(target, "/") {
		cur.place = w.root
		if cur.unsafe == nil {
			cur.unsafe = from.unsafeTo(cur.st.UID, "/")
		}
		from = owner{cur.st.UID, "/", false}
	}
	for part := range strings.SplitSeq(target, "/") {
		if part == "" || part == "." {
			continue
		}
		if cur, err = w.step(cur, from, part, join(cur.real, part), links); err != nil {
			return spot{}, err
		}
		from = owner{cur.st.UID, cur.real, false}
	}
	return cur, nil
}

func join(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}

// linkLoopError is ELOOP with the path.
type linkLoopError struct{ path string }

func (e *linkLoopError) Error() string { return e.path + ": too many links in a row" }
func (e *linkLoopError) Unwrap() error { return syscall.ELOOP }
