package tmpfiles

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"syscall"

	"github.com/slashrun/slashrun/internal/btrfs"
	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
)

// shadow remembers what a dry run would have changed, so that later lines find
// it so. It is keyed by inode, like the kernel's own tables: a change that was
// made by one path is seen by every other.
type shadow struct {
	inodes map[inodeKey]*shadowInode
	next   uint64
	// groups are quota groups that subvolumes would have become members of, by
	// the number of the subvolume.
	groups map[uint64][]btrfs.Qgroup
}

type inodeKey struct{ dev, ino uint64 }

func keyOf(st *fsat.Stat) inodeKey { return inodeKey{st.Dev, st.Ino} }

// shadowDev is the device number of inodes that would have been made; no file
// system has it.
const shadowDev = ^uint64(0)

// shadowInode is an inode that would have been made or changed.
type shadowInode struct {
	st      fsat.Stat
	names   map[string]*shadowInode // directories: entries made (or, nil, removed)
	up      *shadowInode
	target  string
	content []byte // nil: the real content, if the inode is real
	written bool
	xattrs  map[string][]byte // set (or, nil, removed)
	flags   *uint32
	subvol  uint64 // a made subvolume: the number that stands for it
}

func (i *shadowInode) real() bool { return i.st.Dev != shadowDev }

func newShadow() *shadow {
	return &shadow{inodes: make(map[inodeKey]*shadowInode), groups: make(map[uint64][]btrfs.Qgroup)}
}

// root is the shadow of a real directory.
func (s *shadow) root(d *fsat.Dir) directory { return &shadowDir{s: s, under: d, borrowed: true} }

// inode gives the record of a real inode, making one if there is none.
func (s *shadow) inode(st *fsat.Stat) *shadowInode {
	i := s.inodes[keyOf(st)]
	if i == nil {
		i = &shadowInode{st: *st}
		s.inodes[keyOf(st)] = i
	}
	return i
}

// shadowDir is a directory of which a dry run thinks that it looks like this.
type shadowDir struct {
	s        *shadow
	under    *fsat.Dir    // nil for one that does not exist yet
	node     *shadowInode // nil where nothing in it would have changed so far
	borrowed bool         // under is the caller's
}

// record gives the directory's own record, nil if there is none.
func (d *shadowDir) record() *shadowInode {
	if d.node == nil && d.under != nil {
		var st fsat.Stat
		if d.under.Stat("", &st) == nil {
			d.node = d.s.inodes[keyOf(&st)]
		}
	}
	return d.node
}

// change gives the directory's record, made if there is none.
func (d *shadowDir) change() (*shadowInode, error) {
	if d.under != nil && linux.ReadOnly(d.under.Fd(), ".") {
		return nil, syscall.EROFS
	}
	if i := d.record(); i != nil {
		if i.names == nil {
			i.names = make(map[string]*shadowInode)
		}
		return i, nil
	}
	var st fsat.Stat
	if err := d.under.Stat("", &st); err != nil {
		return nil, err
	}
	d.node = d.s.inode(&st)
	d.node.names = make(map[string]*shadowInode)
	return d.node, nil
}

// entry looks a name up among what would have changed.
func (d *shadowDir) entry(name string) (i *shadowInode, known bool) {
	if n := d.record(); n != nil {
		i, known = n.names[name]
	}
	return i, known
}

func (d *shadowDir) Stat(name string, st *fsat.Stat) error {
	if name == "" || name == "." {
		if n := d.record(); n != nil {
			*st = n.st
			return nil
		}
		return d.under.Stat("", st)
	}
	if i, known := d.entry(name); known {
		if i == nil {
			return syscall.ENOENT
		}
		*st = i.st
		return nil
	}
	if d.under == nil {
		return syscall.ENOENT
	}
	if err := d.under.Stat(name, st); err != nil {
		return err
	}
	if i := d.s.inodes[keyOf(st)]; i != nil {
		*st = i.st
	}
	return nil
}

func (d *shadowDir) Readlink(name string) (string, error) {
	if i, known := d.entry(name); known {
		switch {
		case i == nil:
			return "", syscall.ENOENT
		case !i.st.IsSymlink():
			return "", syscall.EINVAL
		}
		return i.target, nil
	}
	if d.under == nil {
		return "", syscall.ENOENT
	}
	return d.under.Readlink(name)
}

