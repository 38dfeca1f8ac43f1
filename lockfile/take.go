package lockfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// maxReplaced bounds how often an attempt that does not wait begins again because
// the file was another one by the time it was locked. Each time somebody else got
// on, so one that waits is bounded by its context.
const maxReplaced = 10_000

func (l *Lock) take(ctx context.Context, want state, wait bool) error {
	for n := 0; wait || n < maxReplaced; n++ {
		if err := ctx.Err(); err != nil {
			return because(ctx)
		}
		if l.fd < 0 {
			if err := l.openFile(); err != nil {
				return err
			}
		}
		err := l.lockFile(ctx, want, wait)
		if err == nil {
			var same bool
			if same, err = l.current(); same {
				return nil
			}
		} else if err != errAnother {
			return err
		}
		l.closeFile() // releases: nobody else has this description
		if err != nil && err != errAnother {
			return err
		}
	}
	return fmt.Errorf("%w each of %d times; does somebody remove it who does not hold it?", ErrReplaced, maxReplaced)
}

// because is why ctx ended.
func because(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause != nil && !errors.Is(cause, err) {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// The byte ranges of OFD locks, as fcntl(2) takes them. What other programs lock,
// the whole file or its first bytes, conflicts with the main range; the turnstile
// is one of the last bytes that a file could have.
const (
	mainStart, mainLen           = 0, math.MaxInt64 - 1
	turnstileStart, turnstileLen = math.MaxInt64 - 1, 1
)

// lockFile locks the open file.
func (l *Lock) lockFile(ctx context.Context, want state, wait bool) error {
	if l.readOnly != nil && (l.opts.Fair || l.opts.Kind == OFD && want == heldExclusive) {
		return fmt.Errorf("this kind of lock needs permission to write to the file: %w", l.readOnly)
	}
	if l.opts.Fair {
		if err := l.ofd(ctx, linux.F_WRLCK, turnstileStart, turnstileLen, wait); err != nil {
			return err
		}
		defer linux.OFDLock(l.fd, linux.F_UNLCK, turnstileStart, turnstileLen)
	}
	if l.opts.Kind == OFD {
		typ := int16(linux.F_RDLCK)
		if want == heldExclusive {
			typ = linux.F_WRLCK
		}
		return l.ofd(ctx, typ, mainStart, mainLen, wait)
	}
	how := linux.LOCK_SH
	if want == heldExclusive {
		how = linux.LOCK_EX
	}
	err := linux.Flock(l.fd, how|linux.LOCK_NB)
	if err == nil {
		return nil
	}
	return l.refused(ctx, err, wait, func(fd int) error { return linux.FlockWait(fd, how) })
}

// ofd takes an OFD lock on a range.
func (l *Lock) ofd(ctx context.Context, typ int16, start, length int64, wait bool) error {
	err := linux.OFDLock(l.fd, typ, start, length)
	if err == nil {
		return nil
	}
	return l.refused(ctx, err, wait, func(fd int) error { return linux.OFDLockWait(fd, typ, start, length) })
}

// errAnother says that the open file is not, or no longer, the one at the path.
var errAnother = errors.New("another file is at the path")

// refused goes on after an attempt to lock without waiting failed with err.
func (l *Lock) refused(ctx context.Context, err error, wait bool, block func(fd int) error) error {
	if !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EACCES) { // fcntl(2) allows both
		return l.explain(ctx, err)
	}
	// Whoever holds a file that was removed keeps nobody out any more.
	switch same, err := l.current(); {
	case err != nil:
		return err
	case !same:
		return errAnother
	case !wait:
		return ErrHeld
	}
	return l.explain(ctx, sleep(ctx, l.fd, block))
}

// current reports whether the open file is the one at the path.
func (l *Lock) current() (bool, error) {
	var st syscall.Stat_t
	err := linux.FstatatNul(l.dir, l.name, &st, linux.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			err = nil
		}
		return false, err
	}
	if uint64(st.Dev) == l.dev && st.Ino == l.ino {
		return true, nil
	}
	// Where layers are on several file systems, overlayfs does not promise that a
	// file keeps its st_dev when it is copied up (overlayfs.rst, "Inode
	// properties"), which its next opening for writing does: ask for ours again.
	var mine syscall.Stat_t
	if err := linux.Fstatat(l.fd, "", linux.AT_EMPTY_PATH, &mine); err != nil {
		return false, err
	}
	l.dev, l.ino = uint64(mine.Dev), mine.Ino
	return uint64(st.Dev) == l.dev && st.Ino == l.ino, nil
}

// explain makes an error of a lock call one that says what to do.
func (l *Lock) explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case err == errInterrupted:
		return because(ctx)
	case errors.Is(err, syscall.ENOLCK):
		return fmt.Errorf("%w: the kernel is out of memory for locks, or the lock service of a network file system does not answer; put the file on a local file system such as /run", err)
	case errors.Is(err, syscall.EBADF), errors.Is(err, syscall.EIO):
		if l.readOnly != nil {
			return fmt.Errorf("%w: this file system needs permission to write to the file: %w", err, l.readOnly)
		}
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOSYS), errors.Is(err, syscall.EOPNOTSUPP):
		return fmt.Errorf("%w: this file system has no %v locks; put the file on a local file system such as /run", err, l.opts.Kind)
	}
	return err
}
