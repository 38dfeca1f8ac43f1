package tmpfiles

import (
	"bytes"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/glob"
	"github.com/slashrun/slashrun/internal/linux"
)

// Why a node is left alone, for messages.
const (
	whyOwnLine = "another line is for it"
	whyPattern = "the pattern of another line matches it"
	whyMounted = "something is mounted on it"
	whyMount   = "cannot tell whether something is mounted on it; mount /proc, or use Linux 5.8"
	whySystem  = "belongs to the file system"
	whySticky  = "has the sticky bit"
	whyDevice  = "is a device"
	whyFirst   = "lies in the directory itself, where nothing is removed (age with ~)"
	whyLocked  = "is locked (flock)"
	whyLeased  = "is leased (fcntl)"
	whyChanged = "was exchanged while it was looked at"
	whyFull    = "is not empty"
)

// list reads the whole directory and judges what is in it. The names of
// directories are kept in the worker's topmost frame.
func (w *sweeper) list(d *sweepDir) {
	for {
		if w.stopped() {
			d.kept.Store(true)
			return
		}
		n, err := linux.Getdents(d.fd, w.buf)
		if err != nil && !fsat.NotExist(err) { // ENOENT: it was removed meanwhile
			d.kept.Store(true)
			w.problem(d.path, err)
		}
		if err != nil || n == 0 {
			return
		}
		// A full buffer is worth giving away: more of it will follow.
		if w.hire(); n > listBuffer/2 && w.idle.Load() > 0 && w.give(task{d: d, chunk: w.buf[:n]}) {
			w.buf = w.buffer()
			continue
		}
		w.chunk(d, w.buf[:n])
		if n > firstBuffer/2 && len(w.buf) == firstBuffer {
			w.buf = w.buffer()
		}
	}
}

func (w *sweeper) chunk(d *sweepDir, records []byte) {
	f := &w.stack[len(w.stack)-1]
	for e := range fsat.Entries(records) {
		w.seen++
		name := linux.View(e.Name)
		if d.rec != nil {
			if i, known := d.rec.names[name]; known && i == nil {
				continue // would be gone by now
			}
		}
		if d.own != nil {
			if own := d.own.below[name]; own != nil && own.own {
				w.keep(d, e.NameNul, whyOwnLine)
				continue
			}
		}
		if d.cur != nil {
			if _, ok := d.cur.Match(name); ok {
				w.keep(d, e.NameNul, whyPattern)
				continue
			}
		}
		switch e.Type {
		case linux.DT_DIR:
			f.names = append(f.names, e.NameNul...)
		case linux.DT_CHR, linux.DT_BLK:
			w.keep(d, e.NameNul, whyDevice)
		default:
			if w.file(d, e.NameNul) {
				f.names = append(f.names, e.NameNul...)
			}
		}
	}
	w.flush()
}

// keep tells why an entry stays.
func (w *sweeper) keep(d *sweepDir, name []byte, why string) {
	if !d.kept.Load() {
		d.kept.Store(true)
	}
	if w.verbose {
		w.r.debug(w.it, w.pathIn(d, name), why)
	}
}

// stat looks at an entry. What cannot be looked at stays. As in the reference
// that is told, and does not change the exit status; EACCES, which is how FUSE
// keeps even root out, is told in verbose mode only.
func (w *sweeper) stat(mem linux.InMemory, d *sweepDir, name []byte) bool {
	err := w.c.statx(mem, d.fd, name, w.mask, &w.sx)
	switch {
	case err == nil:
		if w.dry {
			w.r.shadow.timesOf(&w.sx)
		}
		return true
	case fsat.NotExist(err):
	case isErrno(err, syscall.EACCES):
		w.keep(d, name, err.Error())
	default:
		w.keep(d, name, "")
		w.r.problem(w.it, w.pathIn(d, name), err, false)
	}
	return false
}

// mounted says that another file system or a bind mount begins here. Where the
// kernel does not tell, bind mounts of directories are found in enter.
func (w *sweeper) mounted(sx *linux.StatxT) bool {
	if sx.Attributes_mask&linux.STATX_ATTR_MOUNT_ROOT != 0 {
		return sx.Attributes&linux.STATX_ATTR_MOUNT_ROOT != 0
	}
	return keyOfStatx(sx).dev != w.top.id.dev
}

// file judges an entry that is no directory, as far as its record tells. It
// returns true if it is one.
func (w *sweeper) file(d *sweepDir, name []byte) (isDir bool) {
	if !w.stat(w.mem, d, name) {
		return false
	}
	sx := &w.sx
	if sx.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		return true
	}
	// The age first: mostly nothing is old, and the order is not to be seen.
	why := w.cut.keeps(sx)
	if why == "" {
		why = w.protected(d, name, sx)
	}
	if why == "" && d.keepFirst {
		why = whyFirst
	}
	if why != "" {
		w.keep(d, name, why)
		return false
	}
	if w.dry {
		if lockable(sx.Mode) && w.c.locks.held(sx) {
			w.keep(d, name, whyLocked)
			return false
		}
		if !w.readOnly(d, name) {
			w.gone(d, name, ActUnlink)
		}
		return false
	}
	if w.stopped() {
		d.kept.Store(true)
		return false
	}
	w.unlink(d, name)
	return false
}

