package lockfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
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
	// Fair serves everybody in the order in which they came, readers and writers,
	// so that readers who overlap cannot keep a writer waiting for ever. All who
	// use the file must set it, and need permission to write to the file. See
	// "Fairness" in the package documentation.
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

type state uint8

const (
	idle state = iota
	busy       // being locked, unlocked or closed
	heldShared
	heldExclusive
	closed
)

// Lock is one holder of the lock on one file. Two Locks of the same file exclude
// each other, in one process as in two.
//
// Its methods may be called from several goroutines, and it can be released by
// another than took it, but it is one holder: while it is held or waiting,
// another attempt is ErrInUse.
//
// A Lock that the program loses sight of stays held: the garbage collector closes
// nothing. The end of the program does, however sudden.
type Lock struct {
	path string // as errors have it
	name []byte // the path from dir, with a NUL
	dir  int    // AT_FDCWD or a descriptor
	opts Options

	mu    sync.Mutex // guards state, and the rest through it
	state state

	fd       int // -1: the file is not open
	dev, ino uint64
	readOnly error // why fd is open for reading only; nil if it is not
}

// Open opens the lock file at path, and makes it where it is missing. It takes no
// lock. A nil opts is the zero value.
//
// The last element of path must not be a symbolic link (ErrNotRegular). Where
// writing is not allowed (EACCES, EROFS) the file is opened for reading, which
// is enough for Flock, except on NFS, and for shared OFD locks.
func Open(path string, opts *Options) (*Lock, error) {
	l := &Lock{path: path, dir: linux.AT_FDCWD, fd: -1}
	if opts != nil {
		l.opts = *opts
	}
	if l.opts.Perm == 0 {
		l.opts.Perm = 0o600
	}
	if err := l.init(path); err != nil {
		return nil, l.fail("open", err)
	}
	if err := l.openFile(); err != nil {
		l.release()
		return nil, l.fail("open", err)
	}
	return l, nil
}

func (l *Lock) init(path string) error {
	switch {
	case path == "":
		return syscall.ENOENT
	case l.opts.Kind > OFD:
		return fmt.Errorf("no such kind of lock: %v", l.opts.Kind)
	case l.opts.Perm&^0o777 != 0:
		return fmt.Errorf("the mode %v has more than permission bits", l.opts.Perm)
	}
	for i := range len(path) {
		if path[i] == 0 {
			return syscall.EINVAL
		}
	}
	if !filepath.IsAbs(path) {
		if dir := l.opts.Dir; dir != nil {
			fd, err := linux.Dup(int(dir.Fd()))
			if err != nil {
				return err
			}
			l.dir = fd
		} else { // the working directory may be another by the time of a retry
			abs, err := filepath.Abs(path)
			if err != nil {
				return err
			}
			path = abs
		}
	}
	l.opts.Dir = nil
	l.name = append([]byte(path), 0)
	return nil
}

// Path is the path that was given to Open.
func (l *Lock) Path() string { return l.path }

// Lock takes the lock exclusively and waits for it in the kernel's queue, first
// come, first served among writers; see "Fairness" for readers. If ctx ends
// first, the error is ctx.Err() (errors.Is). A lock that is granted at the moment
// when ctx ends is either held, and the error is nil, or not held at all.
//
// While it waits it occupies an OS thread and, if ctx can end, two descriptors
// more: with none to be had it fails with EMFILE and does not wait.
func (l *Lock) Lock(ctx context.Context) error { return l.acquire(ctx, heldExclusive, true) }

// RLock is Lock for a shared lock.
func (l *Lock) RLock(ctx context.Context) error { return l.acquire(ctx, heldShared, true) }

// TryLock takes the lock exclusively if that is possible now, else the error is
// ErrHeld. With Options.Fair that is the error, too, while somebody waits.
func (l *Lock) TryLock() error { return l.acquire(context.Background(), heldExclusive, false) }

// TryRLock is TryLock for a shared lock.
func (l *Lock) TryRLock() error { return l.acquire(context.Background(), heldShared, false) }

// maxReplaced bounds how often an attempt begins again because the file was
// another one by the time it was locked. Each time somebody else got on.
const maxReplaced = 10_000

