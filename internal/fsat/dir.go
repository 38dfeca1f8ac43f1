package fsat

import (
	"errors"
	"path"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// Dir is a held directory. The zero value is closed. Methods may be called
// from several goroutines; Close only once, when no other call is under way.
type Dir struct{ fd int }

// OpenDir opens the directory at a path that a trusted person named; links in
// it are followed. It is how a root handle is made.
func OpenDir(name string) (*Dir, error) {
	fd, err := linux.Openat(linux.AT_FDCWD, name, linux.O_PATH|linux.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &Dir{fd}, nil
}

// DirOf makes a Dir of a descriptor that the caller gives away.
func DirOf(fd int) *Dir { return &Dir{fd} }

// Fd is the descriptor; it stays the Dir's.
func (d *Dir) Fd() int { return d.fd }

// Close closes the descriptor.
func (d *Dir) Close() error {
	fd := d.fd
	d.fd = -1
	return linux.Close(fd)
}

// ValidName refuses what is not one name in a directory.
func ValidName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
		return &NameError{name}
	}
	return nil
}

// NameError says that a string is not one name in a directory.
type NameError struct{ Name string }

func (e *NameError) Error() string {
	if len(e.Name) > 255 {
		return "file name too long (" + e.Name[:32] + "…)"
	}
	return "not a file name: " + path.Base(e.Name)
}

// Unwrap lets errors.Is see what the kernel would have said.
func (e *NameError) Unwrap() error {
	if len(e.Name) > 255 {
		return syscall.ENAMETOOLONG
	}
	return syscall.EINVAL
}

// Stat asks for the inode at name; a link is not followed. An empty name means
// the directory itself.
func (d *Dir) Stat(name string, st *Stat) error { return StatAt(d.fd, name, st) }

// OpenDir holds the directory at name; a link is ELOOP or ENOTDIR.
func (d *Dir) OpenDir(name string) (*Dir, error) {
	fd, err := linux.Openat(d.fd, name, linux.O_PATH|linux.O_DIRECTORY|linux.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return &Dir{fd}, nil
}

// OpenNode holds the inode at name, whatever it is; a link is held itself.
func (d *Dir) OpenNode(name string) (*Node, error) {
	fd, err := linux.Openat(d.fd, name, linux.O_PATH|linux.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return &Node{fd: fd}, nil
}

// OpenWork opens what is at name for work on its content (O_RDONLY, O_WRONLY,
// O_APPEND, ...). A link is ELOOP; a FIFO or terminal is never waited for, and
// never becomes the controlling one.
func (d *Dir) OpenWork(name string, flags int) (*Node, error) {
	fd, err := linux.Openat(d.fd, name, flags|linux.O_NOFOLLOW|linux.O_NONBLOCK|linux.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	return &Node{fd: fd, work: true}, nil
}

// Readlink reads the link at name.
func (d *Dir) Readlink(name string) (string, error) { return linux.Readlinkat(d.fd, name) }

// Names lists the directory, without . and .., in the kernel's order. The
// listing is made through a descriptor of its own, so it may be repeated. The
// access time of the directory is left alone where the kernel allows it.
func (d *Dir) Names() ([]string, error) {
	fd, err := OpenForListing(d.fd, ".")
	if err != nil {
		return nil, err
	}
	defer linux.Close(fd)
	var names []string
	buf := make([]byte, 2<<10) // most directories are small, and a page that is touched costs a fault
	for {
		n, err := linux.Getdents(fd, buf)
		if err != nil || n == 0 {
			return names, err
		}
		for e := range Entries(buf[:n]) {
			names = append(names, string(e.Name))
		}
		if n > len(buf)/2 && len(buf) < 32<<10 {
			buf = make([]byte, 32<<10)
		}
	}
}

// OpenForListing opens the directory at name below dirfd for reading. A link is
// not followed, and O_NOATIME is used where the caller may (the owner, or
// CAP_FOWNER).
func OpenForListing(dirfd int, name string) (int, error) {
	const flags = linux.O_RDONLY | linux.O_DIRECTORY | linux.O_NOFOLLOW | linux.O_NONBLOCK
	fd, err := linux.Openat(dirfd, name, flags|linux.O_NOATIME, 0)
	if errors.Is(err, syscall.EPERM) {
		fd, err = linux.Openat(dirfd, name, flags, 0)
	}
	return fd, err
}

// Unlink removes a node that is not a directory.
func (d *Dir) Unlink(name string) error { return linux.Unlinkat(d.fd, name, 0) }

// Rmdir removes an empty directory.
func (d *Dir) Rmdir(name string) error { return linux.Unlinkat(d.fd, name, linux.AT_REMOVEDIR) }
