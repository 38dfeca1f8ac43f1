package pidfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/locks"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/stale"
)

// File is a PID file of this process, held by a lock. Its methods may be called
// from several goroutines.
type File struct {
	path, name string

	mu      sync.Mutex
	dir     *fsat.Dir
	fd      int // -1: closed
	inPlace bool
}

// Create writes the PID of this process to the file at path and holds the file
// until Close or the end of the process. It is the answer to "does another
// instance run?" at the same time:
//
//   - nil: no other instance runs, and none can start from now on;
//   - ErrHeld (a *HeldError): another one runs;
//   - ErrUncertain: there is a PID file that another program wrote, and whether
//     that runs cannot be told. The error says why, and what to do;
//   - ErrNoPIDFile: what is there is something else, which is left alone.
//
// The file appears at once and whole, mode 0644, locked. A file that a dead
// process left is replaced in one rename(2); at no moment do two processes hold
// the path. Where the directory is not writable and the file is, it is
// rewritten instead.
//
// The directory must exist. Links in the path of the directory are followed,
// the last element must not be one. Create it after the last fork: the PID and
// the lock are of the process that calls.
func Create(path string) (*File, error) {
	f, err := create(path)
	var held *HeldError
	if err == nil || errors.As(err, &held) {
		return f, err
	}
	return nil, &fs.PathError{Op: "create", Path: path, Err: err}
}

func create(path string) (*File, error) {
	c, err := newCreation(path, os.Getpid())
	if err != nil {
		return nil, err
	}
	defer c.close()
	// Without a /proc that tells who we are, the file has the number and the lock
	// alone.
	c.text = process.Record{PID: c.pid, Locked: true}.Text()
	if c.proc != nil {
		if r, err := c.proc.Record(c.pid); err == nil {
			r.Locked = true
			c.text = r.Text()
		}
	}
	fd, inPlace, err := c.run()
	if err != nil {
		return nil, err
	}
	f := &File{path: path, name: c.name, dir: c.dir, fd: fd, inPlace: inPlace}
	c.dir = nil
	return f, nil
}

// WriteFor writes the PID of another process to the file at path, with what
// proves it, by the same rules as Create. Nobody holds the file: nothing keeps a
// second instance from starting, and nobody removes it. It is for scripts that
// start a program which writes no PID file itself.
func WriteFor(path string, pid int) error {
	err := writeFor(path, pid)
	var held *HeldError
	if err == nil || errors.As(err, &held) {
		return err
	}
	return &fs.PathError{Op: "write", Path: path, Err: err}
}

