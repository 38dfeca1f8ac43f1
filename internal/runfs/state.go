package runfs

import (
	"context"
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

// Target is the directory that shall become /run.
type Target struct {
	Root *fsat.Dir // the directory that stands for "/"
	Name string    // of the entry in it: "run"
	Path string    // for messages: "/run", or with what was given as the root
}

// Kind is what was found at the target.
type Kind string

const (
	Missing   Kind = "missing"
	Directory Kind = "directory" // of the file system around it: on disk, or of an image
	Tmpfs     Kind = "tmpfs"     // a tmpfs of its own
	Ramfs     Kind = "ramfs"     // the same without limits
	Foreign   Kind = "foreign"   // another file system, mounted there by somebody
)

// State is what was found: plain data, so that a plan can be made and tested
// without a kernel.
type State struct {
	Path   string `json:"path"`
	Kind   Kind   `json:"kind"`
	FSType string `json:"fstype,omitempty"`
	// Whole says that the mount shows its file system's own root, so that nobody
	// else's directory is part of it: only then may the file system's limits be
	// changed.
	Whole  bool   `json:"whole"`
	Size   uint64 `json:"size"`   // 0: no limit
	Inodes uint64 `json:"inodes"` // 0: no limit
	Attr   uint64 `json:"attr"`
	Huge   string `json:"huge,omitempty"`
	NoSwap bool   `json:"noswap"`
	Mode   uint32 `json:"mode"`
	UID    uint32 `json:"uid"`
	GID    uint32 `json:"gid"`

	Inner  map[string]Inner `json:"inner,omitempty"` // lock, slashrun, user: those that are there
	Carry  []Carried        `json:"carry,omitempty"` // mounts below that would be hidden
	Use    Use              `json:"use"`
	Labels Labels           `json:"labels"`

	Run     process.Identity `json:"run"`
	Stamp   *Stamp           `json:"stamp,omitempty"`
	StampIs string           `json:"stamp_error,omitempty"` // why a stamp that is there cannot be read
	// StampMade is when the stamp was written, nanoseconds of CLOCK_REALTIME.
	StampMade int64 `json:"stamp_made,omitempty"`

	// Staging are the places where a killed run left its staging directory.
	Staging []string `json:"staging,omitempty"`

	// CanMount is whether we have CAP_SYS_ADMIN at all. It says nothing about which
	// mount namespace it holds for: the call itself does.
	CanMount bool `json:"can_mount"`

	// Shared says that the mount around the target is shared: what is mounted on
	// the target shows up in other mount namespaces too.
	Shared bool `json:"shared"`

	id      identity // of what was found, to be compared before the act
	mountID int      // of the mount that the target's directory is in
}

type identity struct{ dev, ino uint64 }

// Inner is a directory below /run that we lay out.
type Inner struct {
	Mounted bool   `json:"mounted"`
	Mode    uint32 `json:"mode"`
	UID     uint32 `json:"uid"`
	GID     uint32 `json:"gid"`
	Empty   bool   `json:"empty"`
	NotDir  bool   `json:"not_dir"`
}

// Carried is a mount below the target.
type Carried struct {
	Rel string `json:"rel"` // below the target, without a leading slash
	Dir bool   `json:"dir"`
}

// Survived reports whether the stamp is of another run.
func (s *State) Survived() bool { return s.Stamp != nil && !s.Stamp.SameRun(s.Run) }

// Inspect looks at the target. It changes nothing.
func Inspect(ctx context.Context, p *process.Proc, t Target) (*State, error) {
	s, m, run, err := look(p, t)
	if err != nil || run == nil {
		return s, err
	}
	defer run.Close()
	if s.Kind == Directory {
		path, err := p.FdPath(run.Fd())
		if err != nil {
			return nil, err
		}
		s.carried(m, path, run)
		s.Use = inspectUse(ctx, p, run, path, m.id, s.Carry, m.shared)
	}
	return s, nil
}

// InspectInPlace is Inspect for who will not mount anything: it does not look at
// who uses the directory, which takes a look at every process.
func InspectInPlace(p *process.Proc, t Target) (*State, error) {
	s, _, run, err := look(p, t)
	if run != nil {
		run.Close()
	}
	return s, err
}

// look is what both have in common. The directory is nil where there is none.
func look(p *process.Proc, t Target) (*State, mountAt, *fsat.Dir, error) {
	s := &State{Path: t.Path, CanMount: linux.HasCap(linux.CAP_SYS_ADMIN), Labels: readLabels(p)}
	var err error
	var m mountAt
	if s.Run, err = p.Identity(); err != nil {
		return nil, m, nil, err
	}
	s.staging(t.Root, "dev")
	run, err := openTarget(t)
	if fsat.NotExist(err) {
		s.Kind = Missing
		return s, m, nil, nil
	}
	if err != nil {
		return nil, m, nil, err
	}
	if m, err = s.mount(p, t, run); err != nil {
		run.Close()
		return nil, m, nil, fmt.Errorf("%s: %w", t.Path, err)
	}
	s.staging(t.Root, t.Name)
	stamp, made, err := readStamp(run, nil)
	if err != nil {
		s.StampIs = err.Error()
	}
	s.Stamp, s.StampMade = stamp, made
	if err := s.inner(run); err != nil {
		run.Close()
		return nil, m, nil, fmt.Errorf("%s: %w", t.Path, err)
	}
	return s, m, run, nil
}

// staging looks for what a killed run of the legacy way left in one directory.
func (s *State) staging(root *fsat.Dir, name string) {
	dir, err := root.OpenDir(name)
	if err != nil {
		return
	}
	defer dir.Close()
	var st fsat.Stat
	if dir.Stat(mounts.StagingName, &st) == nil && st.IsDir() && st.UID == linux.Geteuid() {
		s.Staging = append(s.Staging, name)
	}
}

// openTarget opens the target as a directory; a link is refused, because what is
// mounted on the directory behind it would show up in another place.
func openTarget(t Target) (*fsat.Dir, error) {
	d, err := t.Root.OpenDir(t.Name)
	if err == nil || fsat.NotExist(err) {
		return d, err
	}
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s is not a directory; it must be one, and no link: move what is there away", t.Path)
	}
	return nil, fmt.Errorf("%s: %w", t.Path, err)
}

