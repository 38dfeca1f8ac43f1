package tmpfiles

import (
	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
)

// directory is a held directory: a real one, or in a dry run the shadow of one
// (shadow.go), in which acts are remembered and later looked up, but not done.
// Names are single components and links are never followed.
type directory interface {
	Stat(name string, st *fsat.Stat) error
	Readlink(name string) (string, error)
	OpenDir(name string) (directory, error)
	OpenNode(name string) (inode, error)
	// OpenWrite opens a file of any type for writing; a FIFO that nobody reads
	// is ENXIO, not a wait.
	OpenWrite(name string, appendTo bool) (inode, error)
	Names() ([]string, error)
	Magic() (int64, error)
	Close() error

	Mkdir(name string, a fsat.Attr) error
	WriteFile(name string, content []byte, a fsat.Attr) error
	MakeSpecial(name string, s fsat.Special, a fsat.Attr) error
	ReplaceWith(name string, s fsat.Special, a fsat.Attr) error
	Unlink(name string) error
	Rmdir(name string) error
}

// inode is a held inode, to look at and to change.
type inode interface {
	Stat(*fsat.Stat) error
	Chown(uid, gid uint32) error
	Chmod(mode uint32) error
	Getxattr(name string) ([]byte, error)
	Setxattr(name string, value []byte) error
	Removexattr(name string) error
	Flags() (uint32, error)
	SetFlags(uint32) error
	// Write puts data at the beginning of the file, or at its end; with
	// truncate what lies after it goes. Any type of file is written to.
	Write(data []byte, appendTo, truncate bool) error
	// Begins says whether the content of a regular file begins with data, and
	// whether that is all of it.
	Begins(data []byte) (begins, all bool)
	AsDir() (directory, error)
	Close() error
}

// realDir and realNode are the kernel's own.
type realDir struct{ *fsat.Dir }

func (d realDir) OpenDir(name string) (directory, error) {
	c, err := d.Dir.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return realDir{c}, nil
}

func (d realDir) OpenNode(name string) (inode, error) {
	n, err := d.Dir.OpenNode(name)
	if err != nil {
		return nil, err
	}
	return realNode{n}, nil
}

func (d realDir) OpenWrite(name string, appendTo bool) (inode, error) {
	flags := linux.O_WRONLY
	if appendTo {
		flags |= linux.O_APPEND
	}
	n, err := d.Dir.OpenWork(name, flags)
	if err != nil {
		return nil, err
	}
	return realNode{n}, nil
}

func (d realDir) Magic() (int64, error) { return linux.Fstatfs(d.Fd()) }

type realNode struct{ *fsat.Node }

func (n realNode) AsDir() (directory, error) {
	d, err := fsat.DirOf(n.Fd()).OpenDir(".")
	if err != nil {
		return nil, err
	}
	return realDir{d}, nil
}

func (n realNode) Flags() (uint32, error) {
	fd, err := n.openAttr()
	if err != nil {
		return 0, err
	}
	defer linux.Close(fd)
	return linux.GetFlags(fd)
}

func (n realNode) SetFlags(v uint32) error {
	fd, err := n.openAttr()
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	return linux.SetFlags(fd, v)
}

// openAttr opens the inode for ioctl_iflags(2), without touching its access
// time where that is allowed.
func (n realNode) openAttr() (int, error) {
	fd, err := n.OpenFile(linux.O_RDONLY | linux.O_NOATIME)
	if err != nil && fsat.Absent(err) {
		return n.OpenFile(linux.O_RDONLY)
	}
	return fd, err
}

func (n realNode) Write(data []byte, appendTo, truncate bool) error {
	if n.ForWork() {
		return linux.WriteAll(n.Fd(), data)
	}
	flags := linux.O_WRONLY
	if appendTo {
		flags |= linux.O_APPEND
	}
	fd, err := n.OpenFile(flags)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	if err := linux.WriteAll(fd, data); err != nil || !truncate {
		return err
	}
	return linux.Ftruncate(fd, int64(len(data)))
}

func (n realNode) Begins(data []byte) (begins, all bool) {
	fd, err := n.OpenFile(linux.O_RDONLY | linux.O_NOATIME)
	if err != nil && fsat.Absent(err) {
		fd, err = n.OpenFile(linux.O_RDONLY)
	}
	if err != nil {
		return false, false
	}
	defer linux.Close(fd)
	buf := make([]byte, len(data)+1)
	got := 0
	for got < len(buf) {
		k, err := linux.Read(fd, buf[got:])
		if err != nil || k == 0 {
			break
		}
		got += k
	}
	if got < len(data) || string(buf[:len(data)]) != string(data) {
		return false, false
	}
	return true, got == len(data)
}
