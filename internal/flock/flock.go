package flock

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/lockfile"
)

// Errors that [errors.Is] finds in what the functions return.
var (
	// ErrHeld says that somebody else holds the lock. It is lockfile's.
	ErrHeld = lockfile.ErrHeld
	// ErrTimeout says that it was still held when the limit of the wait came.
	ErrTimeout = errors.New("still held by another when the time was over")
	// ErrClosed says that a standard descriptor was closed when the program
	// began.
	ErrClosed = errors.New("it was closed when the program began, or is /dev/null, open for reading and writing, which is no place for a lock")
	// ErrNoQueue says that Fair is not to be had with this descriptor.
	ErrNoQueue = errors.New("the file of the descriptor cannot be opened anew for writing, which --fair takes")
	// ErrRange says that the bytes of a fair record lock are not to be had.
	ErrRange = errors.New("the last two bytes that a file can have are those of the queue")
)

// Options are what a lock is to be. The zero value is an exclusive flock(2).
type Options struct {
	Shared bool
	// Record takes an open file description lock, fcntl(2) F_OFD_SETLK, on Length
	// bytes from Start on, in place of a flock(2). A Length of 0 is all that follow.
	Record        bool
	Start, Length int64
	// Fair has all who wait in one queue: see "Fairness" of package lockfile,
	// whose turnstile it is. It takes a file that may be written to.
	Fair bool
	// NoWait says that opening must not wait either, for the writer of a FIFO.
	NoWait bool
}

// File is an open file, directory or descriptor on which a lock can be taken. It is
// not safe for concurrent use, but for Holders.
type File struct {
	opts Options
	// path is what is opened, from dir on; empty for a descriptor that was
	// inherited, which cannot be opened again.
	path   string
	dir    int
	follow int // 0, or AT_SYMLINK_NOFOLLOW
	check  func(st *syscall.Stat_t) error

	// unwaiting says that opening must not wait for the writer of a FIFO: with NoWait,
	// for a name, where others can put one, and where the file is opened anew.
	unwaiting bool

	fd       int // -1: not open
	readOnly bool
	turnFd   int // of the turnstile; -1: it is fd
	sleeper  *sleeper
}

// Open opens the file or directory at path, and makes a file with mode 0666, less
// the umask, where there is nothing. It is opened for reading alone, unless the lock
// needs more. An error is that of open(2).
func Open(path string, o Options) (*File, error) {
	f := &File{opts: o, unwaiting: o.NoWait, path: path, dir: linux.AT_FDCWD, fd: -1, turnFd: -1}
	if err := f.valid(); err != nil {
		return nil, err
	}
	if err := f.open(); err != nil {
		return nil, err
	}
	return f, nil
}

// OfDescriptor is the File of a descriptor that the program was started with. A
// lock on it stays when the program ends, for as long as whoever handed it down has
// it open. ErrClosed where it can only be one that the runtime opened.
func OfDescriptor(fd int, o Options) (*File, error) {
	f := &File{opts: o, fd: fd, turnFd: -1}
	if err := f.valid(); err != nil {
		return nil, err
	}
	// What is close-on-exec is the runtime's, since nobody can have handed it down.
	if ours, err := linux.CloseOnExecSet(fd); err != nil {
		return nil, err
	} else if ours {
		return nil, syscall.EBADF
	}
	// In place of 0, 1 and 2 the runtime opens /dev/null for reading and writing
	// where it finds them closed: a lock on that would exclude nobody.
	if fd >= 0 && fd <= 2 {
		flags, err := linux.StatusFlags(fd)
		if err != nil {
			return nil, err
		}
		var st syscall.Stat_t
		if flags&syscall.O_ACCMODE == syscall.O_RDWR && linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st) == nil &&
			st.Mode&syscall.S_IFMT == syscall.S_IFCHR && uint64(st.Rdev) == linux.Makedev(1, 3) {
			return nil, ErrClosed
		}
	}
	if o.Fair {
		var err error
		if f.turnFd, err = again(fd); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoQueue, err)
		}
	}
	return f, nil
}

