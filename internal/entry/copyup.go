package entry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/runfs"
)

// copier copies the image's own content into a /run that nobody sees yet.
type copier struct {
	told  func(Step)
	shown string // how messages call the directory
	carry []runfs.Carried
	dry   bool
	// keep says whether a regular file is to be copied, and else why not; nil for
	// all of them.
	keep func(dir *fsat.Dir, name, shown string) (bool, string)
	lost []string // what could not be copied along: extended attributes
	tree *fsat.Dir
	// names are the names that files have which have several, links how many.
	names map[[2]uint64][]string
	links map[[2]uint64]uint32
}

func (c *copier) run(ctx context.Context, from, to *fsat.Dir) error {
	c.tree = to
	if err := c.directory(ctx, from, to, ""); err != nil {
		return &copyError{err}
	}
	c.dropShared()
	if c.dry {
		return nil
	}
	var st fsat.Stat
	if err := from.Stat("", &st); err != nil {
		return err
	}
	n := fsat.NodeOf(to.Fd()) // the descriptor stays the Dir's: not closed here
	if err := n.Chown(st.UID, st.GID); err != nil {
		return err
	}
	if err := n.Chmod(st.Perm()); err != nil {
		return err
	}
	return c.finish(from, to, ".", &st, "")
}

// copyError says that what failed was the copy, which is always told.
type copyError struct{ err error }

func (e *copyError) Error() string { return "copying what the image has there: " + e.err.Error() }
func (e *copyError) Unwrap() error { return e.err }

// dropShared takes those files out of the copy again that have a name outside of
// it: whose they are shows in that other place, and a copy could be given away as
// if it were the only one.
func (c *copier) dropShared() {
	for id, list := range c.names {
		if uint32(len(list)) >= c.links[id] {
			continue
		}
		for _, rel := range list {
			why := "it has other names outside of " + c.shown
			c.leave(rel, why)
			c.lost = append(c.lost, fmt.Sprintf("%s/%s: %s", c.shown, rel, why))
			if !c.dry {
				// A path of several names: nobody else is in the new tree.
				_ = linux.Unlinkat(c.tree.Fd(), rel, 0)
			}
		}
	}
}

