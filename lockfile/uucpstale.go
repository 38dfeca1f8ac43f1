package lockfile

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// judgeUUCP returns nil if it is proven that the process with the number pid,
// which the lock file fd names, is no more.
func judgeUUCP(fd, pid int, opts *UUCPOptions) error {
	if pid == os.Getpid() {
		return &HeldError{PID: pid, Reason: "that is the number of this very process, which may have had a predecessor with the same one; " +
			"where that is sure, remove the file before"}
	}
	held := func(format string, args ...any) error {
		return &HeldError{PID: pid, Reason: "it cannot be told whether it is stale: " + fmt.Sprintf(format, args...)}
	}
	p, err := process.Open()
	if err != nil {
		return held("%v", err)
	}
	defer p.Close()
	id, err := p.Ident(pid)
	if err == nil {
		id.Close()
		if !id.Dead {
			return &HeldError{PID: pid, Alive: true, Comm: id.Comm, Reason: "the process is alive"}
		}
	} else if !errors.Is(err, process.ErrNoProcess) {
		return held("%v", err)
	}
	if _, err := p.ReadFile(strconv.Itoa(pid) + "/comm"); err == nil && id == nil {
		return held("that is the number of a thread")
	}
	m, err := mountOf(p, fd)
	if err != nil {
		return held("%v", err)
	}
	if !mounts.Local(m.FSType) {
		return held("the process may be on another machine, the file system is %s", m.FSType)
	}
	if opts.Private {
		return nil
	}
	if !p.Initial() {
		return held("the process may be in another PID namespace than ours, which is not the machine's own")
	}
	path, err := p.FdPath(fd)
	if err != nil {
		return held("%v", err)
	}
	if why := sharedOutside(p, m, pathInside(m, path)); why != "" {
		return held("%s", why)
	}
	return nil
}

// mountOf is the mount that the file fd is on.
func mountOf(p *process.Proc, fd int) (*mounts.Mount, error) {
	info, err := p.FDInfo("self", fd)
	if err != nil {
		return nil, err
	}
	text, err := p.MountInfo(true)
	if err != nil {
		return nil, err
	}
	table, err := mounts.ParseText(text)
	if err != nil {
		return nil, err
	}
	if m := mounts.ByID(table, info.MountID); m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("the file's mount (id %d) is not in the mount table", info.MountID)
}

// pathInside is the path of a file within the file system of m, where path is the
// one that the mount gives it; "" where that cannot be told.
func pathInside(m *mounts.Mount, path string) string {
	rel, ok := strings.CutPrefix(path, strings.TrimSuffix(m.Point, "/"))
	if !ok || !strings.HasPrefix(rel, "/") {
		return ""
	}
	return strings.TrimSuffix(m.Root, "/") + rel
}

// sharedOutside says which process of another PID namespace has the file of the
// mount m mounted whose path inside the file system is given, or may have; "" if
// none has. Containers often have single sockets of a host's /run, which are
// mounts of the same file system and do not lead to the file.
func sharedOutside(p *process.Proc, m *mounts.Mount, file string) string {
	if why := p.Hidden(); why != "" {
		return why
	}
	list, err := p.Processes()
	if err != nil {
		return err.Error()
	}
	seen := map[string]bool{} // mount namespaces
	for _, st := range list {
		pid := strconv.Itoa(st.PID)
		if st.Kernel() || st.Dead() || !elsewhere(p, pid) {
			continue
		}
		ns, err := p.Readlink(pid + "/ns/mnt")
		if err == nil && seen[ns] {
			continue
		}
		var text []byte
		if err == nil {
			text, err = p.ReadFile(pid + "/mountinfo")
		}
		if process.Gone(err) {
			continue
		}
		var table []mounts.Mount
		if err == nil {
			table, err = mounts.ParseText(text)
		}
		if err != nil {
			return fmt.Sprintf("process %d (%s) is in another PID namespace, and its mounts cannot be seen: %v", st.PID, st.Comm, err)
		}
		seen[ns] = true
		for _, x := range table {
			if x.Major == m.Major && x.Minor == m.Minor && leadsTo(x.Root, file) {
				return fmt.Sprintf("process %d (%s) of another PID namespace has the same directory mounted", st.PID, st.Comm)
			}
		}
	}
	return ""
}

// leadsTo reports whether a mount of the directory root shows file.
func leadsTo(root, file string) bool {
	root = strings.TrimSuffix(root, "/")
	return file == "" || root == file || strings.HasPrefix(file, root+"/")
}

// elsewhere reports whether a process is in a PID namespace below ours: then it
// has a number in each, proc_pid_status(5).
func elsewhere(p *process.Proc, pid string) bool {
	text, err := p.ReadFile(pid + "/status")
	if err != nil {
		return !process.Gone(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "NSpid:"); ok {
			return len(strings.Fields(v)) != 1
		}
	}
	return true
}
