package linux

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags and masks of openat(2), statx(2) and the *at calls, named as the
// headers name them, so that no other package imports x/sys/unix for them.
const (
	O_PATH      = unix.O_PATH
	O_TMPFILE   = unix.O_TMPFILE
	O_NOATIME   = unix.O_NOATIME
	O_DIRECTORY = unix.O_DIRECTORY
	O_NOFOLLOW  = unix.O_NOFOLLOW
	O_NONBLOCK  = unix.O_NONBLOCK
	O_NOCTTY    = unix.O_NOCTTY
	O_CLOEXEC   = unix.O_CLOEXEC
	O_RDONLY    = unix.O_RDONLY
	O_WRONLY    = unix.O_WRONLY
	O_RDWR      = unix.O_RDWR
	O_CREAT     = unix.O_CREAT
	O_EXCL      = unix.O_EXCL
	O_APPEND    = unix.O_APPEND

	AT_FDCWD            = unix.AT_FDCWD
	AT_EMPTY_PATH       = unix.AT_EMPTY_PATH
	AT_SYMLINK_NOFOLLOW = unix.AT_SYMLINK_NOFOLLOW
	AT_SYMLINK_FOLLOW   = unix.AT_SYMLINK_FOLLOW
	AT_NO_AUTOMOUNT     = unix.AT_NO_AUTOMOUNT
	AT_STATX_DONT_SYNC  = unix.AT_STATX_DONT_SYNC
	AT_REMOVEDIR        = unix.AT_REMOVEDIR

	STATX_BASIC_STATS     = unix.STATX_BASIC_STATS
	STATX_BTIME           = unix.STATX_BTIME
	STATX_ATTR_MOUNT_ROOT = unix.STATX_ATTR_MOUNT_ROOT
	RENAME_NOREPLACE      = unix.RENAME_NOREPLACE
	RENAME_EXCHANGE       = unix.RENAME_EXCHANGE
	AUTOFS_SUPER_MAGIC    = unix.AUTOFS_SUPER_MAGIC
	BTRFS_SUPER_MAGIC     = unix.BTRFS_SUPER_MAGIC
	XATTR_CREATE          = unix.XATTR_CREATE
	UTIME_OMIT            = unix.UTIME_OMIT
)

// Openat is openat(2). O_CLOEXEC is always set.
func Openat(dirfd int, path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, path, flags|unix.O_CLOEXEC, mode)
		if err == syscall.EINTR {
			continue
		}
		return fd, wrap("openat", err)
	}
}

// Close is close(2), not retried: the descriptor is gone in any case.
func Close(fd int) error { return wrap("close", unix.Close(fd)) }

// Dup is fcntl(F_DUPFD_CLOEXEC).
func Dup(fd int) (int, error) {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	return n, wrap("fcntl", err)
}

// Statx is statx(2). It fills st; the mask in st tells which fields the file
// system gave.
func Statx(dirfd int, path string, flags, mask int, st *unix.Statx_t) error {
	return wrap("statx", retry(func() error { return unix.Statx(dirfd, path, flags, mask, st) }))
}

// StatxT is the kernel's struct statx.
type StatxT = unix.Statx_t

// Fstatat is newfstatat(2), for kernels and seccomp filters without statx.
func Fstatat(dirfd int, path string, flags int, st *syscall.Stat_t) error {
	u := (*unix.Stat_t)(unsafe.Pointer(st))
	if path == "" && flags&unix.AT_EMPTY_PATH != 0 {
		return wrap("fstat", retry(func() error { return unix.Fstat(dirfd, u) }))
	}
	return wrap("newfstatat", retry(func() error { return unix.Fstatat(dirfd, path, u, flags) }))
}

// Fstatfs is fstatfs(2); it gives the file system's magic number.
func Fstatfs(fd int) (magic int64, err error) {
	var s unix.Statfs_t
	err = retry(func() error { return unix.Fstatfs(fd, &s) })
	return int64(s.Type), wrap("fstatfs", err)
}

// Mkdirat is mkdirat(2).
func Mkdirat(dirfd int, path string, mode uint32) error {
	return wrap("mkdirat", retry(func() error { return unix.Mkdirat(dirfd, path, mode) }))
}

// Mknodat is mknodat(2); mode holds the S_IF bits, dev is as makedev(3) makes it.
func Mknodat(dirfd int, path string, mode uint32, dev uint64) error {
	return wrap("mknodat", retry(func() error { return unix.Mknodat(dirfd, path, mode, int(dev)) }))
}

