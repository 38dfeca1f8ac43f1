package process

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// Dir is an open directory of the procfs: a process, a thread, its descriptors.
// What is below it is looked up from there, which for a process with many
// descriptors is much cheaper than from the top. A Dir of a process that has ended
// has nothing in it and says so (see Gone); it is never another process's. It is
// not safe for concurrent use.
type Dir struct {
	fd   int
	name string
}

// Dir opens a directory of the procfs: "7", "7/fd", "7/task/9".
func (p *Proc) Dir(name string) (*Dir, error) { return openDir(p.fd, name, "/proc/"+name) }

func openDir(at int, name, shown string) (*Dir, error) {
	fd, err := linux.Openat(at, name, linux.O_RDONLY|linux.O_DIRECTORY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: shown, Err: errors.Unwrap(err)}
	}
	return &Dir{fd: fd, name: shown}, nil
}

// Dir opens a directory below d: "fd".
func (d *Dir) Dir(name string) (*Dir, error) { return openDir(d.fd, name, d.name+"/"+name) }

// Close gives the directory back.
func (d *Dir) Close() { linux.Close(d.fd) }

// Fd is the descriptor, which stays the Dir's.
func (d *Dir) Fd() int { return d.fd }

// Readlink reads a link in d: "cwd", "ns/mnt". It never asks the file system that
// the link leads to.
func (d *Dir) Readlink(name string) (string, error) { return linux.Readlinkat(d.fd, name) }

// Record reads a file in d that the kernel gives as a whole, as Proc.ReadRecord
// does: a read that leaves room was all of it. The result uses buf's memory if that
// is enough.
func (d *Dir) Record(name string, buf []byte) ([]byte, error) {
	return d.read(name, buf[:0], true)
}

// Append reads a file in d to its end and appends it to buf.
func (d *Dir) Append(buf []byte, name string) ([]byte, error) { return d.read(name, buf, false) }

func (d *Dir) read(name string, buf []byte, whole bool) ([]byte, error) {
	fd, err := linux.Openat(d.fd, name, linux.O_RDONLY|linux.O_NOCTTY|linux.O_NONBLOCK, 0)
	if err != nil {
		return buf, &fs.PathError{Op: "open", Path: d.name + "/" + name, Err: errors.Unwrap(err)}
	}
	defer linux.Close(fd)
	for start := len(buf); len(buf)-start < maxFile; {
		if cap(buf)-len(buf) < 4096 { // seq_file gives a page at most
			buf = append(make([]byte, 0, 2*cap(buf)+8192), buf...)
		}
		n, err := linux.Read(fd, buf[len(buf):cap(buf)])
		if err != nil {
			return buf, &fs.PathError{Op: "read", Path: d.name + "/" + name, Err: errors.Unwrap(err)}
		}
		buf = buf[:len(buf)+n]
		if n == 0 || whole && len(buf) < cap(buf) {
			return buf, nil
		}
	}
	return buf, &fs.PathError{Op: "read", Path: d.name + "/" + name, Err: syscall.EFBIG}
}

