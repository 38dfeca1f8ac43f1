package tmpfiles

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
)

// copier copies the tree of a C line, with what is mounted in it, and subvolumes
// as directories. Nothing that exists is overwritten.
type copier struct {
	r     *run
	it    *Item
	merge bool // C+: into directories that are there
	links map[inodeKey]made
	// top is the directory that is copied into. It does not lie in the source;
	// if somebody moves it there meanwhile, it is not copied into itself.
	top   inodeKey
	first error
}

// setTop makes d the top, unless there is one.
func (c *copier) setTop(d directory) error {
	if c.top != (inodeKey{}) {
		return nil
	}
	var st fsat.Stat
	err := d.Stat("", &st)
	c.top = keyOf(&st)
	return err
}

// made is where the first of several names of a file was copied to.
type made struct {
	dir  *fsat.Dir
	name string
}

// copyFiles is C. A tree that is not there yet is built under a temporary name
// and moved in when it is complete.
func (r *run) copyFiles(it *Item) error {
	src, srcName, sst, missing, err := r.source(it)
	if err == nil && missing { // a line whose source is missing from the start is no line: Env.SourceExists
		err = fmt.Errorf("the source %s is gone: %w", it.Argument, syscall.ENOENT)
	}
	if err != nil {
		return err
	}
	at, name, err := r.parent(it)
	if err != nil {
		return err
	}
	if sst.IsDir() && inside(at, &sst) {
		return fmt.Errorf("%s: the destination is inside of the source %s, nothing is copied: %w", it.Path, it.Argument, syscall.EINVAL)
	}
	c := &copier{r: r, it: it, merge: it.Mod.Plus, links: make(map[inodeKey]made)}
	defer c.close()
	var st fsat.Stat
	found, err := lookup(at, name, &st)
	if err != nil {
		return err
	}
	if found {
		err = c.into(src.dir, srcName, &sst, at, name, &st)
	} else {
		err = c.fresh(src.dir, srcName, &sst, at, name)
	}
	if err != nil {
		return err
	}
	if err := at.dir.Stat(name, &st); err != nil {
		return err
	}
	followed := sst
	if sst.IsSymlink() {
		if _, _, fst, missing, err := r.final(match{src, srcName, it.Argument}); err == nil && !missing {
			followed = fst
		}
	}
	if st.Type() != followed.Type() {
		r.debug(it, it.Path, "exists already and is "+typeName(st.Mode)+", not "+typeName(followed.Mode))
		return nil
	}
	return r.permsAt(it, at, name, it.Path, &st, false)
}

// inside says that a directory is the one of st, or lies in it.
func inside(at spot, st *fsat.Stat) bool {
	for p := at.place; ; p = p.up {
		if keyOf(&p.st) == keyOf(st) {
			return true
		}
		if p == p.up {
			return false
		}
	}
}

// source finds what is copied, a link itself, inside of the root.
func (r *run) source(it *Item) (at spot, name string, st fsat.Stat, missing bool, err error) {
	at, name, err = r.leadsTo(spot{place: r.walk.root}, owner{}, it.Argument, it.Argument)
	if err != nil {
		return at, name, st, true, dropMissing(err)
	}
	found, err := lookup(at, name, &st)
	return at, name, st, !found, err
}

// into merges with what is at name: an empty directory always, any directory
// for C+. Everything else is left as it is.
func (c *copier) into(src directory, srcName string, sst *fsat.Stat, at spot, name string, st *fsat.Stat) error {
	if !sst.IsDir() {
		return nil
	}
	if st.IsSymlink() { // one that dangles is left alone, as in the reference
		if _, _, _, missing, err := c.r.final(match{at, name, c.it.Path}); missing || err != nil {
			return err
		}
	}
	d, err := at.dir.OpenDir(name)
	if err != nil {
		return err
	}
	defer d.Close()
	if !c.merge {
		names, err := d.Names()
		if err != nil || len(names) > 0 {
			return err
		}
	}
	s, err := src.OpenDir(srcName)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := c.setTop(d); err != nil {
		return err
	}
	c.children(s, d, c.it.Path)
	return c.first
}

// fresh copies to a name that is free.
func (c *copier) fresh(src directory, srcName string, sst *fsat.Stat, at spot, name string) error {
	if !sst.IsDir() {
		return c.entry(src, srcName, sst, at.dir, name, c.it.Path)
	}
	real, ok := at.dir.(realDir)
	if !ok {
		return c.entry(src, srcName, sst, at.dir, name, c.it.Path)
	}
	tmp := fsat.TempName()
	err := c.entry(src, srcName, sst, at.dir, tmp, c.it.Path)
	if err == nil {
		err = c.first
	}
	var st fsat.Stat
	if err == nil {
		err = at.dir.Stat(tmp, &st)
	}
	if err == nil { // the top's own mode and owner before its name
		err = c.r.permsAt(c.it, at, tmp, c.it.Path, &st, false)
	}
	if err == nil {
		err = real.MoveIn(tmp, name)
	}
	if err != nil {
		c.r.discard(at, tmp)
	}
	return err
}