// protected says why something stays however old it is.
func (w *sweeper) protected(d *sweepDir, name []byte, sx *linux.StatxT) string {
	if w.mounted(sx) {
		return whyMounted
	}
	if sx.Mode&syscall.S_ISVTX != 0 {
		return whySticky // XDG Base Directory Specification, $XDG_RUNTIME_DIR
	}
	switch sx.Mode & syscall.S_IFMT {
	case syscall.S_IFCHR, syscall.S_IFBLK:
		return whyDevice
	case syscall.S_IFSOCK:
		return w.c.sockets.inUse(d.fd, name, func() string { return w.pathIn(d, name) })
	case syscall.S_IFREG:
		if d.mountRoot && sx.Uid == 0 {
			switch linux.View(name) { // the ext3 journal, and quota of the older kind
			case ".journal\x00", "aquota.user\x00", "aquota.group\x00":
				return whySystem
			}
		}
	}
	return ""
}

// lockable says whether a node of this type is asked for a flock(2) before it
// is removed. A link and a socket cannot be opened, and opening a device may do
// something.
func lockable(mode uint16) bool {
	t := mode & syscall.S_IFMT
	return t == syscall.S_IFREG || t == syscall.S_IFIFO
}

// openForLock opens a file so that a lock can be taken on it. Neither a FIFO
// nor a lease is waited for. Where it cannot be opened at all nobody is asked:
// fd is -1. why says that the file is to be left alone, err that this counts.
func openForLock(mem linux.InMemory, dirfd int, name []byte) (fd int, why string, err error) {
	const flags = linux.O_RDONLY | linux.O_NOFOLLOW | linux.O_NONBLOCK | linux.O_NOCTTY
	fd, err = mem.OpenatNul(dirfd, name, flags|linux.O_NOATIME)
	if isErrno(err, syscall.EPERM) { // neither the owner nor CAP_FOWNER
		fd, err = mem.OpenatNul(dirfd, name, flags)
	}
	switch {
	case err == nil:
		return fd, "", nil
	case isErrno(err, syscall.EAGAIN):
		return -1, whyLeased, nil
	case isErrno(err, syscall.EMFILE), isErrno(err, syscall.ENFILE), isErrno(err, syscall.ENOMEM):
		return -1, "cannot ask for its lock: " + err.Error(), err
	}
	return -1, "", nil
}

// unlink removes a file that was judged in w.sx, unless somebody holds a lock
// on it, or the name means another file by now, or somebody used it since.
func (w *sweeper) unlink(d *sweepDir, name []byte) {
	if lockable(w.sx.Mode) {
		fd, why, err := openForLock(w.mem, d.fd, name)
		if err != nil {
			w.problem(w.pathIn(d, name), err)
		}
		if why != "" {
			w.keep(d, name, why)
			return
		}
		if fd >= 0 {
			defer w.mem.Close(fd)
			if isErrno(w.mem.TryFlock(fd), syscall.EAGAIN) {
				w.keep(d, name, whyLocked)
				return
			}
		}
	}
	err := w.c.statx(w.mem, d.fd, name, w.mask, &w.now)
	if err == nil && (!sameInode(&w.now, &w.sx) || w.cut.keeps(&w.now) != "") {
		w.keep(d, name, whyChanged)
		return
	}
	if err == nil {
		err = w.mem.UnlinkatNul(d.fd, name, 0)
	}
	switch {
	case err == nil:
		w.gone(d, name, ActUnlink)
	case !fsat.NotExist(err):
		w.keep(d, name, "")
		w.problem(w.pathIn(d, name), err)
	}
}

// gone reports and remembers a removal.
func (w *sweeper) gone(d *sweepDir, name []byte, act Action) {
	w.removed++
	if !d.removed.Load() {
		d.removed.Store(true)
	}
	if w.changes {
		w.r.opt.Report.Change(Change{Action: act, Path: w.pathIn(d, name), Line: w.line})
	}
	if w.dry {
		w.remember(d, linux.View(name[:len(name)-1]))
	}
}

// enter opens a directory that is to be cleaned, with its lock; nil if it is
// left alone.
func (w *sweeper) enter(d *sweepDir, name []byte) *sweepDir {
	// Another file system may be mounted there, and its server may be gone.
	if !w.stat(false, d, name) {
		return nil
	}
	if w.sx.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		w.keep(d, name, whyChanged)
		return nil
	}
	if w.mounted(&w.sx) {
		w.keep(d, name, whyMounted)
		return nil
	}
	if d.mountRoot && w.sx.Uid == 0 && linux.View(name) == "lost+found\x00" {
		w.keep(d, name, whySystem)
		return nil
	}
	fd, err := openDirNul(w.mem, d.fd, name)
	switch {
	case err == nil:
	case fsat.NotExist(err):
		return nil
	case nowhere(err), isErrno(err, syscall.ELOOP):
		w.keep(d, name, whyChanged)
		return nil
	default:
		w.keep(d, name, "")
		w.problem(w.pathIn(d, name), err)
		return nil
	}
	if why := w.unfit(fd); why != "" {
		linux.Close(fd)
		w.keep(d, name, why)
		return nil
	}
	w.held.Add(1)
	return w.child(d, name, fd)
}

