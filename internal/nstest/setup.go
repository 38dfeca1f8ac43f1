package nstest

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// source is the name that our mounts have in mountinfo.
const source = "nstest"

// setUp arranges the mounts of a namespace that checkNamespaces has approved.
// The order matters: what is kept is opened before anything hides it, all that
// there is becomes read-only before the first writable mount of ours, and the
// last step checks the result.
func setUp(o Options) error {
	if err := linux.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return &missingError{"mounts in a new user namespace", fmt.Errorf("%w (an LSM such as AppArmor may forbid them: sysctl kernel.apparmor_restrict_unprivileged_userns)", err)}
	}
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	kept, err := openKept(o, wd)
	if err != nil {
		return err
	}
	list, err := mountTable()
	if err != nil {
		return err
	}
	before := map[int]bool{}
	for _, m := range list {
		before[m.id] = true
	}
	makeReadOnly(list)
	root, err := newRoot(o)
	if err != nil {
		return err
	}
	fresh, err := mountProc(root)
	if err != nil {
		return err
	}
	if fresh {
		if err := hideProc(root); err != nil {
			return err
		}
	}
	if err := mountPrivate(root, o); err != nil {
		return err
	}
	for _, k := range kept {
		if err := k.bind(root, o); err != nil {
			return err
		}
	}
	if root != "" {
		if err := enter(root); err != nil {
			return err
		}
	}
	if err := os.Chdir(wd); err != nil {
		return err
	}
	if err := linux.Sethostname("nstest"); err != nil {
		return err
	}
	if o.Net {
		if err := linux.SetInterfaceUp("lo"); err != nil {
			return err
		}
	}
	return checkMounts(before)
}

// makeReadOnly takes the right to write from every mount in list. It reports
// nothing: checkMounts looks at the result.
func makeReadOnly(list []mount) {
	err := linux.MountSetattr(linux.AT_FDCWD, "/", linux.AtRecursive, linux.MountAttr{Set: linux.MountAttrReadOnly})
	if err == nil {
		return
	}
	for _, m := range list { // before Linux 5.12, and under a seccomp filter
		remountReadOnly(m)
	}
}

// remountReadOnly makes the single mount m read-only. The remount must repeat the
// flags that a user namespace locks, or it is EPERM.
func remountReadOnly(m mount) error {
	flags := uintptr(syscall.MS_REMOUNT | syscall.MS_BIND | syscall.MS_RDONLY)
	for _, opt := range strings.Split(m.options, ",") {
		switch opt {
		case "nosuid":
			flags |= syscall.MS_NOSUID
		case "nodev":
			flags |= syscall.MS_NODEV
		case "noexec":
			flags |= syscall.MS_NOEXEC
		case "noatime":
			flags |= syscall.MS_NOATIME
		case "nodiratime":
			flags |= syscall.MS_NODIRATIME
		case "relatime":
			flags |= syscall.MS_RELATIME
		}
	}
	return linux.Mount("", m.point, "", flags, "")
}

// newRoot prepares the tree that becomes / and returns its path, or "" where it
// is the present /.
func newRoot(o Options) (string, error) {
	if o.Root == RootReadOnly {
		return "", nil
	}
	// The machine's /tmp is hidden from here on, and serves as a mount point.
	const stage, root = "/tmp", "/tmp/root"
	if err := linux.Mount(source, stage, "tmpfs", syscall.MS_NOSUID, "mode=0755"); err != nil {
		return "", err
	}
	for _, d := range []string{root, stage + "/upper", stage + "/work"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return "", err
		}
	}
	switch o.Root {
	case RootEmpty:
		if err := linux.Mount(source, root, "tmpfs", 0, "mode=0755"); err != nil {
			return "", err
		}
		for _, d := range []string{"/proc", "/dev", "/run", "/tmp", "/etc", "/usr", "/var"} {
			if err := os.Mkdir(root+d, 0o755); err != nil {
				return "", err
			}
		}
	case RootOverlay:
		data := "lowerdir=/,upperdir=" + stage + "/upper,workdir=" + stage + "/work"
		if err := linux.Mount(source, root, "overlay", 0, data); err != nil {
			return "", &missingError{"an overlayfs on /", err}
		}
	default:
		return "", fmt.Errorf("Options.Root is %q", o.Root)
	}
	return root, nil
}

