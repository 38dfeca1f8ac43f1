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
	mainStart, mainLen           = 0, TurnstileStart
	turnstileStart, turnstileLen = TurnstileStart, TurnstileLen
)

// The turnstile of Options.Fair: an exclusive OFD lock on TurnstileLen bytes from
// TurnstileStart on. It is said here for programs that do not use this package and
// join the queue; "Fairness" tells how.
const (
	TurnstileStart int64 = math.MaxInt64 - 1
	TurnstileLen   int64 = 1
)

// lockFile locks the open file.
//
// In fair mode the turnstile is taken by those alone who have to wait, and is held
// while they wait for the lock itself. Everybody else only looks at it: were it
// taken in passing, two who need not wait would refuse one another there.
func (l *Lock) lockFile(ctx context.Context, want state, wait bool) error {
	if l.readOnly != nil && (l.opts.Fair || l.opts.Kind == OFD && want == heldExclusive) {
		return fmt.Errorf("this kind of lock needs permission to write to the file: %w", l.readOnly)
	}
	queue := false
	if l.opts.Fair {
		var err error
		if queue, _, err = linux.OFDConflict(l.fd, linux.F_WRLCK, turnstileStart, turnstileLen); err != nil {
			return l.explain(ctx, err)
		}
	}
	if !queue {
		err := l.try(want)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EACCES) { // fcntl(2) allows both
			return l.explain(ctx, err)
		}
	}
	if err := l.worthWaiting(); err != nil {
		return err
	}
	if !wait {
		return ErrHeld
	}
	if l.opts.Fair {
		err := sleep(ctx, l.fd, func(fd int) error {
			return linux.OFDLockWait(fd, linux.F_WRLCK, turnstileStart, turnstileLen)
		})
		if err != nil {
			return l.explain(ctx, err)
		}
		defer linux.OFDLock(l.fd, linux.F_UNLCK, turnstileStart, turnstileLen)
		if err := l.worthWaiting(); err != nil {
			return err
		}
	}
	return l.explain(ctx, sleep(ctx, l.fd, func(fd int) error { return l.block(fd, want) }))
}

// try takes the lock itself if that is possible now.
func (l *Lock) try(want state) error {
	if l.opts.Kind == OFD {
		return linux.OFDLock(l.fd, ofdType(want), mainStart, mainLen)
	}
	return linux.Flock(l.fd, flockMode(want)|linux.LOCK_NB)
}

// block takes the lock itself through fd, and sleeps until it can.
func (l *Lock) block(fd int, want state) error {
	if l.opts.Kind == OFD {
		return linux.OFDLockWait(fd, ofdType(want), mainStart, mainLen)
	}
	return linux.FlockWait(fd, flockMode(want))
}

func ofdType(want state) int16 {
	if want == heldExclusive {
		return linux.F_WRLCK
	}
	return linux.F_RDLCK
}

func flockMode(want state) int {
	if want == heldExclusive {
		return linux.LOCK_EX
	}
	return linux.LOCK_SH
}

// errAnother says that the open file is not, or no longer, the one at the path.
var errAnother = errors.New("another file is at the path")

// worthWaiting is errAnother if the open file was removed or replaced: whoever
// holds it keeps nobody out any more.
func (l *Lock) worthWaiting() error {
	same, err := l.current()
	if err == nil && !same {
		err = errAnother
	}
	return err
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
