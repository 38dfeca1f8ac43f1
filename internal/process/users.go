package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// Process names a living process in a finding.
type Process struct {
	PID  int    `json:"pid"`
	Comm string `json:"comm"`
}

// Holder is a process that uses something below a directory.
type Holder struct {
	Process
	How  string `json:"how"` // "cwd", "root", "exe", "fd 7", "map"
	Path string `json:"path"`
}

// Users is who uses a directory.
type Users struct {
	// Holders hold something in it, our ancestors included, we ourselves not.
	Holders []Holder
	// Others are the processes that are alive beside us, our ancestors and the
	// threads of the kernel, and that can see the directory: those in another
	// mount namespace are left out.
	Others []Process
	// Incomplete says what could not be seen. Where it is not empty the other two
	// prove nothing by being empty.
	Incomplete []string
}

// maxReasons bounds the lists: a reader wants the first few.
const maxReasons = 32

// Users looks for whoever uses the directory dir, a path as our own root shows
// it. A path is compared as text, so that a process in another mount namespace
// or below another root with a directory of the same name would be reported too:
// mountID, the id of the mount that dir is in, tells them apart where statx(2)
// gives it (Linux 5.8), and so does a mount namespace that can be read and
// differs from ours. With everywhere set, processes of other mount
// namespaces count like those of our own: mounts propagate there.
//
// With empty set nothing is in the directory: then nobody can have anything of it
// but the directory itself or what was deleted, and executables and mappings are
// not looked at.
func (p *Proc) Users(ctx context.Context, dir string, mountID int, everywhere, empty bool) Users {
	var u Users
	list, err := p.list()
	if err != nil {
		u.Incomplete = append(u.Incomplete, "cannot list the processes: "+err.Error())
		return u
	}
	if why := p.hidden(); why != "" {
		u.Incomplete = append(u.Incomplete, why)
	}
	kin := p.kin(list)
	ours, nsErr := linux.Readlinkat(p.fd, "self/ns/mnt")
	s := scan{proc: p, dir: strings.TrimSuffix(dir, "/"), mount: uint64(mountID), empty: empty, users: &u}
	for _, st := range list {
		if err := ctx.Err(); err != nil {
			u.Incomplete = append(u.Incomplete, err.Error())
			return u
		}
		if st.PID == p.self || st.Kernel() || st.Dead() {
			continue
		}
		who, at := Process{st.PID, st.Comm}, p.lively(st)
		if nsErr == nil && !everywhere {
			theirs, err := linux.Readlinkat(p.fd, at+"/ns/mnt")
			if err == nil && theirs != ours || gone(err) {
				continue
			}
		}
		if !kin[st.PID] && len(u.Others) < maxReasons {
			u.Others = append(u.Others, who)
		}
		s.process(who, at)
		if len(u.Holders) >= maxReasons || len(u.Incomplete) >= maxReasons {
			return u // decided
		}
	}
	return u
}

// list reads the stat line of every process.
func (p *Proc) list() ([]Stat, error) {
	names, err := p.names(".")
	if err != nil {
		return nil, err
	}
	list := make([]Stat, 0, len(names))
	buf := make([]byte, 0, 512)
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		b, err := p.ReadRecord(name+"/stat", buf)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		st, err := ParseStat(b)
		if err != nil {
			return nil, fmt.Errorf("/proc/%s/stat: %w", name, err)
		}
		list = append(list, st)
	}
	return list, nil
}

// hidden says why the list may not be all: hidepid= hides the processes of
// others from everybody without CAP_SYS_PTRACE, proc(5). Then init is the first
// that is missing, unless we are it or are of its user.
func (p *Proc) hidden() string {
	// Root of the initial user namespace sees all; reading its map is cheaper than
	// reading the mount table.
	if m, err := p.ReadFile("self/uid_map"); err == nil && linux.Geteuid() == 0 && linux.HasCap(linux.CAP_SYS_PTRACE) {
		if f := strings.Fields(string(m)); len(f) == 3 && f[1] == "0" && f[2] == "4294967295" {
			return ""
		}
	}
	b, err := p.MountInfo(false)
	if err != nil {
		return "cannot read the mount table: " + err.Error()
	}
	for line := range strings.Lines(string(b)) {
		if _, super, ok := strings.Cut(line, " - proc "); ok && strings.Contains(super, "hidepid=") &&
			!strings.Contains(super, "hidepid=0") {
			return "/proc is mounted with hidepid, which hides the processes of others"
		}
	}
	return ""
}