// enter makes root / and detaches what was there.
func enter(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	// pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the
	// new one, and is detached from there.
	if err := linux.PivotRoot(".", "."); err != nil {
		return err
	}
	return linux.Unmount(".", syscall.MNT_DETACH)
}

// flagsProc are the flags that procfs has everywhere.
const flagsProc = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC

// mountProc mounts a fresh procfs, or reports that the machine's stays.
func mountProc(root string) (fresh bool, err error) {
	dir := root + "/proc"
	switch err := linux.Mount("proc", dir, "proc", flagsProc, ""); {
	case errors.Is(err, syscall.EPERM) && root == "":
		return false, nil
	case errors.Is(err, syscall.EPERM):
		return false, linux.Mount("/proc", dir, "", syscall.MS_BIND|syscall.MS_REC, "")
	case err != nil:
		return false, err
	}
	// These change the machine, and root's user ID is enough for some of them
	// even without a capability.
	for _, name := range []string{"sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi"} {
		path := dir + "/" + name
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := linux.Mount(path, path, "", syscall.MS_BIND, ""); err != nil {
			return false, err
		}
		if err := linux.Mount("", path, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY|flagsProc, ""); err != nil {
			return false, err
		}
	}
	return true, nil
}

// hideProc mounts a procfs without those read-only binds where no path leads: in
// a tmpfs on /tmp that the private /tmp will cover. A user namespace made inside
// may mount procfs only if the kernel finds such a one (mount_too_revealing in
// fs/namespace.c), and it need not be reachable.
func hideProc(root string) error {
	if err := linux.Mount(source, root+"/tmp", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=0700"); err != nil {
		return err
	}
	if err := os.Mkdir(root+"/tmp/proc", 0o555); err != nil {
		return err
	}
	return linux.Mount("proc", root+"/tmp/proc", "proc", flagsProc, "")
}

// mountPrivate mounts /run, /tmp and /dev.
func mountPrivate(root string, o Options) error {
	const flags = syscall.MS_NOSUID | syscall.MS_NODEV
	nodes, err := openNodes()
	if err != nil {
		return err
	}
	if err := linux.Mount(source, root+"/tmp", "tmpfs", flags, "mode=1777"); err != nil {
		return err
	}
	if err := linux.Mount(source, root+"/run", "tmpfs", flags, "mode=0755"); err != nil {
		return err
	}
	dev := root + "/dev"
	if err := linux.Mount(source, dev, "tmpfs", syscall.MS_NOSUID|syscall.MS_NOEXEC, "mode=0755"); err != nil {
		return err
	}
	for _, n := range nodes {
		if err := n.place(dev, o); err != nil {
			return fmt.Errorf("%s/%s: %w", dev, n.name, err)
		}
	}
	for _, d := range []string{"/pts", "/shm"} {
		if err := os.Mkdir(dev+d, 0o755); err != nil {
			return err
		}
	}
	if err := linux.Mount(source, dev+"/pts", "devpts", syscall.MS_NOSUID|syscall.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"); err != nil {
		return err
	}
	if err := os.Chmod(dev+"/shm", 0o1777|os.ModeSticky); err != nil {
		return err
	}
	for link, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0",
		"stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, dev+"/"+link); err != nil {
			return err
		}
	}
	return nil
}

// node is a device node of /dev, with a descriptor of the machine's own.
type node struct {
	name         string
	major, minor uint32
	fd           int
}

// openNodes opens the nodes that every program expects; the numbers are from
// the kernel's admin-guide/devices.txt.
func openNodes() ([]node, error) {
	nodes := []node{
		{"null", 1, 3, -1}, {"zero", 1, 5, -1}, {"full", 1, 7, -1},
		{"random", 1, 8, -1}, {"urandom", 1, 9, -1}, {"tty", 5, 0, -1},
	}
	for i, n := range nodes {
		fd, err := syscall.Open("/dev/"+n.name, linux.O_PATH|syscall.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("/dev/%s: %w", n.name, err)
		}
		nodes[i].fd = fd
	}
	return nodes, nil
}

