package pidfile

import (
	"errors"
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

// replace puts a new file in the place of the one that we hold.
func (c *creation) replace(old *fsat.Stat) (int, error) {
	fd, tmp, err := c.makeTemp()
	if err != nil {
		return -1, err
	}
	if !c.current(old) { // by somebody who ignores locks
		err = ErrLost
	} else {
		err = linux.Renameat2(c.dir.Fd(), tmp, c.dir.Fd(), c.name, 0)
	}
	if err != nil {
		c.dir.Unlink(tmp)
		linux.Close(fd)
		return -1, err
	}
	return fd, nil
}

// makeTemp makes the file under a temporary name, which is always the same: only
// who holds the lock uses it, so that killed processes leave one at most.
func (c *creation) makeTemp() (int, string, error) {
	tmp := fsat.TempPrefix + c.name
	if fsat.ValidName(tmp) != nil {
		tmp = fsat.TempName()
	}
	fd, name, err := c.makeNamed(tmp)
	if !errors.Is(err, syscall.EEXIST) {
		return fd, name, err
	}
	if c.dir.Unlink(tmp) == nil {
		if fd, name, err = c.makeNamed(tmp); !errors.Is(err, syscall.EEXIST) {
			return fd, name, err
		}
	}
	return c.makeNamed(fsat.TempName()) // somebody is in our way
}

func (c *creation) makeNamed(tmp string) (int, string, error) {
	fd, err := linux.Openat(c.dir.Fd(), tmp, linux.O_RDWR|linux.O_CREAT|linux.O_EXCL|openFlags, mode)
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

// fill locks and writes a file that nobody else knows of.
func (c *creation) fill(fd int) error {
	if err := linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB); err != nil {
		return err
	}
	if err := linux.Fchmod(fd, mode); err != nil { // whatever the umask took
		return err
	}
	return linux.WriteAll(fd, []byte(c.text))
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