// again opens the file of a descriptor anew. The turnstile must be on an open file
// description that ends with this program: on the inherited one it would stay with
// whoever handed that down if a signal ended us in the queue, and keep all others in
// it for ever.
func again(fd int) (int, error) {
	var st syscall.Stat_t
	if err := linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st); err != nil {
		return -1, err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG { // to open it could wait, or do something
		return -1, errors.New("it is no regular file")
	}
	n, err := linux.Openat(linux.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), linux.O_RDWR|linux.O_NONBLOCK|linux.O_NOCTTY, 0)
	if err != nil {
		return -1, err
	}
	var same syscall.Stat_t
	if err := linux.Fstatat(n, "", linux.AT_EMPTY_PATH, &same); err != nil || same.Dev != st.Dev || same.Ino != st.Ino {
		linux.Close(n)
		return -1, errors.New("/proc/self/fd leads to another file")
	}
	return n, nil
}

// valid completes the options.
func (f *File) valid() error {
	o := &f.opts
	if !o.Fair || !o.Record {
		return nil
	}
	// A lock to the end of all files would be one on the turnstile as well.
	if o.Length == 0 {
		o.Length = lockfile.TurnstileStart - o.Start
	}
	if o.Start < 0 || o.Length <= 0 || o.Start > lockfile.TurnstileStart-o.Length {
		return ErrRange
	}
	return nil
}

// open opens the file as flock(1) does: for reading, which is enough for flock(2);
// an exclusive record lock takes writing.
func (f *File) open() error {
	flags := linux.O_RDONLY
	switch {
	case f.opts.Fair:
		flags = linux.O_RDWR
	case f.opts.Record && !f.opts.Shared:
		flags = linux.O_WRONLY
	}
	return f.openAs(flags | linux.O_CREAT)
}

func (f *File) openAs(flags int) error {
	flags |= linux.O_NOCTTY
	mode := uint32(0o666)
	if f.check != nil {
		flags |= linux.O_NOFOLLOW
		mode = 0o600
	}
	if f.unwaiting {
		flags |= linux.O_NONBLOCK
	}
	fd, err := linux.Openat(f.dir, f.path, flags, mode)
	if errors.Is(err, syscall.EISDIR) { // to lock, no directory is opened for more
		flags = flags&^(linux.O_CREAT|syscall.O_ACCMODE) | linux.O_RDONLY
		fd, err = linux.Openat(f.dir, f.path, flags, 0)
	}
	if err != nil {
		return err
	}
	f.fd, f.readOnly = fd, flags&syscall.O_ACCMODE == linux.O_RDONLY
	if f.unwaiting {
		f.blockAgain()
	}
	f.unwaiting = true // the first time
	if f.check == nil {
		return nil
	}
	var st syscall.Stat_t
	if err = linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st); err == nil {
		err = f.check(&st)
	}
	if err != nil {
		f.Close()
	}
	return err
}

// blockAgain takes O_NONBLOCK, which was for the opening alone, from a description
// that a command may inherit and read from.
func (f *File) blockAgain() {
	if flags, err := linux.StatusFlags(f.fd); err == nil {
		_ = linux.SetStatusFlags(f.fd, flags&^linux.O_NONBLOCK)
	}
}

// Path is the path that was opened, "" for a descriptor.
func (f *File) Path() string { return f.path }

// Fd is the descriptor, close-on-exec unless it was inherited. It is another one
// after Lock has found another file at the path.
func (f *File) Fd() int { return f.fd }

// Close closes the file. The lock goes with the last descriptor of the open file
// description: an inherited one is that of others, too.
func (f *File) Close() {
	if f.fd >= 0 {
		linux.Close(f.fd)
		f.fd = -1
	}
	if f.turnFd >= 0 {
		linux.Close(f.turnFd)
		f.turnFd = -1
	}
}

// Unlock gives up a lock that is on the open file description, as one that was
// inherited may be.
func (f *File) Unlock() error {
	if f.opts.Record {
		return linux.OFDLock(f.fd, linux.F_UNLCK, f.opts.Start, f.opts.Length)
	}
	return linux.Flock(f.fd, linux.LOCK_UN)
}

// maxReplaced bounds how often an attempt begins again because the file was another
// one by the time it was locked. A file system whose files have another number each
// time that they are looked at (some of FUSE) would keep us busy for ever. After that
// what is locked is kept, as flock(1) keeps it the first time.
const maxReplaced = 1000

