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
	// silent says that it was not asked: see walker.answers.
	silent bool
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
//
// The walk is there for the watches. What counts is one lookup of the whole path by
// the kernel, which may refuse what a walk can do (protected_symlinks in proc(5),
// nosymfollow in mount(8)), and needs a directory before a last "/.".
func (l *look) walk(path string, follow bool, mask uint32) *sight {
	for again := 3; ; again-- {
		s := l.follow(path, follow, mask)
		if s.silent || s.fd < 0 && !s.absent || l.confirmed(path, follow, s, again == 0) {
			return s
		}
		s.close()
	}
}

// confirmed asks the kernel for the whole path, and reports whether it finds what the
// walk has found. With force what it says replaces that.
func (l *look) confirmed(path string, follow bool, s *sight, force bool) bool {
	if path == "" {
		return true
	}
	flags := linux.O_PATH
	if !follow {
		flags |= linux.O_NOFOLLOW
	}
	fd, err := linux.Openat(linux.AT_FDCWD, path, flags, 0)
	var st syscall.Stat_t
	if err == nil {
		defer linux.Close(fd)
		err = linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st)
	}
	absent := errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR)
	switch {
	case err == nil && s.fd >= 0 && st.Dev == s.st.Dev && st.Ino == s.st.Ino, absent && s.absent:
		return true
	case err == nil || absent && !force:
		if force {
			s.close()
			s.absent, s.why = false, path+" changes faster than it can be looked at"
			l.blind("%s", s.why)
		}
		return force
	case absent:
		s.close()
		s.absent, s.why = true, fmt.Sprintf("the kernel finds nothing at %s (%v)", path, err)
	default:
		s.close()
		s.absent, s.why = false, fmt.Sprintf("the kernel does not follow %s to its end: %v", path, err)
	}
	l.blind("%s", s.why)
	return true
}

// follow is the walk.
func (l *look) follow(path string, follow bool, mask uint32) *sight {
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
	if !w.answers(w.dir, at) {
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
	if !w.mounted(name) {
		return false
	}
	fd, err := linux.Openat(w.dir, name, linux.O_PATH|linux.O_NOFOLLOW, 0)
	if err == nil {
		w.s.fd = fd
		if !w.answers(fd, w.join(name)) {
			return false
		}
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
		if !w.answers(fd, w.join(name)) {
			return false
		}
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

// answers reports whether what fd holds may be asked. A server, a process or another
// machine, may take a question and never answer; then whoever asked can neither end
// nor become another program, not even by SIGKILL (FUSE, fs/fuse/dev.c,
// request_wait_answer), and a thread of this process is this process. So nothing that
// lies there is asked. What "/" lies on has to answer, or nothing would run here.
func (w *walker) answers(fd int, path string) bool {
	m := w.mountQuietly(fd)
	if m == nil || mounts.Answers(m.FSType) || m.Point == "/" || m.FSType == "autofs" {
		return true
	}
	w.fail(false, "%s lies on a %s, mounted on %s: a server that does not answer would keep whoever asks for ever, so it is not asked", path, m.FSType, m.Point)
	w.s.silent, w.f.never = true, true
	return false
}

// mounted reports whether the entry name of the directory may be looked up: not in an
// automount, which would be mounted by that, or is an empty directory where it is not.
func (w *walker) mounted(name string) bool {
	m := w.mountQuietly(w.dir)
	if m == nil || m.FSType != "autofs" {
		return true
	}
	if at, err := w.proc.FdPath(w.dir); err == nil {
		table, err := w.shared.mounts.read(w.proc)
		for i := range table {
			if err == nil && table[i].FSType != "autofs" && table[i].Point == strings.TrimSuffix(at, "/")+"/"+name {
				return true
			}
		}
	}
	w.fail(false, "%s is an automount on which nothing is mounted yet, so what is in it cannot be told", m.Point)
	w.s.silent = true
	return false
}

// mountQuietly is the mount that fd lies on, found without asking its file system
// anything; nil where it is not known.
func (w *walker) mountQuietly(fd int) *mounts.Mount {
	if w.proc == nil {
		return nil
	}
	id, err := w.proc.MountID(fd)
	if err != nil {
		return nil
	}
	table, err := w.shared.mounts.read(w.proc)
	if err != nil {
		return nil
	}
	return mounts.ByID(table, id)
}