// kin is we and our ancestors.
func (p *Proc) kin(list []Stat) map[int]bool {
	parent := make(map[int]int, len(list))
	for _, st := range list {
		parent[st.PID] = st.Parent
	}
	kin := map[int]bool{}
	for pid := p.self; pid > 0 && !kin[pid]; pid = parent[pid] {
		kin[pid] = true
	}
	return kin
}

// gone reports whether err says that the process has ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

// scan looks at one process after another.
type scan struct {
	proc  *Proc
	dir   string
	mount uint64 // 0: unknown
	empty bool
	users *Users
}

func (s *scan) inside(path string) bool {
	return strings.HasPrefix(path, s.dir) && (len(path) == len(s.dir) || path[len(s.dir)] == '/')
}

// hold notes a holder if path is inside. link is the link of the procfs that
// leads to the node, empty where there is none.
func (s *scan) hold(who Process, how, path, link string) {
	if s.inside(path) && !s.elsewhere(link) {
		s.users.Holders = append(s.users.Holders, Holder{who, how, path})
	}
}

// elsewhere reports whether a node is known to be in another mount.
func (s *scan) elsewhere(link string) bool {
	if link == "" || s.mount == 0 {
		return false
	}
	var st linux.StatxT
	err := linux.Statx(s.proc.fd, link, linux.AT_NO_AUTOMOUNT, linux.StatxMountID, &st)
	return err == nil && st.Mask&linux.StatxMountID != 0 && st.Mnt_id != s.mount
}

func (s *scan) incomplete(who Process, what string, err error) {
	s.users.Incomplete = append(s.users.Incomplete,
		fmt.Sprintf("cannot see the %s of process %d (%s): %v", what, who.PID, who.Comm, err))
}

// process looks at one process; pid is its directory in the procfs (see lively).
func (s *scan) process(who Process, pid string) {
	links := []string{"cwd", "root", "exe"}
	if s.empty {
		links = links[:2]
	}
	for _, link := range links {
		path, err := linux.Readlinkat(s.proc.fd, pid+"/"+link)
		switch {
		case err == nil:
			s.hold(who, link, path, pid+"/"+link)
		case gone(err): // ended, or has no executable
		default:
			s.incomplete(who, link, err)
			return // the same answer for everything else of this process
		}
	}
	s.descriptors(who, pid)
	if !s.empty {
		s.mappings(who, pid)
	}
}

func (s *scan) descriptors(who Process, pid string) {
	names, err := s.proc.names(pid + "/fd")
	if err != nil && !gone(err) {
		s.incomplete(who, "descriptors", err)
		return
	}
	for _, name := range names {
		link := pid + "/fd/" + name
		path, err := linux.Readlinkat(s.proc.fd, link)
		if err == nil {
			s.hold(who, "fd "+name, path, link)
		} else if !gone(err) {
			s.incomplete(who, "descriptor "+name, err)
			return
		}
	}
}

// mappings finds files that are mapped and no longer open. The same file shows
// in many lines: the first is enough.
func (s *scan) mappings(who Process, pid string) {
	maps, err := s.proc.ReadFile(pid + "/maps")
	if err != nil && !gone(err) {
		s.incomplete(who, "mappings", err)
	}
	for line := range bytes.Lines(maps) {
		i := bytes.IndexByte(line, '/')
		if i < 0 {
			continue
		}
		if path := unescapeMaps(strings.TrimSuffix(string(line[i:]), "\n")); s.inside(path) {
			s.hold(who, "map", path, "")
			return
		}
	}
}

// unescapeMaps undoes the one escape of /proc/PID/maps, a newline as \012.
func unescapeMaps(s string) string { return strings.ReplaceAll(s, `\012`, "\n") }
