package linux

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// InMemory says that a file system is in memory (tmpfs, ramfs): what it is asked
// takes a microsecond or two and waits for no device and no server. Go's
// scheduler is not told of such a system call, and keeps its thread where it
// would else hand the processor over and take it back, which for half a million
// files is a third of the time. (An open that waits for a listener of fanotify(7)
// keeps the processor, too.)
type InMemory bool

// FSInMemory reports whether the file system of fd is in memory.
func FSInMemory(fd int) InMemory {
	magic, err := Fstatfs(fd)
	return InMemory(err == nil && (magic == TmpfsMagic || magic == RamfsMagic))
}

// StatxNul is Statx for a name that already ends in a NUL byte, as the names
// in a getdents64 buffer do: no copy of the name is made. The name must stay
// where it is during the call.
func (m InMemory) StatxNul(dirfd int, name []byte, flags, mask int, st *unix.Statx_t) error {
	for {
		var e syscall.Errno
		if m {
			_, _, e = unix.RawSyscall6(unix.SYS_STATX, uintptr(dirfd), uintptr(unsafe.Pointer(&name[0])),
				uintptr(flags), uintptr(mask), uintptr(unsafe.Pointer(st)), 0)
		} else {
			_, _, e = unix.Syscall6(unix.SYS_STATX, uintptr(dirfd), uintptr(unsafe.Pointer(&name[0])),
				uintptr(flags), uintptr(mask), uintptr(unsafe.Pointer(st)), 0)
		}
		switch e {
		case 0:
			return nil
		case syscall.EINTR:
		default:
			return wrap("statx", e)
		}
	}
}

// OpenatNul is Openat for a name that ends in a NUL byte, see StatxNul.
func (m InMemory) OpenatNul(dirfd int, name []byte, flags int) (int, error) {
	flags |= unix.O_CLOEXEC | unix.O_LARGEFILE
	for {
		var fd uintptr
		var e syscall.Errno
		if m {
			fd, _, e = unix.RawSyscall6(unix.SYS_OPENAT, uintptr(dirfd), uintptr(unsafe.Pointer(&name[0])), uintptr(flags), 0, 0, 0)
		} else {
			fd, _, e = unix.Syscall6(unix.SYS_OPENAT, uintptr(dirfd), uintptr(unsafe.Pointer(&name[0])), uintptr(flags), 0, 0, 0)
		}
		switch e {
		case 0:
			return int(fd), nil
		case syscall.EINTR:
		default:
			return -1, wrap("openat", e)
		}
	}
}

// UnlinkatNul is Unlinkat for a name that ends in a NUL byte, see StatxNul.
func (m InMemory) UnlinkatNul(dirfd int, name []byte, flags int) error {
	for {
		var e syscall.Errno
		if m {
			_, _, e = unix.RawSyscall(unix.SYS_UNLINKAT, uintptr(dirfd), uintptr(unsafe.Pointer(&name[0])), uintptr(flags))
		} else {
			_, _, e = unix.Syscall(unix.SYS_UNLINKAT, uintptr(dirfd), uintptr(unsafe.Pointer(&name[0])), uintptr(flags))
		}
		switch e {
		case 0:
			return nil
		case syscall.EINTR:
		default:
			return wrap("unlinkat", e)
		}
	}
}

// TryFlock is flock(fd, LOCK_EX|LOCK_NB), as the function of that name.
func (m InMemory) TryFlock(fd int) error {
	if !m {
		return TryFlock(fd)
	}
	for {
		switch _, _, e := unix.RawSyscall(unix.SYS_FLOCK, uintptr(fd), unix.LOCK_EX|unix.LOCK_NB, 0); e {
		case 0:
			return nil
		case syscall.EINTR:
		default:
			return wrap("flock", e)
		}
	}
}

// Close is close(2) of a file that was only read.
func (m InMemory) Close(fd int) {
	if m {
		unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
		return
	}
	unix.Close(fd)
}
