package condition

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
)

// sight is what one look at a path has found. Close it.
type sight struct {
	fd int // an O_PATH descriptor of what the path leads to, -1 without
	st syscall.Stat_t
	// absent says that nothing is there; why says so in words, or why it cannot be
	// told.
	absent bool
	why    string
	// mount is the one that fd lies on, nil if it is not known. local says that no
	// other kernel changes what is on the way there.
	mount *mounts.Mount
	local bool
}

func (s *sight) close() {
	if s.fd >= 0 {
		linux.Close(s.fd)
		s.fd = -1
	}
}

// maxLinks is how many symbolic links are followed, as the kernel does
// (MAXSYMLINKS).
const maxLinks = 40

// walker follows a path as the kernel does, one name at a time, and has every
// directory on the way watched before it looks a name up there. So whatever makes
// the path lead elsewhere later is an event: an entry that comes or goes, a
// directory or a link that is exchanged. Only mounts are none; the mount table tells
// of them.
type walker struct {
	*look
	rest  []string
	dir   int    // O_PATH descriptor of the directory that is looked into
	shown string // its path, for messages
	from  string // the last link that was followed
	dev   uint64 // of dir, once its file system is known
	s     *sight
}

// walk looks where path leads. If follow is false the last name is taken as it is,
// link or not. mask adds events of the entries in the last directory.
func (l *look) walk(path string, follow bool, mask uint32) *sight {
	w := &walker{look: l, dir: -1, s: &sight{fd: -1, local: true}}
	defer func() {
		if w.dir >= 0 {
			linux.Close(w.dir)
		}
	}()
	if !w.start(path) {
		return w.s
	}
	mustDir := strings.HasSuffix(path, "/")
	for links := 0; len(w.rest) > 0; {
		name, last := w.rest[0], len(w.rest) == 1
		events := uint32(leaving)
		if last {
			events |= mask
		}
		w.watch(name, events)
		there := w.open(name)
		if !there && w.s.absent {
			w.watch(name, arriving) // and only then the look that counts
			there = w.open(name)
		}
		if !there {
			return w.s
		}
		through := !last || follow || mustDir
		// The text of a link of a process is not where it leads, proc_pid_fd(5).
		if through && w.isLink() && w.s.mount != nil && w.s.mount.FSType == "proc" && !w.magic(name) {
			return w.s
		}
		switch {
		case through && w.isLink():
			if links++; links > maxLinks {
				return w.fail(false, "too many levels of symbolic links on the way to %s", path)
			}
			slash, ok := w.link(name)
			if !ok {
				return w.s
			}
			mustDir = mustDir || last && slash
		case last && (!mustDir || w.isDir()):
			w.knowFile()
			return w.s
		case !w.isDir():
			return w.fail(true, "%s is no directory", w.join(name))
		default:
			w.shown = w.join(name)
			linux.Close(w.dir)
			w.dir, w.s.fd = w.s.fd, -1
			w.rest = w.rest[1:]
		}
	}
	w.s.fd, w.dir = w.dir, -1 // "/", or a path that ends in a link to it
	if err := linux.Fstatat(w.s.fd, "", linux.AT_EMPTY_PATH, &w.s.st); err != nil {
		w.fail(false, "cannot look at %s: %v", w.shown, err)
	}
	w.knowFile()
	return w.s
}

func (w *walker) isLink() bool { return w.s.st.Mode&syscall.S_IFMT == syscall.S_IFLNK }

func (w *walker) isDir() bool { return w.s.st.Mode&syscall.S_IFMT == syscall.S_IFDIR }

// fail ends the walk without a descriptor.
func (w *walker) fail(absent bool, format string, args ...any) *sight {
	w.s.close()
	w.s.absent, w.s.why = absent, fmt.Sprintf(format, args...)
	return w.s
}

// start begins at the root or the working directory.
func (w *walker) start(path string) bool {
	if w.dir >= 0 {
		linux.Close(w.dir)
		w.dir = -1
	}
	at := "."
	w.shown = ""
	if strings.HasPrefix(path, "/") {
		at, w.shown = "/", "/"
	}
	var err error
	if w.dir, err = linux.Openat(linux.AT_FDCWD, at, linux.O_PATH|linux.O_DIRECTORY, 0); err != nil {
		w.dir = -1
		w.blind("%v", err)
		w.fail(false, "cannot open the directory %s: %v", at, err)
		return false
	}
	w.rest = append(names(path), w.rest...)
	return true
}

