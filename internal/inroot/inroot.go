// Package inroot looks up paths below a directory as if it were "/": links are
// followed, absolute ones and those with too many ".." too, and never lead out.
// It is how --root= reads the configuration, the users and the os-release of
// another system.
//
// # Types
//
//   - [Root] is the directory, held by a descriptor.
//   - [Place] is where a path of it leads, with the links resolved, or that there
//     is nothing.
//
// # How
//
// A path without links takes one openat2(2) with RESOLVE_NO_SYMLINKS. Anything
// else, and every path where the call is missing (before Linux 5.6) or denied by
// seccomp, is walked one component at a time with O_PATH|O_NOFOLLOW; the walk keeps
// the directories on the way, so ".." cannot be used to get out, not even while
// somebody renames directories.
//
// # When something fails
//
//	nothing there        Resolve: a Place that does not Exist; OpenFile: fs.ErrNotExist
//	more than 40 links   ELOOP
//	a directory, device, FIFO or socket where a file is asked for
//	                     an error that says so; nothing blocks
//
// Errors name the path as it is written on the host.
//
// # When not to use it
//
// To change files: package fsat follows no link at all. And as a sandbox: a
// process that can rename the root itself decides what is in it.
package inroot

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// maxLinks is how many links one path may lead through, as in path_resolution(7).
const maxLinks = 40

// Root is a directory that paths are looked up in as if it were "/". It is safe
// for concurrent use.
type Root struct {
	fd     int
	prefix string // what its paths begin with on the host: "" for "/"
	plain  bool   // do without openat2; for tests of the fallback
}

// Open opens the directory path as a root. "" and "/" are the host's.
func Open(path string) (*Root, error) {
	r := &Root{}
	if path != "" {
		abs := path
		if !strings.HasPrefix(path, "/") {
			cwd, err := linux.Getcwd()
			if err != nil {
				return nil, fmt.Errorf("root directory %s: %w", path, err)
			}
			abs = cwd + "/" + path
		}
		r.prefix = strings.TrimSuffix(Simplify(abs), "/")
	}
	fd, err := linux.Openat(linux.AT_FDCWD, r.prefix+"/", linux.O_PATH|linux.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("root directory %s: %w", r.prefix+"/", err)
	}
	r.fd = fd
	return r, nil
}

// Close gives the directory back.
func (r *Root) Close() error { return linux.Close(r.fd) }

// Path returns how the absolute path p of the root is written on the host.
func (r *Root) Path(p string) string { return r.prefix + Simplify("/"+p) }

// Prefix returns what Path puts in front: "" for the host's root.
func (r *Root) Prefix() string { return r.prefix }

// Place is where a path of a root leads.
type Place struct {
	Path string // without links, from the root; as far as it can be told if there is nothing
	Fd   int    // O_PATH, or -1 where there is nothing
	Stat syscall.Stat_t
}

// Close gives the descriptor back, if there is one.
func (p *Place) Close() {
	if p.Fd >= 0 {
		linux.Close(p.Fd)
		p.Fd = -1
	}
}

// Exists reports whether there is anything.
func (p *Place) Exists() bool { return p.Fd >= 0 }

// Is reports whether there is a node of the type mode (syscall.S_IFREG...).
func (p *Place) Is(mode uint32) bool { return p.Exists() && p.Stat.Mode&syscall.S_IFMT == mode }

// Resolve follows path, links included, inside the root. Nothing being there is
// not an error: then Exists is false, and the path is as far as it can be told.
func (r *Root) Resolve(path string) (Place, error) {
	if p, err := r.direct(path); err == nil {
		return p, nil
	}
	// Links, or no openat2, or an error that the walk will meet again and name.
	w := walk{stack: []step{{fd: r.fd}}}
	defer w.close()
	p, err := w.run(path)
	if err != nil {
		return Place{Fd: -1}, &fs.PathError{Op: "open", Path: r.Path(path), Err: Errno(err)}
	}
	return p, nil
}

// Errno takes the name of the system call off err: the message names the path.
func Errno(err error) error {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}

// direct is Resolve for a path without links: one openat2 in place of an openat
// for every component.
func (r *Root) direct(path string) (Place, error) {
	clean := strings.TrimPrefix(Simplify("/"+path), "/")
	if r.plain || clean == "" || strings.HasSuffix(path, "/") || clean == ".." || strings.HasPrefix(clean, "../") || strings.Contains(clean, "/..") {
		return Place{Fd: -1}, syscall.ENOSYS
	}
	fd, err := linux.Openat2(r.fd, clean, linux.O_PATH|linux.O_NOFOLLOW, 0, linux.RESOLVE_NO_SYMLINKS|linux.RESOLVE_BENEATH)
	if errors.Is(err, fs.ErrNotExist) {
		return Place{Path: "/" + clean, Fd: -1}, nil // and no link on the way there
	}
	if err != nil {
		return Place{Fd: -1}, err
	}
	p := Place{Path: "/" + clean, Fd: fd}
	if err := linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &p.Stat); err != nil || p.Is(syscall.S_IFLNK) {
		p.Close()
		return p, syscall.ELOOP
	}
	return p, nil
}

// walk resolves a path one component at a time. It keeps every directory on the
// way, so ".." is the directory that it came from and never leaves the root,
// whatever is renamed meanwhile.
type walk struct {
	stack []step // the root first
	todo  []string
	links int
}

