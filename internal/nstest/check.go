package nstest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// checkNamespaces asks the kernel whether this process is where it may mount. It
// compares its own namespaces with the outside's, whose descriptors it was given.
func checkNamespaces(o Options) error {
	if err := differs("mnt", fdMountNS); err != nil {
		return err
	}
	if err := differs("pid", fdPIDNS); err != nil {
		return err
	}
	if o.Real {
		return nil // the propagation is made private, and checked, before any mount
	}
	if err := differs("user", fdUserNS); err != nil {
		return err
	}
	return ownMountNamespace()
}

// differs returns nil if this process's namespace of the kind is another one
// than fd's, and fd is a namespace of the same kind at all.
func differs(kind string, fd int) error {
	link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return fmt.Errorf("no %s namespace of the outside was handed down: %w", kind, err)
	}
	own, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		return err
	}
	// The kernel prints both as "mnt:[4026531841]". A file of that name has a
	// slash before it.
	if !strings.HasPrefix(link, kind+":[") {
		return fmt.Errorf("descriptor %d is %s, not the outside's %s namespace", fd, link, kind)
	}
	if own == link {
		return fmt.Errorf("this is still the outside's %s namespace %s", kind, own)
	}
	return nil
}

// ownMountNamespace returns nil if the mount namespace belongs to this process's
// user namespace, and not to one above it.
func ownMountNamespace() error {
	f, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	defer f.Close()
	fd, err := linux.NamespaceOwner(int(f.Fd()))
	if err != nil {
		return fmt.Errorf("the mount namespace belongs to another user namespace: %w", err)
	}
	owner := os.NewFile(uintptr(fd), "owner")
	defer owner.Close()
	a, err := owner.Stat()
	if err != nil {
		return err
	}
	b, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		return err
	}
	if !os.SameFile(a, b) {
		return errors.New("the mount namespace belongs to another user namespace")
	}
	return nil
}

// mount is a line of /proc/self/mountinfo, proc_pid_mountinfo(5).
type mount struct {
	id         int
	point      string
	readOnly   bool // of this mount; the file system may be writable
	options    string
	propagates bool // shared, or a slave
	source     string
}

func mountTable() ([]mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readMounts(f)
}

func readMounts(r io.Reader) ([]mount, error) {
	var list []mount
	s := bufio.NewScanner(r)
	for s.Scan() {
		before, after, ok := strings.Cut(s.Text(), " - ")
		f, fs := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(fs) < 2 {
			return nil, fmt.Errorf("mountinfo: cannot read line %q", s.Text())
		}
		id, err := strconv.Atoi(f[0])
		if err != nil {
			return nil, fmt.Errorf("mountinfo: mount ID of line %q: %w", s.Text(), err)
		}
		m := mount{id: id, point: unescape(f[4]), options: f[5], source: unescape(fs[1])}
		for _, opt := range strings.Split(f[5], ",") {
			m.readOnly = m.readOnly || opt == "ro"
		}
		for _, tag := range f[6:] {
			if strings.HasPrefix(tag, "shared:") || strings.HasPrefix(tag, "master:") {
				m.propagates = true
			}
		}
		list = append(list, m)
	}
	return list, s.Err()
}

// unescape undoes the \040 escapes that the kernel writes for space, tab,
// newline, backslash and the number sign.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// checkMounts returns nil if no mount of this namespace propagates, if every
// mount in before that can still be reached is read-only, and if /run is not
// the outside's.
func checkMounts(before map[int]bool) error {
	list, err := mountTable()
	if err != nil {
		return err
	}
	for _, m := range list {
		if m.propagates {
			return fmt.Errorf("the mount on %s is not private: what happens there would be seen outside", m.point)
		}
		if before[m.id] && !m.readOnly && reachable(m) {
			return fmt.Errorf("the machine's mount on %s (%s) is writable from inside", m.point, m.options)
		}
	}
	var outer, own syscall.Stat_t
	if err := syscall.Fstat(fdOuterRun, &outer); err != nil {
		return fmt.Errorf("no /run of the outside was handed down: %w", err)
	}
	if err := syscall.Stat("/run", &own); err != nil {
		return err
	}
	if own.Dev == outer.Dev {
		return errors.New("/run is on the same file system as outside")
	}
	return nil
}

// reachable tells whether a path walk to m's mount point ends on m, and not on
// a mount over it.
func reachable(m mount) bool {
	fd, err := syscall.Open(m.point, linux.O_PATH|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
	switch err {
	case nil:
	case syscall.ENOENT, syscall.ENOTDIR, syscall.EACCES: // below another mount
		return false
	default:
		return true
	}
	defer syscall.Close(fd)
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(v) == strconv.Itoa(m.id)
		}
	}
	return true
}