// Makedev is makedev(3).
func Makedev(major, minor uint32) uint64 { return unix.Mkdev(major, minor) }

// Major is major(3).
func Major(dev uint64) uint32 { return unix.Major(dev) }

// Minor is minor(3).
func Minor(dev uint64) uint32 { return unix.Minor(dev) }

// Symlinkat is symlinkat(2).
func Symlinkat(target string, dirfd int, path string) error {
	return wrap("symlinkat", retry(func() error { return unix.Symlinkat(target, dirfd, path) }))
}

// Readlinkat is readlinkat(2), with a buffer that grows until the target fits.
// An empty path reads the link that dirfd itself is (O_PATH|O_NOFOLLOW).
func Readlinkat(dirfd int, path string) (string, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(dirfd, path, buf)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return "", wrap("readlinkat", err)
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

// Unlinkat is unlinkat(2).
func Unlinkat(dirfd int, path string, flags int) error {
	return wrap("unlinkat", retry(func() error { return unix.Unlinkat(dirfd, path, flags) }))
}

// Renameat2 is renameat2(2); without flags it is renameat(2), which every
// kernel and every seccomp filter has.
func Renameat2(olddir int, oldpath string, newdir int, newpath string, flags uint) error {
	if flags == 0 {
		return wrap("renameat", retry(func() error { return unix.Renameat(olddir, oldpath, newdir, newpath) }))
	}
	return wrap("renameat2", retry(func() error { return unix.Renameat2(olddir, oldpath, newdir, newpath, flags) }))
}

// Linkat is linkat(2).
func Linkat(olddir int, oldpath string, newdir int, newpath string, flags int) error {
	return wrap("linkat", retry(func() error { return unix.Linkat(olddir, oldpath, newdir, newpath, flags) }))
}

// FchownatEmpty is fchownat(fd, "", uid, gid, AT_EMPTY_PATH): it works on an
// O_PATH descriptor. An id of ^uint32(0) is left as it is.
func FchownatEmpty(fd int, uid, gid uint32) error {
	return wrap("fchownat", retry(func() error {
		return unix.Fchownat(fd, "", int(int32(uid)), int(int32(gid)), unix.AT_EMPTY_PATH)
	}))
}

// Fchmod is fchmod(2); it refuses an O_PATH descriptor with EBADF.
func Fchmod(fd int, mode uint32) error {
	return wrap("fchmod", retry(func() error { return unix.Fchmod(fd, mode) }))
}

// Chmod is chmod(2), which follows links. Its one right use is on
// /proc/self/fd/N, where it changes the mode of an O_PATH descriptor.
func Chmod(path string, mode uint32) error {
	return wrap("chmod", retry(func() error { return unix.Chmod(path, mode) }))
}

// Fchmodat2Empty is fchmodat2(fd, "", mode, AT_EMPTY_PATH), since Linux 6.6.
// It works on an O_PATH descriptor and needs no /proc.
func Fchmodat2Empty(fd int, mode uint32) error {
	var empty byte
	for {
		_, _, e := unix.Syscall6(unix.SYS_FCHMODAT2, uintptr(fd), uintptr(unsafe.Pointer(&empty)),
			uintptr(mode), unix.AT_EMPTY_PATH, 0, 0)
		switch e {
		case 0:
			return nil
		case syscall.EINTR:
		default:
			return wrap("fchmodat2", e)
		}
	}
}

// Getdents is getdents64(2): raw struct linux_dirent64 records.
func Getdents(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Getdents(fd, buf)
		if err == syscall.EINTR {
			continue
		}
		return n, wrap("getdents64", err)
	}
}

// ReadSmallFile returns the content of a file of procfs, sysfs or cgroupfs. 64 KiB
// at most are read.
func ReadSmallFile(path string) (string, error) {
	fd, err := Openat(AT_FDCWD, path, O_RDONLY|O_NOCTTY|O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	defer Close(fd)
	buf := make([]byte, 512)
	for used := 0; ; {
		n, err := Read(fd, buf[used:])
		if err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		if used += n; n == 0 || used == 64<<10 {
			return string(buf[:used]), nil
		}
		if used == len(buf) {
			buf = append(buf, make([]byte, min(8*len(buf), 64<<10)-used)...)
		}
	}
}

// SeekStart is lseek(fd, 0, SEEK_SET); on a directory it starts the listing again.
func SeekStart(fd int) error {
	_, err := unix.Seek(fd, 0, unix.SEEK_SET)
	return wrap("lseek", err)
}

// Ftruncate is ftruncate(2).
func Ftruncate(fd int, size int64) error {
	return wrap("ftruncate", retry(func() error { return unix.Ftruncate(fd, size) }))
}

// WriteAll is write(2), repeated until all of data is written.
func WriteAll(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return wrap("write", err)
		}
		data = data[n:]
	}
	return nil
}

