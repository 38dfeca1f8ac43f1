package pidfile

import (
	"errors"
	"fmt"
	"strconv"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
)

const mode = 0o644

// makeNew makes the file at the path, whole and locked from the moment that it is
// there. EEXIST: another one is there.
func (c *creation) makeNew() (int, error) {
	fd, err := linux.Openat(c.dir.Fd(), ".", linux.O_TMPFILE|linux.O_RDWR, mode)
	if err == nil {
		if err = c.fill(fd); err == nil {
			if err = link(fd, c.dir.Fd(), c.name); err == nil {
				return fd, nil
			}
		}
		linux.Close(fd)
		if !cannotLink(err) {
			return -1, err
		}
	} else if !noTmpfile(err) {
		return -1, err
	}
	fd, tmp, err := c.makeNamed(fsat.TempName())
	if err != nil {
		return -1, err
	}
	if err = c.dir.MoveIn(tmp, c.name); err != nil {
		c.dir.Unlink(tmp)
		linux.Close(fd)
		return -1, err
	}
	return fd, nil
}

// replace puts a new file in the place of the old one. It is made under a
// temporary name that is always the same, mode 0600 and locked: whoever has that
// lock is the only one to take the file over, so what is found out then (still)
// stays true until the rename. Killed processes leave one such file at most.
func (c *creation) replace(old *fsat.Stat, still func() bool) (int, error) {
	fd, tmp, err := c.claim()
	if err != nil {
		return -1, err
	}
	if !c.current(old) || !still() {
		err = ErrLost
	} else if err = c.fill(fd); err == nil {
		err = linux.Renameat2(c.dir.Fd(), tmp, c.dir.Fd(), c.name, 0)
	}
	if err != nil {
		c.dir.Unlink(tmp) // ours for as long as we have its lock
		linux.Close(fd)
		return -1, err
	}
	return fd, nil
}

// claim makes the temporary file, or takes over the one that a killed process
// left. errUnderWay: another process is at it.
func (c *creation) claim() (int, string, error) {
	tmp := fsat.TempPrefix + c.name
	if fsat.ValidName(tmp) != nil {
		tmp = fsat.TempPrefix + c.name[:200]
	}
	for range attempts {
		fd, err := linux.Openat(c.dir.Fd(), tmp, linux.O_RDWR|linux.O_CREAT|linux.O_EXCL|openFlags, 0o600)
		if errors.Is(err, syscall.EEXIST) {
			fd, err = linux.Openat(c.dir.Fd(), tmp, linux.O_RDWR|openFlags, 0)
		}
		if fsat.NotExist(err) {
			continue
		}
		if err != nil {
			return -1, "", fmt.Errorf("the temporary file %s: %w", tmp, err)
		}
		err = linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB)
		var held, there fsat.Stat
		if err == nil {
			err = fsat.StatAt(fd, "", &held)
		}
		if err != nil {
			linux.Close(fd)
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return -1, "", errUnderWay
			}
			return -1, "", err
		}
		if c.dir.Stat(tmp, &there) != nil || !held.SameInode(&there) {
			linux.Close(fd) // it has become the PID file, or is gone
			continue
		}
		if !held.IsRegular() || held.Nlink != 1 {
			linux.Close(fd)
			return -1, "", fmt.Errorf("%s is in the way; remove it", tmp)
		}
		if err := linux.Ftruncate(fd, 0); err != nil {
			linux.Close(fd)
			return -1, "", err
		}
		return fd, tmp, nil
	}
	return -1, "", errUnderWay
}

func (c *creation) makeNamed(tmp string) (int, string, error) {
	fd, err := linux.Openat(c.dir.Fd(), tmp, linux.O_RDWR|linux.O_CREAT|linux.O_EXCL|openFlags, 0o600)
	if err != nil {
		return -1, "", err
	}
	if err := c.fill(fd); err != nil {
		c.dir.Unlink(tmp)
		linux.Close(fd)
		return -1, "", err
	}
	return fd, tmp, nil
}

// fill locks and writes an empty file that nobody else uses. It can be opened by
// others last, when they can no longer lock it.
func (c *creation) fill(fd int) error {
	if err := linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB); err != nil {
		return err
	}
	if err := linux.WriteAll(fd, []byte(c.text)); err != nil {
		return err
	}
	return linux.Fchmod(fd, mode)
}

// link gives an unnamed file its name: by AT_EMPTY_PATH, which takes
// CAP_DAC_READ_SEARCH, or by its link in /proc (open(2), O_TMPFILE).
func link(fd, dirfd int, name string) error {
	err := linux.Linkat(fd, "", dirfd, name, linux.AT_EMPTY_PATH)
	if fsat.NotExist(err) || errors.Is(err, syscall.EPERM) {
		return linux.Linkat(linux.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), dirfd, name, linux.AT_SYMLINK_FOLLOW)
	}
	return err
}

// cannotLink: neither CAP_DAC_READ_SEARCH nor /proc; EXDEV where the directory is
// on an overlay that cannot.
func cannotLink(err error) bool {
	for _, e := range []error{syscall.ENOENT, syscall.EPERM, syscall.EXDEV, syscall.EOPNOTSUPP} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// noTmpfile: the file system (EOPNOTSUPP), the kernel (EISDIR, ENOENT, EINVAL) or
// a filter (EPERM, ENOSYS) has no O_TMPFILE.
func noTmpfile(err error) bool {
	for _, e := range []error{syscall.EOPNOTSUPP, syscall.EISDIR, syscall.ENOENT, syscall.EINVAL, syscall.ENOSYS, syscall.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// rewrite writes the text over a file of used bytes, in one write(2) that ends
// beyond them: blank lines, which are cut off then. Killed at any moment, it
// leaves the old text or the new one.
func rewrite(fd, used int, text string) error {
	padded := []byte(text)
	for len(padded) < used {
		padded = append(padded, '\n')
	}
	if err := linux.SeekStart(fd); err != nil {
		return err
	}
	n, err := linux.Write(fd, padded)
	switch {
	case err != nil:
		return err
	case n < len(padded): // no space for more: it says nothing rather than half
		linux.Ftruncate(fd, 0)
		return syscall.ENOSPC
	}
	return linux.Ftruncate(fd, int64(len(text)))
}
