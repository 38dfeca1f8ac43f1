package pidfile

import "github.com/slashrun/slashrun/internal/linux"

// local reports whether a free flock(2) on the file is free on every machine: the
// file system is one that a single kernel has mounted. The numbers are those of
// linux/magic.h and statfs(2).
func local(fd int) bool {
	magic, err := linux.Fstatfs(fd)
	if err != nil {
		return false
	}
	switch uint32(magic) {
	case 0x01021994, // tmpfs
		0x858458f6, // ramfs
		0x794c7630, // overlayfs
		0xef53,     // ext2, ext3, ext4
		0x58465342, // xfs
		0x9123683e, // btrfs
		0xf2f52010, // f2fs
		0x2fc12fc1, // zfs
		0xca451a4e, // bcachefs
		0x24051905, // ubifs
		0x72b6,     // jffs2
		0x4d44,     // vfat
		0x2011bab0: // exfat
		return true
	}
	return false
}