func openDirNul(mem linux.InMemory, dirfd int, name []byte) (int, error) {
	const flags = linux.O_RDONLY | linux.O_DIRECTORY | linux.O_NOFOLLOW | linux.O_NONBLOCK
	fd, err := mem.OpenatNul(dirfd, name, flags|linux.O_NOATIME)
	if isErrno(err, syscall.EPERM) {
		fd, err = mem.OpenatNul(dirfd, name, flags)
	}
	return fd, err
}

// unfit says why the directory that was opened is left alone, as w.sx judged it.
func (w *sweeper) unfit(fd int) string {
	if w.dry {
		if w.c.locks.held(&w.sx) {
			return whyLocked
		}
	} else if w.mem.TryFlock(fd) != nil {
		return whyLocked
	}
	if w.c.statx(w.mem, fd, []byte{0}, w.mask, &w.now) != nil || !sameInode(&w.now, &w.sx) || w.mounted(&w.now) {
		return whyChanged
	}
	if w.sx.Attributes_mask&linux.STATX_ATTR_MOUNT_ROOT == 0 {
		switch id := mountIDOf(fd); {
		case id == 0 || w.mount == 0:
			return whyMount
		case id != w.mount:
			return whyMounted
		}
	}
	return ""
}

func newSweepDir(sx *linux.StatxT, fd int) *sweepDir {
	d := &sweepDir{fd: fd, users: 1, id: keyOfStatx(sx), times: [2]linux.StatxTimestamp{sx.Atime, sx.Mtime}}
	d.pending.Store(1)
	return d
}

func (d *sweepDir) governed(own *ownPath, cur glob.Cursor) {
	d.own = own
	if !cur.Dead() {
		d.cur = &cur
	}
}

// child makes the record of a directory that was opened.
func (w *sweeper) child(d *sweepDir, nul []byte, fd int) *sweepDir {
	name := linux.View(nul[:len(nul)-1])
	c := newSweepDir(&w.sx, fd)
	c.up, c.name = d, bytes.Clone(nul)
	var cur glob.Cursor
	if d.cur != nil {
		cur = d.cur.Descend(name)
	}
	c.governed(d.own.at(name), cur)
	why := w.cut.keeps(&w.sx)
	if d.keepFirst {
		why = whyFirst
	}
	if c.old = why == ""; !c.old && w.verbose {
		w.r.debug(w.it, w.pathIn(d, nul), why)
	}
	switch {
	case d.deep:
		c.deep, c.path = true, d.path
	case len(d.path)+len(nul) > namedPath:
		c.deep, c.path = true, d.path[:strings.LastIndexByte(d.path[:shownPath], '/')+1]
	default:
		c.path = join(d.path, name)
	}
	d.pending.Add(1)
	w.recall(c)
	return c
}

// pathIn names an entry for messages.
func (s *sweep) pathIn(d *sweepDir, nul []byte) string {
	if len(nul) == 0 {
		return d.path
	}
	name := string(nul[:len(nul)-1])
	if d.deep {
		return d.path + ".../" + name
	}
	return join(d.path, name)
}

// rmdir removes a directory that was finished and was old before.
func (w *sweeper) rmdir(up, d *sweepDir) (gone bool) {
	if w.dry {
		if w.readOnly(up, d.name) || d.kept.Load() {
			return false
		}
		w.gone(up, d.name, ActRmdir)
		w.r.shadow.drop(d.id)
		return true
	}
	err := w.c.statx(w.mem, up.fd, d.name, linux.STATX_TYPE|linux.STATX_INO, &w.now)
	if err == nil && keyOfStatx(&w.now) != d.id {
		w.keep(up, d.name, whyChanged)
		return false
	}
	if err == nil {
		err = w.mem.UnlinkatNul(up.fd, d.name, linux.AT_REMOVEDIR)
	}
	switch {
	case err == nil:
		w.gone(up, d.name, ActRmdir)
		return true
	case fsat.NotExist(err):
		return true
	case isErrno(err, syscall.ENOTEMPTY), isErrno(err, syscall.EEXIST):
		w.keep(up, d.name, whyFull)
	default:
		w.problem(w.pathIn(up, d.name), err)
	}
	return false
}

// readOnly is how a dry run, which has one worker, meets the failure of a removal.
func (w *sweeper) readOnly(d *sweepDir, name []byte) bool {
	if !d.asked {
		d.asked, d.readOnly = true, linux.ReadOnly(d.fd, ".")
	}
	if d.readOnly {
		w.keep(d, name, "")
		w.problem(w.pathIn(d, name), syscall.EROFS)
	}
	return d.readOnly
}

// problem reports a failure that counts. Of several the line returns the one
// with the lowest path, so that it does not depend on who was faster.
func (s *sweep) problem(path string, err error) {
	s.r.problem(s.it, path, err, false)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil || path < s.failedAt {
		s.failed, s.failedAt = err, path
	}
}
