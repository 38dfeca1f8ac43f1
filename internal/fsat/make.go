package fsat

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
)

// TempPrefix begins the names under which nodes are made before they are moved
// to their own name. A SIGKILL in that moment leaves one behind; it is never
// taken for anything else.
const TempPrefix = ".#slashrun."

var tempCounter atomic.Uint64

// tempName is a name that nobody else uses. It need not be secret: it is made
// with O_EXCL, mkdir or symlink, which refuse what is there.
func tempName() string {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:8], uint64(time.Now().UnixNano()))
	binary.LittleEndian.PutUint64(b[8:], tempCounter.Add(1)<<32|uint64(syscall.Getpid()))
	return TempPrefix + hex.EncodeToString(b[:])
}

// Attr is what a new node shall have.
type Attr struct {
	UID, GID uint32 // [KeepID] leaves what the kernel gives: the process's ids, or the group of a setgid parent
	Mode     uint32 // permission bits, setuid, setgid and sticky included
	// AsMade says that Mode is only asked for: what a setgid parent or a
	// default ACL makes of it stays.
	AsMade bool
}

// KeepID stands for "leave this id as it is".
const KeepID = ^uint32(0)

func (a *Attr) chowns(st *Stat) bool {
	return a.UID != KeepID && a.UID != st.UID || a.GID != KeepID && a.GID != st.GID
}

// ownIDs are the effective ids of the process, asked for once.
var ownIDs = sync.OnceValues(func() (uint32, uint32) {
	return linux.Geteuid(), linux.Getegid()
})

// Direct says that the kernel will most likely give a new node these owners by
// itself, so that it need not be made under another name first.
func (a Attr) Direct() bool {
	uid, gid := ownIDs()
	return (a.UID == KeepID || a.UID == uid) && (a.GID == KeepID || a.GID == gid)
}

// createMode is the mode for the call that makes the node under a name that
// nobody uses yet: no more than the owner needs, unless the kernel's own result
// is wanted.
func (a *Attr) createMode() uint32 {
	if a.AsMade {
		return a.Mode & 0777
	}
	return a.Mode & 0700
}

// finish gives a node its owner and mode. chown clears setuid and setgid bits
// (chown(2)), so the mode comes last.
func (n *Node) finish(a Attr) error {
	var st Stat
	if err := n.Stat(&st); err != nil {
		return err
	}
	chowned := a.chowns(&st)
	if chowned {
		if err := n.Chown(a.UID, a.GID); err != nil {
			return err
		}
	}
	mode := a.Mode
	if a.AsMade {
		mode = st.Perm()
	}
	if st.IsSymlink() || !chowned && st.Perm() == mode {
		return nil
	}
	return n.Chmod(mode)
}

// WriteFile makes a regular file with this content, owner and mode at name. It
// is complete or absent. EEXIST says that the name is taken, by whatever type.
// The process's umask must be 0.
func (d *Dir) WriteFile(name string, content []byte, a Attr) error {
	if len(content) == 0 && a.Direct() && a.Mode&^0777 == 0 {
		return d.createEmpty(name, a)
	}
	return d.makeFile(name, a, func(n *Node) error { return linux.WriteAll(n.fd, content) })
}

// makeFile makes a regular file whose content fill writes. It appears when all
// of it is there.
func (d *Dir) makeFile(name string, a Attr, fill func(*Node) error) error {
	fd, err := linux.Openat(d.fd, ".", linux.O_TMPFILE|linux.O_WRONLY, a.createMode())
	if err != nil {
		if unsupportedTmpfile(err) {
			return d.makeFileNamed(name, a, fill)
		}
		return err
	}
	n := &Node{fd: fd, work: true}
	defer n.Close()
	if err := fill(n); err != nil { // first: write(2) clears setuid and setgid
		return err
	}
	if err := n.finish(a); err != nil {
		return err
	}
	err = linkFd(fd, d.fd, name)
	if NotExist(err) { // neither CAP_DAC_READ_SEARCH nor /proc
		return d.makeFileNamed(name, a, fill)
	}
	return err
}

