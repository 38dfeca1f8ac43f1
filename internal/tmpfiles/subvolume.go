package tmpfiles

import (
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
	// The root directory of a subvolume has the inode number 256 (btrfs(5)).
	return err == nil && magic == linux.BTRFS_SUPER_MAGIC && r.walk.root.st.Ino == 256
}

// makeSubvolume makes a btrfs subvolume. ENOTTY says that the file system has
// none; a plain directory is made then.
func (r *run) makeSubvolume(it *Item, at spot, name string, a fsat.Attr) error {
	if r.shadow != nil {
		return at.dir.Mkdir(name, a)
	}
	real := at.dir.(realDir)
	fd, err := fsat.OpenForListing(real.Fd(), ".")
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	if err := linux.BtrfsSubvolCreate(fd, name); err != nil {
		return err
	}
	n, err := real.OpenNode(name)
	if err != nil {
		return err
	}
	defer n.Close()
	if a.UID != fsat.KeepID || a.GID != fsat.KeepID {
		if err := n.Chown(a.UID, a.GID); err != nil {
			return err
		}
	}
	return n.Chmod(a.Mode)
}
