package tmpfiles

import (
	"errors"
	"fmt"
	"path"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
)

// create makes one line true.
func (r *run) create(it *Item) error {
	switch it.Type {
	case 'd', 'D', 'v', 'q', 'Q':
		return r.createDir(it)
	case 'f':
		if it.Mod.Plus {
			return r.truncateFile(it)
		}
		return r.createFile(it)
	case 'F':
		return r.truncateFile(it)
	case 'L':
		return r.createLink(it)
	case 'p':
		return r.createSpecial(it, fsat.Special{Type: syscall.S_IFIFO}, ActFifo)
	case 'c':
		return r.createDevice(it, syscall.S_IFCHR)
	case 'b':
		return r.createDevice(it, syscall.S_IFBLK)
	case 'C':
		return r.copyFiles(it)
	case 'w':
		return r.eachMatch(it, r.writeFile)
	case 'e':
		return r.eachMatch(it, r.adjustDir)
	case 'm', 'z':
		return r.eachMatch(it, func(it *Item, m match) error { return r.onNode(it, m, r.setPerms) })
	case 't':
		return r.eachMatch(it, func(it *Item, m match) error { return r.onNode(it, m, r.setXattrs) })
	case 'a':
		return r.eachMatch(it, func(it *Item, m match) error { return r.onNode(it, m, r.setACL) })
	case 'h':
		return r.eachMatch(it, func(it *Item, m match) error { return r.onNode(it, m, r.setAttributes) })
	case 'k':
		return r.eachMatch(it, func(it *Item, m match) error { return r.onNode(it, m, r.setCaps) })
	case 'Z':
		return r.eachMatch(it, func(it *Item, m match) error { return r.onTree(it, m, r.setPerms) })
	case 'T':
		return r.eachMatch(it, func(it *Item, m match) error { return r.onTree(it, m, r.setXattrs) })
	case 'A':
		return r.eachMatch(it, func(it *Item, m match) error { return r.onTree(it, m, r.setACL) })
	case 'H':
		return r.eachMatch(it, func(it *Item, m match) error { return r.onTree(it, m, r.setAttributes) })
	case 'K':
		return r.eachMatch(it, func(it *Item, m match) error { return r.onTree(it, m, r.setCaps) })
	}
	return nil // x X r R have nothing to create
}

// errWrongType says that something else stands where a line wants a node.
type errWrongType struct {
	path string
	have uint32
	want string
}

func (e *errWrongType) Error() string {
	return fmt.Sprintf("%s exists and is %s, not %s; remove it, or add the modifier '=' to the line",
		e.path, typeName(e.have), e.want)
}
func (e *errWrongType) Unwrap() error { return syscall.EEXIST }

func typeName(mode uint32) string {
	switch mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		return "a directory"
	case syscall.S_IFREG:
		return "a regular file"
	case syscall.S_IFLNK:
		return "a symbolic link"
	case syscall.S_IFIFO:
		return "a FIFO"
	case syscall.S_IFSOCK:
		return "a socket"
	case syscall.S_IFCHR:
		return "a character device"
	case syscall.S_IFBLK:
		return "a block device"
	}
	return "of an unknown type"
}

// lookup asks what is at name; found is false if nothing is.
func lookup(at spot, name string, st *fsat.Stat) (found bool, err error) {
	err = at.dir.Stat(name, st)
	if fsat.NotExist(err) {
		return false, nil
	}
	return err == nil, err
}

// atAutofs says that the last component itself is an automount point.
func atAutofs(at spot, name string, st *fsat.Stat) bool {
	if !st.IsDir() || st.Dev == at.st.Dev {
		return false
	}
	d, err := at.dir.OpenDir(name)
	if err != nil {
		return false
	}
	defer d.Close()
	magic, err := d.Magic()
	return err == nil && magic == linux.AUTOFS_SUPER_MAGIC
}

