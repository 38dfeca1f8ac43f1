package mounts

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// StagingName is the directory that the legacy way makes. The name is fixed, so
// that the next run finds what a killed one left and removes it.
const StagingName = ".slashrun.new"

const (
	stagingSource = "slashrun-staging"
	treeName      = "tree"
)

// staged is the way with mount(2). Two mounts: a private one on the staging
// directory, because MS_MOVE is refused out of a shared mount, and in it the
// tree.
type staged struct {
	dir     int // the staging directory's parent
	private int // root of the private mount
	root    int // root of the tree
	dropped []Dropped
}

func stage(t Tmpfs, dirs []Staging) (Builder, error) {
	var why []string
	for _, d := range dirs {
		b, err := stageIn(t, d)
		if err == nil {
			return b, nil
		}
		if errors.Is(err, syscall.EPERM) {
			return nil, err // the privilege is missing: another directory does not help
		}
		why = append(why, d.Path+": "+err.Error())
	}
	return nil, fmt.Errorf("%w (%s)", ErrNoStaging, strings.Join(why, "; "))
}

func stageIn(t Tmpfs, d Staging) (Builder, error) {
	if err := RemoveStaging(d.Fd); err != nil {
		return nil, err
	}
	if err := linux.Mkdirat(d.Fd, StagingName, 0o700); err != nil {
		return nil, err
	}
	dir, err := linux.Dup(d.Fd)
	if err != nil {
		return nil, err
	}
	b := &staged{dir: dir, private: -1, root: -1}
	if err := b.open(t); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (b *staged) open(t Tmpfs) (err error) {
	private := Tmpfs{Source: stagingSource, Options: []Option{{Key: "mode", Value: "0700"}, {Key: "size", Value: "64k"}}}
	if b.private, err = b.mount(b.dir, StagingName, private); err != nil {
		return err
	}
	if err := linux.InDirectory(b.private, func() error {
		return linux.Mount("", ".", "", syscall.MS_PRIVATE, "")
	}); err != nil {
		return err
	}
	if err := linux.Mkdirat(b.private, treeName, 0o700); err != nil {
		return err
	}
	b.root, err = b.mount(b.private, treeName, t)
	return err
}

// mount mounts t on an entry of dirfd and opens its root.
func (b *staged) mount(dirfd int, name string, t Tmpfs) (int, error) {
	err := linux.InDirectory(dirfd, func() error { return b.mountHere(name, t) })
	if err != nil {
		return -1, err
	}
	return linux.Openat(dirfd, name, linux.O_PATH|linux.O_DIRECTORY|linux.O_NOFOLLOW, 0)
}

// mountHere mounts t on name below the working directory. mount(2) does not say
// which option it refused, so the optional ones go one by one.
func (b *staged) mountHere(name string, t Tmpfs) error {
	leave := map[string]bool{}
	var out []Dropped
	err := linux.Mount(t.Source, name, "tmpfs", msFlags(t.Attr), data(t.Options, leave))
	for _, o := range t.Options {
		if err == nil || !(errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EPERM)) {
			break
		}
		if !o.Optional {
			continue
		}
		leave[o.Key] = true
		out = append(out, Dropped{o, err})
		err = linux.Mount(t.Source, name, "tmpfs", msFlags(t.Attr), data(t.Options, leave))
	}
	if err != nil {
		return fmt.Errorf("tmpfs with %s: %w", data(t.Options, nil), err)
	}
	b.dropped = append(b.dropped, out...)
	return nil
}

// msFlags turns mount attributes into the flags of mount(2).
func msFlags(attr uint64) uintptr {
	var f uintptr
	for _, p := range [...]struct {
		attr uint64
		ms   uintptr
	}{
		{linux.MountAttrNoSUID, syscall.MS_NOSUID}, {linux.MountAttrNoDev, syscall.MS_NODEV},
		{linux.MountAttrNoExec, syscall.MS_NOEXEC}, {linux.MountAttrReadOnly, syscall.MS_RDONLY},
	} {
		if attr&p.attr != 0 {
			f |= p.ms
		}
	}
	return f
}

func (b *staged) Fd() int            { return b.root }
func (b *staged) Dropped() []Dropped { return b.dropped }

// AttachTmpfs and AttachClone name the mount point by a path below the tree:
// nobody else can look into it, so no component can be swapped.
func (b *staged) AttachTmpfs(rel string, t Tmpfs, fill func(fd int) error) error {
	fd, err := b.mount(b.root, rel, t)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	if fill == nil {
		return nil
	}
	return fill(fd)
}

func (b *staged) AttachClone(rel string, dirfd int, path string) error {
	// mount(2) takes two paths and a thread has one working directory: a
	// descriptor's path in /proc names the source.
	fd, err := linux.Openat(dirfd, path, linux.O_PATH|linux.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	return linux.InDirectory(b.root, func() error {
		return linux.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), rel, "", syscall.MS_BIND|syscall.MS_REC, "")
	})
}

func (b *staged) MoveTo(dirfd int, path string) error {
	target, err := linux.Openat(dirfd, dot(path), linux.O_PATH|linux.O_DIRECTORY|linux.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer linux.Close(target)
	// The target by its descriptor: below it the name "." is the directory
	// itself, and a mount onto it covers it for everybody. The source is reached
	// through /proc where that is mounted, by a path else.
	err = linux.InDirectory(target, func() error {
		return linux.Mount(fmt.Sprintf("/proc/self/fd/%d", b.root), ".", "", syscall.MS_MOVE, "")
	})
	if !errors.Is(err, syscall.ENOENT) {
		return err
	}
	return fmt.Errorf("%w; the legacy mount call needs /proc mounted: mount it first", err)
}

func dot(path string) string {
	if path == "" {
		return "."
	}
	return path
}

func (b *staged) Close() {
	for _, fd := range []int{b.root, b.private} {
		if fd >= 0 {
			linux.Close(fd)
		}
	}
	b.root, b.private = -1, -1
	// The next Build removes what cannot be removed now; a staging directory is
	// no harm to anybody.
	_ = RemoveStaging(b.dir)
	linux.Close(b.dir)
}

// RemoveStaging removes what a run left in the directory dirfd, a killed one's
// too: our mounts, then the empty directory. An entry of that name that is not a
// directory of ours is an error and stays.
func RemoveStaging(dirfd int) error {
	for range 8 { // a run leaves one mount; every later run found it and took it away
		err := linux.InDirectory(dirfd, func() error {
			return linux.Unmount(StagingName, syscall.MNT_DETACH|linux.UmountNoFollow)
		})
		if err != nil {
			break // EINVAL: not a mount point; ENOENT: not there; the rmdir tells the rest
		}
	}
	err := linux.Unlinkat(dirfd, StagingName, linux.AT_REMOVEDIR)
	if err == nil || errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return fmt.Errorf("%s from an earlier run: %w", StagingName, err)
}
