package origin

import (
	"fmt"
	"strings"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// table is the mount table of the look: which file systems answer without anybody
// else's help.
type table struct {
	proc  *process.Proc
	list  []mounts.Mount
	byID  map[int]*mounts.Mount
	point map[string]*mounts.Mount // the topmost
	// silent are the mount points of file systems that are not asked anything.
	silent map[string]*mounts.Mount
	// mute are the overlays with a layer on one of those.
	mute map[int]bool
	// root is the id of the mount that "/" lies on, which the table does not show to
	// whoever lives in a chroot.
	root int
	// again is how often the table was read once more.
	again int
}

// readTable reads the mount table; without a procfs it is empty.
func readTable(p *process.Proc) (*table, error) {
	t := &table{proc: p}
	var st fsat.Stat
	if id, err := fsat.StatQuietly(linux.AT_FDCWD, "/", &st); err == nil {
		t.root = id
	}
	return t, t.read()
}

func (t *table) read() error {
	t.byID, t.point, t.silent, t.mute = map[int]*mounts.Mount{}, map[string]*mounts.Mount{}, map[string]*mounts.Mount{}, map[int]bool{}
	if t.proc == nil {
		return nil
	}
	text, err := t.proc.MountInfo(true)
	if err != nil {
		return err
	}
	if t.list, err = mounts.ParseText(text); err != nil {
		return err
	}
	for i := range t.list {
		m := &t.list[i]
		t.byID[m.ID] = m
		t.point[m.Point] = m // of stacked mounts the topmost comes last
	}
	for i := range t.list {
		if m := &t.list[i]; m.FSType == "overlay" && !mounts.AnswersIn(t.list, m) {
			t.mute[m.ID] = true
		}
	}
	for point, m := range t.point {
		if !t.answers(m) {
			t.silent[point] = m
		}
	}
	return nil
}

// maxAgain is how often a look reads the mount table once more because of mounts that
// came meanwhile.
const maxAgain = 16

// mount is the mount with this id, of the object at a path that was reached from the
// mount on. An older kernel tells no id (0): then the path decides. silent says that it
// must not be asked anything: it does not answer by itself, or came after the table was
// read and is not in it now either.
func (t *table) mount(id int, at string, on *mounts.Mount) (m *mounts.Mount, silent bool) {
	switch {
	case id == 0 && t.point[at] != nil:
		m = t.point[at]
	case id == 0, len(t.list) == 0:
		m = on
	default:
		m = t.byID[id]
		if m == nil && id != t.root && t.again < maxAgain {
			t.again++
			if t.read() == nil {
				m = t.byID[id]
			}
		}
		if m == nil && id == t.root {
			return nil, false
		}
		if m == nil {
			return &mounts.Mount{ID: id, Point: at, Root: "/", FSType: "file system that the mount table does not show"}, true
		}
	}
	return m, m != nil && !t.answers(m)
}

// stat is fsat.StatKnown of an entry of the directory fd, or of what fd itself holds. Where
// the kernel has only calls that ask, the mount is found out first by a descriptor; of
// what may not answer st stays empty then.
func (t *table) stat(fd int, name string, st *fsat.Stat) (mountID int, err error) {
	id, err := fsat.StatKnown(fd, name, st)
	if err != fsat.ErrAsks {
		return id, err
	}
	if t.proc == nil {
		return 0, fsat.StatAt(fd, name, st)
	}
	if name != "" {
		if fd, err = linux.Openat(fd, name, linux.O_PATH|linux.O_NOFOLLOW, 0); err != nil {
			return 0, err
		}
		defer linux.Close(fd)
	}
	if id, err = t.proc.MountID(fd); err != nil {
		return 0, err
	}
	*st = fsat.Stat{Btime: fsat.NoTime}
	if _, silent := t.mount(id, "", nil); silent {
		return id, nil
	}
	return id, fsat.StatAt(fd, "", st)
}

// kernelTypes are file systems that the kernel itself answers for. Nothing in them is
// of interest to a walk.
var kernelTypes = [...]string{"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "hugetlbfs", "debugfs", "tracefs",
	"securityfs", "selinuxfs", "smackfs", "pstore", "bpf", "configfs", "fusectl", "binfmt_misc", "efivarfs", "nsfs", "resctrl"}

func ofKernel(fstype string) bool {
	for _, t := range kernelTypes {
		if t == fstype {
			return true
		}
	}
	return false
}

// answers reports whether a file system answers by itself. A server, be it a process
// or a machine, may have taken a question and never answer: whoever asked cannot even
// be killed then (FUSE, fs/fuse/dev.c, request_wait_answer). What "/" lies on has to
// answer, or nothing would run here.
func (t *table) answers(m *mounts.Mount) bool {
	return m.Point == "/" || ofKernel(m.FSType) || mounts.Answers(m.FSType) && !t.mute[m.ID]
}

// mountOf fills the Mount of a report.
func mountOf(m *mounts.Mount, path string) *Mount {
	if m == nil {
		return nil
	}
	r := &Mount{ID: m.ID, Point: m.Point, PointBytes: bytesOf(m.Point), Type: m.FSType, Source: m.Source, Superblock: fmt.Sprintf("%d:%d", m.Major, m.Minor), Here: m.Point == path}
	if m.Root != "/" {
		r.Root = m.Root
	}
	r.ReadOnly = hasOption(m.Options, "ro") || hasOption(m.SuperOptions, "ro")
	return r
}

func hasOption(list, name string) bool {
	for o := range strings.SplitSeq(list, ",") {
		if o == name {
			return true
		}
	}
	return false
}