func (r *run) createDir(it *Item) error {
	at, name, err := r.parent(it)
	if errors.Is(err, syscall.ENOTDIR) {
		// Directly below something that is no directory the reference tells no
		// other story than for a wrong type: exists already, status 0.
		if _, up := r.walk.dirAt(path.Dir(path.Dir(it.Path)), false); up == nil {
			r.debug(it, it.Path, err.Error())
			return nil
		}
	}
	if err != nil {
		return err
	}
	if at.fresh && it.Type.in("dD") && it.newAttr().Direct() {
		// Of all failures mkdir(2) tells EEXIST first.
		if made, err := r.makeDir(it, at, name); made || err != nil {
			return err
		}
	}
	var st fsat.Stat
	found, err := lookup(at, name, &st)
	if err != nil {
		return err
	}
	if found && it.Mod.Replace && !st.IsDir() {
		if err := r.removeWrongType(it, at, name, it.Path, &st); err != nil {
			return err
		}
		found = false
	}
	if at.fresh = !found; !found {
		made, err := r.makeDir(it, at, name)
		if made || err != nil {
			return err
		}
		if err := at.dir.Stat(name, &st); err != nil {
			return err
		}
	}
	if !st.IsDir() {
		r.debug(it, it.Path, (&errWrongType{it.Path, st.Mode, "a directory"}).Error())
		return nil
	}
	if atAutofs(at, name, &st) {
		return errAutofs
	}
	return r.permsAt(it, at, name, it.Path, &st, true)
}

// makeDir makes the directory or subvolume of the line. made is false if
// somebody else made something there in the meantime.
func (r *run) makeDir(it *Item, at spot, name string) (made bool, err error) {
	a := it.newAttr()
	act := ActMkdir
	var quota joined
	if it.Type.in("vqQ") && r.wantsSubvolume() {
		quota, err = r.makeSubvolume(it, at, name, a)
		act = ActSubvolume
	}
	if act == ActMkdir || errors.Is(err, syscall.ENOTTY) || errors.Is(err, syscall.EOPNOTSUPP) {
		act = ActMkdir
		err = at.dir.Mkdir(name, a)
	}
	if errors.Is(err, syscall.EEXIST) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	r.created(it, act, a, "")
	return true, r.inGroups(it, quota)
}

// created reports a new node with its mode and owner.
func (r *run) created(it *Item, act Action, a fsat.Attr, what string) {
	if !r.opt.Report.Changes() {
		return
	}
	to := what
	if act != ActSymlink {
		if to != "" {
			to += " "
		}
		to += octal(a.Mode)
	}
	if a.UID != fsat.KeepID || a.GID != fsat.KeepID {
		if to != "" {
			to += " "
		}
		to += idOrDash(a.UID) + ":" + idOrDash(a.GID)
	}
	r.changed(it, act, it.Path, "", to)
}

func idOrDash(id uint32) string {
	if id == fsat.KeepID {
		return "-"
	}
	return fmt.Sprint(id)
}

func (r *run) createFile(it *Item) error {
	at, name, err := r.parent(it)
	if err != nil {
		return err
	}
	var st fsat.Stat
	found, err := r.clearWrongType(it, at, name, syscall.S_IFREG, &st)
	if err != nil {
		return err
	}
	if !found {
		made, err := r.makeFile(it, at, name)
		if made || err != nil {
			return err
		}
		if err := at.dir.Stat(name, &st); err != nil {
			return err
		}
	}
	if !st.IsRegular() {
		return &errWrongType{it.Path, st.Mode, "a regular file"}
	}
	return r.permsAt(it, at, name, it.Path, &st, true)
}

func (r *run) makeFile(it *Item, at spot, name string) (made bool, err error) {
	a := it.newAttr()
	err = at.dir.WriteFile(name, it.Content, a)
	if errors.Is(err, syscall.EEXIST) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	r.created(it, ActFile, a, "")
	return true, nil
}

// clearWrongType looks at what is at name and, with the modifier `=`, removes
// it if it is of another type.
func (r *run) clearWrongType(it *Item, at spot, name string, typ uint32, st *fsat.Stat) (found bool, err error) {
	found, err = lookup(at, name, st)
	if err != nil || !found || !it.Mod.Replace || st.Type() == typ {
		return found, err
	}
	return false, r.removeWrongType(it, at, name, it.Path, st)
}

// truncateFile is f+: the file is there and holds exactly the argument. What
// holds it already is not written again.
func (r *run) truncateFile(it *Item) error {
	at, name, err := r.parent(it)
	if err != nil {
		return err
	}
	var st fsat.Stat
	found, err := r.clearWrongType(it, at, name, syscall.S_IFREG, &st)
	if err != nil {
		return err
	}
	if !found {
		made, err := r.makeFile(it, at, name)
		if made || err != nil {
			return err
		}
		if err := at.dir.Stat(name, &st); err != nil {
			return err
		}
	}
	if !st.IsRegular() {
		return &errWrongType{it.Path, st.Mode, "a regular file"}
	}
	n, err := at.dir.OpenNode(name)
	if err != nil {
		return err
	}
	defer n.Close()
	if err := n.Stat(&st); err != nil {
		return err
	}
	if !st.IsRegular() {
		return &errWrongType{it.Path, st.Mode, "a regular file"}
	}
	if err := r.rewrite(it, n, &st); err != nil {
		return err
	}
	return r.permsOn(it, n, it.Path, true, syscall.S_IFREG)
}

