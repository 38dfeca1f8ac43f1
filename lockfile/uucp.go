package lockfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
)

// UUCP is a lock in the form that programs for serial lines agree on: a file
// "LCK..ttyS0" whose existence is the lock, with the holder's process id in it
// (Filesystem Hierarchy Standard 3.0, section 5.9). The kernel knows nothing of
// it: it outlives its holder, nobody can wait for it, and who finds it has to find
// out whether the holder lives.
//
// Its methods may be called from several goroutines.
type UUCP struct {
	path string
	name string
	ino  fsat.Stat

	mu  sync.Mutex
	dir *fsat.Dir // nil once released
	fd  int
}

// UUCPOptions say how UUCP locks that others left are judged.
type UUCPOptions struct {
	// Private says that no process of another PID namespace uses the directory: a
	// container sets it whose lock directory is not shared. Without it a process
	// id is proof on the machine itself alone, and there only if no container has
	// the file system of the directory mounted.
	Private bool
}

// HeldError is the ErrHeld of a UUCP lock.
type HeldError struct {
	// PID is the process id in the file, 0 where there is none. It may be a number
	// of another PID namespace.
	PID int
	// Alive says that this is a living process, called Comm.
	Alive bool
	Comm  string
	// Reason is why the lock is not taken for stale.
	Reason string
}

// Error tells who holds the lock as far as that is known.
func (e *HeldError) Error() string {
	if e.Alive {
		return fmt.Sprintf("held by process %d (%s)", e.PID, strings.ToValidUTF8(e.Comm, "?"))
	}
	if e.PID == 0 {
		return "held: " + e.Reason
	}
	return fmt.Sprintf("held by process %d: %s", e.PID, e.Reason)
}

// Is makes errors.Is(err, ErrHeld) true.
func (e *HeldError) Is(target error) bool { return target == ErrHeld }

// maxUUCP is the most that is read of a lock file. The known formats are a number
// and a few words.
const maxUUCP = 256

// ParseUUCP reads the text of a UUCP lock file: a process id in decimal, with
// blanks before it, on the first line; some programs add their name and the
// user's. The four binary bytes of the oldest programs, an empty file and what is
// no process id are errors: nobody can tell whose lock that is.
func ParseUUCP(text []byte) (pid int, err error) {
	if len(text) > maxUUCP {
		return 0, fmt.Errorf("longer than %d bytes", maxUUCP)
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	f := strings.Fields(string(line))
	if len(f) == 0 {
		return 0, errors.New("no process id in it")
	}
	if len(text) == 4 && strings.Trim(f[0], "0123456789") != "" {
		return 0, errors.New("a process id in binary")
	}
	pid, err = process.ParsePID(f[0])
	if err != nil {
		return 0, fmt.Errorf("the first word %w", err)
	}
	return pid, nil
}

// TryUUCP locks the serial line called line ("ttyS0", the name of its device
// without the directory) by a file in the directory dir ("/run/lock", on some
// systems "/var/spool/lock"). Where the lock is held, or cannot be proven to be
// stale, the error is a *HeldError. A stale one is removed.
//
// The file appears whole, with mode 0644 whatever the umask. As long as the UUCP
// is held an exclusive flock is on it, so that users of this package see across
// PID namespaces that it is not stale; other programs go by the process id.
//
// A lock is stale only if its process id is that of no process, on a local
// file system that processes of no other PID namespace have mounted (see
// UUCPOptions). What else it takes to prove it: the right to see the mounts of
// processes in other PID namespaces, where there are any, which is root's.
// No holder of this package is ever taken for stale. Between the proof and the
// removal another program may have removed the file and made its own: that
// moment is a few microseconds and lies in the protocol.
func TryUUCP(dir, line string, opts *UUCPOptions) (*UUCP, error) {
	if opts == nil {
		opts = new(UUCPOptions)
	}
	u := &UUCP{path: dir + "/LCK.." + line, name: "LCK.." + line, fd: -1}
	err := fsat.ValidName(u.name)
	if line == "" {
		err = syscall.EINVAL
	}
	if err == nil {
		u.dir, err = fsat.OpenDir(dir)
	}
	if err == nil {
		if err = u.take(opts); err != nil {
			u.dir.Close()
		}
	}
	if err != nil {
		return nil, &fs.PathError{Op: "lock", Path: u.path, Err: err}
	}
	return u, nil
}

// Path is the path of the lock file.
func (u *UUCP) Path() string { return u.path }

func (u *UUCP) take(opts *UUCPOptions) error {
	for range maxReplaced {
		err := u.create()
		if err == nil || !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := u.clear(opts); err != nil {
			return err
		}
	}
	return fmt.Errorf("it comes and goes: %d attempts", maxReplaced)
}

// create makes the lock file, which is the lock.
func (u *UUCP) create() error {
	fd, err := linux.Openat(u.dir.Fd(), ".", linux.O_TMPFILE|linux.O_RDWR, 0o600)
	if err == nil {
		err = u.fill(fd, func() error {
			return linux.Linkat(linux.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), u.dir.Fd(), u.name, linux.AT_SYMLINK_FOLLOW)
		})
		if err == nil || errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EROFS) {
			return err
		}
	}
	// A file system without O_TMPFILE, no /proc: the way of old.
	tmp := fsat.TempName()
	fd, err = linux.Openat(u.dir.Fd(), tmp, linux.O_RDWR|linux.O_CREAT|linux.O_EXCL|linux.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = u.fill(fd, func() error { return linux.Linkat(u.dir.Fd(), tmp, u.dir.Fd(), u.name, 0) })
	if e := u.dir.Unlink(tmp); err == nil {
		err = e
	}
	return err
}