func (d *shadowDir) OpenDir(name string) (directory, error) {
	if d.under == nil && (name == "." || name == "..") {
		n := d.node
		if name == ".." {
			n = n.up
		}
		if n == nil || n.real() {
			return nil, errors.New("tree is too deep for a dry run")
		}
		return &shadowDir{s: d.s, node: n}, nil
	}
	if i, known := d.entry(name); known {
		switch {
		case i == nil:
			return nil, syscall.ENOENT
		case !i.st.IsDir():
			return nil, syscall.ENOTDIR
		}
		return &shadowDir{s: d.s, node: i}, nil
	}
	if d.under == nil {
		return nil, syscall.ENOENT
	}
	c, err := d.under.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &shadowDir{s: d.s, under: c}, nil
}

func (d *shadowDir) OpenNode(name string) (inode, error) {
	if name == "." && d.under == nil {
		return &shadowNode{s: d.s, node: d.node}, nil
	}
	if i, known := d.entry(name); known {
		if i == nil {
			return nil, syscall.ENOENT
		}
		return &shadowNode{s: d.s, node: i}, nil
	}
	if d.under == nil {
		return nil, syscall.ENOENT
	}
	n, err := d.under.OpenNode(name)
	if err != nil {
		return nil, err
	}
	return &shadowNode{s: d.s, under: n}, nil
}

// OpenWrite opens nothing: opening a device for writing can do something.
func (d *shadowDir) OpenWrite(name string, _ bool) (inode, error) { return d.OpenNode(name) }

func (d *shadowDir) Names() ([]string, error) {
	var names []string
	if d.under != nil {
		var err error
		if names, err = d.under.Names(); err != nil {
			return nil, err
		}
	}
	n := d.record()
	if n == nil || len(n.names) == 0 {
		return names, nil
	}
	names = slices.DeleteFunc(names, func(name string) bool { _, known := n.names[name]; return known })
	for _, name := range slices.Sorted(maps.Keys(n.names)) {
		if n.names[name] != nil {
			names = append(names, name)
		}
	}
	return names, nil
}

func (d *shadowDir) Magic() (int64, error) {
	if d.under == nil {
		return 0, nil
	}
	return linux.Fstatfs(d.under.Fd())
}

func (d *shadowDir) Close() error {
	if d.under == nil || d.borrowed {
		return nil
	}
	return d.under.Close()
}

// add makes an entry; the name must be free.
func (d *shadowDir) add(name string, typ uint32, a fsat.Attr) (*shadowInode, error) {
	var st fsat.Stat
	if d.Stat(name, &st) == nil {
		return nil, syscall.EEXIST
	}
	dir, err := d.change()
	if err != nil {
		return nil, err
	}
	d.s.next++
	i := &shadowInode{up: dir, st: fsat.Stat{
		Mode: typ | a.Mode, UID: linux.Geteuid(), GID: linux.Getegid(),
		Nlink: 1, Dev: shadowDev, Ino: d.s.next, Btime: fsat.NoTime, MountRootKnown: true,
	}}
	if dir.st.Mode&syscall.S_ISGID != 0 {
		i.st.GID = dir.st.GID
		if typ == syscall.S_IFDIR && a.AsMade {
			i.st.Mode |= syscall.S_ISGID
		}
	}
	if a.UID != fsat.KeepID {
		i.st.UID = a.UID
	}
	if a.GID != fsat.KeepID {
		i.st.GID = a.GID
	}
	dir.names[name] = i
	d.s.inodes[keyOf(&i.st)] = i
	return i, nil
}

func (d *shadowDir) Mkdir(name string, a fsat.Attr) error {
	i, err := d.add(name, syscall.S_IFDIR, a)
	if err == nil {
		i.names = make(map[string]*shadowInode)
	}
	return err
}

func (d *shadowDir) WriteFile(name string, content []byte, a fsat.Attr) error {
	i, err := d.add(name, syscall.S_IFREG, a)
	if err == nil {
		i.content, i.written, i.st.Size = content, true, int64(len(content))
	}
	return err
}

func (d *shadowDir) MakeSpecial(name string, s fsat.Special, a fsat.Attr) error {
	if s.Type == syscall.S_IFLNK {
		a.Mode = 0777
	}
	i, err := d.add(name, s.Type, a)
	if err == nil {
		i.target, i.st.Rdev = s.Target, s.Rdev
	}
	return err
}

func (d *shadowDir) ReplaceWith(name string, s fsat.Special, a fsat.Attr) error {
	if err := d.Unlink(name); err != nil && !fsat.NotExist(err) {
		return err
	}
	return d.MakeSpecial(name, s, a)
}

func (d *shadowDir) Unlink(name string) error {
	dir, err := d.change()
	if err == nil {
		dir.names[name] = nil
	}
	return err
}

