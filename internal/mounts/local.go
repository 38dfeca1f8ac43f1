package mounts

import "slices"

// localTypes are file systems that one kernel alone has mounted. What is not on
// the list may be shared with another machine, whose process ids, locks and
// sockets mean nothing here. A slice costs no start of a program anything.
var localTypes = []string{
	"tmpfs", "ramfs", "rootfs", "devtmpfs",
	"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs",
	"bcachefs", "jfs", "reiserfs", "nilfs2", "ubifs", "jffs2",
	"vfat", "msdos", "exfat", "ntfs3", "squashfs", "erofs", "iso9660",
	"overlay", "aufs", "fuse.fuse-overlayfs",
}

// Local reports whether one kernel alone has mounted a file system of this type, as
// the mount table names it.
func Local(fstype string) bool { return slices.Contains(localTypes, fstype) }
