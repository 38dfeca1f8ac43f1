package entry

import (
	"fmt"
	"path"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
)

// maxLinks is how many links one path may lead through, as in path_resolution(7).
const maxLinks = 40

// openTrusted opens the directory at an absolute path that the caller named, and
// returns how it is called without links. The caller wrote the names, but others
// may own the directories on the way, and whoever does could put a link there that
// leads to a place of their choice: so a link is followed only where nobody but
// root and we could have made it.
func (r *run) openTrusted(name string) (*fsat.Dir, string, error) {
	todo := components(name)
	for range maxLinks {
		dir, at, link, rest, err := r.openUpToLink(todo)
		if err != nil || link == "" {
			return dir, at, err
		}
		if !strings.HasPrefix(link, "/") {
			link = at + "/" + link
		}
		todo = append(components(link), rest...)
	}
	return nil, "", fmt.Errorf("%s: %w", name, syscall.ELOOP)
}

func components(p string) []string {
	var list []string
	for part := range strings.SplitSeq(path.Clean("/"+p), "/") {
		if part != "" {
			list = append(list, part)
		}
	}
	return list
}

// openUpToLink walks from the root until a link, of which it returns the text and
// what was to come behind it.
func (r *run) openUpToLink(names []string) (dir *fsat.Dir, at, link string, rest []string, err error) {
	fd, err := linux.Dup(r.root.Fd())
	if err != nil {
		return nil, "", "", nil, err
	}
	dir = fsat.DirOf(fd)
	for i, name := range names {
		next, err := dir.OpenDir(name)
		if err == nil {
			dir.Close()
			dir, at = next, at+"/"+name
			continue
		}
		defer dir.Close()
		var st fsat.Stat
		if serr := dir.Stat(name, &st); serr != nil || !st.IsSymlink() {
			return nil, "", "", nil, fmt.Errorf("%s/%s: %w", at, name, err)
		}
		if err := trusted(dir, &st); err != nil {
			return nil, "", "", nil, fmt.Errorf("%s/%s is a link that is not followed: %w", at, name, err)
		}
		link, err := dir.Readlink(name)
		if err != nil {
			return nil, "", "", nil, fmt.Errorf("%s/%s: %w", at, name, err)
		}
		return nil, at, link, names[i+1:], nil
	}
	return dir, at, "", nil, nil
}

// trusted says why others than root and we could have made a link in dir.
func trusted(dir *fsat.Dir, link *fsat.Stat) error {
	own := func(uid uint32) bool { return uid == 0 || uid == linux.Geteuid() }
	var st fsat.Stat
	if err := dir.Stat("", &st); err != nil {
		return err
	}
	switch {
	case !own(link.UID):
		return fmt.Errorf("it is user %d's", link.UID)
	case !own(st.UID):
		return fmt.Errorf("the directory is user %d's", st.UID)
	case st.Perm()&0o022 != 0 && st.Perm()&syscall.S_ISVTX == 0:
		return fmt.Errorf("others may write to the directory (mode %04o)", st.Perm())
	}
	return nil
}
