package pidfile

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// maxLinks is how many links a path may lead through, as in path_resolution(7).
const maxLinks = 40

// trusted is a walk along a path that only root and the caller can have laid out:
// every directory and link on the way is theirs, and no directory can be written
// to by others. It ends with the directory of the last element.
type trusted struct {
	proc  *process.Proc
	dir   *fsat.Dir
	shown string // of dir
	links int
}

// walk opens the directory that holds the last element of path, and returns that
// element. Unlike the kernel it stops, with ErrUntrusted, at what others could
// have put there. (A sticky directory, as /tmp, is such a place: they cannot
// replace the file, but could have been the first to make it.)
func walk(p *process.Proc, path string) (dir *fsat.Dir, name string, err error) {
	if path == "" || path[len(path)-1] == '/' {
		return nil, "", fmt.Errorf("%w: the path names no file", syscall.EINVAL)
	}
	if path[0] != '/' {
		wd, err := linux.Getcwd()
		if err != nil {
			return nil, "", err
		}
		path = wd + "/" + path
	}
	t := &trusted{proc: p}
	if t.dir, err = fsat.OpenDir("/"); err != nil {
		return nil, "", err
	}
	t.shown = "/"
	if name, err = t.follow(strings.Split(path, "/")); err != nil {
		t.dir.Close()
		return nil, "", err
	}
	return t.dir, name, nil
}

// follow goes down the elements of a path, whose last one must be no link.
func (t *trusted) follow(elements []string) (name string, err error) {
	if err := t.check(); err != nil {
		return "", err
	}
	for len(elements) > 1 {
		e := elements[0]
		elements = elements[1:]
		if e == "" || e == "." {
			continue
		}
		next, err := t.dir.OpenDir(e)
		if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENOTDIR) {
			target, lerr := t.dir.Readlink(e)
			if lerr != nil {
				return "", fmt.Errorf("%s: %w", t.path(e), err)
			}
			if magic, err := linux.Fstatfs(t.dir.Fd()); err != nil || magic == linux.ProcMagic {
				return "", fmt.Errorf("%w: %s is a link of /proc, which leads elsewhere than it reads", ErrUntrusted, t.path(e))
			}
			if t.links++; t.links > maxLinks {
				return "", fmt.Errorf("%s: %w", t.path(e), syscall.ELOOP)
			}
			// The link is in a directory that is trusted, so whoever made it is.
			if target[0] == '/' {
				if err := t.to(fsat.OpenDir("/")); err != nil {
					return "", err
				}
				t.shown = "/"
			}
			elements = append(strings.Split(target, "/"), elements...)
			continue
		}
		if err := t.to(next, err); err != nil {
			return "", fmt.Errorf("%s: %w", t.path(e), err)
		}
		t.shown = t.path(e)
		if err := t.check(); err != nil {
			return "", err
		}
	}
	return elements[0], fsat.ValidName(elements[0])
}

func (t *trusted) to(next *fsat.Dir, err error) error {
	if err != nil {
		return err
	}
	t.dir.Close()
	t.dir = next
	return nil
}

func (t *trusted) path(name string) string { return strings.TrimSuffix(t.shown, "/") + "/" + name }

// check looks at the directory.
func (t *trusted) check() error {
	if err := t.checkServer(); err != nil {
		return err
	}
	var st fsat.Stat
	if err := t.dir.Stat("", &st); err != nil {
		return err
	}
	return checkNode(t.shown, &st, owners())
}

// checkServer refuses a directory on a FUSE file system that another user has
// mounted, fuse(8): there a program of his says who owns what, and what is in the
// files, or says nothing for ever. Nothing here asks it.
func (t *trusted) checkServer() error {
	id, err := t.proc.MountID(t.dir.Fd())
	if err != nil {
		return err
	}
	text, err := t.proc.MountInfo(false)
	if err != nil {
		return err
	}
	table, err := mounts.ParseText(text)
	if err != nil {
		return err
	}
	m := mounts.ByID(table, id)
	if m == nil { // the table of a chroot does not have the mount around it
		const fuseMagic = 0x65735546 // FUSE_SUPER_MAGIC of linux/magic.h
		if magic, err := linux.Fstatfs(t.dir.Fd()); err != nil || magic == fuseMagic {
			return fmt.Errorf("%w: who mounted the file system that %s is on cannot be seen", ErrUntrusted, t.shown)
		}
		return nil
	}
	who, ok := m.Option("user_id")
	if ok && strings.HasPrefix(m.FSType, "fuse") && who != "0" && who != strconv.Itoa(int(linux.Geteuid())) {
		return fmt.Errorf("%w: %s is on a FUSE file system of user %s, who could show anything there", ErrUntrusted, t.shown, who)
	}
	return nil
}

// owners are the users whose files are trusted: root, and the caller. In a user
// namespace all users that are not mapped show as one, the overflow user: where the
// caller is that one, too, its files cannot be told from theirs.
func owners() [2]uint32 {
	euid := linux.Geteuid()
	overflow := "65534"
	if text, err := linux.ReadSmallFile("/proc/sys/kernel/overflowuid"); err == nil {
		overflow = strings.TrimSpace(text)
	}
	if strconv.Itoa(int(euid)) != overflow {
		return [2]uint32{0, euid}
	}
	text, err := linux.ReadSmallFile("/proc/self/uid_map")
	if f := strings.Fields(text); err == nil && len(f) == 3 && f[0] == "0" && f[2] == "4294967295" {
		return [2]uint32{0, euid} // all are mapped
	}
	return [2]uint32{0, 0}
}

// checkNode returns nil if nobody but root and the caller can have written a file
// or directory. The group's bits are the mask of an ACL, if there is one.
func checkNode(shown string, st *fsat.Stat, owners [2]uint32) error {
	what := "the file"
	if st.IsDir() {
		what = "the directory"
	}
	switch {
	case st.UID != owners[0] && st.UID != owners[1]:
		return fmt.Errorf("%w: %s %s belongs to user %d, who could have named any process in it; as that user it can be done", ErrUntrusted, what, shown, st.UID)
	case st.Perm()&0o002 != 0:
		return fmt.Errorf("%w: %s %s can be written to by everybody (mode %04o)", ErrUntrusted, what, shown, st.Perm())
	case st.Perm()&0o020 != 0:
		return fmt.Errorf("%w: %s %s can be written to by group %d (mode %04o)", ErrUntrusted, what, shown, st.GID, st.Perm())
	}
	return nil
}

// trustFile checks the file itself.
func trustFile(dir *fsat.Dir, name, shown string) error {
	var st fsat.Stat
	if err := dir.Stat(name, &st); err != nil {
		return err
	}
	if !st.IsRegular() {
		return fmt.Errorf("%w: it is a %s", ErrNoPIDFile, typeName(st.Type()))
	}
	return checkNode(shown, &st, owners())
}
