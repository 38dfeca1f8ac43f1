package linux

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// btrfsIocSubvolCreate is BTRFS_IOC_SUBVOL_CREATE, _IOW(0x94, 14, struct
// btrfs_ioctl_vol_args) of linux/btrfs.h.
const btrfsIocSubvolCreate = 0x5000940e

// BtrfsSubvolCreate makes a subvolume called name in the directory dirfd, which
// is open for reading. ENOTTY says that the file system is not btrfs.
func BtrfsSubvolCreate(dirfd int, name string) error {
	var args struct {
		fd   int64
		name [4088]byte // BTRFS_PATH_NAME_MAX + 1
	}
	if len(name) >= len(args.name) {
		return wrap("ioctl(BTRFS_IOC_SUBVOL_CREATE)", syscall.ENAMETOOLONG)
	}
	copy(args.name[:], name)
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(dirfd), btrfsIocSubvolCreate, uintptr(unsafe.Pointer(&args)))
	if e != 0 {
		return wrap("ioctl(BTRFS_IOC_SUBVOL_CREATE)", e)
	}
	return nil
}
