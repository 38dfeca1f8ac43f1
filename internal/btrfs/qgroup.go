// Package btrfs knows subvolumes of btrfs and the quota groups that they are
// members of: what the lines q and Q of tmpfiles.d(5) set up.
//
// A subvolume with the number N has the leaf group 0/N. Groups of a higher level
// hold groups of lower ones; what is in a subvolume counts in every group above
// it (btrfs-qgroup(8)). What is to be made is a [Plan] first, which can be
// printed, and is then applied.
//
// Failures:
//
//	not btrfs, or quotas are off       ErrNoQuota; nothing is done
//	no CAP_SYS_ADMIN                   EPERM of the search
//	the parent is in a group 1/x,      ErrNoLevel, before anything is changed
//	  and a level is to be inserted
//	the kernel scans quotas (EBUSY)    its end is waited for, then once more
//	a membership cannot be made        the group that was made for it goes again
//	an interrupted Apply               done again: what is there already is kept;
//	                                   a group that nothing is in may stay behind
//	numbers that a change made wrong   the kernel is told to scan again
package btrfs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// RootInode is the inode number of the root directory of every subvolume.
const RootInode = linux.BTRFS_FIRST_FREE_OBJECTID

// Errors of this package.
var (
	ErrNoQuota = errors.New("the file system has no quota groups")
	ErrNoLevel = errors.New("the subvolume above is in a quota group of level 1: there is no level left to insert one")
)

// Qgroup is the number of a quota group: 16 bits of level, 48 of its own number.
type Qgroup uint64

// New and numbers down to Oldest stand for subvolumes that do not exist yet, in
// plans for them.
const (
	New    = 1<<48 - 1
	Oldest = New - 1<<40
)

// MakeQgroup is the group level/id.
func MakeQgroup(level uint16, id uint64) Qgroup { return Qgroup(uint64(level)<<48 | id) }

// Level of the group; 0 is that of a subvolume's own.
func (g Qgroup) Level() uint16 { return uint16(g >> 48) }

// ID of the group within its level.
func (g Qgroup) ID() uint64 { return uint64(g) & New }

// String is LEVEL/ID as btrfs-qgroup(8) writes it.
func (g Qgroup) String() string {
	if g.ID() >= Oldest {
		return fmt.Sprintf("%d/new", g.Level())
	}
	return fmt.Sprintf("%d/%d", g.Level(), g.ID())
}

// Subvolume returns the number of the subvolume that holds the open file fd;
// it may not be open with O_PATH. ENOTTY says that this is not btrfs.
func Subvolume(fd int) (uint64, error) { return linux.BtrfsTreeID(fd) }

// Parent returns the number of the subvolume in which id lies, 0 for the top one.
func Parent(fd int, id uint64) (uint64, error) {
	found, err := linux.BtrfsSearch(fd, linux.BTRFS_ROOT_TREE_OBJECTID, id, linux.BTRFS_ROOT_BACKREF_KEY)
	if err != nil || len(found) == 0 {
		return 0, err
	}
	return found[0].Offset, nil
}

// Parents returns the groups that g is a member of, the lowest first. They are
// read from a tree that only CAP_SYS_ADMIN may search.
func Parents(fd int, g Qgroup) ([]Qgroup, error) {
	found, err := linux.BtrfsSearch(fd, linux.BTRFS_QUOTA_TREE_OBJECTID, uint64(g), linux.BTRFS_QGROUP_RELATION_KEY)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTTY) {
		return nil, ErrNoQuota
	}
	var up []Qgroup
	for _, it := range found {
		// Every relation is there twice, once from either side.
		if p := Qgroup(it.Offset); p > g {
			up = append(up, p)
		}
	}
	return up, err
}