func (l *Lock) acquire(ctx context.Context, want state, wait bool) error {
	if err := l.begin(idle, ErrInUse); err != nil {
		return l.fail("lock", err)
	}
	err := l.take(ctx, want, wait)
	if err != nil {
		l.end(idle)
		return l.fail("lock", err)
	}
	l.end(want)
	return nil
}

// begin makes the Lock busy if it is in the state want.
func (l *Lock) begin(want state, otherwise error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == closed {
		return fs.ErrClosed
	}
	if l.state != want {
		return otherwise
	}
	l.state = busy
	return nil
}

func (l *Lock) end(s state) {
	l.mu.Lock()
	l.state = s
	l.mu.Unlock()
}

func (l *Lock) take(ctx context.Context, want state, wait bool) error {
	for range maxReplaced {
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
	return uint64(st.Dev) == l.dev && st.Ino == l.ino, nil
}

// Check says whether a held lock still keeps others out: nil, or ErrReplaced
// after somebody removed or replaced the file, which this package does only while
// it holds the lock.
func (l *Lock) Check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch l.state {
	case heldShared, heldExclusive:
	case closed:
		return l.fail("check", fs.ErrClosed)
	default:
		return l.fail("check", ErrNotHeld)
	}
	same, err := l.current()
	if err == nil && !same {
		err = ErrReplaced
	}
	if err != nil {
		return l.fail("check", err)
	}
	return nil
}

// Unlock releases the lock, also where a child process shares it (see Dup). With
// Options.Remove and an exclusive lock it first removes the file, unless another
// one is at the path by now. The Lock can be used again.
//
// After an error other than ErrNotHeld and fs.ErrClosed the lock is released all
// the same, and the error is about the removal.
func (l *Lock) Unlock() error {
	l.mu.Lock()
	was := l.state
	switch was {
	case heldShared, heldExclusive:
		l.state = busy
	}
	l.mu.Unlock()
	switch was {
	case heldShared, heldExclusive:
	case closed:
		return l.fail("unlock", fs.ErrClosed)
	default:
		return l.fail("unlock", ErrNotHeld)
	}
	err := l.drop(was)
	l.end(idle)
	if err != nil {
		return l.fail("unlock", err)
	}
	return nil
}

func (l *Lock) drop(was state) error {
	var removal error
	if l.opts.Remove && was == heldExclusive {
		var same bool
		if same, removal = l.current(); same {
			removal = linux.Unlinkat(l.dir, string(l.name[:len(l.name)-1]), 0)
		}
	}
	var err error
	if l.opts.Kind == OFD {
		err = linux.OFDLock(l.fd, linux.F_UNLCK, mainStart, mainLen)
	} else {
		err = linux.Flock(l.fd, linux.LOCK_UN)
	}
	if err != nil || l.opts.Remove {
		l.closeFile()
	}
	return errors.Join(removal, err)
}

// Close releases the lock if it is held, as Unlock does, and closes the file.
// While the Lock waits it is ErrInUse: end the context of the wait first.
func (l *Lock) Close() error {
	err := l.Unlock()
	if errors.Is(err, ErrNotHeld) {
		err = nil
	}
	if e := l.begin(idle, ErrInUse); e != nil {
		return l.fail("close", e)
	}
	l.end(closed) // first, so that Holders does not use what is closed now
	l.release()
	return err
}

// Dup returns another descriptor of the locked open file, for a child process
// (exec.Cmd.ExtraFiles): whoever has one holds the lock too, until the last of
// them is closed or Unlock is called. It is close-on-exec and does not change
// with this Lock.
func (l *Lock) Dup() (*os.File, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != heldShared && l.state != heldExclusive {
		return nil, l.fail("dup", ErrNotHeld)
	}
	fd, err := linux.Dup(l.fd)
	if err != nil {
		return nil, l.fail("dup", err)
	}
	return os.NewFile(uintptr(fd), l.path), nil
}

func (l *Lock) closeFile() {
	if l.fd >= 0 {
		linux.Close(l.fd)
		l.fd = -1
	}
}

func (l *Lock) release() {
	l.closeFile()
	if l.dir != linux.AT_FDCWD {
		linux.Close(l.dir)
		l.dir = linux.AT_FDCWD
	}
}

// fail is err with the operation and the path.
func (l *Lock) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: l.path, Err: err}
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
