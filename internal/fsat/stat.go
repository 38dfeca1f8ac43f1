package fsat

import (
	"errors"
	"io/fs"
	"sync/atomic"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// NoTime is the value of a timestamp that the file system did not give.
const NoTime = int64(-1 << 63)

// Stat is what the kernel says of an inode. Times are nanoseconds since the
// epoch, or [NoTime].
type Stat struct {
	Mode                       uint32 // S_IFMT bits and permissions, as st_mode
	UID, GID                   uint32
	Nlink                      uint32
	Dev                        uint64 // major<<32 | minor
	Ino                        uint64
	Rdev                       uint64 // as makedev(3) makes it
	Size                       int64
	Atime, Btime, Ctime, Mtime int64
	// MountRoot says that a file system or a bind mount is mounted on this
	// node; it means something only where MountRootKnown is set (statx,
	// Linux 5.8).
	MountRoot, MountRootKnown bool
}

// Type is the S_IFMT part of the mode.
func (s *Stat) Type() uint32 { return s.Mode & syscall.S_IFMT }

// Perm is the permission part of the mode, setuid, setgid and sticky bits included.
func (s *Stat) Perm() uint32 { return s.Mode & 07777 }

// IsDir, IsRegular and IsSymlink ask for the type.
func (s *Stat) IsDir() bool     { return s.Type() == syscall.S_IFDIR }
func (s *Stat) IsRegular() bool { return s.Type() == syscall.S_IFREG }
func (s *Stat) IsSymlink() bool { return s.Type() == syscall.S_IFLNK }

// SameInode says that both are one inode of one file system.
func (s *Stat) SameInode(o *Stat) bool { return s.Dev == o.Dev && s.Ino == o.Ino }

// noStatx is set once statx turned out to be absent or denied.
var noStatx atomic.Bool

// StatAt asks for the inode at name below dirfd without following a link and
// without triggering an automount. An empty name means dirfd itself.
func StatAt(dirfd int, name string, st *Stat) error {
	flags := linux.AT_SYMLINK_NOFOLLOW | linux.AT_NO_AUTOMOUNT
	if name == "" {
		flags = linux.AT_EMPTY_PATH
	}
	if !noStatx.Load() {
		var sx linux.StatxT
		err := linux.Statx(dirfd, name, flags, linux.STATX_BASIC_STATS|linux.STATX_BTIME, &sx)
		if err == nil {
			st.fromStatx(&sx)
			return nil
		}
		if !Absent(err) {
			return err
		}
		// EPERM is also what some file systems answer for good; ask the
		// older call, and remember only what it proves.
		if err2 := statOld(dirfd, name, flags, st); err2 != nil {
			return err2 // ENOENT is an answer, also where it comes from the older call
		}
		noStatx.Store(true)
		return nil
	}
	return statOld(dirfd, name, flags, st)
}

func statOld(dirfd int, name string, flags int, st *Stat) error {
	var s syscall.Stat_t
	if err := linux.Fstatat(dirfd, name, flags, &s); err != nil {
		return err
	}
	*st = Stat{
		Mode: s.Mode, UID: s.Uid, GID: s.Gid, Nlink: uint32(s.Nlink),
		Dev: devOf(uint64(s.Dev)), Ino: s.Ino, Rdev: uint64(s.Rdev), Size: s.Size,
		Atime: s.Atim.Nano(), Ctime: s.Ctim.Nano(), Mtime: s.Mtim.Nano(), Btime: NoTime,
	}
	return nil
}

// devOf turns a dev_t into major<<32|minor (glibc's gnu_dev_major and _minor).
func devOf(d uint64) uint64 {
	major := (d>>8)&0xfff | (d>>32)&^0xfff
	minor := d&0xff | (d>>12)&^0xff
	return major<<32 | minor&0xffffffff
}

func (s *Stat) fromStatx(sx *linux.StatxT) {
	s.Mode, s.UID, s.GID, s.Nlink = uint32(sx.Mode), sx.Uid, sx.Gid, sx.Nlink
	s.Dev = uint64(sx.Dev_major)<<32 | uint64(sx.Dev_minor)
	s.Ino, s.Size = sx.Ino, int64(sx.Size)
	s.Rdev = linux.Makedev(sx.Rdev_major, sx.Rdev_minor)
	s.Atime = sx.Atime.Sec*1e9 + int64(sx.Atime.Nsec)
	s.Ctime = sx.Ctime.Sec*1e9 + int64(sx.Ctime.Nsec)
	s.Mtime = sx.Mtime.Sec*1e9 + int64(sx.Mtime.Nsec)
	s.Btime = NoTime
	if sx.Mask&linux.STATX_BTIME != 0 {
		s.Btime = sx.Btime.Sec*1e9 + int64(sx.Btime.Nsec)
	}
	s.MountRootKnown = sx.Attributes_mask&linux.STATX_ATTR_MOUNT_ROOT != 0
	s.MountRoot = s.MountRootKnown && sx.Attributes&linux.STATX_ATTR_MOUNT_ROOT != 0
}

// Absent says that err is how a kernel without the system call, or a seccomp
// filter that does not know it, answers. EPERM is ambiguous: only an older call
// that succeeds in its place proves that the call was the problem.
func Absent(err error) bool {
	return errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EPERM)
}

// NotExist says that the name is not there.
func NotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
