package view

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// Target is an object of a file system, wherever that is mounted.
type Target struct {
	Major, Minor uint32 // of the superblock
	// Path is where it is in the file system, from its own root and without links:
	// what the mount table has as the root of a mount, and what comes below that.
	Path string
	// Dev and Ino are what stat(2) says of it, to look whether it is there; 0 if that
	// is not known.
	Dev, Ino uint64
}

// TargetOf is the object that is open as fd, which may be an O_PATH descriptor. It
// fails where our mount table does not have the mount, and where the object has no
// name any more.
func TargetOf(p *process.Proc, fd int) (Target, error) {
	var t Target
	d, err := p.Dir("self/fd")
	if err != nil {
		return t, err
	}
	defer d.Close()
	n, err := d.Inode(strconv.Itoa(fd))
	if err != nil {
		return t, err
	}
	if n.Nlink == 0 {
		return t, fmt.Errorf("it has no name any more: %w", syscall.ENOENT)
	}
	t.Dev, t.Ino = n.Dev, n.Ino
	id, err := p.MountID(fd)
	if err != nil {
		return t, err
	}
	name, err := p.FdPath(fd)
	if err != nil {
		return t, err
	}
	if strings.HasSuffix(name, " (deleted)") && !leads(name, n) {
		return t, fmt.Errorf("the name by which it was opened is gone: %w", syscall.ENOENT)
	}
	text, err := p.MountInfo(false)
	if err != nil {
		return t, err
	}
	table, err := mounts.ParseText(text)
	if err != nil {
		return t, err
	}
	m := mounts.ByID(table, id)
	if m == nil || !under(name, m.Point) {
		return t, fmt.Errorf("%s is on the mount with id %d, which our mount table does not show there", name, id)
	}
	t.Major, t.Minor = m.Major, m.Minor
	t.Path = path.Join(m.Root, strings.TrimPrefix(name, strings.TrimSuffix(m.Point, "/")))
	return t, nil
}

// leads reports whether the inode really has a name that ends as the kernel's names
// of deleted files do.
func leads(name string, n process.Inode) bool {
	var sx linux.StatxT
	err := linux.Statx(linux.AT_FDCWD, name, linux.AT_SYMLINK_NOFOLLOW|linux.AT_NO_AUTOMOUNT|linux.AT_STATX_DONT_SYNC, linux.STATX_INO, &sx)
	return err == nil && sx.Ino == n.Ino && linux.Makedev(sx.Dev_major, sx.Dev_minor) == n.Dev
}

// Namespace is a mount namespace, or a part of one that processes were locked into
// by chroot(2).
type Namespace struct {
	// ID is the inode number in "mnt:[ID]"; 0 where we may not see it.
	ID  uint64 `json:"id"`
	Own bool   `json:"own,omitempty"` // ours
	// Root is the root directory of its processes, where that is not the root of the
	// namespace: paths are seen from there.
	Root string `json:"root,omitempty"`
	// Processes are the first few of its processes, and Count how many there are. A
	// namespace without any is kept by a mount or a descriptor.
	Processes []process.Process  `json:"processes,omitempty"`
	Count     int                `json:"count"`
	Member    process.Membership `json:"member,omitzero"` // of the first process
	// MountedOn is where a namespace without processes is mounted, if it is.
	MountedOn string `json:"mounted_on,omitempty"`
}

// Place is where an object can be reached, the same in one or more namespaces.
type Place struct {
	Namespaces []Namespace `json:"namespaces"` // the first few
	Count      int         `json:"count"`      // of all
	Path       string      `json:"path"`
	ReadOnly   bool        `json:"read_only,omitempty"`
	// HiddenBy is the mount point of a mount that lies over it, "" if none does: then
	// the path leads to something else.
	HiddenBy string `json:"hidden_by,omitempty"`
	// More is, in the last of a list, how many more places there are.
	More int `json:"more,omitempty"`
	// Confirmed says that we looked, in one of the namespaces, and the very inode is
	// there.
	Confirmed bool `json:"confirmed"`
}

// Reach is Open and Views.Reach for one target.
func Reach(ctx context.Context, p *process.Proc, t Target) ([]Place, []string, error) {
	v, err := Open(ctx, p)
	if err != nil {
		return nil, nil, err
	}
	defer v.Close()
	places, err := v.Reach(ctx, t)
	return places, v.Incomplete, err
}

// under reports whether the path p is dir or below it.
func under(p, dir string) bool {
	dir = strings.TrimSuffix(dir, "/")
	return strings.HasPrefix(p, dir) && (len(p) == len(dir) || p[len(dir)] == '/')
}

// Bounds of the lists.
const (
	maxProcesses  = 4
	maxNamespaces = 8
	maxPlaces     = 256
	maxLooks      = 4096 // of confirm
)

// answer is what makes two places the same.
type answer struct {
	path, hiddenBy           string
	readOnly, confirmed, own bool
}

// Reach tells where the target can be reached in every namespace that is known,
// our own first, then by how many namespaces share the answer. It asks no file
// system that could keep it waiting.
func (v *Views) Reach(ctx context.Context, t Target) ([]Place, error) {
	var places []Place
	known := map[answer]int{}
	looks, more := 0, 0
	for _, s := range v.spaces {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for _, pl := range s.find(t) {
			if looks++; pl.HiddenBy == "" && looks <= maxLooks {
				var err error
				if pl.Confirmed, err = v.confirm(s, t, pl.Path); err != nil {
					return nil, err
				}
			}
			key := answer{pl.Path, pl.HiddenBy, pl.ReadOnly, pl.Confirmed, s.Own}
			i, ok := known[key]
			if !ok && len(places) >= maxPlaces {
				more++
				continue
			}
			if !ok {
				i = len(places)
				known[key] = i
				places = append(places, pl)
			}
			if places[i].Count++; len(places[i].Namespaces) < maxNamespaces {
				places[i].Namespaces = append(places[i].Namespaces, v.namespace(s))
			}
		}
	}
	slices.SortStableFunc(places, func(a, b Place) int {
		if x, y := a.Namespaces[0].Own, b.Namespaces[0].Own; x != y {
			if x {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.Count, a.Count)
	})
	if more > 0 {
		places[len(places)-1].More = more
	}
	return places, nil
}

// find lists the mounts of the namespace through which the target shows.
func (s *space) find(t Target) (list []Place) {
	for i := range s.table {
		m := &s.table[i]
		if m.Major != t.Major || m.Minor != t.Minor || !under(t.Path, m.Root) {
			continue
		}
		at := path.Join(m.Point, strings.TrimPrefix(t.Path, strings.TrimSuffix(m.Root, "/")))
		pl := Place{Path: at, ReadOnly: m.ReadOnly}
		if chain := s.chain(at); len(chain) > 0 && chain[len(chain)-1].ID != m.ID {
			pl.HiddenBy = chain[len(chain)-1].Point
		}
		list = append(list, pl)
	}
	return list
}
