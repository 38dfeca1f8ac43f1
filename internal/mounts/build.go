package mounts

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/feature"
	"github.com/slashrun/slashrun/internal/linux"
)

// Option is one option of a file system.
type Option struct {
	Key, Value string // a flag has no value
	// Optional options are left out, and reported, where the kernel refuses
	// them: noswap before 6.4 or in a user namespace (tmpfs(5)).
	Optional bool
}

// Tmpfs says what tmpfs to make.
type Tmpfs struct {
	Source  string   // what the mount table shows in the place of a device
	Options []Option // tmpfs(5)
	Attr    uint64   // linux.MountAttrNoSUID and its like
}

// Dropped is an optional option that was left out, with the kernel's reason.
type Dropped struct {
	Option Option
	Err    error
}

// ErrNoStaging means that the mount calls which build detached are absent and
// that no staging directory could be used either.
var ErrNoStaging = errors.New("no directory to stage a mount in")

// Builder builds one tmpfs and what is mounted inside it. It is not safe for
// concurrent use.
type Builder interface {
	// Fd is the root directory of the new tmpfs. It is the Builder's.
	Fd() int
	// Dropped lists the options that were left out, of inner mounts too.
	Dropped() []Dropped
	// AttachTmpfs mounts another tmpfs on the directory rel of the new one. fill,
	// which may be nil, puts content into it and gets its root directory. What is
	// attached need not be reachable through Fd before MoveTo.
	AttachTmpfs(rel string, t Tmpfs, fill func(fd int) error) error
	// AttachClone mounts on rel a copy of the mount at dirfd/path with all mounts
	// below it.
	AttachClone(rel string, dirfd int, path string) error
	// MoveTo mounts the finished tree on dirfd/path: from here on it is seen.
	MoveTo(dirfd int, path string) error
	// Close releases what the Builder holds. What was not moved in is gone.
	Close()
}

// Staging is a directory in which the legacy way may put a tree together: Fd
// must allow making an entry, whose name Build chooses.
type Staging struct {
	Fd   int
	Path string // for messages
}

// Build makes a tmpfs that no process can see. The staging directories are tried
// in their order, and only where the kernel's detached mounts are absent.
func Build(t Tmpfs, staging []Staging) (Builder, error) {
	if feature.MountContext.Available() {
		b := new(detached)
		fd, err := b.tmpfs(t)
		if err == nil {
			b.root = fd
			return b, nil
		}
		if !feature.Absent(err) {
			return nil, err
		}
	}
	return stage(t, staging)
}

// detached is the way with fsopen.
type detached struct {
	root    int
	dropped []Dropped
	inner   []child // not attached yet
}

type child struct {
	rel string
	fd  int
}

func (b *detached) Fd() int            { return b.root }
func (b *detached) Dropped() []Dropped { return b.dropped }

// tmpfs makes one detached tmpfs.
func (b *detached) tmpfs(t Tmpfs) (int, error) {
	ctx, err := linux.Fsopen("tmpfs")
	if err != nil {
		return -1, err
	}
	defer linux.Close(ctx)
	opts := append([]Option{{Key: "source", Value: t.Source}}, t.Options...)
	for _, o := range opts {
		if err := linux.FsconfigSet(ctx, o.Key, o.Value); err != nil {
			if !o.Optional {
				return -1, fmt.Errorf("tmpfs option %s=%s: %w", o.Key, o.Value, err)
			}
			b.dropped = append(b.dropped, Dropped{o, err})
		}
	}
	if err := linux.FsconfigCreate(ctx); err != nil {
		return -1, err
	}
	return linux.Fsmount(ctx, t.Attr)
}

func (b *detached) AttachTmpfs(rel string, t Tmpfs, fill func(fd int) error) error {
	fd, err := b.tmpfs(t)
	if err != nil {
		return err
	}
	if fill != nil {
		if err := fill(fd); err != nil {
			linux.Close(fd)
			return err
		}
	}
	return b.attach(rel, fd)
}

func (b *detached) AttachClone(rel string, dirfd int, path string) error {
	fd, err := linux.OpenTree(dirfd, path, linux.OpenTreeClone|linux.AtRecursive)
	if err != nil {
		return err
	}
	return b.attach(rel, fd)
}

// attach tries the direct way; where the kernel has none, the child waits for
// MoveTo.
func (b *detached) attach(rel string, fd int) error {
	if len(b.inner) == 0 {
		err := linux.MoveMount(fd, "", b.root, rel, linux.MoveMountFromFd)
		if !errors.Is(err, syscall.EINVAL) {
			linux.Close(fd)
			return err
		}
	}
	b.inner = append(b.inner, child{rel, fd})
	return nil
}

func (b *detached) MoveTo(dirfd int, path string) error {
	if len(b.inner) > 0 {
		if err := b.assemble(); err != nil {
			return fmt.Errorf("putting the mounts together in a namespace of their own: %w", err)
		}
	}
	return moveOnto(b.root, dirfd, path)
}

func moveOnto(fd, dirfd int, path string) error {
	flags := linux.MoveMountFromFd
	if path == "" {
		flags |= linux.MoveMountToFd
	}
	return linux.MoveMount(fd, "", dirfd, path, flags)
}

// assemble attaches the children in a mount namespace of one thread and takes a
// clone of the whole tree out of it: open_tree's clone belongs to no namespace,
// and move_mount takes it into ours.
func (b *detached) assemble() error {
	tree := -1
	err := linux.OnThread(linux.CloneNewNS, func() error {
		// Without this, a mount made here would show up wherever "/" is shared to.
		if err := linux.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := moveOnto(b.root, linux.AT_FDCWD, "/"); err != nil {
			return err
		}
		for _, c := range b.inner {
			if err := linux.MoveMount(c.fd, "", b.root, c.rel, linux.MoveMountFromFd); err != nil {
				return fmt.Errorf("%s: %w", c.rel, err)
			}
		}
		var err error
		tree, err = linux.OpenTree(b.root, "", linux.OpenTreeClone|linux.AtRecursive)
		return err
	})
	if err != nil {
		return err
	}
	linux.Close(b.root)
	b.root = tree
	b.closeInner()
	return nil
}

func (b *detached) closeInner() {
	for _, c := range b.inner {
		linux.Close(c.fd)
	}
	b.inner = nil
}

func (b *detached) Close() {
	b.closeInner()
	linux.Close(b.root)
	b.root = -1
}

// data is the option string of mount(2), without the options in leave.
func data(opts []Option, leave map[string]bool) string {
	var parts []string
	for _, o := range opts {
		switch {
		case leave[o.Key]:
		case o.Value == "":
			parts = append(parts, o.Key)
		default:
			parts = append(parts, o.Key+"="+o.Value)
		}
	}
	return strings.Join(parts, ",")
}
