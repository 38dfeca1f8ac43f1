package linux

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PidfsMagic is what fstatfs(2) says of a pidfd since Linux 6.9 (PID_FS_MAGIC of
// linux/magic.h). Before, all pidfds share one anonymous inode.
const PidfsMagic = unix.PID_FS_MAGIC

// pidfsRoot is FD_PIDFS_ROOT of linux/fcntl.h: it stands for the file system of
// pidfds, which is mounted nowhere.
const pidfsRoot = -10002

// pidfsHandle is FILEID_KERNFS of linux/exportfs.h: a handle that is one 64-bit
// number.
const pidfsHandle = 0xfe

// PidfdInfo is the kernel's struct pidfd_info.
type PidfdInfo = unix.PidfdInfo

// Bits of PidfdInfo.Mask: what is asked for, and then what was given.
const (
	PIDFD_INFO_PID   = unix.PIDFD_INFO_PID
	PIDFD_INFO_CREDS = unix.PIDFD_INFO_CREDS
	PIDFD_INFO_EXIT  = unix.PIDFD_INFO_EXIT // since Linux 6.15, also after the process was waited for
)

// PidfdGetInfo is ioctl(PIDFD_GET_INFO), Linux 6.13: ids, credentials and, with
// PIDFD_INFO_EXIT, the status of the process behind a pidfd. Before, it is
// ENOTTY or EINVAL. ESRCH says that the process has ended and was waited for.
func PidfdGetInfo(pidfd int, info *PidfdInfo) error {
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), unix.PIDFD_GET_INFO, uintptr(unsafe.Pointer(info)))
		switch e {
		case 0:
			return nil
		case syscall.EINTR:
		default:
			return wrap("ioctl(PIDFD_GET_INFO)", e)
		}
	}
}

// PidfdSendSignal is pidfd_send_signal(2), Linux 5.1: to the process behind the
// descriptor and never to another. Signal 0 only asks whether it may be. ESRCH
// says that it has ended and was waited for; a zombie takes every signal.
func PidfdSendSignal(pidfd int, sig syscall.Signal) error {
	return wrap("pidfd_send_signal", retry(func() error { return unix.PidfdSendSignal(pidfd, sig, nil, 0) }))
}

// PidfdHandle is the number that the kernel gave the process and gives no other
// until the next boot: what name_to_handle_at(2) says of a pidfd, Linux 6.14.
// EOPNOTSUPP, ENOSYS and EPERM (seccomp) mean absent.
func PidfdHandle(pidfd int) (uint64, error) {
	var h unix.FileHandle
	err := retry(func() (err error) {
		h, _, err = unix.NameToHandleAt(pidfd, "", unix.AT_EMPTY_PATH)
		return err
	})
	if err != nil {
		return 0, wrap("name_to_handle_at", err)
	}
	if h.Type() != pidfsHandle || h.Size() != 8 {
		return 0, wrap("name_to_handle_at", syscall.EOPNOTSUPP)
	}
	return binary.NativeEndian.Uint64(h.Bytes()), nil
}

// PidfdByHandle opens the process that PidfdHandle gave the number of:
// open_by_handle_at(2) with FD_PIDFS_ROOT, Linux 6.14. ESTALE says that there is
// no such process *in our PID namespace or below it*: it has ended and was waited
// for, or we cannot see it. Before, it is EBADF.
func PidfdByHandle(handle uint64) (int, error) {
	h := unix.NewFileHandle(pidfsHandle, binary.NativeEndian.AppendUint64(nil, handle))
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.OpenByHandleAt(pidfsRoot, h, unix.O_CLOEXEC)
		return err
	})
	return fd, wrap("open_by_handle_at", err)
}