// mountAt is what the table says of the mount that a directory is in.
type mountAt struct {
	table  []mounts.Mount
	id     int
	shared bool
	entry  *mounts.Mount
}

// mount finds out what file system the target is.
func (s *State) mount(p *process.Proc, t Target, run *fsat.Dir) (mountAt, error) {
	var st, above fsat.Stat
	if err := run.Stat("", &st); err != nil {
		return mountAt{}, err
	}
	s.Mode, s.UID, s.GID = st.Perm(), st.UID, st.GID
	s.id = identity{st.Dev, st.Ino}
	if err := t.Root.Stat("", &above); err != nil {
		return mountAt{}, err
	}
	own := st.MountRoot
	if !st.MountRootKnown {
		own = st.Dev != above.Dev // misses a bind mount of the same file system: the table below tells
	}
	fs, err := linux.StatfsOf(run.Fd())
	if err != nil {
		return mountAt{}, err
	}
	m, err := lookUp(p, run.Fd())
	if err != nil {
		return mountAt{}, err
	}
	s.mountID, s.Shared = m.id, m.shared
	if !st.MountRootKnown && m.entry != nil {
		path, err := p.FdPath(run.Fd())
		own = own || err == nil && path == m.entry.Point
	}
	if m.entry != nil {
		s.FSType = m.entry.FSType
		s.Huge, _ = m.entry.Option("huge")
		_, s.NoSwap = m.entry.Option("noswap")
	}
	s.Attr = mounts.Attr(fs.Flags)
	switch {
	case !own:
		s.Kind = Directory
		return m, nil
	case fs.Magic == linux.TmpfsMagic:
		s.Kind = Tmpfs
	case fs.Magic == linux.RamfsMagic:
		s.Kind = Ramfs
	default:
		s.Kind = Foreign
	}
	s.Whole = m.entry != nil && m.entry.Root == "/"
	s.Size, s.Inodes = fs.Bytes, fs.Files
	return m, nil
}

// lookUp finds a descriptor's mount in the table by its id.
func lookUp(p *process.Proc, fd int) (mountAt, error) {
	var m mountAt
	info, err := p.ReadFile("self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(info)) {
		if v, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			m.id, err = strconv.Atoi(strings.TrimSpace(v))
		}
	}
	if err != nil || m.id == 0 {
		return m, errors.New("/proc/self/fdinfo does not tell the mount")
	}
	text, err := p.MountInfo(true)
	if err != nil {
		return m, err
	}
	if m.table, err = mounts.ParseText(text); err != nil {
		return m, err
	}
	if m.entry = mounts.ByID(m.table, m.id); m.entry != nil {
		m.shared = m.entry.Shared()
	}
	return m, nil
}

// inner looks at the directories that we lay out.
func (s *State) inner(run *fsat.Dir) error {
	var here fsat.Stat
	if err := run.Stat("", &here); err != nil {
		return err
	}
	s.Inner = map[string]Inner{}
	for _, name := range [...]string{"lock", ownDir, "user"} {
		var st fsat.Stat
		err := run.Stat(name, &st)
		if fsat.NotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		in := Inner{Mode: st.Perm(), UID: st.UID, GID: st.GID, NotDir: !st.IsDir(),
			Mounted: st.MountRoot || !st.MountRootKnown && st.Dev != here.Dev}
		if st.IsDir() {
			d, err := run.OpenDir(name)
			if err != nil {
				return err
			}
			names, err := d.Names()
			d.Close()
			if err != nil {
				return err
			}
			in.Empty = len(names) == 0
		}
		s.Inner[name] = in
	}
	return nil
}

// carried lists the mounts that hang below the target.
func (s *State) carried(m mountAt, path string, run *fsat.Dir) {
	for _, rel := range m.below(path) {
		var st fsat.Stat
		dir := true
		if d, name, err := openParent(run, rel); err == nil {
			if d.Stat(name, &st) == nil {
				dir = st.IsDir()
			}
			d.Close()
		}
		s.Carry = append(s.Carry, Carried{rel, dir})
	}
}

// below lists the mounts that hang below the directory path of m, without a
// staging mount of our own.
func (m *mountAt) below(path string) []string {
	var list []string
	for _, b := range mounts.Below(m.table, m.id, path) {
		rel := strings.TrimPrefix(strings.TrimPrefix(b.Point, path), "/")
		if rel != mounts.StagingName {
			list = append(list, rel)
		}
	}
	return list
}

// openParent walks to the directory that holds rel, one name at a time.
func openParent(run *fsat.Dir, rel string) (*fsat.Dir, string, error) {
	fd, err := linux.Dup(run.Fd())
	if err != nil {
		return nil, "", err
	}
	dir := fsat.DirOf(fd)
	for {
		first, rest, more := strings.Cut(rel, "/")
		if !more {
			return dir, first, nil
		}
		next, err := dir.OpenDir(first)
		dir.Close()
		if err != nil {
			return nil, "", err
		}
		dir, rel = next, rest
	}
}
