package fsat

import (
	"errors"
	"strconv"
	"sync/atomic"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// Node is a held inode of any type. The descriptor is O_PATH unless the node
// was opened for work on its content. Not safe for concurrent use.
type Node struct {
	fd   int
	work bool // fd was opened for reading or writing, not with O_PATH
}

// NodeOf makes a Node of an O_PATH descriptor that the caller gives away.
func NodeOf(fd int) *Node { return &Node{fd: fd} }

// Fd is the descriptor; it stays the Node's.
func (n *Node) Fd() int { return n.fd }

// ForWork says that the descriptor is open for reading or writing.
func (n *Node) ForWork() bool { return n.work }

// Close closes the descriptor.
func (n *Node) Close() error {
	fd := n.fd
	n.fd = -1
	return linux.Close(fd)
}

// Stat asks for the held inode.
func (n *Node) Stat(st *Stat) error { return StatAt(n.fd, "", st) }

// Readlink reads the held link.
func (n *Node) Readlink() (string, error) { return linux.Readlinkat(n.fd, "") }

// TakeDir gives the descriptor away as a Dir; the inode must be a directory.
func (n *Node) TakeDir() *Dir {
	d := &Dir{n.fd}
	n.fd = -1
	return d
}

// Chown changes owner and group; ^uint32(0) leaves one as it is.
func (n *Node) Chown(uid, gid uint32) error { return linux.FchownatEmpty(n.fd, uid, gid) }

var noFchmodat2 atomic.Bool

// Chmod changes the permissions. It never follows a link; on a link it is
// EOPNOTSUPP.
func (n *Node) Chmod(mode uint32) error {
	if n.work {
		return linux.Fchmod(n.fd, mode)
	}
	if !noFchmodat2.Load() {
		err := linux.Fchmodat2Empty(n.fd, mode)
		if err == nil || !Absent(err) {
			return err
		}
		// EPERM may be the file's own answer: then the older way says so too.
		if err2 := n.chmodOld(mode); err2 != nil {
			return err2
		}
		noFchmodat2.Store(true)
		return nil
	}
	return n.chmodOld(mode)
}

func (n *Node) chmodOld(mode uint32) error {
	err := linux.Chmod(n.procPath(), mode)
	if err == nil || !NotExist(err) {
		return err
	}
	// No /proc: a descriptor that is open for work takes fchmod(2).
	return n.reopened(func(fd int) error { return linux.Fchmod(fd, mode) })
}

// procPath names the held inode for calls that take a path.
func (n *Node) procPath() string { return "/proc/self/fd/" + strconv.Itoa(n.fd) }

// ErrNeedsProc is the reason why an inode that is neither a directory nor a
// regular file cannot be changed on an old kernel without /proc.
var ErrNeedsProc = errors.New("needs /proc: mount it first")

// reopened calls do with a descriptor of the held inode that is open for
// reading. Without /proc only a directory can be opened from its O_PATH
// descriptor (as "."); anything else would have to be looked up by name again.
func (n *Node) reopened(do func(fd int) error) error {
	var st Stat
	if err := n.Stat(&st); err != nil {
		return err
	}
	if !st.IsDir() {
		return ErrNeedsProc
	}
	fd, err := OpenForListing(n.fd, ".")
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	return do(fd)
}

// OpenFile opens the held regular file or directory for work on its content
// (O_RDONLY, O_WRONLY, ...). Where /proc is missing only a directory can be
// opened.
func (n *Node) OpenFile(flags int) (int, error) {
	fd, err := linux.Openat(linux.AT_FDCWD, n.procPath(), flags|linux.O_NONBLOCK|linux.O_NOCTTY, 0)
	if err != nil && NotExist(err) {
		var st Stat
		if n.Stat(&st) == nil && st.IsDir() {
			return OpenForListing(n.fd, ".")
		}
		return -1, ErrNeedsProc
	}
	return fd, err
}

// Setxattr sets an extended attribute on the held inode; a link itself takes
// none from the user namespace (xattr(7)). It goes through /proc/self/fd:
// setxattrat(2) of Linux 6.13 refuses an O_PATH descriptor with an empty path
// (EBADF), so it is of no use here.
func (n *Node) Setxattr(name string, value []byte) error {
	if n.work {
		return linux.Fsetxattr(n.fd, name, value, 0)
	}
	err := linux.Setxattr(n.procPath(), name, value, 0)
	if err == nil || !NotExist(err) {
		return err
	}
	return n.reopened(func(fd int) error { return linux.Fsetxattr(fd, name, value, 0) })
}

// Removexattr removes an extended attribute; ENODATA says that it was not there.
func (n *Node) Removexattr(name string) error {
	if n.work {
		return linux.Fremovexattr(n.fd, name)
	}
	err := linux.Removexattr(n.procPath(), name)
	if err == nil || !NotExist(err) {
		return err
	}
	return n.reopened(func(fd int) error { return linux.Fremovexattr(fd, name) })
}

// Getxattr reads an extended attribute; ENODATA says that it is not there,
// EOPNOTSUPP that the file system has none.
func (n *Node) Getxattr(name string) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		size, err := n.getxattr(name, buf)
		if err == nil {
			return buf[:size], nil
		}
		if !errors.Is(err, syscall.ERANGE) {
			return nil, err
		}
		if size, err = n.getxattr(name, nil); err != nil {
			return nil, err
		}
		buf = make([]byte, size+64)
	}
}

func (n *Node) getxattr(name string, buf []byte) (int, error) {
	if n.work {
		return linux.Fgetxattr(n.fd, name, buf)
	}
	size, err := linux.Getxattr(n.procPath(), name, buf)
	if err != nil && NotExist(err) {
		err = n.reopened(func(fd int) error {
			var err error
			size, err = linux.Fgetxattr(fd, name, buf)
			return err
		})
	}
	return size, err
}
