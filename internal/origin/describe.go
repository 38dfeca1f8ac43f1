package origin

import (
	"fmt"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
)

// add describes a held object.
func (s *session) add(r *Report, o *object) *subject {
	x := &subject{Report: r, at: o}
	s.subject = append(s.subject, x)
	if clean := path.Clean(r.Path); o.path != clean {
		r.Real, r.RealBytes = o.path, bytesOf(o.path)
	}
	s.describe(r, &o.st)
	r.Mount = mountOf(o.mount, o.path)
	return x
}

// describe fills in what stat(2) tells.
func (s *session) describe(r *Report, st *fsat.Stat) {
	r.Type = typeOf(st.Mode)
	r.Mode = fmt.Sprintf("%04o", st.Perm())
	r.UID, r.GID, r.User, r.Group = st.UID, st.GID, s.userName(st.UID), s.groupName(st.GID)
	r.Size, r.Names, r.Dev, r.Inode = st.Size, st.Nlink, st.Dev, st.Ino
	r.Born, r.Changed = timeOf(st.Btime), timeOf(st.Mtime)
}

func timeOf(ns int64) time.Time {
	if ns == fsat.NoTime || ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

func typeOf(mode uint32) Type {
	switch mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		return File
	case syscall.S_IFDIR:
		return Directory
	case syscall.S_IFSOCK:
		return Socket
	case syscall.S_IFIFO:
		return FIFO
	case syscall.S_IFCHR:
		return CharDevice
	case syscall.S_IFBLK:
		return BlockDevice
	case syscall.S_IFLNK:
		return Symlink
	}
	return Unknown
}

func (i *Inspector) userName(id uint32) string {
	name, ok := i.names[id]
	if !ok {
		if u, err := i.users.UserByID(id); err == nil {
			name = u.Name
		}
		i.names[id] = name
	}
	return name
}

func (i *Inspector) groupName(id uint32) string {
	name, ok := i.groups[id]
	if !ok {
		if g, err := i.users.GroupByID(id); err == nil {
			name = g.Name
		}
		i.groups[id] = name
	}
	return name
}

// cached describes what lies on a file system that is not asked, as far as the kernel
// has it in its cache: what is in use is there. The error says that no more is known.
func (s *session) cached(p string, silent *silentError) (*object, error) {
	clean := path.Clean(p)
	if clean == silent.at || silent.at != silent.mount.Point || !strings.HasPrefix(clean, silent.at+"/") {
		return nil, silent // NFS checks the root of a mount even then (d_weak_revalidate)
	}
	fd, err := linux.Openat2(linux.AT_FDCWD, clean, linux.O_PATH|linux.O_NOFOLLOW, 0, linux.RESOLVE_CACHED|linux.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return nil, silent
	}
	o := &object{path: clean, name: path.Base(clean), node: fsat.NodeOf(fd), mount: silent.mount}
	id, err := fsat.StatQuietly(fd, "", &o.st)
	if err != nil || id == 0 {
		o.close()
		return nil, silent
	}
	if m := s.table.byID[id]; m != nil {
		o.mount = m
	}
	return o, fmt.Errorf("what is shown is what the kernel remembers: %w", silent)
}

// IsDirectory reports whether the path is a directory that a walk may list: not a link
// to one, unless a slash is behind it. Nobody is asked and nothing is mounted for the
// answer.
func (i *Inspector) IsDirectory(p string) bool {
	t, err := readTable(i.o.Proc)
	if err != nil {
		return false
	}
	o, err := resolve(t, p)
	if err != nil {
		return false
	}
	defer o.close()
	return o.st.IsDir() && (o.mount == nil || !ofKernel(o.mount.FSType))
}
