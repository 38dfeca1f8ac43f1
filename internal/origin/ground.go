package origin

import (
	"fmt"
	"strings"

	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/stale"
)

// table is the mount table of the look: which file systems answer without anybody
// else's help.
type table struct {
	list  []mounts.Mount
	byID  map[int]*mounts.Mount
	point map[string]*mounts.Mount // the topmost
	// silent are the mount points of file systems that are not asked anything.
	silent map[string]*mounts.Mount
}

// readTable reads the mount table; without a procfs it is empty.
func readTable(p *process.Proc) (*table, error) {
	t := &table{byID: map[int]*mounts.Mount{}, point: map[string]*mounts.Mount{}, silent: map[string]*mounts.Mount{}}
	if p == nil {
		return t, nil
	}
	text, err := p.MountInfo(true)
	if err != nil {
		return t, err
	}
	if t.list, err = mounts.ParseText(text); err != nil {
		return t, err
	}
	for i := range t.list {
		m := &t.list[i]
		t.byID[m.ID] = m
		t.point[m.Point] = m // of stacked mounts the topmost comes last
	}
	for point, m := range t.point {
		if !answers(m) {
			t.silent[point] = m
		}
	}
	return t, nil
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
func answers(m *mounts.Mount) bool {
	if m.Point == "/" || ofKernel(m.FSType) {
		return true
	}
	return stale.Local(m.FSType) && !strings.HasPrefix(m.FSType, "fuse")
}

// mountOf fills the Mount of a report.
func mountOf(m *mounts.Mount, path string) *Mount {
	if m == nil {
		return nil
	}
	r := &Mount{ID: m.ID, Point: m.Point, Type: m.FSType, Source: m.Source, Superblock: fmt.Sprintf("%d:%d", m.Major, m.Minor), Here: m.Point == path}
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