// Rmdir forgets the directory with all below it: only removals of whole trees
// and of directories that were emptied come here.
func (d *shadowDir) Rmdir(name string) error { return d.Unlink(name) }

// shadowNode is an inode of which a dry run thinks that it looks like this.
type shadowNode struct {
	s     *shadow
	under *fsat.Node // nil for one that does not exist yet
	node  *shadowInode
}

func (n *shadowNode) record() *shadowInode {
	if n.node == nil {
		var st fsat.Stat
		if n.under.Stat(&st) == nil {
			n.node = n.s.inodes[keyOf(&st)]
		}
	}
	return n.node
}

func (n *shadowNode) change() (*shadowInode, error) {
	if n.under != nil && linux.ReadOnly(n.under.Fd(), "") {
		return nil, syscall.EROFS
	}
	if i := n.record(); i != nil {
		return i, nil
	}
	var st fsat.Stat
	if err := n.under.Stat(&st); err != nil {
		return nil, err
	}
	n.node = n.s.inode(&st)
	return n.node, nil
}

func (n *shadowNode) Stat(st *fsat.Stat) error {
	if i := n.record(); i != nil {
		*st = i.st
		return nil
	}
	return n.under.Stat(st)
}

func (n *shadowNode) Chown(uid, gid uint32) error {
	i, err := n.change()
	if err != nil {
		return err
	}
	if uid != fsat.KeepID {
		i.st.UID = uid
	}
	if gid != fsat.KeepID {
		i.st.GID = gid
	}
	return nil
}

func (n *shadowNode) Chmod(mode uint32) error {
	i, err := n.change()
	if err == nil {
		i.st.Mode = i.st.Type() | mode
	}
	return err
}

func (n *shadowNode) Getxattr(name string) ([]byte, error) {
	if i := n.record(); i != nil {
		if v, known := i.xattrs[name]; known {
			if v == nil {
				return nil, syscall.ENODATA
			}
			return v, nil
		}
	}
	if n.under == nil {
		return nil, syscall.ENODATA
	}
	return n.under.Getxattr(name)
}

func (n *shadowNode) setxattr(name string, value []byte) error {
	i, err := n.change()
	if err != nil {
		return err
	}
	if i.xattrs == nil {
		i.xattrs = make(map[string][]byte)
	}
	i.xattrs[name] = value
	return nil
}

func (n *shadowNode) Setxattr(name string, value []byte) error {
	return n.setxattr(name, append([]byte{}, value...))
}

func (n *shadowNode) Removexattr(name string) error { return n.setxattr(name, nil) }

func (n *shadowNode) Flags() (uint32, error) {
	if i := n.record(); i != nil && i.flags != nil {
		return *i.flags, nil
	}
	if n.under == nil {
		return 0, nil
	}
	return realNode{n.under}.Flags()
}

func (n *shadowNode) SetFlags(v uint32) error {
	i, err := n.change()
	if err == nil {
		i.flags = &v
	}
	return err
}

func (n *shadowNode) Write(data []byte, appendTo, truncate bool) error {
	i, err := n.change()
	if err != nil {
		return err
	}
	switch {
	case appendTo:
		i.content = append(bytes.Clone(i.content), data...)
	case truncate || len(data) >= len(i.content):
		i.content = data
	default:
		i.content = append(bytes.Clone(data), i.content[len(data):]...)
	}
	i.written = true
	if linux.Geteuid() != 0 && len(data) > 0 { // write(2): without CAP_FSETID they go
		i.st.Mode &^= syscall.S_ISUID
		if i.st.Mode&0010 != 0 {
			i.st.Mode &^= syscall.S_ISGID
		}
	}
	i.st.Size = max(int64(len(i.content)), i.st.Size)
	if truncate {
		i.st.Size = int64(len(data))
	}
	return nil
}

func (n *shadowNode) Begins(data []byte) (begins, all bool) {
	if i := n.record(); i != nil && i.written {
		return bytes.HasPrefix(i.content, data), bytes.Equal(i.content, data)
	}
	if n.under == nil {
		return len(data) == 0, len(data) == 0
	}
	return realNode{n.under}.Begins(data)
}

func (n *shadowNode) AsDir() (directory, error) {
	if n.under == nil {
		if !n.node.st.IsDir() {
			return nil, syscall.ENOTDIR
		}
		return &shadowDir{s: n.s, node: n.node}, nil
	}
	d, err := realNode{n.under}.AsDir()
	if err != nil {
		return nil, err
	}
	return &shadowDir{s: n.s, under: d.(realDir).Dir}, nil
}

func (n *shadowNode) Close() error {
	if n.under == nil {
		return nil
	}
	return n.under.Close()
}