// directory copies what is in a directory.
func (c *copier) directory(ctx context.Context, from, to *fsat.Dir, rel string) error {
	names, err := from.Names()
	if err != nil {
		return fmt.Errorf("%s/%s: %w", c.shown, rel, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := strings.TrimPrefix(rel+"/"+name, "/")
		if err := c.entry(ctx, from, to, name, at); err != nil {
			return err
		}
	}
	return nil
}

// ours are names of ours that a killed run may have left.
func ours(name string) bool {
	return name == mounts.StagingName || strings.HasPrefix(name, fsat.TempPrefix)
}

func (c *copier) entry(ctx context.Context, from, to *fsat.Dir, name, rel string) error {
	var st fsat.Stat
	if err := from.Stat(name, &st); err != nil {
		return fmt.Errorf("%s/%s: %w", c.shown, rel, err)
	}
	mounted := st.MountRoot || slices.ContainsFunc(c.carry, func(m runfs.Carried) bool { return m.Rel == rel })
	if mounted || ours(name) || rel == "slashrun" { // our own directory is of one run
		return nil
	}
	var err error
	switch st.Type() {
	case syscall.S_IFDIR:
		err = c.subdirectory(ctx, from, to, name, rel, &st)
	case syscall.S_IFLNK:
		err = c.link(from, to, name, rel, &st)
	case syscall.S_IFREG:
		err = c.file(ctx, from, to, name, rel, &st)
	default:
		c.leave(rel, "sockets, FIFOs and devices are not content of an image")
	}
	if err != nil {
		return fmt.Errorf("%s/%s: %w", c.shown, rel, err)
	}
	return nil
}

func (c *copier) leave(rel, why string) {
	c.told(Step{Op: "leave", Path: c.shown + "/" + rel, Left: true, Text: "do not copy " + c.shown + "/" + rel, Why: why})
}

func (c *copier) tell(what, rel string) {
	c.told(Step{Op: "copy", Path: c.shown + "/" + rel, Text: "copy the " + what + " " + c.shown + "/" + rel + ", before it is seen"})
}

func (c *copier) subdirectory(ctx context.Context, from, to *fsat.Dir, name, rel string, st *fsat.Stat) error {
	c.tell("directory", rel)
	inner, err := from.OpenDir(name)
	if err != nil {
		return err
	}
	defer inner.Close()
	if c.dry {
		return c.directory(ctx, inner, nil, rel)
	}
	if err := to.Mkdir(name, fsat.Attr{UID: st.UID, GID: st.GID, Mode: st.Perm()}); err != nil {
		return err
	}
	made, err := to.OpenDir(name)
	if err != nil {
		return err
	}
	defer made.Close()
	if err := c.directory(ctx, inner, made, rel); err != nil {
		return err
	}
	return c.finish(inner, to, name, st, rel)
}

// finish gives a directory its extended attributes and times, when all that is in
// it is made: a default ACL would change the modes of that.
func (c *copier) finish(from, to *fsat.Dir, name string, st *fsat.Stat, rel string) error {
	in, err := fsat.OpenForListing(from.Fd(), ".")
	if err != nil {
		return err
	}
	defer linux.Close(in)
	out, err := fsat.OpenForListing(to.Fd(), name)
	if err != nil {
		return err
	}
	defer linux.Close(out)
	c.xattrs(in, out, rel)
	return linux.Futimens(out, st.Atime, st.Mtime)
}

func (c *copier) link(from, to *fsat.Dir, name, rel string, st *fsat.Stat) error {
	target, err := from.Readlink(name)
	if err != nil {
		return err
	}
	c.tell("link", rel)
	if c.dry {
		return nil
	}
	if err := to.MakeSpecial(name, fsat.Special{Type: syscall.S_IFLNK, Target: target}, fsat.Attr{UID: st.UID, GID: st.GID}); err != nil {
		return err
	}
	return linux.Utimensat(to.Fd(), name, st.Atime, st.Mtime)
}

func (c *copier) file(ctx context.Context, from, to *fsat.Dir, name, rel string, st *fsat.Stat) error {
	if c.keep != nil {
		if keep, why := c.keep(from, name, c.shown+"/"+rel); !keep {
			c.leave(rel, why)
			return nil
		}
	}
	c.tell("file", rel)
	if c.dry {
		_, err := c.another(nil, name, rel, st)
		return err
	}
	src, err := from.OpenWork(name, linux.O_RDONLY)
	if err != nil {
		return err
	}
	defer src.Close()
	var now fsat.Stat
	if err := src.Stat(&now); err != nil {
		return err
	}
	if !now.IsRegular() {
		return errors.New("it was a regular file just now, and is none")
	}
	if done, err := c.another(to, name, rel, &now); done || err != nil {
		return err
	}
	if err := to.CopySparse(name, src, &now, fsat.Attr{UID: now.UID, GID: now.GID, Mode: now.Perm()}, ctx.Err); err != nil {
		return err
	}
	made, err := to.OpenWork(name, linux.O_RDONLY)
	if err != nil {
		return err
	}
	defer made.Close()
	c.xattrs(src.Fd(), made.Fd(), rel)
	return nil
}

// another makes a file that was copied under its first name appear under the next
// one.
func (c *copier) another(to *fsat.Dir, name, rel string, st *fsat.Stat) (done bool, err error) {
	if st.Nlink < 2 {
		return false, nil
	}
	id := [2]uint64{st.Dev, st.Ino}
	if c.names == nil {
		c.names, c.links = map[[2]uint64][]string{}, map[[2]uint64]uint32{}
	}
	list := c.names[id]
	c.names[id], c.links[id] = append(list, rel), st.Nlink
	if len(list) == 0 || c.dry {
		return false, nil
	}
	// Nobody else is in the new tree: a path of several names leads where it led.
	return true, linux.Linkat(c.tree.Fd(), list[0], to.Fd(), name, 0)
}

// xattrs copies the extended attributes. The label of a security module comes
// from the policy, those of an overlay and of integrity measurement are the lower
// file system's own (xattr(7)).
func (c *copier) xattrs(in, out int, rel string) {
	lost := fsat.CopyXattrs(in, out, func(name string) bool {
		return !strings.HasPrefix(name, "trusted.overlay.") && name != "security.selinux" && name != "security.SMACK64" &&
			name != "security.ima" && name != "security.evm"
	})
	for _, l := range lost {
		c.lost = append(c.lost, fmt.Sprintf("%s/%s: the extended attribute %v", c.shown, rel, l))
	}
}
