package tmpfiles

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
)

func isErrno(err error, e syscall.Errno) bool { return errors.Is(err, e) }

// remove is --remove: D empties its directory, R removes what it matches with
// everything in it, r removes single nodes.
func (r *run) remove(it *Item) error {
	switch it.Type {
	case 'D':
		m, err := r.named(it)
		if m == nil || err != nil {
			return err
		}
		return r.removeTop(it, *m, false)
	case 'R':
		return r.eachMatch(it, func(it *Item, m match) error { return r.removeTop(it, m, true) })
	case 'r':
		return r.eachMatch(it, r.removeOne)
	}
	return nil
}

// purge is --purge: what lines with `$` declare goes, with everything in it.
func (r *run) purge(it *Item) error {
	if !it.Mod.Purge || !it.Type.in(purgeTypes) {
		return nil
	}
	if it.Type.Glob() {
		return r.eachMatch(it, func(it *Item, m match) error { return r.removeTop(it, m, true) })
	}
	m, err := r.named(it)
	if m == nil || err != nil {
		return err
	}
	return r.removeTop(it, *m, true)
}

// removeOne is remove(3) of one node: no lock is asked for, and a directory
// has to be empty.
func (r *run) removeOne(it *Item, m match) error {
	if err := m.safe(); err != nil {
		return err
	}
	var st fsat.Stat
	found, err := lookup(m.at, m.name, &st)
	if !found || err != nil {
		return err
	}
	if atAutofs(m.at, m.name, &st) {
		return errAutofs
	}
	if !st.IsDir() {
		return r.unlinkTop(it, m)
	}
	if r.shadow != nil {
		empty, err := emptyDir(m.at.dir, m.name)
		if err != nil {
			return err
		}
		if !empty {
			return fmt.Errorf("%s: %w; R removes a directory with everything in it", m.path, syscall.ENOTEMPTY)
		}
		if isMountPoint(m.at, &st) {
			return fmt.Errorf("%s %w", m.path, errMountPoint)
		}
	}
	err = m.at.dir.Rmdir(m.name)
	if fsat.NotExist(err) {
		return nil
	}
	if isErrno(err, syscall.ENOTEMPTY) {
		return fmt.Errorf("%s: %w; R removes a directory with everything in it", m.path, err)
	}
	return r.rmdirDone(it, m, err)
}

func (r *run) unlinkTop(it *Item, m match) error {
	err := m.at.dir.Unlink(m.name)
	if fsat.NotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	r.wentFrom(m) // links on paths are not held, but what they led to is
	r.changed(it, ActUnlink, m.path, "", "")
	return nil
}

// wentFrom notes that something was removed from a directory that may be held,
// or lead to what is held.
func (r *run) wentFrom(m match) {
	r.walk.stale = true
	if d, ok := m.at.dir.(*shadowDir); ok && d.node != nil {
		d.node.touched(true)
	}
}

func (r *run) rmdirDone(it *Item, m match, err error) error {
	if isErrno(err, syscall.EBUSY) {
		return fmt.Errorf("%s: %w: something is mounted on it", m.path, err)
	}
	if err != nil {
		return err
	}
	r.wentFrom(m)
	r.changed(it, ActRmdir, m.path, "", "")
	return nil
}

// removeTop empties a directory, and with itself set removes it too, or
// removes what is no directory. As in the reference the walk leaves what is
// locked, in use, sticky or excluded by another line; then the directory stays,
// and that is no failure.
func (r *run) removeTop(it *Item, m match, itself bool) error {
	cut := cutoff{ever: true}
	t, err := r.findTop(m, &cut)
	if t == nil || err != nil {
		return err
	}
	if !t.isDir() {
		if !itself {
			return nil
		}
		return r.unlinkTop(it, m)
	}
	if err := t.safeBelow(); err != nil {
		return err
	}
	defer t.close()
	if found, err := t.open(&cut); !found {
		return err
	}
	emptied, err := r.sweep(it, t, sweepOf{cut: cut})
	if err != nil || !itself {
		return err
	}
	return r.rmdirTop(it, t, emptied)
}