func (d *Dir) createEmpty(name string, a Attr) error {
	fd, err := linux.Openat(d.fd, name, linux.O_CREAT|linux.O_EXCL|linux.O_NOFOLLOW|linux.O_WRONLY|linux.O_NOCTTY, a.Mode)
	if err != nil {
		return err
	}
	n := Node{fd: fd, work: true}
	defer n.Close()
	return n.finish(a)
}

// unsupportedTmpfile: EOPNOTSUPP from the file system, EISDIR and ENOENT from
// kernels that do not know the flag (open(2)); EPERM and ENOSYS from a filter.
func unsupportedTmpfile(err error) bool {
	for _, e := range []error{syscall.EOPNOTSUPP, syscall.EISDIR, syscall.ENOENT, syscall.EINVAL, syscall.ENOSYS, syscall.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// linkFd gives an unnamed file a name. AT_EMPTY_PATH needs
// CAP_DAC_READ_SEARCH, else the link in /proc does it (open(2), O_TMPFILE).
func linkFd(fd, dirfd int, name string) error {
	err := linux.Linkat(fd, "", dirfd, name, linux.AT_EMPTY_PATH)
	if NotExist(err) || errors.Is(err, syscall.EPERM) {
		return linux.Linkat(linux.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), dirfd, name, linux.AT_SYMLINK_FOLLOW)
	}
	return err
}

func (d *Dir) makeFileNamed(name string, a Attr, fill func(*Node) error) error {
	tmp := tempName()
	fd, err := linux.Openat(d.fd, tmp, linux.O_CREAT|linux.O_EXCL|linux.O_NOFOLLOW|linux.O_WRONLY, a.createMode())
	if err != nil {
		return err
	}
	n := &Node{fd: fd, work: true}
	defer n.Close()
	err = fill(n)
	if err == nil {
		err = n.finish(a)
	}
	if err == nil {
		err = d.moveIn(tmp, name)
	}
	if err != nil {
		linux.Unlinkat(d.fd, tmp, 0)
	}
	return err
}

// moveIn renames tmp to name unless name is taken (EEXIST). Where the file
// system or the filter has no RENAME_NOREPLACE, a node that is not a directory
// is linked and its temporary name removed, which refuses a taken name too; a
// directory is renamed, which can only replace an empty directory.
func (d *Dir) moveIn(tmp, name string) error {
	err := linux.Renameat2(d.fd, tmp, d.fd, name, linux.RENAME_NOREPLACE)
	if err == nil || !Absent(err) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	err = linux.Linkat(d.fd, tmp, d.fd, name, 0)
	if err == nil {
		return linux.Unlinkat(d.fd, tmp, 0)
	}
	var st Stat
	if d.Stat(tmp, &st) != nil || !st.IsDir() {
		return err
	}
	if d.Stat(name, &st) == nil {
		return wrapExist(name)
	}
	return linux.Renameat2(d.fd, tmp, d.fd, name, 0)
}

func wrapExist(name string) error { return &existError{name} }

type existError struct{ name string }

func (e *existError) Error() string   { return e.name + ": file exists" }
func (e *existError) Is(t error) bool { return t == syscall.EEXIST }

// Mkdir makes a directory that appears with this owner and mode. Where the
// kernel would make it so by itself, it is one mkdirat(2) and one statx(2).
// EEXIST says that the name is taken. The process's umask must be 0.
func (d *Dir) Mkdir(name string, a Attr) error {
	return d.mkdir(name, a, func(name string, mode uint32) error { return linux.Mkdirat(d.fd, name, mode) })
}

// MakeSubvolume is Mkdir for a btrfs subvolume. ENOTTY says that this is another
// file system. If before is not nil, it is called with the subvolume, open for
// reading, when that has no name yet that anybody knows; if it fails, there is no
// subvolume. The kernel makes subvolumes with the mode that the umask leaves: it
// is set for the call, so no other thread may make files meanwhile.
func (d *Dir) MakeSubvolume(name string, a Attr, before func(fd int) error) error {
	fd, err := OpenForListing(d.fd, ".") // O_PATH is not enough
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	mk := func(name string, mode uint32) error {
		defer linux.Umask(linux.Umask(int(0777 &^ mode)))
		return linux.BtrfsSubvolCreate(fd, name)
	}
	if before == nil {
		return d.mkdir(name, a, mk)
	}
	tmp := tempName()
	if err := mk(tmp, a.createMode()|0400); err != nil {
		return err
	}
	sub, err := OpenForListing(fd, tmp)
	if err == nil {
		err = before(sub)
		linux.Close(sub)
	}
	if err != nil {
		linux.Unlinkat(d.fd, tmp, linux.AT_REMOVEDIR)
		return err
	}
	return d.finishAndMove(tmp, name, a, linux.AT_REMOVEDIR)
}

func (d *Dir) mkdir(name string, a Attr, mk func(name string, mode uint32) error) error {
	if !a.Direct() {
		tmp := tempName()
		if err := mk(tmp, a.createMode()); err != nil {
			return err
		}
		return d.finishAndMove(tmp, name, a, linux.AT_REMOVEDIR)
	}
	if err := mk(name, a.Mode&^06000); err != nil {
		return err
	}
	var st Stat
	if err := d.Stat(name, &st); err != nil {
		return err
	}
	if st.IsDir() && (a.AsMade || st.Perm() == a.Mode) && !a.chowns(&st) {
		return nil
	}
	// The parent's setgid bit or default ACL made it differ, or it is a
	// subvolume, which the kernel makes without them and without a sticky bit.
	return d.finishNew(name, a)
}

// finishAndMove gives the node made as tmp its attributes and its name, or
// removes it.
func (d *Dir) finishAndMove(tmp, name string, a Attr, unlinkFlags int) error {
	err := d.finishNew(tmp, a)
	if err == nil {
		err = d.moveIn(tmp, name)
	}
	if err != nil {
		linux.Unlinkat(d.fd, tmp, unlinkFlags)
	}
	return err
}

// finishNew gives a node just made under name its owner and mode. If somebody
// who owns the parent has exchanged it meanwhile, it is refused: what was just
// made belongs to us and has one name.
func (d *Dir) finishNew(name string, a Attr) error {
	n, err := d.OpenNode(name)
	if err != nil {
		return err
	}
	defer n.Close()
	var st Stat
	if err := n.Stat(&st); err != nil {
		return err
	}
	if uid, _ := ownIDs(); st.UID != uid || !st.IsDir() && st.Nlink != 1 {
		return &swappedError{name}
	}
	return n.finish(a)
}

type swappedError struct{ name string }

func (e *swappedError) Error() string {
	return e.name + ": was exchanged by somebody else while it was being made"
}
func (e *swappedError) Is(t error) bool { return t == syscall.ESTALE }

// Special is a node without content: a FIFO, a device, or a link.
type Special struct {
	Type   uint32 // S_IFIFO, S_IFCHR, S_IFBLK or S_IFLNK
	Rdev   uint64 // devices: as makedev(3) makes it
	Target string // links
}

func (d *Dir) makeSpecial(name string, s Special, mode uint32) error {
	if s.Type == syscall.S_IFLNK {
		return linux.Symlinkat(s.Target, d.fd, name)
	}
	return linux.Mknodat(d.fd, name, s.Type|mode, s.Rdev)
}

// MakeSpecial makes a FIFO, device or link that appears with its owner and
// mode (a link has none). EEXIST says that the name is taken. The process's
// umask must be 0.
func (d *Dir) MakeSpecial(name string, s Special, a Attr) error {
	if a.Direct() && s.Type == syscall.S_IFLNK {
		return d.makeSpecial(name, s, 0)
	}
	tmp := tempName()
	if err := d.makeSpecial(tmp, s, a.createMode()); err != nil {
		return err
	}
	return d.finishAndMove(tmp, name, a, 0)
}

// ReplaceWith puts a FIFO, device or link in the place of what is at name, in
// one rename(2). A directory there is EISDIR or EEXIST: remove it first.
func (d *Dir) ReplaceWith(name string, s Special, a Attr) error {
	tmp := tempName()
	if err := d.makeSpecial(tmp, s, a.createMode()); err != nil {
		return err
	}
	err := d.finishNew(tmp, a)
	if err == nil {
		err = linux.Renameat2(d.fd, tmp, d.fd, name, 0)
	}
	if err != nil {
		linux.Unlinkat(d.fd, tmp, 0)
	}
	return err
}