// discard removes a tree of ours that did not become complete.
func (r *run) discard(at spot, tmp string) {
	d, err := at.dir.OpenDir(tmp)
	if err != nil {
		return
	}
	_ = descend(d, tmp, func(c *chain, name string) bool {
		var st fsat.Stat
		if c.dir().Stat(name, &st) == nil && st.IsDir() {
			return true
		}
		_ = c.dir().Unlink(name)
		return false
	}, func(c *chain, name, _ string) { _ = c.dir().Rmdir(name) }, func(string, error) {})
	_ = at.dir.Rmdir(tmp)
}

// attr is what the copy of a node shall have.
func (c *copier) attr(st *fsat.Stat) fsat.Attr {
	a := fsat.Attr{UID: st.UID, GID: st.GID, Mode: st.Perm()}
	if c.it.UID.Set {
		a.UID = c.it.UID.Value
	}
	if c.it.GID.Set {
		a.GID = c.it.GID.Value
	}
	return a
}

// children copies what is in s into d, and goes on after a failure.
func (c *copier) children(s, d directory, path string) {
	names, err := s.Names()
	c.note(path, err)
	slices.Sort(names)
	for _, name := range names {
		if c.r.ctx.Err() != nil {
			c.note(path, c.r.ctx.Err())
			return
		}
		var st fsat.Stat
		if err := s.Stat(name, &st); err != nil {
			if !fsat.NotExist(err) {
				c.note(join(path, name), err)
			}
			continue
		}
		if keyOf(&st) == c.top {
			continue
		}
		c.note(join(path, name), c.entry(s, name, &st, d, name, join(path, name)))
	}
}

func (c *copier) note(path string, err error) {
	if err != nil && c.first == nil {
		c.first = fmt.Errorf("%s: %w", path, err)
	}
}

// entry copies one node. A name that is taken is left alone, but directories
// are merged.
func (c *copier) entry(s directory, name string, st *fsat.Stat, d directory, as, path string) error {
	var err error
	a := c.attr(st)
	act, to := ActCopy, octal(a.Mode)+" "+ids(a.UID, a.GID)
	switch st.Type() {
	case syscall.S_IFDIR:
		return c.dirEntry(s, name, st, d, as, path)
	case syscall.S_IFREG:
		err = c.fileEntry(s, name, st, d, as, a)
	case syscall.S_IFLNK:
		var target string
		if target, err = s.Readlink(name); err == nil {
			a.AsMade = true
			err = d.MakeSpecial(as, fsat.Special{Type: syscall.S_IFLNK, Target: target}, a)
			to = "-> " + target
		}
	case syscall.S_IFIFO, syscall.S_IFSOCK, syscall.S_IFCHR, syscall.S_IFBLK:
		err = d.MakeSpecial(as, fsat.Special{Type: st.Type(), Rdev: st.Rdev}, a)
	default:
		err = syscall.EOPNOTSUPP
	}
	if errors.Is(err, syscall.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	if rd, ok := d.(realDir); ok && !st.IsRegular() {
		_ = rd.CopyTimes(as, nil, st)
	}
	c.r.changed(c.it, act, path, "", to)
	return nil
}

func (c *copier) fileEntry(s directory, name string, st *fsat.Stat, d directory, as string, a fsat.Attr) error {
	rd, isReal := d.(realDir)
	if isReal && st.Nlink > 1 {
		if first, ok := c.links[keyOf(st)]; ok {
			return rd.LinkFrom(as, first.dir, first.name)
		}
	}
	if !isReal {
		return d.WriteFile(as, nil, a)
	}
	src, err := s.(realDir).OpenWork(name, linux.O_RDONLY)
	if err != nil {
		return err
	}
	defer src.Close()
	var now fsat.Stat
	if err := src.Stat(&now); err != nil {
		return err
	}
	if !now.IsRegular() {
		return syscall.ESTALE
	}
	if err := rd.CopyFile(as, src, st, a); err != nil {
		return err
	}
	if st.Nlink > 1 {
		if keep, err := rd.Dir.OpenDir("."); err == nil {
			c.links[keyOf(st)] = made{keep, as}
		}
	}
	return nil
}

func (c *copier) close() {
	for _, m := range c.links {
		m.dir.Close()
	}
}

func (c *copier) dirEntry(s directory, name string, st *fsat.Stat, d directory, as, path string) error {
	a := c.attr(st)
	first := a
	first.Mode |= 0700 // until all is in it
	err := d.Mkdir(as, first)
	fresh := err == nil
	if errors.Is(err, syscall.EEXIST) && c.merge {
		err = nil
	}
	if errors.Is(err, syscall.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	if fresh {
		c.r.changed(c.it, ActCopy, path, "", octal(a.Mode)+" "+ids(a.UID, a.GID))
	}
	from, err := s.OpenDir(name)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := d.OpenDir(as)
	if err != nil { // ENOTDIR: C+ does not replace what is no directory
		return err
	}
	defer to.Close()
	if err := c.setTop(to); err != nil {
		return err
	}
	c.children(from, to, path)
	if !fresh {
		return nil
	}
	if first.Mode != a.Mode {
		n, err := d.OpenNode(as)
		if err != nil {
			return err
		}
		defer n.Close()
		if err := n.Chmod(a.Mode); err != nil {
			return err
		}
	}
	if rd, ok := d.(realDir); ok {
		return rd.CopyTimes(as, from.(realDir).Dir, st)
	}
	return nil
}