// names are the parts of a path that lead somewhere.
func names(path string) (list []string) {
	for n := range strings.SplitSeq(path, "/") {
		if n != "" && n != "." {
			list = append(list, n)
		}
	}
	return list
}

func (w *walker) join(name string) string {
	if w.shown == "" || strings.HasSuffix(w.shown, "/") {
		return w.shown + name
	}
	return w.shown + "/" + name
}

// watch has the kernel tell of what happens to name in the directory.
func (w *walker) watch(name string, events uint32) {
	w.know(w.dir)
	if w.o.watched != nil {
		defer w.o.watched(w.join(name))
	}
	wd, err := addWatch(w.inotify, w.dir, events)
	if err != nil {
		w.unwatched(w.shown, err)
		return
	}
	w.interest(interest{wd, name, events}, interest{wd, "", leaving})
}

// open opens name and looks at it.
func (w *walker) open(name string) bool {
	w.s.absent, w.s.why = false, ""
	fd, err := linux.Openat(w.dir, name, linux.O_PATH|linux.O_NOFOLLOW, 0)
	if err == nil {
		w.s.fd = fd
		if err = linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &w.s.st); err == nil {
			return true
		}
	}
	path := w.join(name)
	switch {
	case errors.Is(err, syscall.ENOENT) && w.from != "":
		w.fail(true, "the link %s leads to %s, which is not there", w.from, path)
	case errors.Is(err, syscall.ENOENT) && len(w.rest) > 1:
		w.fail(true, "no such directory: %s", path)
	case errors.Is(err, syscall.ENOENT):
		w.fail(true, "there is no %s", path)
	case errors.Is(err, syscall.ENOTDIR):
		w.fail(true, "%s is no directory", w.shown)
	case errors.Is(err, syscall.EACCES):
		w.fail(false, "no permission to look into %s", w.shown)
		// Which may be given. The directory's own watch is asked for it.
		if wd, err := addWatch(w.inotify, w.dir, linux.IN_ATTRIB|leaving); err == nil {
			w.interest(interest{wd, "", linux.IN_ATTRIB})
		}
	default:
		w.blind("%v", err)
		w.fail(false, "cannot look at %s: %v", path, err)
	}
	return false
}

// link goes on where the link name leads. slash says that its text ends in one.
func (w *walker) link(name string) (slash, ok bool) {
	path := w.join(name)
	target, err := linux.Readlinkat(w.s.fd, "")
	w.s.close()
	if err != nil {
		w.blind("%v", err)
		w.fail(false, "cannot read the link %s: %v", path, err)
		return false, false
	}
	w.from = path
	w.rest = w.rest[1:]
	if strings.HasPrefix(target, "/") {
		return strings.HasSuffix(target, "/"), w.start(target)
	}
	w.rest = append(names(target), w.rest...)
	return strings.HasSuffix(target, "/"), true
}

// magic opens what a link of the procfs leads to, and puts it in the place of the
// link.
func (w *walker) magic(name string) bool {
	w.s.close()
	fd, err := linux.Openat(w.dir, name, linux.O_PATH, 0)
	if err == nil {
		w.s.fd = fd
		err = linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &w.s.st)
	}
	if err != nil {
		w.fail(errors.Is(err, syscall.ENOENT), "cannot follow %s: %v", w.join(name), err)
		return false
	}
	return true
}

// know finds out whether the kernel tells of every change on the file system that
// fd lies on: not where another machine, or a program, may change it.
func (w *walker) know(fd int) *mounts.Mount {
	var st syscall.Stat_t
	err := linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st)
	if err == nil && uint64(st.Dev) == w.dev && w.s.mount != nil {
		return w.s.mount
	}
	m, err := w.mountOf(fd)
	if err != nil {
		w.blind("which file system %s is on cannot be told: %v", w.shown, err)
		w.s.local, w.s.mount = false, nil
		return nil
	}
	w.dev, w.s.mount = uint64(st.Dev), m
	if !mounts.Local(m.FSType) {
		w.s.local = false
		w.blind("the kernel does not tell of all changes on a %s, as on %s", m.FSType, m.Point)
	}
	return m
}

// knowFile makes the sight's mount that of what was found.
func (w *walker) knowFile() {
	if w.s.fd >= 0 {
		w.s.mount = w.know(w.s.fd)
	}
}
