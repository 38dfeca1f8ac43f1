package linux

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bits of statx(2)'s mask beside those of a whole stat(2).
const (
	STATX_TYPE  = unix.STATX_TYPE
	STATX_MODE  = unix.STATX_MODE
	STATX_UID   = unix.STATX_UID
	STATX_ATIME = unix.STATX_ATIME
	STATX_MTIME = unix.STATX_MTIME
	STATX_CTIME = unix.STATX_CTIME
	STATX_INO   = unix.STATX_INO
)

// Types of getdents64(2) records, as dirent.h names them.
const (
	DT_UNKNOWN = unix.DT_UNKNOWN
	DT_CHR     = unix.DT_CHR
	DT_DIR     = unix.DT_DIR
	DT_BLK     = unix.DT_BLK
)

// View is b as a string that shares its memory: no copy is made, and the string
// changes when b does. It is for looking a name of a getdents64 buffer up, never
// for keeping.
func View(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// FutimensOf gives the file an access and a modification time as statx(2) told
// them.
func FutimensOf(fd int, times [2]StatxTimestamp) error {
	ts := [2]unix.Timespec{timespecOf(times[0]), timespecOf(times[1])}
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

// StatxTimestamp is the kernel's struct statx_timestamp.
type StatxTimestamp = unix.StatxTimestamp

func timespecOf(t StatxTimestamp) (ts unix.Timespec) {
	ts.Sec, ts.Nsec = t.Sec, int64(t.Nsec)
	return ts
}
