package sandbox

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
)

// source is the name that our mounts have in the mount table.
const source = "slashrun-try"

// Mount flags.
const (
	flagsProc = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC
	flagsDev  = syscall.MS_NOSUID | syscall.MS_NOEXEC
)

// arrange makes the new root and goes there. The order matters: what the machine
// has becomes read-only before the first writable mount of ours, the fresh procfs
// is mounted while the old one is still there (the kernel demands one that is
// fully visible), and the last step checks the result.
func (in *Inside) arrange() error {
	in.umask = linux.Umask(0)
	if err := linux.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	root, under, err := stage()
	if err != nil {
		return err
	}
	defer linux.Close(under)
	fd, err := linux.Openat(linux.AT_FDCWD, root, linux.O_PATH|linux.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	if err := in.bindAll(fd, root, under); err != nil {
		return err
	}
	if err := readOnly(root); err != nil {
		return err
	}
	if err := in.proc(root); err != nil {
		return err
	}
	if err := in.dev(root + "/dev"); err != nil {
		return err
	}
	if err := enter(fd); err != nil {
		return fmt.Errorf("making the new root /: %w", err)
	}
	return in.verify()
}

// stage mounts the tmpfs that becomes / on some directory. It returns its path
// and a descriptor of what it hides there.
func stage() (dir string, under int, err error) {
	var last error = syscall.ENOENT
	for _, dir := range []string{"/run", "/tmp", "/mnt"} {
		// Not a link: it would lead the binds below elsewhere.
		under, err := linux.Openat(linux.AT_FDCWD, dir, linux.O_PATH|linux.O_DIRECTORY|linux.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if last = linux.Mount(source, dir, "tmpfs", syscall.MS_NOSUID, "mode=0755,size=1m"); last == nil {
			return dir, under, nil
		}
		linux.Close(under)
	}
	return "", -1, fmt.Errorf("mounting a tmpfs for the new root: %w", last)
}

// bindAll gives the new root every entry of the machine's.
func (in *Inside) bindAll(fd int, root string, under int) error {
	entries, err := os.ReadDir("/")
	if err != nil {
		return fmt.Errorf("listing /: %w", err)
	}
	for _, name := range []string{"proc", "dev", "run"} {
		if err := linux.Mkdirat(fd, name, 0o755); err != nil {
			return fmt.Errorf("making /%s in the new root: %w", name, err)
		}
	}
	for _, e := range entries {
		name := e.Name()
		if name == "proc" || name == "dev" || name == "run" {
			continue
		}
		from := "/" + name
		if from == root {
			from = "/proc/self/fd/" + strconv.Itoa(under)
		}
		if err := in.bindEntry(fd, from, root+"/"+name, e.Type()); err != nil {
			return fmt.Errorf("making %s in the new root: %w", strconv.Quote("/"+name), err)
		}
	}
	return nil
}

// bindEntry puts what is at from on target, an entry of the directory fd. What
// vanished meanwhile or cannot be bound is left out with a note.
func (in *Inside) bindEntry(fd int, from, target string, kind os.FileMode) error {
	name := target[strings.LastIndexByte(target, '/')+1:]
	switch {
	case kind&os.ModeSymlink != 0:
		link, err := os.Readlink(from)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return linux.Symlinkat(link, fd, name)
	case kind.IsDir():
		if err := linux.Mkdirat(fd, name, 0o755); err != nil {
			return err
		}
	case kind.IsRegular():
		f, err := linux.Openat(fd, name, linux.O_CREAT|linux.O_EXCL|linux.O_WRONLY, 0o444)
		if err != nil {
			return err
		}
		linux.Close(f)
	default:
		return nil // a socket or device in / is nothing to miss
	}
	// Recursive, because a plain bind would uncover what locked mounts hide, and
	// the kernel refuses that in a user namespace (EINVAL).
	if err := linux.Mount(from, target, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		in.Notes = append(in.Notes, fmt.Sprintf("%s is not there: %v", strconv.Quote("/"+name), err))
	}
	return nil
}

// readOnly takes the right to write, and device nodes, from the mount at root and
// all mounts below it. What was refused in the second way is for verify to find.
func readOnly(root string) error {
	attr := linux.MountAttr{Set: linux.MountAttrReadOnly | linux.MountAttrNoDev}
	if linux.MountSetattr(linux.AT_FDCWD, root, linux.AtRecursive, attr) == nil {
		return nil
	}
	table, err := mountTable()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(table) { // the root last: it holds the mount points
		if m.Point == root || strings.HasPrefix(m.Point, root+"/") {
			_ = remount(m.Point, syscall.MS_RDONLY|syscall.MS_NODEV)
		}
	}
	return nil
}

// remount adds flags to the one mount at path. The call must repeat what a user
// namespace has locked, or it is EPERM; statfs tells the flags, and but for
// relatime their numbers are those of mount(2).
func remount(path string, flags uintptr) error {
	fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_PATH, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	st, err := linux.StatfsOf(fd)
	if err != nil {
		return err
	}
	const same = syscall.MS_RDONLY | syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC | syscall.MS_NOATIME | syscall.MS_NODIRATIME
	const stRelatime = 0x1000 // ST_RELATIME, linux/statfs.h
	flags |= uintptr(st.Flags) & same
	if st.Flags&stRelatime != 0 {
		flags |= syscall.MS_RELATIME
	}
	return linux.Mount("", path, "", syscall.MS_REMOUNT|syscall.MS_BIND|flags, "")
}

// proc mounts a fresh procfs below root, with what changes the machine read-only:
// user id 0 is enough for some of it, even without a capability. Where parts of
// the present /proc are hidden the kernel refuses (EPERM), and that one stays.
func (in *Inside) proc(root string) error {
	dir := root + "/proc"
	err := linux.Mount("proc", dir, "proc", flagsProc, "")
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		in.Notes = append(in.Notes, "/proc shows the processes outside: parts of it are masked here, and then the kernel "+
			"refuses a fresh one (podman run --security-opt unmask=ALL allows it)")
		if err := linux.Mount("/proc", dir, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			return fmt.Errorf("binding /proc: %w", err)
		}
		return readOnly(dir)
	}
	if err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	in.FreshProc = true
	for _, name := range []string{"sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi"} {
		path := dir + "/" + name
		if _, err := os.Lstat(path); err != nil {
			continue
		}
		if err := linux.Mount(path, path, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("binding /proc/%s: %w", name, err)
		}
		if err := remount(path, syscall.MS_RDONLY); err != nil {
			return fmt.Errorf("making /proc/%s read-only: %w", name, err)
		}
	}
	return nil
}

// dev makes a /dev of our own: the machine's nodes are bound one by one, on
// read-only mounts, through which a device can be written and not be chmoded.
func (in *Inside) dev(dir string) error {
	if err := linux.Mount(source, dir, "tmpfs", flagsDev, "mode=0755"); err != nil {
		return fmt.Errorf("mounting /dev: %w", err)
	}
	fd, err := linux.Openat(linux.AT_FDCWD, dir, linux.O_PATH|linux.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if err := bindNode(fd, dir, name); err != nil {
			in.Notes = append(in.Notes, fmt.Sprintf("/dev/%s is not there: %v", name, err))
		}
	}
	for _, d := range []struct {
		name string
		mode uint32
	}{{"pts", 0o755}, {"shm", 0o1777}} {
		if err := linux.Mkdirat(fd, d.name, d.mode); err != nil {
			return fmt.Errorf("making /dev/%s: %w", d.name, err)
		}
	}
	err = linux.Mount("devpts", dir+"/pts", "devpts", flagsDev, "newinstance,ptmxmode=0666,mode=0620")
	if err != nil {
		in.Notes = append(in.Notes, fmt.Sprintf("there are no new terminals in /dev/pts: %v", err))
	}
	for _, l := range [][2]string{{"ptmx", "pts/ptmx"}, {"fd", "/proc/self/fd"},
		{"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"}} {
		if err := linux.Symlinkat(l[1], fd, l[0]); err != nil {
			return fmt.Errorf("making /dev/%s: %w", l[0], err)
		}
	}
	return nil
}

// bindNode binds one of the machine's nodes. dir may be what the new root is
// staged on, so the source is looked up in the outside's /dev by the path that
// is still there.
func bindNode(fd int, dir, name string) error {
	node := "/dev/" + name
	fi, err := os.Lstat(node)
	if err != nil {
		return err
	}
	if fi.Mode()&os.ModeCharDevice == 0 {
		return errors.New("it is no device here")
	}
	f, err := linux.Openat(fd, name, linux.O_CREAT|linux.O_EXCL|linux.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	linux.Close(f)
	target := dir + "/" + name
	if err := linux.Mount(node, target, "", syscall.MS_BIND, ""); err != nil {
		return err
	}
	return remount(target, syscall.MS_RDONLY|syscall.MS_NOSUID|syscall.MS_NOEXEC)
}

// enter makes the directory fd / and detaches what was there. pivot_root(2),
// `pivot_root(".", ".")`: the old root ends up on top of the new one.
func enter(fd int) error {
	if err := linux.Fchdir(fd); err != nil {
		return err
	}
	err := linux.PivotRoot(".", ".")
	if errors.Is(err, syscall.EINVAL) {
		return enterRootfs()
	}
	if err != nil {
		return err
	}
	if err := linux.Unmount(".", syscall.MNT_DETACH); err != nil {
		return err
	}
	return linux.Fchdir(fd)
}

// enterRootfs is for an initramfs: its root cannot be pivoted away, so the new
// one is moved over it, as switch_root(8) does. ".." leads to what is on top, and
// what is below is read-only too.
func enterRootfs() error {
	if err := remount("/", syscall.MS_RDONLY|syscall.MS_NODEV); err != nil {
		return err
	}
	if err := linux.Mount(".", "/", "", syscall.MS_MOVE, ""); err != nil {
		return err
	}
	if err := linux.Chroot("."); err != nil {
		return err
	}
	fd, err := linux.Openat(linux.AT_FDCWD, "/", linux.O_PATH|linux.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	return linux.Fchdir(fd)
}

// verify returns nil if nothing of the machine can be written to: every mount
// that a path leads to is read-only or ours, and none propagates.
func (in *Inside) verify() error {
	table, err := mountTable()
	if err != nil {
		return err
	}
	for _, m := range table {
		if m.Optional != "" && (m.Shared() || strings.Contains(m.Optional, "master:")) {
			return fmt.Errorf("the mount on %s is not private: what happens there would be seen outside", strconv.Quote(m.Point))
		}
		ours := m.Source == source || m.Point == "/dev/pts" || m.Point == "/proc" && in.FreshProc
		if ours && m.Point != "/" || slices.Contains(strings.Split(m.Options, ","), "ro") || !reachable(m) {
			continue
		}
		return fmt.Errorf("the mount on %s (%s) could not be made read-only, so the machine would not be safe from what runs here",
			strconv.Quote(m.Point), m.Options)
	}
	return nil
}

// reachable tells whether a path leads to m, and not to a mount over it.
func reachable(m mounts.Mount) bool {
	fd, err := linux.Openat(linux.AT_FDCWD, m.Point, linux.O_PATH|linux.O_NOFOLLOW, 0)
	if err != nil {
		return !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ENOTDIR)
	}
	defer linux.Close(fd)
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(text)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id) == strconv.Itoa(m.ID)
		}
	}
	return true
}

func mountTable() ([]mounts.Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return mounts.Parse(f)
}
