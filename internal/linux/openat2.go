package linux

import "golang.org/x/sys/unix"

// Resolve flags of openat2(2).
const (
	RESOLVE_NO_SYMLINKS   = unix.RESOLVE_NO_SYMLINKS
	RESOLVE_NO_MAGICLINKS = unix.RESOLVE_NO_MAGICLINKS
	RESOLVE_BENEATH       = unix.RESOLVE_BENEATH
	RESOLVE_IN_ROOT       = unix.RESOLVE_IN_ROOT
	RESOLVE_CACHED        = 0x20 // linux/openat2.h, Linux 5.12: EAGAIN rather than to ask a file system
)

// Openat2 is openat2(2), Linux 5.6. O_CLOEXEC is always set. EAGAIN, which the
// kernel gives where a rename raced with "..", is the caller's to deal with.
func Openat2(dirfd int, path string, flags, mode, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Mode: mode, Resolve: resolve}
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Openat2(dirfd, path, &how)
		return err
	})
	return fd, wrap("openat2", err)
}
