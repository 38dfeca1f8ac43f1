package linux

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of linux/btrfs.h, _IOW and _IOWR of 0x94 and the number that is their
// last byte. Their structures have the same layout on all architectures.
const (
	btrfsIocSubvolCreate    = 0x5000940e // struct btrfs_ioctl_vol_args
	btrfsIocTreeSearch      = 0xd0009411 // struct btrfs_ioctl_search_args
	btrfsIocInoLookup       = 0xd0009412 // struct btrfs_ioctl_ino_lookup_args
	btrfsIocSubvolSetflags  = 0x4008941a // __u64
	btrfsIocQuotaCtl        = 0xc0109428 // struct btrfs_ioctl_quota_ctl_args
	btrfsIocQgroupAssign    = 0x40189429 // struct btrfs_ioctl_qgroup_assign_args
	btrfsIocQgroupCreate    = 0x4010942a // struct btrfs_ioctl_qgroup_create_args
	btrfsIocQuotaRescan     = 0x4040942c // struct btrfs_ioctl_quota_rescan_args
	btrfsIocQuotaRescanWait = 0x0000942e
)

// Trees, item types and numbers of linux/btrfs_tree.h.
const (
	BTRFS_ROOT_TREE_OBJECTID  = 1
	BTRFS_QUOTA_TREE_OBJECTID = 8
	BTRFS_FIRST_FREE_OBJECTID = 256 // also the inode of every subvolume's root directory
	BTRFS_ROOT_BACKREF_KEY    = 144
	BTRFS_QGROUP_STATUS_KEY   = 240
	BTRFS_QGROUP_INFO_KEY     = 242
	BTRFS_QGROUP_RELATION_KEY = 246
)

// btrfsIoctl makes a request that works on a structure. Some answer with a
// positive number.
func btrfsIoctl(fd int, name string, req uintptr, args unsafe.Pointer) (int, error) {
	for {
		n, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(args))
		if e == syscall.EINTR {
			continue
		}
		if e != 0 {
			return 0, wrap("ioctl("+name+")", e)
		}
		return int(n), nil
	}
}

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
	_, err := btrfsIoctl(dirfd, "BTRFS_IOC_SUBVOL_CREATE", btrfsIocSubvolCreate, unsafe.Pointer(&args))
	return err
}

// BtrfsTreeID returns the number of the subvolume that holds the file fd.
func BtrfsTreeID(fd int) (uint64, error) {
	var args struct {
		treeID, objectID uint64
		name             [4080]byte // BTRFS_INO_LOOKUP_PATH_MAX
	}
	args.objectID = BTRFS_FIRST_FREE_OBJECTID
	_, err := btrfsIoctl(fd, "BTRFS_IOC_INO_LOOKUP", btrfsIocInoLookup, unsafe.Pointer(&args))
	return args.treeID, err
}

// BtrfsItem is an item in a tree of btrfs: its key, and its data as it is on disk.
type BtrfsItem struct {
	ObjectID, Offset uint64
	Type             uint32
	Data             []byte
}

// BtrfsSearch returns the items of one object and type, and needs CAP_SYS_ADMIN. ENOENT says that the file system has no such tree.
func BtrfsSearch(fd int, tree, object uint64, typ uint32) ([]BtrfsItem, error) {
	type search struct {
		tree, minObject, maxObject, minOffset, maxOffset, minTrans, maxTrans uint64
		minType, maxType, items, _                                           uint32
		_                                                                    [4]uint64
		buf                                                                  [4096 - 104]byte
	}
	const header = 32 // struct btrfs_ioctl_search_header
	var found []BtrfsItem
	for from := uint64(0); ; {
		args := search{tree: tree, minObject: object, maxObject: object, minOffset: from, maxOffset: ^uint64(0),
			maxTrans: ^uint64(0), minType: typ, maxType: typ, items: 256}
		if _, err := btrfsIoctl(fd, "BTRFS_IOC_TREE_SEARCH", btrfsIocTreeSearch, unsafe.Pointer(&args)); err != nil {
			return nil, err
		}
		buf, before := args.buf[:], len(found)
		for range args.items {
			if len(buf) < header {
				break
			}
			it := BtrfsItem{ObjectID: binary.NativeEndian.Uint64(buf[8:]), Offset: binary.NativeEndian.Uint64(buf[16:]),
				Type: binary.NativeEndian.Uint32(buf[24:])}
			end := min(header+int(binary.NativeEndian.Uint32(buf[28:])), len(buf))
			it.Data, buf = buf[header:end], buf[end:]
			if it.ObjectID == object && it.Type == typ {
				found = append(found, it)
			}
		}
		if len(found) == before || found[len(found)-1].Offset == ^uint64(0) {
			return found, nil
		}
		from = found[len(found)-1].Offset + 1
	}
}

