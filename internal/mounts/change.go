package mounts

import (
	"fmt"
	"syscall"

	"github.com/slashrun/slashrun/internal/feature"
	"github.com/slashrun/slashrun/internal/linux"
)

// Reconfigure changes options of the file system whose mount has the directory
// fd as its root. Options that are not named stay (tmpfs keeps what a remount
// does not mention). It is all or nothing: the kernel checks them together.
//
// EINVAL carries the kernel's reason where fspick is there, such as "Too small a
// size for current use"; EPERM means that the file system belongs to another
// user namespace.
func Reconfigure(fd int, opts []Option) error {
	err := reconfigure(fd, opts)
	if !feature.Absent(err) {
		return err
	}
	// A remount by mount(2) sets the mount's own flags too: give it those that
	// are there.
	st, serr := linux.StatfsOf(fd)
	if serr != nil {
		return serr
	}
	return linux.InDirectory(fd, func() error {
		return linux.Mount("", ".", "", syscall.MS_REMOUNT|keepFlags(st.Flags), data(opts, nil))
	})
}

func reconfigure(fd int, opts []Option) error {
	ctx, err := linux.Fspick(fd, "")
	if err != nil {
		return err
	}
	defer linux.Close(ctx)
	for _, o := range opts {
		if err := linux.FsconfigSet(ctx, o.Key, o.Value); err != nil {
			return fmt.Errorf("option %s=%s: %w", o.Key, o.Value, err)
		}
	}
	return linux.FsconfigReconfigure(ctx)
}

// Restrict adds attributes (linux.MountAttrNoSUID and its like) to the mount
// that has the directory fd as its root. It takes none away.
func Restrict(fd int, attr uint64) error {
	err := linux.MountSetattr(fd, "", linux.AT_EMPTY_PATH, linux.MountAttr{Set: attr})
	if !feature.Absent(err) {
		return err
	}
	st, serr := linux.StatfsOf(fd)
	if serr != nil {
		return serr
	}
	return linux.InDirectory(fd, func() error {
		return linux.Mount("", ".", "", syscall.MS_REMOUNT|syscall.MS_BIND|keepFlags(st.Flags)|msFlags(attr), "")
	})
}

// keepFlags picks out of statfs flags those that mount(2) takes; their ST_
// values equal the MS_ ones (linux/statfs.h), but for ST_RELATIME.
func keepFlags(st uint64) uintptr {
	const same = syscall.MS_RDONLY | syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC |
		syscall.MS_SYNCHRONOUS | syscall.MS_MANDLOCK | syscall.MS_NOATIME | syscall.MS_NODIRATIME
	f := uintptr(st) & (same &^ (syscall.MS_NOATIME | syscall.MS_NODIRATIME))
	const stNoatime, stNodiratime, stRelatime = 0x400, 0x800, 0x1000
	if st&stNoatime != 0 {
		f |= syscall.MS_NOATIME
	}
	if st&stNodiratime != 0 {
		f |= syscall.MS_NODIRATIME
	}
	if st&stRelatime != 0 {
		f |= syscall.MS_RELATIME
	}
	return f
}

// Attr turns statfs flags into mount attributes.
func Attr(st uint64) uint64 {
	var a uint64
	for _, p := range [...]struct{ st, attr uint64 }{
		{syscall.MS_RDONLY, linux.MountAttrReadOnly}, {syscall.MS_NOSUID, linux.MountAttrNoSUID},
		{syscall.MS_NODEV, linux.MountAttrNoDev}, {syscall.MS_NOEXEC, linux.MountAttrNoExec},
	} {
		if st&p.st != 0 {
			a |= p.attr
		}
	}
	return a
}

// Move moves the mount at from onto dirfd/path, with all mounts below it, and
// falls back to mount(2) with MS_MOVE. EINVAL means that from is not the root of
// a mount or that the mount it hangs on is shared: mount --make-private that one.
func Move(from, dirfd int, path string) error {
	err := moveOnto(from, dirfd, path)
	if !feature.Absent(err) {
		return err
	}
	b := &staged{root: from}
	return b.MoveTo(dirfd, path)
}
