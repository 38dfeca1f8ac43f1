package process

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// Snapshot reads a list of the procfs, such as locks, in as few reads as the kernel
// allows. Of a seq_file one read(2) gives at most a page of whole records, all of one
// moment; the next one goes on by position, and leaves records out if one before it
// went meanwhile. whole says that one read gave all, with room left for another line
// (a record of many lines may still have been put off to a read that missed it).
func (p *Proc) Snapshot(name string) (text []byte, whole bool, err error) {
	fd, err := p.open(name)
	if err != nil {
		return nil, false, err
	}
	defer linux.Close(fd)
	const line = 256
	page := os.Getpagesize()
	whole = true
	for text = make([]byte, 0, 4*page); len(text) < maxFile; {
		if cap(text)-len(text) < page {
			text = append(make([]byte, 0, 2*cap(text)), text...)
		}
		n, err := linux.Read(fd, text[len(text):cap(text)])
		if err != nil {
			return nil, false, &fs.PathError{Op: "read", Path: "/proc/" + name, Err: errors.Unwrap(err)}
		}
		if n == 0 {
			return text, whole, nil
		}
		whole = len(text) == 0 && n <= page-line
		text = text[:len(text)+n]
	}
	return nil, false, &fs.PathError{Op: "read", Path: "/proc/" + name, Err: syscall.EFBIG}
}
