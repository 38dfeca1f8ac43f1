package tmpfiles

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
)

// errHardlinked: chown and chmod through one of several names would reach a
// file that somebody else linked here (CVE-2017-18078).
var errHardlinked = errors.New("file has several hard links and fs.protected_hardlinks is off: " +
	"not changing owner or mode of what may be somebody else's file; set the sysctl to 1")

func (r *run) hardlinked(st *fsat.Stat) bool {
	return !st.IsDir() && st.Nlink > 1 && !r.opt.HardlinksProtected
}

// newAttr is what a node made for this line shall have.
func (it *Item) newAttr() fsat.Attr {
	a := fsat.Attr{UID: fsat.KeepID, GID: fsat.KeepID, Mode: it.Mode.Value, AsMade: !it.Mode.Set}
	if it.UID.Set {
		a.UID = it.UID.Value
	}
	if it.GID.Set {
		a.GID = it.GID.Value
	}
	if it.Mode.Masked && !it.Type.in(dirTypes) {
		a.Mode &= 0777
	}
	return a
}

// maskMode removes what the present mode has none of, and the special bits from
// what is no directory: tmpfiles.d(5), prefix `~`.
func maskMode(mode, now uint32) uint32 {
	for _, bits := range []uint32{0111, 0222, 0444} {
		if now&bits == 0 {
			mode &^= bits
		}
	}
	if now&syscall.S_IFMT != syscall.S_IFDIR {
		mode &^= 07000
	}
	return mode
}

// perms is the owner and mode that a node has and shall have.
type perms struct {
	uid, gid, mode uint32
	chown, chmod   bool
}

// wanted computes what this line makes of a node; existing ones are exempt from
// fields with the prefix `:`.
func (it *Item) wanted(st *fsat.Stat, existing bool) perms {
	p := perms{uid: st.UID, gid: st.GID, mode: st.Perm()}
	if it.UID.Set && !(existing && it.UID.NewOnly) {
		p.uid = it.UID.Value
	}
	if it.GID.Set && !(existing && it.GID.NewOnly) {
		p.gid = it.GID.Value
	}
	if it.Mode.Set && !(existing && it.Mode.NewOnly) {
		p.mode = it.Mode.Value
		if it.Mode.Masked {
			p.mode = maskMode(p.mode, st.Mode)
		}
	}
	p.chown = p.uid != st.UID || p.gid != st.GID
	p.chmod = p.mode != st.Perm() && !st.IsSymlink()
	return p
}

// setsPerms says whether the line speaks of owner or mode at all.
func (it *Item) setsPerms() bool { return it.Mode.Set || it.UID.Set || it.GID.Set }

// permsAt gives the node at name below at the owner and mode of the line. st is
// what is known of it; where nothing differs, nothing is opened.
func (r *run) permsAt(it *Item, at spot, name, path string, st *fsat.Stat, existing bool) error {
	if !it.setsPerms() {
		return nil
	}
	if p := it.wanted(st, existing); !p.chown && !p.chmod && !r.hardlinked(st) {
		return nil
	}
	n, err := at.dir.OpenNode(name)
	if err != nil {
		return err
	}
	defer n.Close()
	return r.permsOn(it, n, path, existing, st.Type())
}

// permsOn changes a held inode. wantType guards against a node that was
// exchanged for one of another type since it was looked at; 0 takes any.
func (r *run) permsOn(it *Item, n inode, path string, existing bool, wantType uint32) error {
	if !it.setsPerms() {
		return nil
	}
	var st fsat.Stat
	if err := n.Stat(&st); err != nil {
		return err
	}
	if wantType != 0 && st.Type() != wantType {
		return fmt.Errorf("%s: was exchanged while it was worked on: %w", path, syscall.ESTALE)
	}
	if r.hardlinked(&st) {
		return errHardlinked
	}
	p := it.wanted(&st, existing)
	if p.chmod && p.chown {
		// Never more than both the old and the new mode allow, in the moment
		// between the two calls.
		if common := p.mode & st.Perm(); common != st.Perm() {
			if err := n.Chmod(common); err != nil {
				return err
			}
		}
	}
	if p.chown {
		uid, gid := p.uid, p.gid
		if uid == st.UID {
			uid = fsat.KeepID
		}
		if gid == st.GID {
			gid = fsat.KeepID
		}
		if err := n.Chown(uid, gid); err != nil {
			return err
		}
		if st.IsDir() {
			r.walk.stale = true // the next line judges the way by the new owner
		}
		r.changed(it, ActChown, path, ids(st.UID, st.GID), ids(p.uid, p.gid))
	}
	if p.chmod || p.chown && !st.IsSymlink() && needsModeAfterChown(&st, p.mode) {
		if err := n.Chmod(p.mode); err != nil {
			return err
		}
	}
	if p.chmod {
		r.changed(it, ActChmod, path, octal(st.Perm()), octal(p.mode))
	}
	return nil
}

// needsModeAfterChown: chown(2) clears setuid and setgid of what is not a
// directory.
func needsModeAfterChown(st *fsat.Stat, mode uint32) bool { return !st.IsDir() && mode&06000 != 0 }
