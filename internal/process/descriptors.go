package process

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"strconv"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// Descriptors is what a process has open, /proc/PID/fd. It is not safe for
// concurrent use.
type Descriptors struct {
	proc *Proc
	at   string
	dir  int
}

// Descriptors opens the directory. at is a number, "self", or what Lively gives.
// It takes the right to look into the process, PTRACE_MODE_READ_FSCREDS of
// ptrace(2). Close the result.
func (p *Proc) Descriptors(at string) (*Descriptors, error) {
	dir, err := linux.Openat(p.fd, at+"/fd", linux.O_RDONLY|linux.O_DIRECTORY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: "/proc/" + at + "/fd", Err: errors.Unwrap(err)}
	}
	return &Descriptors{p, at, dir}, nil
}

// Close releases the directory.
func (d *Descriptors) Close() { linux.Close(d.dir) }

// Numbers appends the descriptors to list. One that is opened or closed meanwhile
// may be there or not.
func (d *Descriptors) Numbers(list []int) ([]int, error) {
	var buf [8 << 10]byte
	for {
		n, err := linux.Getdents(d.dir, buf[:])
		if err != nil || n == 0 {
			return list, err
		}
		list = appendNumbers(list, buf[:n])
	}
}

// appendNumbers takes the names that are numbers out of struct linux_dirent64
// records, getdents64(2).
func appendNumbers(list []int, b []byte) []int {
	const header = 19 // d_ino 8, d_off 8, d_reclen 2, d_type 1
	for len(b) > header {
		size := int(binary.NativeEndian.Uint16(b[16:]))
		if size <= header || size > len(b) {
			return list
		}
		n, good := 0, b[header] != 0
		for _, c := range b[header:size] {
			if c == 0 {
				break
			}
			good = good && c >= '0' && c <= '9' && n < 1<<30
			n = 10*n + int(c-'0')
		}
		if good {
			list = append(list, n)
		}
		b = b[size:]
	}
	return list
}

// Node is what a descriptor leads to, as stat(2) gives it.
type Node struct {
	Dev, Ino uint64
	Mode     uint32 // the S_IFMT bits alone
}

// Stat looks at what the descriptor leads to. A network file system is not asked
// anew where the kernel has statx(2).
func (d *Descriptors) Stat(fd int) (Node, error) {
	name := strconv.Itoa(fd)
	var sx linux.StatxT
	err := linux.Statx(d.dir, name, linux.AT_NO_AUTOMOUNT|linux.AT_STATX_DONT_SYNC, linux.STATX_INO|linux.STATX_TYPE, &sx)
	if err == nil {
		return Node{linux.Makedev(sx.Dev_major, sx.Dev_minor), sx.Ino, uint32(sx.Mode) & syscall.S_IFMT}, nil
	}
	var st syscall.Stat_t
	if errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EPERM) { // before Linux 4.11, or a filter
		err = linux.Fstatat(d.dir, name, linux.AT_NO_AUTOMOUNT, &st)
	}
	if err != nil {
		return Node{}, &fs.PathError{Op: "stat", Path: "/proc/" + d.at + "/fd/" + name, Err: err}
	}
	return Node{uint64(st.Dev), st.Ino, st.Mode & syscall.S_IFMT}, nil
}

// Path is the path of what the descriptor leads to, as the kernel writes it: from
// the root of its mount where our own root does not show it, and with " (deleted)"
// where the name is gone.
func (d *Descriptors) Path(fd int) (string, error) {
	return linux.Readlinkat(d.dir, strconv.Itoa(fd))
}

// Info reads what the kernel tells of the open file.
func (d *Descriptors) Info(fd int) (FDInfo, error) { return d.proc.FDInfo(d.at, fd) }