func writeFor(path string, pid int) error {
	c, err := newCreation(path, pid)
	if err != nil {
		return err
	}
	defer c.close()
	if c.proc == nil {
		return c.noProc
	}
	r, err := c.proc.Record(pid)
	if errors.Is(err, process.ErrNoProcess) {
		return fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	if err != nil {
		return err
	}
	c.text = r.Text()
	fd, _, err := c.run()
	if err == nil {
		linux.Close(fd)
	}
	return err
}

func newCreation(path string, pid int) (*creation, error) {
	dir, name, err := open(path)
	if err != nil {
		return nil, err
	}
	c := &creation{path: path, name: name, dir: dir, pid: pid}
	if c.proc, c.noProc = process.Open(); errors.Is(c.noProc, syscall.EMFILE) || errors.Is(c.noProc, syscall.ENFILE) {
		c.close()
		return nil, c.noProc
	}
	return c, nil
}

// open holds the directory of path.
func open(path string) (*fsat.Dir, string, error) {
	name := filepath.Base(path)
	if path == "" || path[len(path)-1] == '/' {
		return nil, "", fmt.Errorf("%w: the path names no file", syscall.EINVAL)
	}
	if err := fsat.ValidName(name); err != nil {
		return nil, "", err
	}
	dir, err := fsat.OpenDir(filepath.Dir(path))
	if fsat.NotExist(err) {
		err = fmt.Errorf("its directory does not exist: %w", err)
	}
	return dir, name, err
}

// creation is one call of Create or WriteFor.
type creation struct {
	path, name string
	dir        *fsat.Dir
	proc       *process.Proc // nil without /proc
	noProc     error
	pid        int    // whose file it will be
	text       string // its content
	judged     seen   // what is there and may be taken over
}

// seen is a file at one moment.
type seen struct {
	ok       bool
	dev, ino uint64
	text     string
}

func (c *creation) close() {
	if c.dir != nil {
		c.dir.Close()
	}
	if c.proc != nil {
		c.proc.Close()
	}
}

// attempts bounds how often something else is at the path than a moment before.
const attempts = 1000

// run makes the file or takes it over, and returns the locked descriptor.
func (c *creation) run() (fd int, inPlace bool, err error) {
	patience := 20 // of 5 ms each, for who looks at the lock by taking it
	for range attempts {
		fd, st, err := c.openThere()
		if fsat.NotExist(err) {
			fd, err := c.makeNew()
			if errors.Is(err, syscall.EEXIST) {
				continue
			}
			return fd, false, err
		}
		if err != nil {
			return -1, false, err
		}
		if !c.current(&st) {
			linux.Close(fd)
			continue
		}
		again, newFd, inPlace, err := c.contend(fd, &st)
		if errors.Is(err, errUnderWay) || again && errors.Is(err, ErrHeld) {
			if patience--; patience >= 0 {
				time.Sleep(5 * time.Millisecond)
				continue
			}
		}
		if again && err == nil {
			continue
		}
		return newFd, inPlace, err
	}
	return -1, false, fmt.Errorf("%w: another file is there each of %d times", ErrLost, attempts)
}

// errUnderWay says that another start is just taking the file over.
var errUnderWay = fmt.Errorf("%w that starts just now", ErrHeld)

// contend locks the open file and takes it over. It closes fd, or returns it.
// again says that everything has to be looked at anew; with ErrHeld, that somebody
// may only be looking at the lock.
func (c *creation) contend(fd int, st *fsat.Stat) (again bool, newFd int, inPlace bool, err error) {
	err = linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		defer linux.Close(fd)
		if c.abandoned(fd) {
			newFd, err := c.replace(st, func() bool { return c.abandoned(fd) })
			if err == nil || !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EPERM) {
				return errors.Is(err, ErrLost), newFd, false, ignoreLost(err)
			}
		}
		held, certain := c.holder(fd)
		return !certain, -1, false, held
	}
	if err != nil {
		linux.Close(fd)
		return false, -1, false, fmt.Errorf("%w; PID files belong on a local file system such as /run", err)
	}
	if !c.current(st) {
		linux.Close(fd)
		return true, -1, false, nil
	}
	// We hold the file: only who ignores locks could change it now.
	return c.takeOver(fd, st)
}

// ignoreLost is nil for ErrLost, after which everything is looked at anew.
func ignoreLost(err error) error {
	if errors.Is(err, ErrLost) {
		return nil
	}
	return err
}

// openThere opens the file at the path, if it is a regular one.
func (c *creation) openThere() (int, fsat.Stat, error) {
	var st fsat.Stat
	if err := c.dir.Stat(c.name, &st); err != nil {
		return -1, st, err
	}
	if !st.IsRegular() {
		return -1, st, fmt.Errorf("%w: a %s is there", ErrNoPIDFile, typeName(st.Type()))
	}
	fd, err := linux.Openat(c.dir.Fd(), c.name, openFlags|linux.O_RDWR, 0)
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
		// Somebody else's, in a directory of ours: a lock needs no more than reading.
		fd, err = linux.Openat(c.dir.Fd(), c.name, openFlags|linux.O_RDONLY, 0)
	}
	if errors.Is(err, syscall.ELOOP) {
		return -1, st, fmt.Errorf("%w: a symbolic link is there", ErrNoPIDFile)
	}
	if err != nil {
		return -1, st, err
	}
	if err := fsat.StatAt(fd, "", &st); err == nil && st.IsRegular() {
		return fd, st, nil
	}
	linux.Close(fd)
	return -1, st, fmt.Errorf("%w: another file was put there", ErrNoPIDFile)
}

const openFlags = linux.O_NOFOLLOW | linux.O_NONBLOCK | linux.O_NOCTTY

// current reports whether the held file is the one at the path.
func (c *creation) current(held *fsat.Stat) bool {
	var st fsat.Stat
	return c.dir.Stat(c.name, &st) == nil && st.SameInode(held)
}