// place makes the node in dev: with mknod as real root, else as a bind of the
// machine's, whose mount is read-only (which a device may still be written
// through, but not chmoded).
func (n node) place(dev string, o Options) error {
	path := dev + "/" + n.name
	if o.Real {
		if err := linux.Mknodat(linux.AT_FDCWD, path, syscall.S_IFCHR|0o666, linux.Makedev(n.major, n.minor)); err != nil {
			return err
		}
		return os.Chmod(path, 0o666) // the umask took some
	}
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		return err
	}
	return bindReadOnly(n.fd, path, 0)
}

// bindReadOnly binds what fd is open on to path, with the mounts below it. The
// mount fd came from is read-only already, so the bind is too; it is made sure of
// for the top one.
func bindReadOnly(fd int, path string, flags uintptr) error {
	src := "/proc/self/fd/" + strconv.Itoa(fd)
	if err := linux.Mount(src, path, "", syscall.MS_BIND|flags, ""); err != nil {
		return err
	}
	list, err := mountTable()
	if err != nil {
		return err
	}
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].point == path {
			if list[i].readOnly {
				return nil
			}
			return remountReadOnly(list[i])
		}
	}
	return fmt.Errorf("%s is no mount point after a bind", path)
}

// kept is a path of the machine that stays visible.
type kept struct {
	path string
	fd   int
	dir  bool
}

// hidden tells whether the options hide path.
func (o Options) hidden(path string) bool {
	if o.Root != RootReadOnly {
		return true // in the overlay, it may be on another file system
	}
	for _, d := range []string{"/run", "/tmp", "/dev"} {
		if path == d || strings.HasPrefix(path, d+"/") {
			return true
		}
	}
	return false
}

// openKept opens what must stay visible, as far as it would not be: the test
// binary, the module (or the working directory outside of one) and Options.Keep.
func openKept(o Options, wd string) ([]kept, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	paths := append([]string{exe, moduleRoot(wd)}, o.Keep...)
	switch o.Root {
	case RootEmpty:
		paths = append(paths, libraries(exe)...)
	case RootOverlay:
		paths = append(paths, "/sys")
	}
	var list []kept
	for _, path := range paths {
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("Options.Keep has %q, which is not absolute", path)
		}
		path = filepath.Clean(path)
		f, err := os.OpenFile(path, linux.O_PATH, 0)
		if err != nil {
			return nil, fmt.Errorf("keeping: %w", err)
		}
		if !o.hidden(path) {
			f.Close()
			continue
		}
		st, err := f.Stat()
		if err != nil {
			return nil, err
		}
		fd, err := linux.Dup(int(f.Fd())) // f's finalizer must not close it
		if err != nil {
			return nil, err
		}
		f.Close()
		list = append(list, kept{path, fd, st.IsDir()})
	}
	return list, nil
}

// libraries are the directories that a dynamically linked program needs. Go
// links a test binary so if it may use cgo and the test imports net or os/user.
func libraries(exe string) (dirs []string) {
	f, err := elf.Open(exe)
	if err != nil {
		return nil
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		for _, d := range []string{"/lib", "/lib64", "/usr/lib", "/usr/lib64"} {
			if _, err := os.Stat(d); err == nil {
				dirs = append(dirs, d)
			}
		}
	}
	return dirs
}

// bind puts k where it was, below root.
func (k kept) bind(root string, o Options) error {
	dst := root + k.path
	defer syscall.Close(k.fd)
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return fmt.Errorf("keeping: %w", err)
	}
	if k.dir {
		if err := os.MkdirAll(dst, 0o755); err != nil {
			return fmt.Errorf("keeping: %w", err)
		}
	} else if _, err := os.Lstat(dst); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(dst, nil, 0o644); err != nil {
			return fmt.Errorf("keeping: %w", err)
		}
	}
	with := uintptr(syscall.MS_REC)
	if k.path == "/sys" {
		with = 0 // a container has none of what machines mount there: tracefs, debugfs, ...
	}
	if err := bindReadOnly(k.fd, dst, with); err != nil {
		return fmt.Errorf("keeping %s: %w", k.path, err)
	}
	return nil
}

// moduleRoot is the directory of the go.mod at or above dir, else dir.
func moduleRoot(dir string) string {
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d
		}
		if d == filepath.Dir(d) {
			return dir
		}
	}
}