// Numbers appends the names in d that are numbers to list: processes, threads,
// descriptors. Nothing is allocated for the others.
func (d *Dir) Numbers(list []int) ([]int, error) {
	var buf [4 << 10]byte
	for {
		n, err := linux.Getdents(d.fd, buf[:])
		if err != nil || n == 0 {
			return list, err
		}
		list = appendNumbers(list, buf[:n])
		// procfs lists until the buffer is full: one with room for more names has them
		// all.
		if n < len(buf)-256 {
			return list, nil
		}
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

// Inode is what stat(2) says of what a link of the procfs leads to.
type Inode struct {
	Dev, Ino uint64 // Dev as stat(2) has it
	Mode     uint32
	Nlink    uint32
	Size     int64
	Blocks   int64 // of 512 bytes
}

// Inode asks for what the link name leads to ("3" in a directory of descriptors,
// "cwd"), "" for d itself. A network file system and FUSE are not asked anew where
// the kernel has statx(2), but NFS and 9p may ask their server all the same, and
// without statx every one does: then it takes as long as that takes.
func (d *Dir) Inode(name string) (n Inode, err error) {
	var sx linux.StatxT
	flags := linux.AT_NO_AUTOMOUNT | linux.AT_STATX_DONT_SYNC
	if name == "" {
		flags |= linux.AT_EMPTY_PATH
	}
	err = linux.Statx(d.fd, name, flags, linux.STATX_BASIC_STATS, &sx)
	if err == nil {
		return Inode{linux.Makedev(sx.Dev_major, sx.Dev_minor), sx.Ino, uint32(sx.Mode), sx.Nlink, int64(sx.Size), int64(sx.Blocks)}, nil
	}
	if errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EPERM) { // before Linux 4.11, or a filter
		var st syscall.Stat_t
		flags = linux.AT_NO_AUTOMOUNT
		if name == "" {
			flags = linux.AT_EMPTY_PATH
		}
		if err = linux.Fstatat(d.fd, name, flags, &st); err == nil {
			return Inode{uint64(st.Dev), st.Ino, st.Mode, uint32(st.Nlink), st.Size, st.Blocks}, nil
		}
	}
	return Inode{}, &fs.PathError{Op: "stat", Path: d.name + "/" + name, Err: errors.Unwrap(err)}
}

// Node is Inode with Dev, Ino and the type in Mode alone: for more some network file
// systems write what they hold back (CIFS).
func (d *Dir) Node(name string) (Inode, error) {
	var sx linux.StatxT
	err := linux.Statx(d.fd, name, linux.AT_NO_AUTOMOUNT|linux.AT_STATX_DONT_SYNC, linux.STATX_INO|linux.STATX_TYPE, &sx)
	if err == nil {
		return Inode{Dev: linux.Makedev(sx.Dev_major, sx.Dev_minor), Ino: sx.Ino, Mode: uint32(sx.Mode) & syscall.S_IFMT}, nil
	}
	if errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EPERM) {
		return d.Inode(name)
	}
	return Inode{}, &fs.PathError{Op: "stat", Path: d.name + "/" + name, Err: errors.Unwrap(err)}
}

// FDInfo reads fdinfo of a descriptor; d is the directory of a process or thread.
// The text is read into buf, which is returned for the next.
func (d *Dir) FDInfo(fd string, buf []byte) (FDInfo, []byte, error) {
	buf, err := d.Record("fdinfo/"+fd, buf)
	if err != nil {
		return FDInfo{}, buf, err
	}
	info, err := parseFDInfo(buf, d.name+"/fdinfo/"+fd)
	return info, buf, err
}

// Stat reads the stat line of a process; d is the top of the procfs. The text is
// read into buf, which is returned for the next.
func (d *Dir) Stat(pid int, buf []byte) (Stat, []byte, error) {
	name := strconv.Itoa(pid) + "/stat"
	buf, err := d.Record(name, buf)
	if err != nil {
		return Stat{}, buf, err
	}
	st, err := ParseStat(buf)
	if err != nil {
		err = &fs.PathError{Op: "parse", Path: d.name + "/" + name, Err: err}
	}
	return st, buf, err
}

// OpenLink opens what a link of the procfs leads to for reading: a namespace.
func (p *Proc) OpenLink(name string) (int, error) { return p.open(name) }

// NamespaceID is the inode number of a namespace from the text of its link:
// 4026531841 of "mnt:[4026531841]"; 0 if it is none.
func NamespaceID(link string) uint64 {
	_, text, ok := strings.Cut(link, ":[")
	text, closed := strings.CutSuffix(text, "]")
	if !ok || !closed {
		return 0
	}
	n, _ := digits(text)
	return n
}

// OpenPath opens the directory that a link of the procfs leads to, with O_PATH:
// "7/root". The directory is not looked at, but what comes below it is.
func (p *Proc) OpenPath(name string) (int, error) {
	fd, err := linux.Openat(p.fd, name, linux.O_PATH|linux.O_DIRECTORY, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: "/proc/" + name, Err: errors.Unwrap(err)}
	}
	return fd, nil
}