// holder says who holds the lock on fd. It is certain if the process that the
// file names lives; else somebody may only be looking at the lock.
func (c *creation) holder(fd int) (err *HeldError, certain bool) {
	e := &HeldError{Path: c.path, Why: "it is locked"}
	if c.proc == nil {
		return e, false
	}
	r, _, perr := stale.ReadHeld(fd)
	if perr == nil {
		if id := c.find(r); id != nil {
			defer id.Close()
			e.PID, e.Name, e.Why = id.PID, id.Comm, "it is locked, and names this process"
			return e, true
		}
	}
	// A child of the dead daemon that shares its lock, somebody who may read the file
	// and has locked it, or a process out of our sight.
	if report, err := locks.Of(context.Background(), c.proc, fd); err == nil && len(report.Holders) > 0 {
		h := report.Holders[0]
		e.PID, e.Name = h.PID, h.Comm
		e.Why = "it is locked by this process, which it does not name"
		return e, false
	}
	e.Why = "it is locked by somebody who cannot be seen from here, in another PID namespace perhaps"
	return e, false
}

// abandoned reports whether the locked file is proven to be nobody's: we wrote it,
// that process has ended, and whoever has the lock is no heir of it. An heir shares
// the open file, which is open for writing. A stranger who may only read the file can lock
// it all the same, and keep the daemon from starting for as long as he likes.
func (c *creation) abandoned(fd int) bool {
	r, _, err := stale.ReadHeld(fd)
	if err != nil || !r.Own() || !r.Locked || c.proc == nil || !local(fd) {
		return false
	}
	id, err := c.proc.Find(r)
	if err == nil {
		dead := id.Dead
		id.Close()
		if !dead {
			return false
		}
	} else if !errors.Is(err, process.ErrNoProcess) {
		return false
	}
	report, err := locks.Of(context.Background(), c.proc, fd)
	if err != nil || len(report.Incomplete) > 0 || len(report.Unseen) > 0 {
		return false
	}
	for _, h := range report.Holders {
		info, err := c.proc.FDInfo(strconv.Itoa(h.PID), h.FD)
		if h.FD < 0 || err != nil || len(info.Locks) == 0 || info.Flags&syscall.O_ACCMODE != syscall.O_RDONLY {
			return false
		}
	}
	return true
}

// find is the living process that a record names, nil where there is none.
func (c *creation) find(r process.Record) *process.Ident {
	var id *process.Ident
	var err error
	if r.Own() {
		id, err = c.proc.Find(r)
	} else {
		id, err = c.proc.Ident(r.PID)
	}
	if err != nil {
		return nil
	}
	if id.Dead {
		id.Close()
		return nil
	}
	return id
}

// takeOver replaces the file at the path, which we hold as fd, if it may go. It
// closes fd, or returns it. again says that everything has to be looked at anew.
func (c *creation) takeOver(fd int, st *fsat.Stat) (again bool, newFd int, inPlace bool, err error) {
	keep := false // fd is not to be closed, or is already
	defer func() {
		if !keep {
			linux.Close(fd)
		}
	}()
	r, text, err := stale.ReadHeld(fd)
	switch {
	case err != nil && !errors.Is(err, process.ErrNoPID):
		return false, -1, false, err
	case err != nil && len(bytes.Trim(text, "\x00 \t\r\n")) == 0:
		// Empty, or zeroes as a crash leaves them: it says nothing.
	case err != nil:
		return false, -1, false, fmt.Errorf("%w, so it will not be overwritten: %s", ErrNoPIDFile,
			strings.TrimPrefix(err.Error(), process.ErrNoPID.Error()+": "))
	case r.Locked && local(fd):
		// Whoever wrote it keeps it locked while it lives, and we have the lock. Only
		// one who lost its descriptor could be alive.
		if r.Own() && c.proc != nil {
			if id := c.find(r); id != nil {
				defer id.Close()
				if id.PID != c.pid {
					return false, -1, false, &HeldError{c.path, id.PID, id.Comm, "it names this process, which lives but has given up its lock"}
				}
			}
		}
	case c.judged != seen{true, st.Dev, st.Ino, string(text)}:
		// The look must not find our own lock and descriptor. What it finds counts if
		// the file is still the same when it is locked again.
		linux.Close(fd)
		keep = true
		if err := c.look(); err != nil {
			return false, -1, false, err
		}
		c.judged = seen{true, st.Dev, st.Ino, string(text)}
		return true, -1, false, nil
	}
	newFd, err = c.replace(st, func() bool { return true })
	if errors.Is(err, ErrLost) {
		return true, -1, false, nil
	}
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
		if werr := rewrite(fd, len(text), c.text); werr == nil {
			keep = true
			return false, fd, true, nil
		}
	}
	return false, newFd, false, err
}

