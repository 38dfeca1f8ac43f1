package linux

import "golang.org/x/sys/unix"

// Mount makes the legacy mount(2) call. Flags are the MS_ constants of package
// syscall. For remounts, binds and propagation changes source and fstype are
// ignored by the kernel.
func Mount(source, target, fstype string, flags uintptr, data string) error {
	return wrap("mount", retry(func() error { return unix.Mount(source, target, fstype, flags, data) }))
}

// Unmount detaches what is mounted on target, umount2(2). Flags are
// MNT_DETACH, MNT_FORCE and UMOUNT_NOFOLLOW.
func Unmount(target string, flags int) error {
	return wrap("umount2", retry(func() error { return unix.Unmount(target, flags) }))
}

// PivotRoot makes newRoot the root mount of the caller's mount namespace and
// puts the old one on putOld, pivot_root(2).
func PivotRoot(newRoot, putOld string) error {
	return wrap("pivot_root", retry(func() error { return unix.PivotRoot(newRoot, putOld) }))
}

// Attributes of one mount (not of its file system) for MountSetattr, from
// linux/mount.h.
const (
	MountAttrReadOnly = unix.MOUNT_ATTR_RDONLY
	MountAttrNoSUID   = unix.MOUNT_ATTR_NOSUID
	MountAttrNoDev    = unix.MOUNT_ATTR_NODEV
	MountAttrNoExec   = unix.MOUNT_ATTR_NOEXEC
)

// MountAttr says what MountSetattr changes: attributes to set and to clear, and
// the propagation (MS_PRIVATE and its like, 0 leaves it).
type MountAttr struct {
	Set, Clear  uint64
	Propagation uint64
}

// MountSetattr changes the attributes of the mount at path, and of all mounts
// below it with AT_RECURSIVE in flags: mount_setattr(2), Linux 5.12.
func MountSetattr(dirfd int, path string, flags uint, attr MountAttr) error {
	a := unix.MountAttr{Attr_set: attr.Set, Attr_clr: attr.Clear, Propagation: attr.Propagation}
	return wrap("mount_setattr", retry(func() error { return unix.MountSetattr(dirfd, path, flags, &a) }))
}

// AtRecursive extends MountSetattr (and open_tree) to the mounts below.
const AtRecursive = unix.AT_RECURSIVE

// Chroot makes path the root directory of the process, chroot(2).
func Chroot(path string) error {
	return wrap("chroot", retry(func() error { return unix.Chroot(path) }))
}
