package pidfile

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
)

// maxLinks is how many links a path may lead through, as in path_resolution(7).
const maxLinks = 40

// trusted is a walk along a path that only root and the caller can have laid out:
// every directory and link on the way is theirs, and no directory can be written
// to by others. It ends with the directory of the last element.
type trusted struct {
	euid  uint32
	dir   *fsat.Dir
	shown string // of dir
	links int
}

// walk opens the directory that holds the last element of path, and returns that
// element. Unlike the kernel it stops, with ErrUntrusted, at what others could
// have put there. (A sticky directory, as /tmp, is such a place: they cannot
// replace the file, but could have been the first to make it.)
func walk(path string) (dir *fsat.Dir, name string, err error) {
	if path == "" || path[len(path)-1] == '/' {
		return nil, "", fmt.Errorf("%w: the path names no file", syscall.EINVAL)
	}
	if path[0] != '/' {
		wd, err := os.Getwd()
		if err != nil {
			return nil, "", err
		}
		path = wd + "/" + path
	}
	t := &trusted{euid: linux.Geteuid()}
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
	var st fsat.Stat
	if err := t.dir.Stat("", &st); err != nil {
		return err
	}
	return checkNode(t.shown, &st, t.euid)
}

// checkNode returns nil if nobody but root and the caller can have written a file
// or directory. The group's bits are the mask of an ACL, if there is one.
func checkNode(shown string, st *fsat.Stat, euid uint32) error {
	what := "the file"
	if st.IsDir() {
		what = "the directory"
	}
	switch {
	case st.UID != 0 && st.UID != euid:
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
	return checkNode(shown, &st, linux.Geteuid())
}