type step struct {
	name string
	fd   int
}

func (w *walk) top() *step { return &w.stack[len(w.stack)-1] }

func (w *walk) pop() {
	if len(w.stack) > 1 {
		linux.Close(w.top().fd)
		w.stack = w.stack[:len(w.stack)-1]
	}
}

func (w *walk) close() {
	for len(w.stack) > 1 {
		w.pop()
	}
}

// path returns the path to the top of the stack, then name.
func (w *walk) path(name ...string) string {
	var b strings.Builder
	for _, s := range w.stack[1:] {
		b.WriteString("/" + s.name)
	}
	for _, s := range name {
		b.WriteString("/" + s)
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}

func (w *walk) run(path string) (Place, error) {
	w.todo = strings.Split(path, "/")
	for len(w.todo) > 0 {
		name := w.todo[0]
		w.todo = w.todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			w.pop()
			continue
		}
		p := Place{Fd: -1}
		fd, err := linux.Openat(w.top().fd, name, linux.O_PATH|linux.O_NOFOLLOW, 0)
		if errors.Is(err, fs.ErrNotExist) {
			p.Path = Simplify(w.path(append([]string{name}, w.todo...)...))
			return p, nil
		}
		if err != nil {
			return p, err
		}
		p.Fd, p.Path = fd, w.path(name)
		if err := linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &p.Stat); err != nil {
			p.Close()
			return p, err
		}
		switch {
		case p.Is(syscall.S_IFLNK):
			err := w.follow(fd)
			p.Close()
			if err != nil {
				return p, err
			}
		case p.Is(syscall.S_IFDIR):
			w.stack = append(w.stack, step{name, fd})
		case len(w.todo) > 0: // a slash at the end counts: it asks for a directory
			p.Close()
			return p, syscall.ENOTDIR
		default:
			return p, nil
		}
	}
	return w.directory()
}

// follow puts the target of a link in front of what is to be done.
func (w *walk) follow(fd int) error {
	if w.links++; w.links > maxLinks {
		return syscall.ELOOP
	}
	target, err := linux.Readlinkat(fd, "")
	if err != nil {
		return err
	}
	if strings.HasPrefix(target, "/") {
		w.close()
	}
	w.todo = append(strings.Split(target, "/"), w.todo...)
	return nil
}

// directory is the result of a path that ends in a directory.
func (w *walk) directory() (Place, error) {
	p := Place{Path: w.path()}
	fd, err := linux.Dup(w.top().fd)
	if err != nil {
		return Place{Fd: -1}, err
	}
	p.Fd = fd
	if err := linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &p.Stat); err != nil {
		p.Close()
		return p, err
	}
	return p, nil
}

// OpenFile opens the regular file at path, links included, for reading.
func (r *Root) OpenFile(path string) (*File, error) {
	p, err := r.Resolve(path)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if !p.Exists() {
		return nil, &fs.PathError{Op: "open", Path: r.Path(path), Err: syscall.ENOENT}
	}
	if err := WrongType(p.Stat.Mode); err != nil {
		return nil, &fs.PathError{Op: "read", Path: r.Path(path), Err: err}
	}
	return r.openPlace(&p)
}

// openPlace opens the regular file at p for reading, by its name in the directory it
// is in: to open a descriptor anew takes /proc, which may be missing. If the file
// was replaced since, the new one is read.
func (r *Root) openPlace(p *Place) (*File, error) {
	shown := r.Path(p.Path)
	dir, name := p.Path[:strings.LastIndexByte(p.Path, '/')], p.Path[strings.LastIndexByte(p.Path, '/')+1:]
	parent, err := r.Resolve(dir)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	return OpenRegular(parent.Fd, name, shown)
}

// OpenRegular opens the regular file name of the directory dirfd for reading.
// Anything else is an error that says what it is; a FIFO does not block.
func OpenRegular(dirfd int, name, shown string) (*File, error) {
	fd, err := linux.Openat(dirfd, name, linux.O_RDONLY|linux.O_NOFOLLOW|linux.O_NONBLOCK|linux.O_NOCTTY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: shown, Err: Errno(err)}
	}
	var st syscall.Stat_t
	if err := linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st); err != nil {
		linux.Close(fd)
		return nil, &fs.PathError{Op: "stat", Path: shown, Err: Errno(err)}
	}
	if err := WrongType(st.Mode); err != nil {
		linux.Close(fd)
		return nil, &fs.PathError{Op: "read", Path: shown, Err: err}
	}
	return &File{fd: fd, name: shown}, nil
}

// WrongType says what a node is that is not a regular file.
func WrongType(mode uint32) error {
	switch mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		return nil
	case syscall.S_IFDIR:
		return syscall.EISDIR
	case syscall.S_IFIFO:
		return errors.New("is a FIFO, not a file")
	case syscall.S_IFSOCK:
		return errors.New("is a socket, not a file")
	case syscall.S_IFLNK:
		return syscall.ELOOP
	}
	return errors.New("is a device, not a file")
}

// Simplify removes doubled slashes and single periods. Two periods stay: what
// they mean depends on links.
func Simplify(p string) string {
	parts := strings.Split(p, "/")
	parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" || s == "." })
	s := strings.Join(parts, "/")
	if strings.HasPrefix(p, "/") {
		return "/" + s
	}
	return s
}
