package tmpfiles

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/slashrun/slashrun/internal/btrfs"
	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
)

// wantsSubvolume says whether v, q and Q lines make a btrfs subvolume: where
// the root directory is one itself, or where the environment forces it.
func (r *run) wantsSubvolume() bool {
	if r.opt.ForceSubvolume != nil {
		return *r.opt.ForceSubvolume
	}
	magic, err := r.walk.root.dir.Magic()
	return err == nil && magic == linux.BTRFS_SUPER_MAGIC && r.walk.root.st.Ino == btrfs.RootInode
}

// joined is what came of putting a new subvolume in quota groups.
type joined struct {
	plan btrfs.Plan // what was done, or in a dry run would be
	err  error
}

// makeSubvolume makes a btrfs subvolume, which is in its quota groups when it
// appears: a later run would not put it there. ENOTTY says that the file system
// has no subvolumes; a plain directory is made then.
func (r *run) makeSubvolume(it *Item, at spot, name string, a fsat.Attr) (q joined, err error) {
	groups := it.Type.in("qQ")
	if r.shadow != nil {
		if magic, err := existing(at).Magic(); err == nil && magic != linux.BTRFS_SUPER_MAGIC {
			return q, syscall.ENOTTY
		}
		return r.shadowSubvolume(it, at, name, a, groups)
	}
	var before func(fd int) error
	if groups {
		before = func(fd int) error {
			id, err := btrfs.Subvolume(fd)
			var up uint64
			if err == nil {
				up, err = btrfs.Parent(fd, id)
			}
			if q.err = err; err == nil {
				q = r.joinGroups(it, fd, id, up)
			}
			return nil // without groups it is made, too
		}
	}
	return q, at.dir.(realDir).MakeSubvolume(name, a, before)
}

// shadowSubvolume is that of a dry run. Where simple quotas are on, the kernel
// would put it in the groups of the one above.
func (r *run) shadowSubvolume(it *Item, at spot, name string, a fsat.Attr, groups bool) (q joined, err error) {
	d := at.dir.(*shadowDir)
	if err := d.Mkdir(name, a); err != nil {
		return q, err
	}
	i, _ := d.entry(name)
	i.subvol = btrfs.New - i.st.Ino
	fd, up, err := subvolumeAbove(at)
	if err != nil {
		return q, err
	}
	defer linux.Close(fd)
	if inherits, err := btrfs.Inherits(fd); err == nil && inherits {
		if r.shadow.groups[i.subvol], err = r.groupsOf(fd, up); err != nil {
			return q, err
		}
	}
	if groups {
		q = r.joinGroups(it, fd, i.subvol, up)
	}
	return q, nil
}

// existing is the directory at, or where a dry run only thinks that there is
// one, the nearest above it that is there.
func existing(at spot) directory {
	for p := at.place; ; p = p.up {
		if d, ok := p.dir.(*shadowDir); !ok || d.under != nil || p.up == p {
			return p.dir
		}
	}
}

// joinGroups makes the new subvolume id of a line q or Q count where the one above
// it, up, counts: tmpfiles.d(5). One that is in a group already, because the kernel
// put it there, is left alone.
func (r *run) joinGroups(it *Item, fd int, id, up uint64) (q joined) {
	have, err := r.groupsOf(fd, id)
	if err != nil || len(have) > 0 {
		return joined{err: err}
	}
	above, err := r.groupsOf(fd, up)
	if err != nil {
		return joined{err: err}
	}
	if q.plan, q.err = btrfs.PlanFor(id, above, it.Type == 'Q'); q.err != nil {
		return q
	}
	if r.shadow != nil {
		r.shadow.groups[id] = q.plan.Of(btrfs.MakeQgroup(0, id))
	} else {
		q.err = q.plan.Apply(fd)
	}
	return q
}

// inGroups reports what came of the quota groups of a line. Without quotas there
// was nothing to do.
func (r *run) inGroups(it *Item, q joined) error {
	switch {
	case errors.Is(q.err, syscall.ENOTTY), errors.Is(q.err, btrfs.ErrNoQuota), errors.Is(q.err, syscall.EROFS):
		r.debug(it, it.Path, "not put in a quota group: "+q.err.Error())
	case q.err != nil:
		return fmt.Errorf("%s: quota groups: %w", it.Path, q.err)
	case len(q.plan.Assign) > 0:
		r.changed(it, ActQuota, it.Path, "", q.plan.String())
	}
	return nil
}

// groupsOf are the groups that a subvolume is in, as far as a dry run knows. The
// kernel is asked even for one that is not there: it says if there are no groups.
func (r *run) groupsOf(fd int, id uint64) ([]btrfs.Qgroup, error) {
	if r.shadow != nil {
		if g := r.shadow.groups[id]; g != nil {
			return g, nil
		}
	}
	return btrfs.Parents(fd, btrfs.MakeQgroup(0, id))
}

// subvolumeAbove finds the subvolume that the directory at is in, or in a dry run
// would be, with an open directory: the nearest that is there.
func subvolumeAbove(at spot) (fd int, id uint64, err error) {
	p := at.place
	for ; p.dir.(*shadowDir).under == nil && p.up != p; p = p.up {
		if id == 0 {
			id = p.dir.(*shadowDir).node.subvol
		}
	}
	if fd, err = fsat.OpenForListing(p.dir.(*shadowDir).under.Fd(), "."); err != nil {
		return -1, 0, err
	}
	if id == 0 {
		id, err = btrfs.Subvolume(fd)
	}
	if err != nil {
		linux.Close(fd)
		return -1, 0, err
	}
	return fd, id, nil
}