// attempt takes the lock. errBusy says that it is held, and block false.
func (f *File) attempt(block bool) error {
	for n := 0; ; n++ {
		if f.fd < 0 {
			if err := f.open(); err != nil {
				return err
			}
		}
		err := f.take(n, block)
		if err == errReplaced {
			f.Close()
			continue
		}
		if err != nil && f.reopen(err) {
			if err = f.take(n, block); err == errReplaced {
				f.Close()
				continue
			}
		}
		if err != nil || f.path == "" {
			return err
		}
		if n >= maxReplaced || f.current() {
			return nil
		}
		f.Close() // releases: no program has been started that could share it
	}
}

var (
	// errBusy says that somebody else holds it.
	errBusy = errors.New("busy")
	// errReplaced says that the open file is not, or no longer, the one at the path.
	errReplaced = errors.New("replaced")
)

// take takes the lock on the open file. In fair mode those alone who have to wait
// hold the turnstile, as in package lockfile, and everybody else looks at it. n is the
// number of the attempt.
func (f *File) take(n int, block bool) error {
	if !f.opts.Fair {
		return f.lock(block)
	}
	const start, length = lockfile.TurnstileStart, lockfile.TurnstileLen
	turn := f.fd
	if f.turnFd >= 0 {
		turn = f.turnFd
	}
	queue, _, err := linux.OFDConflict(turn, linux.F_WRLCK, start, length)
	if err != nil {
		return err
	}
	if !queue {
		if err := f.lock(false); err != errBusy {
			return err
		}
	}
	if !block {
		return errBusy
	}
	if err := f.blocking(func() error { return linux.OFDLockWait(turn, linux.F_WRLCK, start, length) }); err != nil {
		return err
	}
	defer linux.OFDLock(turn, linux.F_UNLCK, start, length)
	if f.path != "" && n < maxReplaced && !f.current() {
		return errReplaced // and whoever holds it keeps nobody out
	}
	return f.lock(true)
}

// lock is the lock itself.
func (f *File) lock(block bool) (err error) {
	switch o := &f.opts; {
	case o.Record && block:
		err = f.blocking(func() error { return linux.OFDLockWait(f.fd, o.kind(), o.Start, o.Length) })
	case o.Record:
		err = linux.OFDLock(f.fd, o.kind(), o.Start, o.Length)
	case block:
		err = f.blocking(func() error { return linux.FlockWait(f.fd, o.how()) })
	default:
		err = linux.Flock(f.fd, o.how()|linux.LOCK_NB)
	}
	if !block && (errors.Is(err, syscall.EAGAIN) || f.opts.Record && errors.Is(err, syscall.EACCES)) { // fcntl(2) allows both
		return errBusy
	}
	return err
}

func (o *Options) kind() int16 {
	if o.Shared {
		return linux.F_RDLCK
	}
	return linux.F_WRLCK
}

func (o *Options) how() int {
	if o.Shared {
		return linux.LOCK_SH
	}
	return linux.LOCK_EX
}

// reopen opens the file for writing where err may come from a file system, NFS,
// that makes record locks of flock(2), which need that (flock(2), "NFS details").
func (f *File) reopen(err error) bool {
	if f.path == "" || f.opts.Shared || !f.readOnly || !errors.Is(err, syscall.EBADF) && !errors.Is(err, syscall.EIO) {
		return false
	}
	f.Close() // first, so that the descriptor keeps its number
	return f.openAs(linux.O_RDWR) == nil && !f.readOnly
}

// current reports whether the open file is the one at the path. Where the path
// cannot be walked any more what is held is what there is.
func (f *File) current() bool {
	var mine, there syscall.Stat_t
	if err := linux.Fstatat(f.fd, "", linux.AT_EMPTY_PATH, &mine); err != nil {
		return true
	}
	if err := linux.Fstatat(f.dir, f.path, f.follow, &there); err != nil {
		return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR)
	}
	return mine.Dev == there.Dev && mine.Ino == there.Ino
}

// end is the last byte of a range.
func (o *Options) end() int64 {
	if o.Length == 0 {
		return math.MaxInt64
	}
	return o.Start + o.Length - 1
}