// fill writes our process id to fd and has link give it its name.
func (u *UUCP) fill(fd int, link func() error) error {
	err := linux.WriteAll(fd, fmt.Appendf(nil, "%10d\n", os.Getpid()))
	if err == nil {
		err = linux.Fchmod(fd, 0o644)
	}
	if err == nil {
		err = linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB) // nobody else has it
	}
	if err == nil {
		err = fsat.StatAt(fd, "", &u.ino)
	}
	if err == nil {
		err = link()
	}
	if err != nil {
		linux.Close(fd)
		return err
	}
	u.fd = fd
	return nil
}

// clear removes a stale lock file. nil says that it, or another, is gone.
func (u *UUCP) clear(opts *UUCPOptions) error {
	var there fsat.Stat
	err := u.dir.Stat(u.name, &there)
	if err == nil {
		err = regular(there.Mode)
	}
	if err != nil {
		return ignoreGone(err)
	}
	fd, err := linux.Openat(u.dir.Fd(), u.name, openFlags|linux.O_RDONLY, 0)
	if errors.Is(err, syscall.EACCES) {
		return &HeldError{Reason: "the file must not be read, so it cannot be told whether it is stale"}
	}
	if err != nil {
		return ignoreGone(err)
	}
	defer linux.Close(fd)
	pid, parseErr := readUUCP(fd)
	// Whoever removes a stale file has this lock from before the proof to after
	// the removal, so that nobody removes what another put in its place.
	if err := linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB); errors.Is(err, syscall.EAGAIN) {
		return &HeldError{PID: pid, Reason: "it has the file locked"}
	} else if err != nil {
		return err
	}
	if same, err := u.isThere(fd); err != nil || !same {
		return err
	}
	if parseErr != nil {
		return &HeldError{Reason: "what is in the file names no process (" + parseErr.Error() + "), so it cannot be told whether it is stale"}
	}
	if held := judgeUUCP(fd, pid, opts); held != nil {
		return held
	}
	if same, err := u.isThere(fd); err != nil || !same {
		return err
	}
	if err := ignoreGone(u.dir.Unlink(u.name)); err != nil {
		return fmt.Errorf("the lock of process %d, which is gone, cannot be removed: %w", pid, err)
	}
	return nil
}

// readUUCP reads the process id in a lock file.
func readUUCP(fd int) (int, error) {
	var buf [maxUUCP + 1]byte
	n, err := linux.Read(fd, buf[:])
	if err != nil {
		return 0, err
	}
	return ParseUUCP(buf[:n])
}

// isThere reports whether the file fd has the name of the lock.
func (u *UUCP) isThere(fd int) (bool, error) {
	var mine, there fsat.Stat
	if err := fsat.StatAt(fd, "", &mine); err != nil {
		return false, err
	}
	if err := u.dir.Stat(u.name, &there); err != nil {
		return false, ignoreGone(err)
	}
	return mine.SameInode(&there), nil
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Release removes the lock file, unless another one is at its path by now: then
// the error is ErrReplaced, and nothing is removed. A second call is ErrNotHeld.
// After any error the UUCP is no longer held.
func (u *UUCP) Release() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.dir == nil {
		return &fs.PathError{Op: "unlock", Path: u.path, Err: ErrNotHeld}
	}
	same, err := u.isThere(u.fd)
	switch {
	case err == nil && same:
		err = u.dir.Unlink(u.name)
	case err == nil:
		err = ErrReplaced
	}
	linux.Close(u.fd)
	u.dir.Close()
	u.dir = nil
	if err != nil {
		return &fs.PathError{Op: "unlock", Path: u.path, Err: err}
	}
	return nil
}