// rmdirTop removes the directory that a walk began in, if it is empty by now.
func (r *run) rmdirTop(it *Item, t *top, emptied bool) error {
	if r.shadow != nil && t.mountRoot() {
		return fmt.Errorf("%s %w", t.path, errMountPoint)
	}
	if r.shadow != nil && !emptied || r.ctx.Err() != nil {
		return nil
	}
	if t.name == "." {
		if !emptied {
			return nil
		}
		return errors.New("the root directory itself cannot be removed")
	}
	if !r.stillThere(t) {
		return nil
	}
	err := t.at.dir.Rmdir(t.name)
	if fsat.NotExist(err) || isErrno(err, syscall.ENOTEMPTY) || isErrno(err, syscall.EEXIST) {
		return nil
	}
	return r.rmdirDone(it, t.match, err)
}

// stillThere looks whether the name still means the node that was judged.
func (r *run) stillThere(t *top) bool {
	var sx linux.StatxT
	name := append([]byte(t.name), 0)
	err := r.cleaning().statx(false, rawFd(t.at.dir), name, linux.STATX_TYPE|linux.STATX_INO, &sx)
	return err == nil && sameInode(&sx, &t.sx)
}

// removeAged is r and R under --clean: the node goes if it is itself old, a
// directory of R after it was cleaned by the same age.
func (r *run) removeAged(it *Item, m match, cut cutoff) error {
	t, err := r.findTop(m, &cut)
	if t == nil || err != nil {
		return err
	}
	young := cut.keeps(&t.sx)
	if young != "" {
		r.debug(it, m.path, young)
	}
	if !t.isDir() {
		if young != "" {
			return nil
		}
		return r.unlinkAged(it, t, &cut)
	}
	if it.Type == 'r' && young != "" {
		return nil
	}
	if it.Type == 'R' {
		if err := t.safeBelow(); err != nil {
			return err
		}
	}
	defer t.close()
	if found, err := t.open(&cut); !found || !r.lockTop(it, t, t.fd) {
		return err
	}
	if it.Type == 'r' {
		return r.rmdirAged(it, t, true)
	}
	emptied, err := r.sweep(it, t, sweepOf{cut: cut, keepFirst: it.Age.KeepFirst, restore: true})
	if err != nil || young != "" || it.Age.KeepFirst {
		return err
	}
	return r.rmdirAged(it, t, emptied)
}

// rmdirAged removes a directory that is old, if it is empty: even what cannot
// be removed at all is no failure while something is in it.
func (r *run) rmdirAged(it *Item, t *top, emptied bool) error {
	empty := emptied
	var err error
	switch {
	case r.shadow == nil:
		empty, err = emptyFd(t.fd)
	case it.Type == 'r':
		empty, err = emptyDir(t.at.dir, t.name)
	}
	if err != nil {
		return err
	}
	if !empty {
		r.debug(it, t.path, whyFull)
		return nil
	}
	return r.rmdirTop(it, t, empty)
}

// emptyFd looks for a first entry.
func emptyFd(fd int) (bool, error) {
	if err := linux.SeekStart(fd); err != nil {
		return false, err
	}
	var buf [1024]byte
	for {
		n, err := linux.Getdents(fd, buf[:])
		if err != nil || n == 0 {
			return err == nil, err
		}
		for range fsat.Entries(buf[:n]) {
			return false, nil
		}
	}
}

// emptyDir is the same for a dry run.
func emptyDir(at directory, name string) (bool, error) {
	d, err := at.OpenDir(name)
	if err != nil {
		return false, err
	}
	defer d.Close()
	names, err := d.Names()
	return len(names) == 0, err
}

// lockTop takes the lock that protects a node from cleaning, or in a dry run
// looks whether somebody has it.
func (r *run) lockTop(it *Item, t *top, fd int) bool {
	if r.shadow != nil {
		if r.cleaning().locks.held(&t.sx) {
			r.debug(it, t.path, whyLocked)
			return false
		}
		return true
	}
	err := linux.TryFlock(fd)
	if err != nil && (t.isDir() || isErrno(err, syscall.EAGAIN)) {
		r.debug(it, t.path, whyLocked)
		return false
	}
	return true
}

