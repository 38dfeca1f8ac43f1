package lockfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
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
// A relative path starts from the working directory of this moment, or from
// Options.Dir, whatever that directory is called later. The last element of path
// must not be a symbolic link (ErrNotRegular). Where writing is not allowed
// (EACCES, EROFS) the file is opened for reading, which is enough for Flock, except
// on NFS, and for shared OFD locks; Fair and exclusive OFD locks need more.
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
	if path[0] != '/' {
		// The working directory may be another by the time of a retry. To put its
		// path in front and clean that as text would make another file of
		// "link/../lock".
		var err error
		if dir := l.opts.Dir; dir != nil {
			l.dir, err = linux.Dup(int(dir.Fd()))
		} else {
			l.dir, err = linux.Openat(linux.AT_FDCWD, ".", linux.O_PATH|linux.O_DIRECTORY, 0)
		}
		if err != nil {
			l.dir = linux.AT_FDCWD
			return err
		}
	}
	l.opts.Dir = nil
	l.name = append([]byte(path), 0)
	return nil
}

// Path is the path that was given to Open.
func (l *Lock) Path() string { return l.path }

// Lock takes the lock exclusively and waits for it in the kernel's queue, where it
// keeps its place; see "Fairness" for who may be served before it all the same. If
// ctx ends first, the error is ctx.Err() (errors.Is). A lock that is granted at the moment
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
