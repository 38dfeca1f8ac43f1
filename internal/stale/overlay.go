package stale

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// upper reports whether the directory is in the upper layer of an overlay, whose
// options tell its path. One that is not absolute may be anywhere.
func upper(m *mounts.Mount, dir string) bool {
	u, ok := upperdir(m)
	return ok && (!strings.HasPrefix(u, "/") || under(dir, u))
}

// upperdir is that option of an overlay. overlayfs puts a backslash before commas
// and backslashes of a path, and the kernel then writes those as octal digits
// (seq_show_option), so that every plain comma ends an option.
func upperdir(m *mounts.Mount) (string, bool) {
	if m.FSType != "overlay" {
		return "", false
	}
	text, ok := m.Option("upperdir")
	if !ok {
		return "", false
	}
	once := mounts.Unescape(text)
	var path []byte
	for i := 0; i < len(once); i++ {
		if once[i] == '\\' && i+1 < len(once) {
			i++
		}
		path = append(path, once[i])
	}
	return string(path), true
}

// layer is the upper layer of an overlay that somebody has mounted.
type layer struct {
	path, point string // as its options have it; where the overlay is mounted
	dev, ino    uint64 // of the directory, 0 where the path leads to none
	// place is where it is, if our mount table shows that.
	place *ground
}

// layersLast is how old the list of layers may be in a look.
const layersLast = 100 * time.Millisecond

// layers are the upper layers of all overlays in our mount table and in those of
// the processes that we can see. Those that only processes have which we cannot
// see are left out: an ordinary user never sees all, and would be told nothing of
// any socket then.
func (j *Judge) layers(ctx context.Context, table []mounts.Mount, fresh bool) ([]layer, error) {
	s := &j.seen
	s.mu.Lock()
	defer s.mu.Unlock()
	if !fresh && !s.layered.IsZero() && time.Since(s.layered) < max(layersLast, j.opts.MayBeOld) {
		return s.layers, nil
	}
	known := map[string]bool{}
	var list []layer
	add := func(root string, table, of []mounts.Mount) {
		for i := range of {
			u, ok := upperdir(&of[i])
			if ok && !known[root+u] {
				known[root+u] = true
				list = append(list, j.find(layer{path: u, point: of[i].Point}, root, of, table))
			}
		}
	}
	add("", table, table)
	err := j.proc.Tables(ctx, func(who process.Process, _ bool, text []byte) bool {
		if theirs, err := mounts.ParseText(text); err == nil {
			// An engine names a path of its own mounts, which are often ours; whoever
			// mounts an overlay inside names one of theirs.
			add("", table, theirs)
			add(fmt.Sprintf("%d/root", who.PID), table, theirs)
		}
		return true
	})
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	s.layers, s.layered = list, time.Now()
	return list, nil
}

// find looks for the directory of a layer, below the root of a process ("" is ours)
// whose mounts are seen. The path is somebody else's, who may have put anything there.
func (j *Judge) find(l layer, root string, seen, table []mounts.Mount) layer {
	if !strings.HasPrefix(l.path, "/") {
		return l
	}
	if root == "" {
		seen = table
	}
	fd, err := j.openQuietly(root, l.path, seen)
	if err != nil {
		return l
	}
	defer linux.Close(fd)
	var st fsat.Stat
	_, err = fsat.StatKnown(fd, "", &st)
	if err == fsat.ErrAsks && (&stepper{judge: j, table: seen, foreign: root != ""}).asks(fd) {
		err = fsat.StatAt(fd, "", &st)
	}
	if err != nil {
		return l
	}
	l.dev, l.ino = st.Dev, st.Ino
	id, err1 := j.proc.MountID(fd)
	dir, err2 := j.proc.FdPath(fd)
	if m := mounts.ByID(table, id); err1 == nil && err2 == nil && m != nil {
		l.place = &ground{mount: m, dir: dir}
	}
	return l
}

// layer says why the directory may be in the upper layer of somebody's overlay,
// "" if it is in none that can be seen. There an inode is another one than that
// of the same file seen through the overlay: a socket that is bound there refuses
// here, a lock that is held there is free here.
func (j *Judge) layer(ctx context.Context, g *ground, o *object) (string, error) {
	if o.last || j.opts.MayBeOld == 0 {
		return j.findLayer(ctx, g, o)
	}
	s := &j.seen
	s.mu.Lock()
	known := s.above
	s.mu.Unlock()
	if known == nil || known.dir != o.dir || known.mount != g.id || time.Since(known.at) > j.opts.MayBeOld {
		why, err := j.findLayer(ctx, g, o)
		if err != nil {
			return "", err
		}
		known = &above{o.dir, g.id, time.Now(), why}
		s.mu.Lock()
		s.above = known
		s.mu.Unlock()
	}
	return known.why, nil
}

// above is what layer said of a directory.
type above struct {
	dir   *fsat.Dir // held by whoever walks, so that no other has this pointer
	mount int
	at    time.Time
	why   string
}

func (j *Judge) findLayer(ctx context.Context, g *ground, o *object) (string, error) {
	if storage(g.dir) {
		return g.dir + " looks like a layer of a container", nil
	}
	list, err := j.layers(ctx, g.table, o.last)
	if err != nil || len(list) == 0 {
		return "", err
	}
	above := j.ancestors(o.dir, g.table)
	inside, known := insideOf(g)
	for _, l := range list {
		is := !strings.HasPrefix(l.path, "/") || under(g.dir, l.path) || l.ino != 0 && above[[2]uint64{l.dev, l.ino}]
		if p := l.place; p != nil && known && p.mount.Major == g.mount.Major && p.mount.Minor == g.mount.Minor {
			at, ok := insideOf(p)
			is = is || ok && under(inside, at)
		}
		if is {
			return g.dir + " is in the upper layer of the overlay on " + l.point, nil
		}
	}
	return "", nil
}

// ancestors are the inodes of a directory and of those above it. Over one of those a
// file system may have been mounted meanwhile.
func (j *Judge) ancestors(dir *fsat.Dir, table []mounts.Mount) map[[2]uint64]bool {
	above := map[[2]uint64]bool{}
	fd, err := linux.Dup(dir.Fd())
	for range 256 {
		if err != nil {
			return above
		}
		var st fsat.Stat
		_, err = fsat.StatKnown(fd, "", &st)
		if err != nil && j.mayAsk(fd, table) {
			err = fsat.StatAt(fd, "", &st)
		}
		if err != nil || above[[2]uint64{st.Dev, st.Ino}] { // "/" is its own
			break
		}
		above[[2]uint64{st.Dev, st.Ino}] = true
		var up int
		up, err = linux.Openat(fd, "..", linux.O_PATH|linux.O_DIRECTORY, 0)
		linux.Close(fd)
		fd = up
	}
	if err == nil {
		linux.Close(fd)
	}
	return above
}

// storage reports whether the path is one that engines use for the layers of
// containers: overlay/ID/diff (podman), overlay2/ID/diff (docker), snapshots/N/fs
// (containerd). fuse-overlayfs does not tell its layers in the mount table.
func storage(dir string) bool {
	parts := strings.Split(dir, "/")
	for i := 2; i < len(parts); i++ {
		switch a, b := parts[i-2], parts[i]; {
		case (a == "overlay" || a == "overlay2") && b == "diff", a == "snapshots" && b == "fs":
			return true
		}
	}
	return false
}