// Inherits says whether the kernel itself makes a new subvolume a member of the
// groups of the one above, as it does where simple quotas are on.
func Inherits(fd int) (bool, error) {
	found, err := linux.BtrfsSearch(fd, linux.BTRFS_QUOTA_TREE_OBJECTID, 0, linux.BTRFS_QGROUP_STATUS_KEY)
	if err != nil || len(found) == 0 {
		return false, err
	}
	// struct btrfs_qgroup_status_item has __le64 version, generation, flags.
	const flags, simpleMode = 16, 1 << 3 // BTRFS_QGROUP_STATUS_FLAG_SIMPLE_MODE
	data := found[0].Data
	return len(data) > flags && data[flags]&simpleMode != 0, nil
}

// Plan is what makes a subvolume count where the one above it counts.
type Plan struct {
	// Insert is a group to make, 0 if none.
	Insert Qgroup
	// Assign are the memberships to make, in this order.
	Assign []Membership
}

// Membership of one group in another.
type Membership struct{ Child, Parent Qgroup }

// String has what would be made, as "255/260 in 255/256, 0/260 in 254/260".
func (p Plan) String() string {
	var s []string
	for _, m := range p.Assign {
		s = append(s, m.Child.String()+" in "+m.Parent.String())
	}
	return strings.Join(s, ", ")
}

// PlanFor plans the memberships of the subvolume id from those of the subvolume
// above it (Q and q in tmpfiles.d(5)): either the same ones, or, with insert, a
// group of its own in between, one level below the lowest of them, or of level
// 255 if there are none.
func PlanFor(id uint64, above []Qgroup, insert bool) (Plan, error) {
	leaf := MakeQgroup(0, id)
	var p Plan
	if insert {
		lowest := 256
		for _, g := range above {
			lowest = min(lowest, int(g.Level()))
		}
		if lowest <= 1 {
			return Plan{}, ErrNoLevel
		}
		p.Insert = MakeQgroup(uint16(lowest-1), id)
		for _, g := range above {
			p.Assign = append(p.Assign, Membership{p.Insert, g})
		}
		above = []Qgroup{p.Insert}
	}
	for _, g := range above {
		p.Assign = append(p.Assign, Membership{leaf, g})
	}
	return p, nil
}

// Of returns the groups that child is a member of after p.
func (p Plan) Of(child Qgroup) (up []Qgroup) {
	for _, m := range p.Assign {
		if m.Child == child {
			up = append(up, m.Parent)
		}
	}
	slices.Sort(up)
	return up
}

// Apply makes what p says on the file system of fd, an open directory.
func (p Plan) Apply(fd int) error {
	made := false
	if p.Insert != 0 {
		err := unlessScanning(fd, func() error { return linux.BtrfsQgroupCreate(fd, uint64(p.Insert)) })
		switch {
		case errors.Is(err, syscall.ENOTCONN): // switched off since they were read
			return ErrNoQuota
		case err != nil && !errors.Is(err, syscall.EEXIST):
			return fmt.Errorf("making the quota group %s: %w", p.Insert, err)
		}
		made = err == nil
	}
	stale := false
	for _, m := range p.Assign {
		err := unlessScanning(fd, func() error {
			rescan, err := linux.BtrfsQgroupAssign(fd, uint64(m.Child), uint64(m.Parent))
			stale = stale || rescan
			return err
		})
		if err == nil || errors.Is(err, syscall.EEXIST) {
			continue
		}
		err = fmt.Errorf("putting the quota group %s in %s: %w", m.Child, m.Parent, err)
		if made {
			err = errors.Join(err, linux.BtrfsQgroupDestroy(fd, uint64(p.Insert)))
		}
		return err
	}
	if !stale {
		return nil
	}
	if err := linux.BtrfsQuotaRescan(fd); err != nil && !errors.Is(err, syscall.EINPROGRESS) {
		return fmt.Errorf("counting quotas anew: %w", err)
	}
	return nil
}

// unlessScanning calls f, and again when a scan of quotas has ended that refused
// it.
func unlessScanning(fd int, f func() error) error {
	for try := 0; ; try++ {
		err := f()
		if try == 3 || !errors.Is(err, syscall.EBUSY) {
			return err
		}
		if err := linux.BtrfsQuotaRescanWait(fd); err != nil {
			return err
		}
	}
}
