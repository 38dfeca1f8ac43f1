package pidfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
)

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