// Pread is pread64(2).
func Pread(fd int, buf []byte, off int64) (n int, err error) {
	err = retry(func() (err error) {
		n, err = unix.Pread(fd, buf, off)
		return err
	})
	return n, wrap("pread64", err)
}

// Write is write(2), once: it may write less than all of data.
func Write(fd int, data []byte) (int, error) {
	for {
		n, err := unix.Write(fd, data)
		if err != syscall.EINTR {
			return n, wrap("write", err)
		}
	}
}

// Read is read(2).
func Read(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		if err == syscall.EINTR {
			continue
		}
		return n, wrap("read", err)
	}
}

// CopyFileRange is copy_file_range(2) from and to the descriptors' offsets.
func CopyFileRange(in, out, length int) (int, error) {
	for {
		n, err := unix.CopyFileRange(in, nil, out, nil, length, 0)
		if err == syscall.EINTR {
			continue
		}
		return n, wrap("copy_file_range", err)
	}
}

// Ficlone is ioctl(FICLONE): out becomes a reflink of in.
func Ficlone(out, in int) error { return wrap("ioctl(FICLONE)", unix.IoctlFileClone(out, in)) }

// TryFlock is flock(fd, LOCK_EX|LOCK_NB). It never blocks, so EINTR is retried.
func TryFlock(fd int) error {
	return wrap("flock", retry(func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) }))
}

// Futimens is utimensat(fd, NULL, times) with nanoseconds since the epoch.
func Futimens(fd int, atime, mtime int64) error {
	ts := [2]unix.Timespec{unix.NsecToTimespec(atime), unix.NsecToTimespec(mtime)}
	for {
		_, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
		switch e {
		case 0:
			return nil
		case syscall.EINTR:
		default:
			return wrap("utimensat", e)
		}
	}
}

// Utimensat sets the times of path below dirfd without following a link.
func Utimensat(dirfd int, path string, atime, mtime int64) error {
	ts := []unix.Timespec{unix.NsecToTimespec(atime), unix.NsecToTimespec(mtime)}
	return wrap("utimensat", retry(func() error {
		return unix.UtimesNanoAt(dirfd, path, ts, unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// GetFlags is ioctl(FS_IOC_GETFLAGS): the inode flags of ioctl_iflags(2).
func GetFlags(fd int) (uint32, error) {
	var v uint32
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.FS_IOC_GETFLAGS, uintptr(unsafe.Pointer(&v)))
	if e != 0 {
		return 0, wrap("ioctl(FS_IOC_GETFLAGS)", e)
	}
	return v, nil
}

// SetFlags is ioctl(FS_IOC_SETFLAGS).
func SetFlags(fd int, v uint32) error {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.FS_IOC_SETFLAGS, uintptr(unsafe.Pointer(&v)))
	if e != 0 {
		return wrap("ioctl(FS_IOC_SETFLAGS)", e)
	}
	return nil
}

// ReadOnly says whether the node path below dirfd, "" for dirfd itself, is on a
// read-only file system, mount or subvolume. For an empty path before Linux 5.8,
// which has no faccessat2(2), statfs(2) tells of file systems and mounts alone.
func ReadOnly(dirfd int, path string) bool {
	if path != "" {
		return unix.Faccessat(dirfd, path, unix.W_OK, 0) == unix.EROFS
	}
	_, _, e := unix.Syscall6(unix.SYS_FACCESSAT2, uintptr(dirfd), uintptr(unsafe.Pointer(&[]byte{0}[0])),
		unix.W_OK, unix.AT_EMPTY_PATH, 0, 0)
	if e == unix.ENOSYS || e == unix.EPERM { // or a filter refuses it
		st, err := StatfsOf(dirfd)
		return err == nil && st.Flags&unix.ST_RDONLY != 0
	}
	return e == unix.EROFS
}

// Umask is umask(2). It is process-wide: only a command may set it.
func Umask(mask int) int { return unix.Umask(mask) }

// Getcwd is getcwd(2): the working directory as the kernel has it. It asks no file
// system, as os.Getwd does, which looks at $PWD and waits there for a server that
// does not answer. ENOENT: it was removed, or is outside of the root.
func Getcwd() (string, error) {
	dir, err := unix.Getwd()
	return dir, wrap("getcwd", err)
}
