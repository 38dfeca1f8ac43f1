package fsat

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// CopyFile makes a copy of a regular file at name, with the owner and mode of
// a, and the times and user.* extended attributes of the source. It appears
// when it is complete. src is open for reading, at its beginning. Reflinks and
// copy_file_range(2) are used where they work.
func (d *Dir) CopyFile(name string, src *Node, st *Stat, a Attr) error {
	return d.makeFile(name, a, func(n *Node) error {
		if err := copyData(src.fd, n.fd); err != nil {
			return err
		}
		copyUserXattrs(src.fd, n.fd)
		return linux.Futimens(n.fd, st.Atime, st.Mtime)
	})
}

// CopyTimes gives the node at name the times of st and, for directories, the
// user.* extended attributes of src.
func (d *Dir) CopyTimes(name string, src *Dir, st *Stat) error {
	if src != nil {
		if from, err := OpenForListing(src.fd, "."); err == nil {
			if to, err := OpenForListing(d.fd, name); err == nil {
				copyUserXattrs(from, to)
				linux.Close(to)
			}
			linux.Close(from)
		}
	}
	return linux.Utimensat(d.fd, name, st.Atime, st.Mtime)
}

// LinkFrom makes name another name of the file at old below from.
func (d *Dir) LinkFrom(name string, from *Dir, old string) error {
	return linux.Linkat(from.fd, old, d.fd, name, 0)
}

// MoveIn renames a node made under a temporary name, unless name is taken.
func (d *Dir) MoveIn(tmp, name string) error { return d.moveIn(tmp, name) }

// TempName is a free name for a node that is moved in later.
func TempName() string { return tempName() }

func copyData(in, out int) error {
	if linux.Ficlone(out, in) == nil {
		return nil
	}
	copied := false
	for {
		n, err := linux.CopyFileRange(in, out, 1<<30)
		switch {
		case err == nil && n == 0 && copied:
			return nil
		case err == nil && n == 0:
			// Nothing at once: an empty file, or one of those in /proc and
			// /sys whose size is 0 and which only read(2) can copy.
			return copyByHand(in, out)
		case err == nil:
			copied = true
		case copied || !copyRangeUnfit(err):
			return err
		default:
			return copyByHand(in, out)
		}
	}
}

func copyRangeUnfit(err error) bool {
	for _, e := range []error{syscall.EXDEV, syscall.ENOSYS, syscall.EPERM, syscall.EOPNOTSUPP, syscall.EINVAL, syscall.EBADF, syscall.EIO, syscall.ETXTBSY} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func copyByHand(in, out int) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := linux.Read(in, buf)
		if err != nil || n == 0 {
			return err
		}
		if err := linux.WriteAll(out, buf[:n]); err != nil {
			return err
		}
	}
}

// copyUserXattrs copies what it can: a file system without extended attributes
// is no reason to refuse a copy.
func copyUserXattrs(in, out int) {
	CopyXattrs(in, out, func(name string) bool { return strings.HasPrefix(name, "user.") })
}

// CopyXattrs copies the extended attributes whose name want takes from one
// descriptor to another; neither is O_PATH. The result says of each that could
// not be copied which and why.
func CopyXattrs(in, out int, want func(name string) bool) (lost []error) {
	size, err := linux.Flistxattr(in, nil)
	if err != nil || size == 0 {
		return nil // the file system has none
	}
	names := make([]byte, size+256)
	if size, err = linux.Flistxattr(in, names); err != nil {
		return []error{err}
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:size]), "\x00"), "\x00") {
		if name == "" || !want(name) {
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX of linux/limits.h
		n, err := linux.Fgetxattr(in, name, value)
		if err == nil {
			err = linux.Fsetxattr(out, name, value[:n], 0)
		}
		if err != nil {
			lost = append(lost, fmt.Errorf("%s: %w", name, err))
		}
	}
	return lost
}
