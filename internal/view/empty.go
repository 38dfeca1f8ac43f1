package view

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// empty finds the namespaces that no process is in: those that a mount or a
// descriptor keeps, or a thread that left its process's.
func (v *Views) empty(ctx context.Context, own *space) error {
	mounted, err := v.mounted()
	if err != nil {
		return err
	}
	known := map[uint64]bool{}
	for _, s := range v.spaces {
		known[s.ID] = true
	}
	fd, err := v.proc.OpenLink("self/ns/mnt")
	if err != nil {
		v.Incomplete = append(v.Incomplete, "mount namespaces that no process is in cannot be listed: "+err.Error())
		return nil
	}
	defer linux.Close(fd)
	var missing error
	for _, back := range []bool{false, true} {
		if missing, err = v.walk(ctx, fd, back, known, mounted); err != nil {
			return err
		}
		if missing != nil {
			break
		}
	}
	if v.unlisted > 0 {
		v.Incomplete = append(v.Incomplete, fmt.Sprintf("the mounts of %d mount namespaces without a process are too many", v.unlisted))
	}
	if v.unkept > 0 {
		v.Incomplete = append(v.Incomplete, fmt.Sprintf("of %d mount namespaces without a process the mounts are known and nothing is confirmed: there are too many", v.unkept))
	}
	if missing == nil {
		return nil
	}
	v.Incomplete = append(v.Incomplete, "mount namespaces that neither a process nor a mount of ours shows cannot be listed: "+missing.Error())
	// Before Linux 6.12, or without the right to ask.
	for id, point := range mounted {
		if err := ctx.Err(); err != nil {
			return err
		}
		if known[id] || slices.ContainsFunc(own.chain(point), func(m *linux.MountStatus) bool { return !mounts.Answers(m.FSType) }) {
			continue
		}
		if v.kept >= maxKept {
			v.Incomplete = append(v.Incomplete, "more mount namespaces are mounted on files than are looked at")
			break
		}
		if err := v.enter(id, point); err != nil {
			v.Incomplete = append(v.Incomplete, "the mount namespace on "+point+" cannot be looked at: "+err.Error())
		}
	}
	return nil
}

// mounted are the mount namespaces that are mounted on a file, by their inode, and
// where.
func (v *Views) mounted() (map[uint64]string, error) {
	text, err := v.proc.MountInfo(false)
	if err != nil {
		return nil, err
	}
	table, err := mounts.ParseText(text)
	if err != nil {
		return nil, err
	}
	points := map[uint64]string{}
	for i := range table {
		if m := &table[i]; m.FSType == "nsfs" && strings.HasPrefix(m.Root, "mnt:") {
			points[process.NamespaceID(m.Root)] = m.Point
		}
	}
	return points, nil
}

// walk asks the kernel for the namespaces after (or before) the one behind fd.
// missing says why it does not tell.
func (v *Views) walk(ctx context.Context, fd int, back bool, known map[uint64]bool, mounted map[uint64]string) (missing, err error) {
	at, held := fd, true // held: it is not ours to close here
	defer func() {
		if !held {
			linux.Close(at)
		}
	}()
	for ctx.Err() == nil {
		next, info, err := linux.MountNSNext(at, back)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // the last
		}
		if err != nil { // of our own descriptors, too: what is known so far stays
			return err, nil
		}
		if !held {
			linux.Close(at)
		}
		at, held = next, false
		var st syscall.Stat_t
		if err := linux.Fstatat(at, "", linux.AT_EMPTY_PATH, &st); err != nil {
			return err, nil
		}
		if known[st.Ino] {
			continue
		}
		known[st.Ino] = true
		if !v.room(int(info.Mounts)) {
			v.unlisted++
			continue
		}
		table, err := tableOf(info.ID)
		if err != nil {
			return err, nil
		}
		s := &space{Namespace: Namespace{ID: st.Ino, MountedOn: mounted[st.Ino]}, fd: -1}
		if v.kept < maxKept {
			v.kept++
			s.fd, held = at, true
		} else {
			v.unkept++
		}
		s.set(table)
		v.spaces = append(v.spaces, s)
	}
	return nil, ctx.Err()
}

// tableOf asks for the mounts of a namespace by its id.
func tableOf(ns uint64) ([]linux.MountStatus, error) {
	var table []linux.MountStatus
	var ids [256]uint64
	for last := uint64(0); ; {
		n, err := linux.Listmount(ns, last, ids[:])
		if err != nil || n == 0 {
			return table, err
		}
		for _, id := range ids[:n] {
			m, err := linux.Statmount(ns, id)
			if errors.Is(err, fs.ErrNotExist) {
				continue // unmounted meanwhile
			}
			if err != nil {
				return nil, err
			}
			if m.Point != "" {
				table = append(table, m)
			}
		}
		last = ids[n-1]
	}
}

// enter reads the mounts of a namespace that is mounted on a file, from inside.
func (v *Views) enter(id uint64, point string) error {
	fd, err := linux.Openat(linux.AT_FDCWD, point, linux.O_RDONLY|linux.O_NONBLOCK|linux.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	var text []byte
	err = linux.OnThread(linux.CloneFS, func() (err error) {
		if err = linux.Setns(fd, syscall.CLONE_NEWNS); err == nil {
			text, err = v.proc.ReadFile("thread-self/mountinfo")
		}
		return err
	})
	var table []linux.MountStatus
	if err == nil {
		table, err = parse(text)
	}
	if err != nil {
		linux.Close(fd)
		return err
	}
	v.kept++
	s := &space{Namespace: Namespace{ID: id, MountedOn: point}, fd: fd}
	s.set(table)
	v.spaces = append(v.spaces, s)
	return nil
}
