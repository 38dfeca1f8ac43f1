package inroot

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/slashrun/slashrun/internal/linux"
)

// File is a regular file that is open for reading. It does without what os.File
// has for files of other kinds, which takes longer than to read a small one. It
// is not for several goroutines at a time, and must be closed.
type File struct {
	fd   int // -1 once it is closed
	name string
	end  bool
}

// OpenHost opens a path of the machine as it is, for reading: a FIFO or /dev/fd/63
// is what was asked for. It is not os.Open, which takes descriptors for the poller
// even where there is nothing to poll, and ends the program where there are none.
func OpenHost(path string) (*os.File, error) {
	fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_RDONLY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: Errno(err)}
	}
	return os.NewFile(uintptr(fd), path), nil
}

var errClosed = errors.New("file already closed")

// Read reads on. After the end of the file it asks the kernel no more.
func (f *File) Read(b []byte) (int, error) {
	switch {
	case f.fd < 0:
		return 0, &fs.PathError{Op: "read", Path: f.name, Err: errClosed}
	case f.end:
		return 0, io.EOF
	case len(b) == 0:
		return 0, nil
	}
	n, err := linux.Read(f.fd, b)
	if err != nil {
		return 0, &fs.PathError{Op: "read", Path: f.name, Err: Errno(err)}
	}
	if n == 0 {
		f.end = true
		return 0, io.EOF
	}
	return n, nil
}

// Close gives the descriptor back. A second call is an error.
func (f *File) Close() error {
	if f.fd < 0 {
		return &fs.PathError{Op: "close", Path: f.name, Err: errClosed}
	}
	fd := f.fd
	f.fd = -1
	return linux.Close(fd)
}

// Name is the path as messages have it.
func (f *File) Name() string { return f.name }
