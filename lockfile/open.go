package lockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// How a lock file is opened: a link that was put there is not followed, a FIFO
// does not block, a terminal does not become ours. O_CLOEXEC is set always.
const openFlags = linux.O_NOFOLLOW | linux.O_NONBLOCK | linux.O_NOCTTY

// openFile opens the file at the path or makes it.
func (l *Lock) openFile() error {
	path := string(l.name[:len(l.name)-1])
	for range maxReplaced {
		err := l.openThere(path)
		if err == nil || !errors.Is(err, fs.ErrNotExist) || l.opts.MustExist {
			return err
		}
		fd, err := l.create(path)
		if err == nil {
			return l.adopt(fd)
		}
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return fmt.Errorf("it comes and goes: %d attempts", maxReplaced)
}

// openThere opens what is there. What is no regular file is not opened at all
// where that can be known before: opening a FIFO or a device does something.
func (l *Lock) openThere(path string) error {
	var st syscall.Stat_t
	if err := linux.FstatatNul(l.dir, l.name, &st, linux.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if err := regular(st.Mode); err != nil {
		return err
	}
	l.readOnly = nil
	fd, err := linux.Openat(l.dir, path, openFlags|linux.O_RDWR, 0)
	switch {
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ETXTBSY):
		l.readOnly = err
		fd, err = linux.Openat(l.dir, path, openFlags|linux.O_RDONLY, 0)
	}
	if errors.Is(err, syscall.ELOOP) {
		return fmt.Errorf("%w: a symbolic link", ErrNotRegular)
	}
	if err != nil {
		return err
	}
	return l.adopt(fd)
}

// adopt makes fd the open file.
func (l *Lock) adopt(fd int) error {
	var st syscall.Stat_t
	err := linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st)
	if err == nil {
		err = regular(st.Mode)
	}
	if err != nil {
		linux.Close(fd)
		return err
	}
	l.fd, l.dev, l.ino = fd, uint64(st.Dev), st.Ino
	return nil
}

func regular(mode uint32) error {
	what := "something unknown"
	switch mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		return nil
	case syscall.S_IFLNK:
		what = "a symbolic link"
	case syscall.S_IFDIR:
		what = "a directory"
	case syscall.S_IFIFO:
		what = "a FIFO"
	case syscall.S_IFSOCK:
		what = "a socket"
	case syscall.S_IFCHR, syscall.S_IFBLK:
		what = "a device"
	}
	return fmt.Errorf("%w: %s", ErrNotRegular, what)
}

// create makes the file with just the permissions that were asked for. fs.ErrExist
// says that somebody else made one meanwhile.
//
// A file for others must not be seen before they may open it: where the umask
// would take their permissions away it is made without a name first.
func (l *Lock) create(path string) (int, error) {
	perm := uint32(l.opts.Perm)
	if perm&0o077 != 0 {
		fd, err := l.createUnnamed(path, perm)
		if err == nil || errors.Is(err, fs.ErrExist) {
			return fd, err
		}
	}
	fd, err := linux.Openat(l.dir, path, openFlags|linux.O_RDWR|linux.O_CREAT|linux.O_EXCL, perm)
	if err != nil {
		return -1, err
	}
	var st syscall.Stat_t
	if err = linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st); err == nil && st.Mode&0o777 != perm {
		err = linux.Fchmod(fd, perm)
	}
	if err != nil {
		linux.Close(fd)
		return -1, err
	}
	return fd, nil
}

// createUnnamed makes the file by O_TMPFILE and links it, which takes a file
// system that can and a /proc, or CAP_DAC_READ_SEARCH.
func (l *Lock) createUnnamed(path string, perm uint32) (int, error) {
	dir := path[:strings.LastIndexByte(path, '/')+1] // not cleaned as text: "link/.." is not "."
	if dir == "" {
		dir = "."
	}
	fd, err := linux.Openat(l.dir, dir, linux.O_TMPFILE|linux.O_RDWR, perm)
	if err != nil {
		return -1, err
	}
	err = linux.Fchmod(fd, perm)
	if err == nil {
		err = linux.Linkat(linux.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), l.dir, path, linux.AT_SYMLINK_FOLLOW)
	}
	if err != nil {
		linux.Close(fd)
		return -1, err
	}
	return fd, nil
}