func (r *run) rewrite(it *Item, n inode, st *fsat.Stat) error {
	if len(it.Content) == 0 && st.Size == 0 {
		return nil
	}
	if _, all := n.Begins(it.Content); all {
		return nil
	}
	if err := n.Write(it.Content, false, true); err != nil {
		return err
	}
	r.changed(it, ActWrite, it.Path, fmt.Sprintf("%d bytes", st.Size), fmt.Sprintf("%d bytes", len(it.Content)))
	return nil
}

func (r *run) createLink(it *Item) error {
	s := fsat.Special{Type: syscall.S_IFLNK, Target: it.Argument}
	// Before L? looks for its target, parents are made and what is of another
	// type is removed, and whether that works does not count, as in the reference.
	at, name, err := r.parent(it)
	var st fsat.Stat
	found := false
	if err == nil {
		found, err = r.clearWrongType(it, at, name, syscall.S_IFLNK, &st)
	}
	if it.Mod.IfTarget {
		if there, err := r.targetExists(it); !there || err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	a := it.newAttr()
	a.AsMade = true // a link has no mode of its own
	if !found {
		err := at.dir.MakeSpecial(name, s, a)
		if err == nil {
			r.created(it, ActSymlink, a, "-> "+it.Argument)
			return nil
		}
		if !errors.Is(err, syscall.EEXIST) {
			return err
		}
		if err := at.dir.Stat(name, &st); err != nil {
			return err
		}
	}
	old := typeName(st.Mode)
	if st.IsSymlink() {
		target, err := at.dir.Readlink(name)
		if err != nil {
			return err
		}
		if target == it.Argument {
			return r.permsAt(it, at, name, it.Path, &st, true)
		}
		old = "-> " + target
	}
	if !it.Mod.Plus {
		r.debug(it, it.Path, "is "+old+", left alone: only L+ replaces it")
		return nil
	}
	if err := r.replace(it, at, name, s, a, &st); err != nil {
		return err
	}
	r.changed(it, ActSymlink, it.Path, old, "-> "+it.Argument)
	return nil
}

// replace puts a special node in the place of what is there, a whole directory
// too.
func (r *run) replace(it *Item, at spot, name string, s fsat.Special, a fsat.Attr, st *fsat.Stat) error {
	r.walk.stale = true
	if st.IsDir() {
		if err := r.removeTree(it, at, name, it.Path, st, false); err != nil {
			return err
		}
		return at.dir.MakeSpecial(name, s, a)
	}
	return at.dir.ReplaceWith(name, s, a)
}

func (r *run) createSpecial(it *Item, s fsat.Special, act Action) error {
	at, name, err := r.parent(it)
	if err != nil {
		return err
	}
	a := it.newAttr()
	var st fsat.Stat
	found, err := r.clearWrongType(it, at, name, s.Type, &st)
	if err != nil {
		return err
	}
	if !found {
		err := at.dir.MakeSpecial(name, s, a)
		if err == nil {
			r.created(it, act, a, it.Argument)
			return nil
		}
		if !errors.Is(err, syscall.EEXIST) {
			return err
		}
		if err := at.dir.Stat(name, &st); err != nil {
			return err
		}
	}
	if st.Type() == s.Type {
		return r.permsAt(it, at, name, it.Path, &st, true)
	}
	if !it.Mod.Plus {
		r.debug(it, it.Path, "is "+typeName(st.Mode)+", left alone: only the modifier '+' replaces it")
		return nil
	}
	if err := r.replace(it, at, name, s, a, &st); err != nil {
		return err
	}
	r.changed(it, act, it.Path, typeName(st.Mode), octal(a.Mode))
	return nil
}

// createDevice skips silently where device nodes cannot be made: in containers
// there are none to make (systemd-tmpfiles does the same).
func (r *run) createDevice(it *Item, typ uint32) error {
	if !mayMknod() {
		r.debug(it, it.Path, "no CAP_MKNOD, device node skipped")
		return nil
	}
	err := r.createSpecial(it, fsat.Special{Type: typ, Rdev: it.Rdev}, ActDevice)
	var path *UnsafeError
	if (errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES)) && !errors.As(err, &path) && !errors.Is(err, errHardlinked) {
		r.debug(it, it.Path, "device nodes are forbidden here, skipped: "+err.Error())
		return nil
	}
	return err
}
