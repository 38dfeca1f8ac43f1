package fsat

import (
	"errors"

	"github.com/slashrun/slashrun/internal/linux"
)

// ErrAsks says that the kernel offers no call that keeps from asking a file system's
// server.
var ErrAsks = errors.New("without statx(2) the file system would have to be asked")

// StatQuietly is StatKnown where the kernel can, else StatAt, which asks: look into the
// mount table first.
func StatQuietly(dirfd int, name string, st *Stat) (mountID int, err error) {
	mountID, err = StatKnown(dirfd, name, st)
	if err == ErrAsks {
		return 0, StatAt(dirfd, name, st) // which remembers
	}
	return mountID, err
}

// StatKnown is StatAt for what may lie on a server that is gone: it gives what the
// kernel knows and asks nobody (AT_STATX_DONT_SYNC), so the root of a FUSE or network
// file system does not block it. mountID is the id of the inode's mount as the mount
// table has it, 0 where the kernel does not tell (before Linux 5.8). Where a kernel
// before Linux 4.11 or a filter leaves only the older call it is ErrAsks.
func StatKnown(dirfd int, name string, st *Stat) (mountID int, err error) {
	flags := linux.AT_SYMLINK_NOFOLLOW | linux.AT_NO_AUTOMOUNT
	if name == "" {
		flags = linux.AT_EMPTY_PATH
	}
	if noStatx.Load() {
		return 0, ErrAsks
	}
	var sx linux.StatxT
	err = linux.Statx(dirfd, name, flags|linux.AT_STATX_DONT_SYNC, linux.STATX_BASIC_STATS|linux.STATX_BTIME|linux.StatxMountID, &sx)
	if err != nil {
		if Absent(err) {
			return 0, ErrAsks
		}
		return 0, err
	}
	st.fromStatx(&sx)
	if sx.Mask&linux.StatxMountID != 0 {
		mountID = int(sx.Mnt_id)
	}
	return mountID, nil
}
