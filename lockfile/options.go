package lockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Kind is which of the kernel's locks a [Lock] is. They do not see one another:
// all programs that share a file must use the same one.
type Kind uint8

const (
	// Flock is flock(2), the lock of flock(1) and of most daemons.
	Flock Kind = iota
	// OFD is an open file description lock, fcntl(2) F_OFD_SETLK, on the whole
	// file. It excludes, and is excluded by, the traditional record locks of
	// fcntl(2) and lockf(3) that other programs take. Linux 3.15.
	OFD
)

// String is "flock" or "ofd".
func (k Kind) String() string {
	switch k {
	case Flock:
		return "flock"
	case OFD:
		return "ofd"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Options say how a lock file is opened and used. The zero value is right for a
// daemon's own lock: flock(2), a file that only its owner can open, never
// removed.
type Options struct {
	// Kind is the kernel's lock to take.
	Kind Kind
	// Perm are the permission bits of a file that has to be made, exactly: the
	// umask takes none away. 0 means 0600. Everybody who may open the file can
	// hold the lock for as long as they like.
	Perm fs.FileMode
	// MustExist refuses to make the file.
	MustExist bool
	// Fair has everybody who must wait, readers and writers, wait in one queue,
	// and nobody pass it: readers who overlap cannot keep a writer waiting for
	// ever, nor can one who locks again as soon as it has released. All who use the
	// file must set it, and need permission to write to the file. See "Fairness" in
	// the package documentation.
	Fair bool
	// Remove removes the file when an exclusive lock is released, while the lock
	// is still held. All who use the file must check that what they locked is
	// still at the path, as this package always does and flock(1) does not.
	Remove bool
	// Dir, if not nil, is the directory that a relative path starts from
	// (openat(2)). Open keeps a descriptor of its own of it.
	Dir *os.File
}

// Errors that [errors.Is] finds in what the methods return.
var (
	// ErrHeld says that somebody else holds the lock.
	ErrHeld = errors.New("held by another")
	// ErrInUse says that this very Lock is held, or waiting, already.
	ErrInUse = errors.New("this Lock is held or waiting already; another holder in the same process needs a Lock of its own")
	// ErrNotHeld says that there is nothing to release.
	ErrNotHeld = errors.New("not held")
	// ErrReplaced says that the file that is locked is no longer the one at the
	// path: others lock another file there.
	ErrReplaced = errors.New("the locked file is no longer the one at this path")
	// ErrNotRegular says that a directory, link, device, socket or FIFO is at the
	// path.
	ErrNotRegular = errors.New("not a regular file")
)