// look judges a file that another program may have written.
func (c *creation) look() error {
	if c.proc == nil {
		return fmt.Errorf("%w: there is no /proc; remove the file if you know that it does not", ErrUncertain)
	}
	j, err := newJudge(c.proc)
	if err != nil {
		return err
	}
	n, err := j.LookPID(context.Background(), c.dir, c.name, c.path)
	if fsat.NotExist(err) || errors.Is(err, stale.ErrChanged) {
		return nil // then it is not what was judged
	}
	if err != nil {
		return err
	}
	defer n.Close()
	last := n.Evidence[len(n.Evidence)-1].Proof
	switch {
	case n.Verdict == stale.Stale:
		return nil
	case n.PID == c.pid && ourNumber(last):
		return nil // a file of before, or one that whoever started the process wrote for it
	case n.Verdict == stale.Live:
		e := &HeldError{Path: c.path, Why: printable(n.Why())}
		if n.Process != nil {
			e.PID, e.Name = n.Process.PID, n.Process.Comm
		}
		return e
	}
	return fmt.Errorf("%w: %s; remove the file if you know that it does not", ErrUncertain, printable(n.Why()))
}

// ourNumber reports whether the number in the file is one of our own PID namespace,
// by the evidence that decided.
func ourNumber(p stale.Proof) bool {
	switch p {
	case stale.ProcessAlive, stale.OlderThanFile, stale.ClockUnproven, stale.OfThisRun, stale.LeftBehind, stale.StartTime:
		return true
	}
	return false
}

// Path is the path that was given to Create.
func (f *File) Path() string { return f.path }

// Close removes the file and releases the lock. If the file at the path is no
// longer this one it stays, and the error is ErrLost. Where the directory does
// not let us remove it, it is made empty.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return &fs.PathError{Op: "close", Path: f.path, Err: fs.ErrClosed}
	}
	err := f.remove()
	linux.Close(f.fd) // and with it the lock, last
	f.dir.Close()
	f.fd = -1
	if err != nil {
		return &fs.PathError{Op: "remove", Path: f.path, Err: err}
	}
	return nil
}

// remove removes the file. Everybody who takes it over locks it first, so that
// what is at the path now stays there until we have let go.
func (f *File) remove() error {
	var held, there fsat.Stat
	if err := fsat.StatAt(f.fd, "", &held); err != nil {
		return err
	}
	err := f.dir.Stat(f.name, &there)
	if fsat.NotExist(err) || err == nil && !held.SameInode(&there) {
		return ErrLost
	}
	if err != nil {
		return err
	}
	if !f.inPlace {
		err = f.dir.Unlink(f.name)
	}
	if f.inPlace || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
		err = linux.Ftruncate(f.fd, 0)
	}
	return err
}

// KeepOnExec lets a program that this process becomes, execve(2), hold the file:
// same PID, same start time, and the lock goes along with the descriptor. Nobody
// removes the file then; the next Create takes it over. Every child that is
// started from now on inherits the descriptor, too, unless it closes it. If the
// program itself calls Create, that is a *HeldError with its own PID: the file is
// held already.
func (f *File) KeepOnExec() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd < 0 {
		return &fs.PathError{Op: "keep", Path: f.path, Err: fs.ErrClosed}
	}
	// Shells name descriptors by one digit, and would close the lock with theirs.
	fd, err := linux.DupForExec(f.fd, 10)
	if err != nil {
		return &fs.PathError{Op: "keep", Path: f.path, Err: err}
	}
	linux.Close(f.fd)
	f.fd = fd
	return nil
}

func typeName(typ uint32) string {
	switch typ {
	case syscall.S_IFLNK:
		return "symbolic link"
	case syscall.S_IFDIR:
		return "directory"
	case syscall.S_IFIFO:
		return "FIFO"
	case syscall.S_IFSOCK:
		return "socket"
	}
	return "device"
}
