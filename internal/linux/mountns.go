package linux

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NsfsMagic is what fstatfs(2) says of a descriptor of a namespace, NSFS_MAGIC of
// linux/magic.h.
const NsfsMagic = unix.NSFS_MAGIC

// Ioctls of linux/nsfs.h on a descriptor of a namespace. x/sys lacks those of
// Linux 6.12 on; the numbers are _IOR(0xb7, N, struct mnt_ns_info), the same on
// amd64 and arm64.
const (
	nsMntGetInfo = 2<<30 | mntNSInfoSize<<16 | 0xb7<<8 | 10
	nsMntGetNext = 2<<30 | mntNSInfoSize<<16 | 0xb7<<8 | 11
	nsMntGetPrev = 2<<30 | mntNSInfoSize<<16 | 0xb7<<8 | 12

	mntNSInfoSize = 16 // MNT_NS_INFO_SIZE_VER0
)

// MountNSInfo is the kernel's struct mnt_ns_info (linux/nsfs.h, Linux 6.12).
type MountNSInfo struct {
	Size   uint32
	Mounts uint32 // how many there are in it
	ID     uint64 // unique for this boot; not the inode number of /proc/PID/ns/mnt
}

// NSType is the kind of the namespace behind fd, one of the CLONE_NEW constants of
// package syscall: ioctl NS_GET_NSTYPE, Linux 4.11. ENOTTY: fd is no namespace.
func NSType(fd int) (int, error) {
	var kind int
	err := retry(func() (err error) {
		kind, err = unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
		return err
	})
	return kind, wrap("ioctl NS_GET_NSTYPE", err)
}

// MountNSGetInfo is ioctl NS_MNT_GET_INFO on a mount namespace, Linux 6.12.
// Before it is ENOTTY.
func MountNSGetInfo(fd int) (MountNSInfo, error) {
	info := MountNSInfo{Size: mntNSInfoSize}
	_, err := mountNSIoctl(fd, nsMntGetInfo, &info)
	return info, wrap("ioctl NS_MNT_GET_INFO", err)
}

// MountNSNext opens the mount namespace that comes after the one behind fd, in the
// order of their ids, and with back set the one before it: ioctls NS_MNT_GET_NEXT
// and NS_MNT_GET_PREV, Linux 6.12. Those over whose user namespace we lack
// CAP_SYS_ADMIN are left out. ENOENT: there is none; ENOTTY: an older kernel;
// EPERM: we may not ask. The result is close-on-exec.
func MountNSNext(fd int, back bool) (int, MountNSInfo, error) {
	info := MountNSInfo{Size: mntNSInfoSize}
	name, req := "ioctl NS_MNT_GET_NEXT", uintptr(nsMntGetNext)
	if back {
		name, req = "ioctl NS_MNT_GET_PREV", nsMntGetPrev
	}
	next, err := mountNSIoctl(fd, req, &info)
	return next, info, wrap(name, err)
}

func mountNSIoctl(fd int, req uintptr, info *MountNSInfo) (int, error) {
	for {
		r, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(unsafe.Pointer(info)))
		switch e {
		case 0:
			return int(r), nil
		case syscall.EINTR:
		default:
			return -1, e
		}
	}
}

// mntIDReq is struct mnt_id_req of linux/mount.h, MNT_ID_REQ_SIZE_VER1.
type mntIDReq struct {
	size  uint32
	_     uint32
	mntID uint64
	param uint64
	nsID  uint64
}

const (
	mntIDReqSize = 32 // MNT_ID_REQ_SIZE_VER1

	lsmtRoot = ^uint64(0) // LSMT_ROOT: all mounts of the namespace
)

// Listmount lists the ids of the mounts of the namespace with this id (see
// MountNSInfo), 0 for our own, that come after the id last, 0 for the first:
// listmount(2), Linux 6.8, and other namespaces from 6.11 on. These are ids that
// are never used again, not those of mountinfo. It returns how many fit into list;
// ENOSYS and EPERM (a filter) mean absent.
func Listmount(ns, last uint64, list []uint64) (int, error) {
	req := mntIDReq{size: mntIDReqSize, mntID: lsmtRoot, param: last, nsID: ns}
	if len(list) == 0 {
		return 0, nil
	}
	for {
		n, _, e := unix.Syscall6(unix.SYS_LISTMOUNT, uintptr(unsafe.Pointer(&req)), uintptr(unsafe.Pointer(&list[0])), uintptr(len(list)), 0, 0, 0)
		switch e {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, wrap("listmount", e)
		}
	}
}

// MountStatus is what we use of struct statmount of linux/mount.h.
type MountStatus struct {
	ID, Parent   int // as mountinfo has them
	Major, Minor uint32
	ReadOnly     bool // the mount or its file system
	Root, Point  string
	FSType       string
}

// Masks and offsets of struct statmount.
const (
	statmountSBBasic  = 0x01
	statmountMntBasic = 0x02
	statmountRoot     = 0x08
	statmountPoint    = 0x10
	statmountFSType   = 0x20

	statmountStrings = 512 // where str[] begins
	sbReadOnly       = 1   // SB_RDONLY
)

// Statmount asks for one mount of the namespace with this id, 0 for our own, by an
// id of Listmount: statmount(2), Linux 6.8. The point is as seen from the root of
// that namespace, empty where it cannot be reached from there. ENOENT: it is gone.
func Statmount(ns, id uint64) (MountStatus, error) {
	req := mntIDReq{size: mntIDReqSize, mntID: id, nsID: ns,
		param: statmountSBBasic | statmountMntBasic | statmountRoot | statmountPoint | statmountFSType}
	for size := statmountStrings + 1024; ; size *= 4 {
		buf := make([]byte, size)
		_, _, e := unix.Syscall6(unix.SYS_STATMOUNT, uintptr(unsafe.Pointer(&req)), uintptr(unsafe.Pointer(&buf[0])), uintptr(size), 0, 0, 0)
		runtime.KeepAlive(buf)
		switch {
		case e == syscall.EINTR:
			size /= 4
		case e == syscall.EOVERFLOW && size < 1<<20:
		case e != 0:
			return MountStatus{}, wrap("statmount", e)
		default:
			return parseStatmount(buf), nil
		}
	}
}

// parseStatmount reads the fields at the offsets of the header: size 0, mask 8,
// sb_dev 16 and 20, sb_flags 32, fs_type 36, mnt_id_old 56, mnt_parent_id_old 60,
// mnt_attr 64, mnt_root 104, mnt_point 108.
func parseStatmount(b []byte) MountStatus {
	e := binary.NativeEndian
	mask := e.Uint64(b[8:])
	text := func(bit uint64, at int) string {
		from := statmountStrings + int(e.Uint32(b[at:]))
		if mask&bit == 0 || from >= len(b) {
			return ""
		}
		s, _, _ := bytes.Cut(b[from:], []byte{0})
		return string(s)
	}
	return MountStatus{
		ID: int(e.Uint32(b[56:])), Parent: int(e.Uint32(b[60:])),
		Major: e.Uint32(b[16:]), Minor: e.Uint32(b[20:]),
		ReadOnly: e.Uint32(b[32:])&sbReadOnly != 0 || e.Uint64(b[64:])&unix.MOUNT_ATTR_RDONLY != 0,
		Root:     text(statmountRoot, 104), Point: text(statmountPoint, 108), FSType: text(statmountFSType, 36),
	}
}
