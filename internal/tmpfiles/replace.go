package tmpfiles

import (
	"errors"
	"fmt"
	"path"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
)

// errMountPoint: what something is mounted on is never removed.
var errMountPoint = errors.New("is a mount point, which is never removed: unmount it first")

var errSubvolume = errors.New("is a btrfs subvolume, which the modifier '=' does not remove with what it lies in: remove it first")

// isMountPoint says that name below at is where something is mounted.
func isMountPoint(at spot, st *fsat.Stat) bool {
	if st.MountRootKnown {
		return st.MountRoot
	}
	return st.Dev != at.st.Dev
}

// removeWrongType makes room for a node of another type: modifier `=`.
func (r *run) removeWrongType(it *Item, at spot, name, path string, st *fsat.Stat) error {
	if at.unsafe != nil {
		return at.unsafe
	}
	r.walk.stale = true
	if st.IsDir() {
		return r.removeTree(it, at, name, path, st, true)
	}
	if isMountPoint(at, st) {
		return fmt.Errorf("%s %w", path, errMountPoint)
	}
	if err := at.dir.Unlink(name); err != nil && !fsat.NotExist(err) {
		return err
	}
	r.changed(it, ActUnlink, path, typeName(st.Mode), "")
	return nil
}

// removeTree removes a directory with everything in it. What is mounted below it
// stops it, and with sameDev so does a subvolume below it, which has a device
// number of its own: modifier `=`.
func (r *run) removeTree(it *Item, at spot, name, path string, st *fsat.Stat, sameDev bool) error {
	if isMountPoint(at, st) {
		return fmt.Errorf("%s %w", path, errMountPoint)
	}
	var first error
	note := func(err error) {
		if first == nil && err != nil && !fsat.NotExist(err) {
			first = err
		}
	}
	d, err := at.dir.OpenDir(name)
	if err != nil {
		return err
	}
	err = descend(d, path, func(c *chain, name string) bool {
		var cst fsat.Stat
		if err := c.dir().Stat(name, &cst); err != nil {
			note(err)
			return false
		}
		here := &c.levels[len(c.levels)-1].st
		other := cst.Dev != here.Dev && cst.Dev != shadowDev
		switch {
		case cst.MountRoot, other && !cst.MountRootKnown:
			note(fmt.Errorf("%s %w", c.path(name), errMountPoint))
			return false
		case other && sameDev:
			note(fmt.Errorf("%s %w", c.path(name), errSubvolume))
			return false
		case cst.IsDir():
			return true
		}
		note(c.dir().Unlink(name))
		return false
	}, func(c *chain, name, _ string) {
		if first == nil || r.shadow == nil {
			note(c.dir().Rmdir(name))
		}
	}, func(_ string, err error) { note(err) })
	if note(err); first != nil {
		return first
	}
	if err := at.dir.Rmdir(name); err != nil && !fsat.NotExist(err) {
		return err
	}
	r.changed(it, ActRmTree, path, "a directory", "")
	return nil
}

// clearWay removes what stands in the way of a path: components that are
// neither a directory nor a link to one. A directory takes their place.
func (r *run) clearWay(it *Item, dir string) error {
	for i := 1; i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		p := dir[:i]
		if p == "/" || p == "" {
			continue
		}
		if err := r.clearComponent(it, p); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) clearComponent(it *Item, p string) error {
	s, err := r.walk.dirAt(p, false)
	if err == nil {
		if s.unsafe != nil {
			return s.unsafe
		}
		return nil
	}
	at, err2 := r.walk.dirAt(path.Dir(p), false)
	var miss *missingError
	if errors.As(err2, &miss) {
		return nil // nothing stands in the way of what is to be made
	}
	if err2 != nil {
		return err2
	}
	name := path.Base(p)
	var st fsat.Stat
	found, err2 := lookup(at, name, &st)
	if err2 != nil || !found {
		return err2
	}
	gone := fsat.NotExist(err) || errors.Is(err, syscall.ENOTDIR)
	if st.IsDir() || !gone {
		return err
	}
	return r.removeWrongType(it, at, name, p, &st)
}
