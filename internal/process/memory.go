package process

import (
	"errors"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/slashrun/slashrun/internal/linux"
)

// Memory is how much memory this process and its children may use.
type Memory struct {
	RAM   uint64 `json:"ram"`            // of the machine, in bytes
	Limit uint64 `json:"limit"`          // of the cgroup, in bytes; 0 where there is none
	From  string `json:"from,omitempty"` // the file that Limit stands in
}

// Smaller is the smaller of RAM and the limit.
func (m Memory) Smaller() uint64 {
	if m.Limit != 0 && m.Limit < m.RAM {
		return m.Limit
	}
	return m.RAM
}

// Memory reads the machine's memory and the smallest limit of our cgroup and
// its ancestors as far as they can be seen: memory.max of cgroup v2, the
// hierarchical_memory_limit of v1. A cgroup file system that is not mounted, as
// early in a boot, means no limit.
func (p *Proc) Memory() (Memory, error) {
	var m Memory
	var err error
	if m.RAM, err = linux.TotalRAM(); err != nil {
		return m, err
	}
	groups, err := p.ReadFile("self/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil // a kernel without cgroups
	}
	if err != nil {
		return m, err
	}
	table, err := p.MountInfo(false)
	if err != nil {
		return m, err
	}
	for _, h := range hierarchies(string(table)) {
		rel, ok := h.relative(string(groups))
		if !ok {
			continue
		}
		if err := h.limit(rel, &m); err != nil {
			return m, err
		}
	}
	return m, nil
}

// hierarchy is one mount of a cgroup file system that may limit memory.
type hierarchy struct {
	v2          bool
	root, point string
}

// hierarchies picks the mounts of cgroup2 and of the v1 memory controller out of
// a mountinfo table. Paths with escapes do not occur there.
func hierarchies(table string) []hierarchy {
	var list []hierarchy
	for line := range strings.Lines(table) {
		head, tail, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		f, t := strings.Fields(head), strings.Fields(tail)
		if !ok || len(f) < 5 || len(t) < 3 {
			continue
		}
		switch t[0] {
		case "cgroup2":
			list = append(list, hierarchy{true, f[3], f[4]})
		case "cgroup":
			for _, o := range strings.Split(t[len(t)-1], ",") {
				if o == "memory" {
					list = append(list, hierarchy{false, f[3], f[4]})
				}
			}
		}
	}
	return list
}

// relative is our group below the mount, from /proc/self/cgroup, cgroups(7). A
// group outside of what is mounted is "/..": then its limits cannot be seen, and
// the mount's top is the nearest.
func (h hierarchy) relative(groups string) (string, bool) {
	for line := range strings.Lines(groups) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		mine := f[1] == "" && h.v2
		for _, c := range strings.Split(f[1], ",") {
			mine = mine || c == "memory" && !h.v2
		}
		if !mine {
			continue
		}
		if strings.HasPrefix(f[2], "/..") {
			return "/", true
		}
		if rel, ok := strings.CutPrefix(f[2], strings.TrimSuffix(h.root, "/")); ok && (rel == "" || rel[0] == '/') {
			return path.Clean("/" + rel), true
		}
		return "/", true
	}
	return "", false
}

// limit lowers m.Limit to what the group rel and its ancestors allow.
func (h hierarchy) limit(rel string, m *Memory) error {
	for ; ; rel = path.Dir(rel) {
		dir := path.Join(h.point, rel)
		name, key := dir+"/memory.max", ""
		if !h.v2 {
			name, key = dir+"/memory.stat", "hierarchical_memory_limit "
		}
		text, err := linux.ReadSmallFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		v, ok := parseLimit(text, key)
		if ok && (m.Limit == 0 || v < m.Limit) && v < m.RAM {
			m.Limit, m.From = v, name
		}
		if ok && !h.v2 {
			return nil // the smallest of all above it, too
		}
		if rel == "/" || rel == "." {
			return nil
		}
	}
}

// parseLimit finds a number: the whole text, or behind key at the start of a
// line. "max" is none.
func parseLimit(text, key string) (uint64, bool) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), key); ok {
			v, err := strconv.ParseUint(rest, 10, 64)
			return v, err == nil && v > 0
		}
	}
	return 0, false
}
