package pidfile

import (
	"errors"
	"io/fs"
	"sync"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
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
