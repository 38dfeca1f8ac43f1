package view

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// confirm looks whether the very inode is at the path in that namespace. It does
// not where a file system on the way might not answer, or where we may not look. An
// error is about our own means.
func (v *Views) confirm(s *space, t Target, at string) (bool, error) {
	chain := s.chain(at)
	if t.Ino == 0 || !s.Own && s.via.PID == 0 && s.fd < 0 || len(chain) == 0 || !mounts.Answers(chain[0].FSType) {
		return false, nil
	}
	local := true
	for _, m := range chain {
		local = local && mounts.Answers(m.FSType)
	}
	root, err := v.root(s)
	if err != nil {
		if fatal(err) {
			return false, err
		}
		return false, nil
	}
	defer linux.Close(root)
	fd, err := below(root, at, local)
	if err != nil {
		if fatal(err) {
			return false, err
		}
		return false, nil
	}
	defer linux.Close(fd)
	var sx linux.StatxT
	err = linux.Statx(fd, "", linux.AT_EMPTY_PATH|linux.AT_STATX_DONT_SYNC, linux.STATX_INO, &sx)
	dev, ino := linux.Makedev(sx.Dev_major, sx.Dev_minor), sx.Ino
	if err != nil && local { // before Linux 4.11, or a filter
		var st syscall.Stat_t
		err = linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st)
		dev, ino = uint64(st.Dev), st.Ino
	}
	return err == nil && dev == t.Dev && ino == t.Ino && v.still(s), nil
}

// root opens the root directory of the namespace.
func (v *Views) root(s *space) (int, error) {
	switch {
	case s.Own:
		return linux.Openat(linux.AT_FDCWD, "/", linux.O_PATH|linux.O_DIRECTORY, 0)
	case s.via.PID != 0:
		return v.proc.OpenPath(v.proc.Lively(s.via) + "/root")
	}
	fd := -1
	err := linux.OnThread(linux.CloneFS, func() (err error) {
		if err = linux.Setns(s.fd, syscall.CLONE_NEWNS); err == nil {
			fd, err = linux.Openat(linux.AT_FDCWD, "/", linux.O_PATH|linux.O_DIRECTORY, 0)
		}
		return err
	})
	return fd, err
}

// still reports whether the process that we looked through is still in the
// namespace: its number may be another's by now.
func (v *Views) still(s *space) bool {
	if s.via.PID == 0 || s.ID == 0 {
		return true
	}
	link, err := v.proc.Readlink(v.proc.Lively(s.via) + "/ns/mnt")
	return err == nil && process.NamespaceID(link) == s.ID
}

// below opens a path below root, with O_PATH and without following any link: what
// comes from a mount table has none. It goes by what the kernel has in memory, and
// asks a file system only if all on the way are local: the directories above a
// mount point are in memory, and the object itself mostly is, as somebody asked
// about it.
func below(root int, at string, local bool) (int, error) {
	rel := strings.TrimPrefix(at, "/")
	if rel == "" {
		return linux.Dup(root)
	}
	const resolve = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS
	fd, err := linux.Openat2(root, rel, linux.O_PATH|linux.O_NOFOLLOW, 0, resolve|linux.RESOLVE_CACHED)
	if err == nil || !local {
		return fd, err
	}
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINVAL) { // not in memory, or before Linux 5.12
		fd, err = linux.Openat2(root, rel, linux.O_PATH|linux.O_NOFOLLOW, 0, resolve)
	}
	if err == nil || !errors.Is(err, syscall.ENOSYS) && !errors.Is(err, fs.ErrPermission) {
		return fd, err
	}
	// Before Linux 5.6, or a filter.
	fd, err = linux.Dup(root)
	for name := range strings.SplitSeq(rel, "/") {
		if err != nil {
			return -1, err
		}
		var next int
		next, err = linux.Openat(fd, name, linux.O_PATH|linux.O_NOFOLLOW, 0)
		linux.Close(fd)
		fd = next
	}
	return fd, err
}
