package origin

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
)

// object is what a path leads to, held by an O_PATH descriptor: nothing is opened.
type object struct {
	path string // without links
	name string // in dir; "" for "/"
	dir  *fsat.Dir
	node *fsat.Node
	st   fsat.Stat
	// mount is where it lies, nil where the mount table does not tell.
	mount *mounts.Mount
}

func (o *object) close() {
	if o.dir != nil {
		o.dir.Close()
	}
	if o.node != nil {
		o.node.Close()
	}
}

// silentError says that a path lies on a file system that is asked nothing.
type silentError struct {
	at    string // the path of the mount point, or of what lies below it
	mount *mounts.Mount
	typ   Type
}

// typeOfSilent is what a mount point is that is not asked. The root of a FUSE file system
// the kernel knows by itself; NFS would look whether it is still there, and has
// directories alone.
func typeOfSilent(dirfd int, name string, m *mounts.Mount) Type {
	var st fsat.Stat
	if strings.HasPrefix(m.FSType, "fuse") {
		if _, err := fsat.StatKnown(dirfd, name, &st); err == nil && st.Mode != 0 {
			return typeOf(st.Mode)
		}
	}
	return Directory
}

func (e *silentError) Error() string {
	return fmt.Sprintf("it lies on %s, mounted on %s: a server that does not answer would block whoever asks, so it was not asked", e.mount.FSType, e.mount.Point)
}

// maxLinks is how many links a path may lead through, path_resolution(7).
const maxLinks = 40

// resolver walks a path one component at a time, with O_PATH alone: no FIFO or device
// is opened, no automount triggered, and a mount that may not answer not entered.
type resolver struct {
	table *table
	stack []held // the directories on the way, "/" first
	todo  []string
	links int
	last  bool // follow a link at the end, too
	limit *int
	path  []byte // to the top of the stack
}

// errTooLong: the path leads through more names than are looked up.
var errTooLong = errors.New("it leads through too many names, and was not followed to its end")

type held struct {
	name  string
	above int // how long the path to the directory above is
	dir   *fsat.Dir
	mount *mounts.Mount
}

// resolve holds what the absolute path leads to. Links in its directories are
// followed, a link at its end is not, unless the path ends in a slash.
func resolve(t *table, p string) (*object, error) {
	limit := maxLinks * 4096
	return resolveTo(t, p, false, &limit)
}

// resolveTo is resolve that follows a link at the end, too, if last is set. limit counts
// down the names that are looked up.
func resolveTo(t *table, p string, last bool, limit *int) (*object, error) {
	fd, err := linux.Openat(linux.AT_FDCWD, "/", linux.O_PATH|linux.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	r := &resolver{table: t, stack: []held{{dir: fsat.DirOf(fd), mount: t.point["/"]}}, todo: strings.Split(p, "/"), last: last, limit: limit}
	defer func() {
		for _, h := range r.stack {
			h.dir.Close()
		}
	}()
	return r.run()
}

func (r *resolver) top() *held { return &r.stack[len(r.stack)-1] }

func (r *resolver) pathTo(name string) string {
	switch {
	case name != "":
		return string(r.path) + "/" + name
	case len(r.path) == 0:
		return "/"
	}
	return string(r.path)
}

func (r *resolver) run() (*object, error) {
	for len(r.todo) > 0 {
		name := r.todo[0]
		r.todo = r.todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			if len(r.stack) > 1 {
				r.top().dir.Close()
				r.path = r.path[:r.top().above]
				r.stack = r.stack[:len(r.stack)-1]
			}
			continue
		}
		o, err := r.step(name)
		if err != nil || o != nil {
			return o, err
		}
	}
	return r.directory()
}

// step goes to the entry name, and returns it if it is what the path leads to.
func (r *resolver) step(name string) (*object, error) {
	if *r.limit--; *r.limit < 0 {
		return nil, errTooLong
	}
	at := r.pathTo(name)
	if m := r.table.silent[at]; m != nil {
		return nil, &silentError{at, m, typeOfSilent(r.top().dir.Fd(), name, m)}
	}
	node, err := r.top().dir.OpenNode(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: at, Err: inroot.Errno(err)}
	}
	o := &object{path: at, name: name, node: node, mount: r.top().mount}
	if err := r.look(o); err != nil {
		node.Close()
		return nil, err
	}
	switch {
	case o.st.IsSymlink() && (len(r.todo) > 0 || r.last):
		defer node.Close()
		return nil, r.follow(o)
	case o.st.IsDir() && len(r.todo) > 0:
		r.stack = append(r.stack, held{name, len(r.path), node.TakeDir(), o.mount})
		r.path = append(append(r.path, '/'), name...)
		return nil, nil
	case len(r.todo) > 0:
		node.Close()
		return nil, &fs.PathError{Op: "open", Path: at, Err: syscall.ENOTDIR}
	}
	fd, err := linux.Dup(r.top().dir.Fd())
	if err != nil {
		node.Close()
		return nil, err
	}
	o.dir = fsat.DirOf(fd)
	return o, nil
}

// look asks the kernel for the held object.
func (r *resolver) look(o *object) error {
	id, err := r.table.stat(o.node.Fd(), "", &o.st)
	if err != nil {
		return &fs.PathError{Op: "stat", Path: o.path, Err: inroot.Errno(err)}
	}
	m, silent := r.table.mount(id, o.path, o.mount)
	if silent {
		return &silentError{o.path, m, typeOfSilent(o.node.Fd(), "", m)}
	}
	o.mount = m
	return nil
}

// follow puts the target of a link in front of what is to be done.
func (r *resolver) follow(o *object) error {
	if r.links++; r.links > maxLinks {
		return &fs.PathError{Op: "open", Path: o.path, Err: syscall.ELOOP}
	}
	target, err := o.node.Readlink()
	if err != nil {
		return &fs.PathError{Op: "readlink", Path: o.path, Err: inroot.Errno(err)}
	}
	if magic(o, target) {
		return &fs.PathError{Op: "open", Path: o.path, Err: errors.New("a link of the kernel's leads to no path; name the place itself")}
	}
	if strings.HasPrefix(target, "/") {
		for _, h := range r.stack[1:] {
			h.dir.Close()
		}
		r.stack, r.path = r.stack[:1], r.path[:0]
	}
	r.todo = append(strings.Split(target, "/"), r.todo...)
	return nil
}

// magic reports whether a link is one of procfs's that its text does not explain
// (proc_pid_fd(5), proc_pid_root(5)).
func magic(o *object, target string) bool {
	if o.mount == nil || o.mount.FSType != "proc" {
		return false
	}
	switch path.Base(path.Dir(o.path)) {
	case "fd", "ns", "map_files":
		return true
	}
	return o.name == "root" || o.name == "cwd" || o.name == "exe" || !strings.HasPrefix(target, "/") && strings.Contains(target, ":[")
}

// directory is the result of a path that ends in a directory's name and a slash, or
// in "..": the last that was entered.
func (r *resolver) directory() (*object, error) {
	h := *r.top()
	fd, err := linux.Dup(h.dir.Fd())
	if err != nil {
		return nil, err
	}
	o := &object{path: r.pathTo(""), name: h.name, node: fsat.NodeOf(fd), mount: h.mount}
	if err := r.look(o); err != nil {
		o.close()
		return nil, err
	}
	if len(r.stack) > 1 {
		if fd, err = linux.Dup(r.stack[len(r.stack)-2].dir.Fd()); err != nil {
			o.close()
			return nil, err
		}
		o.dir = fsat.DirOf(fd)
	}
	return o, nil
}