// What BtrfsQuotaCtl does, from linux/btrfs.h.
const (
	BTRFS_QUOTA_CTL_ENABLE              = 1
	BTRFS_QUOTA_CTL_DISABLE             = 2
	BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA = 4
)

// BtrfsQuotaCtl switches quota groups on or off.
func BtrfsQuotaCtl(fd int, cmd uint64) error {
	args := struct{ cmd, status uint64 }{cmd: cmd}
	_, err := btrfsIoctl(fd, "BTRFS_IOC_QUOTA_CTL", btrfsIocQuotaCtl, unsafe.Pointer(&args))
	return err
}

// BtrfsSetReadOnly makes the subvolume of the directory fd read-only.
func BtrfsSetReadOnly(fd int) error {
	flags := uint64(2) // BTRFS_SUBVOL_RDONLY
	_, err := btrfsIoctl(fd, "BTRFS_IOC_SUBVOL_SETFLAGS", btrfsIocSubvolSetflags, unsafe.Pointer(&flags))
	return err
}

// BtrfsQgroupCreate makes a quota group. EBUSY says that a scan of quotas runs.
func BtrfsQgroupCreate(fd int, id uint64) error { return btrfsQgroup(fd, 1, id) }

// BtrfsQgroupDestroy removes a quota group and what it is a member of. EBUSY says
// that it has members, or that a scan of quotas runs.
func BtrfsQgroupDestroy(fd int, id uint64) error { return btrfsQgroup(fd, 0, id) }

func btrfsQgroup(fd int, create, id uint64) error {
	args := struct{ create, id uint64 }{create, id}
	_, err := btrfsIoctl(fd, "BTRFS_IOC_QGROUP_CREATE", btrfsIocQgroupCreate, unsafe.Pointer(&args))
	return err
}

// BtrfsQgroupAssign makes the quota group child a member of parent. rescan says
// that the numbers of the groups are not right until BtrfsQuotaRescan has run.
// EBUSY says that a scan of quotas runs.
func BtrfsQgroupAssign(fd int, child, parent uint64) (rescan bool, err error) {
	args := struct{ assign, src, dst uint64 }{1, child, parent}
	n, err := btrfsIoctl(fd, "BTRFS_IOC_QGROUP_ASSIGN", btrfsIocQgroupAssign, unsafe.Pointer(&args))
	return n > 0, err
}

// BtrfsQuotaRescan starts a scan of quotas. EINPROGRESS says that one runs.
func BtrfsQuotaRescan(fd int) error {
	var args [8]uint64
	_, err := btrfsIoctl(fd, "BTRFS_IOC_QUOTA_RESCAN", btrfsIocQuotaRescan, unsafe.Pointer(&args))
	return err
}

// BtrfsQuotaRescanWait waits for the end of a scan that runs.
func BtrfsQuotaRescanWait(fd int) error {
	_, err := btrfsIoctl(fd, "BTRFS_IOC_QUOTA_RESCAN_WAIT", btrfsIocQuotaRescanWait, nil)
	return err
}