func (r *run) unlinkAged(it *Item, t *top, cut *cutoff) error {
	at := rawFd(t.at.dir)
	name := append([]byte(t.name), 0)
	if lockable(t.sx.Mode) {
		if r.shadow != nil {
			if !r.lockTop(it, t, -1) {
				return nil
			}
		} else {
			fd, why, err := openForLock(false, at, name)
			if why != "" {
				r.debug(it, t.path, why)
				return err
			}
			if fd >= 0 {
				defer linux.Close(fd)
				if !r.lockTop(it, t, fd) {
					return nil
				}
			}
		}
	}
	var now linux.StatxT
	if err := r.cleaning().statx(false, at, name, cut.needs(), &now); err != nil {
		if fsat.NotExist(err) {
			return nil
		}
		return err
	}
	if !sameInode(&now, &t.sx) || cut.keeps(&now) != "" {
		r.debug(it, t.path, whyChanged)
		return nil
	}
	return r.unlinkTop(it, t.match)
}

// top is a node that a line names, where a removal or a walk begins.
type top struct {
	match
	fd int // open for reading, if it is a directory; else -1
	sx linux.StatxT
	c  *cleaner
}

func (t *top) isDir() bool { return t.sx.Mode&syscall.S_IFMT == syscall.S_IFDIR }

func (t *top) close() {
	if t.fd >= 0 {
		linux.Close(t.fd)
	}
}

// mountRoot says that the directory is where something is mounted. Where the
// kernel does not say so, another device above it, or the very same inode,
// does.
func (t *top) mountRoot() bool {
	if t.sx.Attributes_mask&linux.STATX_ATTR_MOUNT_ROOT != 0 {
		return t.sx.Attributes&linux.STATX_ATTR_MOUNT_ROOT != 0
	}
	var up linux.StatxT
	if t.c.statx(false, t.fd, []byte("..\x00"), linux.STATX_INO, &up) != nil {
		return true
	}
	return up.Dev_major != t.sx.Dev_major || up.Dev_minor != t.sx.Dev_minor || up.Ino == t.sx.Ino
}

// findTop looks a matched node up; nil if there is nothing. The way to it has
// to be safe.
func (r *run) findTop(m match, cut *cutoff) (*top, error) {
	if err := m.safe(); err != nil {
		return nil, err
	}
	var st fsat.Stat
	found, err := lookup(m.at, m.name, &st)
	at := rawFd(m.at.dir)
	if !found || err != nil || at < 0 {
		return nil, err
	}
	t := &top{match: m, fd: -1, c: r.cleaning()}
	if err := t.c.statx(false, at, append([]byte(m.name), 0), cut.needs(), &t.sx); err != nil {
		if fsat.NotExist(err) {
			return nil, nil
		}
		return nil, err
	}
	if r.shadow != nil {
		r.shadow.timesOf(&t.sx)
	}
	if atAutofs(m.at, m.name, &st) {
		return nil, errAutofs
	}
	return t, nil
}

// open opens the directory, to lock it or to walk below it; found is false if
// it is gone.
func (t *top) open(cut *cutoff) (found bool, err error) {
	t.fd, err = fsat.OpenForListing(rawFd(t.at.dir), t.name)
	if nowhere(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var now linux.StatxT
	if err := t.c.statx(false, t.fd, []byte{0}, cut.needs(), &now); err != nil {
		return false, err
	}
	if !sameInode(&now, &t.sx) {
		return false, fmt.Errorf("%s: %s: %w", t.path, whyChanged, syscall.ESTALE)
	}
	return true, nil
}

// safeBelow judges the last step of a way, where a walk goes on below it: the
// owner of the directory above could have moved something in that he may not
// empty himself.
func (t *top) safeBelow() error {
	from := owner{t.at.st.UID, t.at.real, false}
	if bad := from.unsafeTo(t.sx.Uid, t.path); bad != nil && t.name != "." {
		return bad
	}
	return nil
}
