package linux

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Flags of the mount calls that package syscall does not have, from
// linux/mount.h.
const (
	OpenTreeClone   = unix.OPEN_TREE_CLONE
	MoveMountFromFd = unix.MOVE_MOUNT_F_EMPTY_PATH
	MoveMountToFd   = unix.MOVE_MOUNT_T_EMPTY_PATH
	UmountNoFollow  = unix.UMOUNT_NOFOLLOW
	StatxMountID    = unix.STATX_MNT_ID
	TmpfsMagic      = unix.TMPFS_MAGIC
	RamfsMagic      = unix.RAMFS_MAGIC
	OverlayfsMagic  = unix.OVERLAYFS_SUPER_MAGIC
	ProcMagic       = unix.PROC_SUPER_MAGIC
	SelinuxfsMagic  = unix.SELINUX_MAGIC
	CloneNewNS      = unix.CLONE_NEWNS
	CloneFS         = unix.CLONE_FS
)

// Fsopen makes a file system context for fstype, fsopen(2). The result is
// close-on-exec. EPERM without CAP_SYS_ADMIN in the user namespace that owns
// the mount namespace.
func Fsopen(fstype string) (int, error) {
	var fd int
	err := retry(func() (err error) { fd, err = unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC); return err })
	return fd, wrap("fsopen", err)
}

// Fspick makes a context to reconfigure the file system that is mounted at
// path, which must be the root of a mount, fspick(2). With an empty path it is
// dirfd itself. Links are not followed and automounts not triggered.
func Fspick(dirfd int, path string) (int, error) {
	flags := unix.FSPICK_CLOEXEC | unix.FSPICK_SYMLINK_NOFOLLOW | unix.FSPICK_NO_AUTOMOUNT
	if path == "" {
		flags |= unix.FSPICK_EMPTY_PATH
	}
	var fd int
	err := retry(func() (err error) { fd, err = unix.Fspick(dirfd, path, flags); return err })
	return fd, wrap("fspick", err)
}

// FsconfigSet gives a context one option, fsconfig(2): a flag when value is
// empty, a string otherwise. The error carries what the kernel wrote to the
// context's log.
func FsconfigSet(fd int, key, value string) error {
	return fsError(fd, "fsconfig "+key, retry(func() error {
		if value == "" {
			return unix.FsconfigSetFlag(fd, key)
		}
		return unix.FsconfigSetString(fd, key, value)
	}))
}

// FsconfigCreate makes the superblock of a context, fsconfig(2)
// FSCONFIG_CMD_CREATE.
func FsconfigCreate(fd int) error {
	return fsError(fd, "fsconfig create", retry(func() error { return unix.FsconfigCreate(fd) }))
}

// FsconfigReconfigure applies the options of a context made by Fspick,
// fsconfig(2) FSCONFIG_CMD_RECONFIGURE.
func FsconfigReconfigure(fd int) error {
	return fsError(fd, "fsconfig reconfigure", retry(func() error { return unix.FsconfigReconfigure(fd) }))
}

// Fsmount makes a detached mount of a context's superblock with attributes attr
// (MountAttr constants), fsmount(2). The result is an O_PATH descriptor of its
// root; closing it while the mount is attached nowhere dissolves the mount.
func Fsmount(fd int, attr uint64) (int, error) {
	var m int
	err := retry(func() (err error) { m, err = unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, int(attr)); return err })
	return m, fsError(fd, "fsmount", err)
}

// MoveMount attaches the mount at fromPath on toPath, move_mount(2). Flags are
// MoveMountFromFd and MoveMountToFd for an empty path. Links at the end of
// either path are not followed.
func MoveMount(fromDir int, fromPath string, toDir int, toPath string, flags int) error {
	return wrap("move_mount", retry(func() error { return unix.MoveMount(fromDir, fromPath, toDir, toPath, flags) }))
}

// OpenTree opens path as a mount object, open_tree(2). With OpenTreeClone it is
// a detached copy, of all mounts below it too with AtRecursive. An empty path
// is dirfd itself. Links are not followed. The result is close-on-exec.
func OpenTree(dirfd int, path string, flags int) (int, error) {
	flags |= unix.OPEN_TREE_CLOEXEC | unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var fd int
	err := retry(func() (err error) { fd, err = unix.OpenTree(dirfd, path, uint(flags)); return err })
	return fd, wrap("open_tree", err)
}

// Statfs is what fstatfs(2) tells of the file system and the mount behind a
// descriptor.
type Statfs struct {
	Magic  int64
	Bytes  uint64 // size in bytes; 0 on a tmpfs means no limit
	Files  uint64 // inodes; 0 on a tmpfs means no limit
	Free   uint64 // bytes free
	Ifree  uint64 // inodes free
	Flags  uint64 // ST_ flags of the mount: they equal the MS_ constants for rdonly, nosuid, nodev, noexec
	Blocks uint64 // unit of the size, in bytes
}

// StatfsOf is fstatfs(2), with sizes in bytes. It works on O_PATH descriptors.
func StatfsOf(fd int) (Statfs, error) {
	var s unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(fd, &s) }); err != nil {
		return Statfs{}, wrap("fstatfs", err)
	}
	unit := uint64(s.Bsize)
	return Statfs{
		Magic: int64(s.Type), Bytes: s.Blocks * unit, Files: s.Files, Free: s.Bfree * unit, Ifree: s.Ffree,
		Flags: uint64(s.Flags), Blocks: unit,
	}, nil
}

// FsError is a failed call on a file system context together with the reason
// that the kernel gave in the context's log.
type FsError struct {
	Call string
	Log  []string // "tmpfs: Unknown parameter 'noswap'"; may be empty
	Err  error    // the errno
}

func (e *FsError) Error() string {
	if len(e.Log) == 0 {
		return e.Call + ": " + e.Err.Error()
	}
	return e.Call + ": " + e.Err.Error() + " (" + strings.Join(e.Log, "; ") + ")"
}

func (e *FsError) Unwrap() error { return e.Err }

func fsError(fd int, call string, err error) error {
	if err == nil {
		return nil
	}
	return &FsError{Call: call, Log: FsLog(fd), Err: err}
}

// FsLog reads and empties the log of a file system context: read(2) gives one
// message a call ("e ", "w " or "i " and the text) and ENODATA at the end
// (Documentation/filesystems/mount_api.rst in the kernel). The classes are cut
// off, and information is left out.
func FsLog(fd int) []string {
	var log []string
	var buf [512]byte
	for len(log) < 16 { // the kernel's ring holds 8
		var n int
		err := retry(func() (err error) { n, err = syscall.Read(fd, buf[:]); return err })
		if err == syscall.EMSGSIZE {
			continue // consumed, and longer than any message we know
		}
		if err != nil || n <= 0 {
			return log
		}
		class, text, ok := strings.Cut(strings.TrimSpace(string(buf[:n])), " ")
		if ok && (class == "e" || class == "w") {
			log = append(log, text)
		}
	}
	return log
}
