package view

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// Views are the mount namespaces that are known, with their mounts as they were
// when Open looked. Reach may be called from several goroutines.
type Views struct {
	// Incomplete says why there may be others, in a few lines.
	Incomplete []string

	proc   *process.Proc
	spaces []*space
}

// space is a namespace as seen from one root.
type space struct {
	Namespace
	table    []linux.MountStatus
	children map[int][]int // of a mount, by its id; of noParent those that hang on none of the table
	via      process.Stat  // the process to look through; PID 0 without
	fd       int           // of the namespace, if no process is in it; else -1
}

const noParent = -1

// Close lets go of the namespaces that nothing else might keep.
func (v *Views) Close() {
	for _, s := range v.spaces {
		if s.fd >= 0 {
			linux.Close(s.fd)
			s.fd = -1
		}
	}
}

// Open finds the mount namespaces: our own, those of all processes that we may
// see, and those that no process is in, as far as the kernel tells. Close the
// result.
func Open(ctx context.Context, p *process.Proc) (_ *Views, err error) {
	v := &Views{proc: p}
	defer func() {
		if err != nil {
			v.Close()
		}
	}()
	text, err := p.MountInfo(true)
	if err != nil {
		return nil, err
	}
	table, err := parse(text)
	if err != nil {
		return nil, err
	}
	link, err := p.Readlink("self/ns/mnt")
	if err != nil {
		return nil, err
	}
	own := &space{Namespace: Namespace{ID: process.NamespaceID(link), Own: true}, fd: -1}
	own.set(table)
	v.spaces = append(v.spaces, own)
	if err := v.inhabited(ctx, own); err != nil {
		return nil, err
	}
	if err := v.empty(ctx, own); err != nil {
		return nil, err
	}
	if why := p.Hidden(); why != "" {
		v.Incomplete = append(v.Incomplete, why)
	}
	if !p.Initial() {
		v.Incomplete = append(v.Incomplete, "mount namespaces of processes outside of this PID namespace cannot be seen")
	}
	return v, nil
}

func (s *space) set(table []linux.MountStatus) {
	s.table, s.children = table, make(map[int][]int, len(table))
	there := make(map[int]bool, len(table))
	for i := range table {
		there[table[i].ID] = true
	}
	for i := range table {
		parent := table[i].Parent
		if !there[parent] || parent == table[i].ID {
			parent = noParent
		}
		s.children[parent] = append(s.children[parent], i)
	}
}

// chain is the mounts that the kernel crosses on the way to a path: at every
// component it goes on to what is mounted there, and again if something is mounted
// on that. The last is where the path leads.
func (s *space) chain(at string) (list []*linux.MountStatus) {
	for id := noParent; len(list) <= len(s.table); {
		next := -1
		for _, i := range s.children[id] {
			if m := &s.table[i]; under(at, m.Point) && (next < 0 || len(m.Point) < len(s.table[next].Point)) {
				next = i
			}
		}
		if next < 0 {
			break
		}
		id = s.table[next].ID
		list = append(list, &s.table[next])
	}
	return list
}

// parse reads a mountinfo table.
func parse(text []byte) ([]linux.MountStatus, error) {
	all, err := mounts.ParseText(text)
	if err != nil {
		return nil, err
	}
	table := make([]linux.MountStatus, len(all))
	for i := range all {
		m := &all[i]
		table[i] = linux.MountStatus{ID: m.ID, Parent: m.Parent, Major: m.Major, Minor: m.Minor,
			ReadOnly: readOnly(m.Options) || readOnly(m.SuperOptions), Root: m.Root, Point: m.Point, FSType: m.FSType}
	}
	return table, nil
}

func readOnly(options string) bool {
	first, _, _ := strings.Cut(options, ",") // the kernel writes it first
	return first == "ro"
}

// inhabited finds the namespaces of all processes.
func (v *Views) inhabited(ctx context.Context, own *space) error {
	list, denied, err := v.proc.Visible()
	if err != nil {
		return err
	}
	byID := map[uint64]*space{own.ID: own}
	byMount := map[string]*space{} // of namespaces whose number we may not see
	for _, st := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		if st.Kernel() || st.Dead() || st.PID == v.proc.Self() {
			continue
		}
		at := v.proc.Lively(st)
		link, err := v.proc.Readlink(at + "/ns/mnt")
		if process.Gone(err) {
			continue
		}
		var s *space
		if id := process.NamespaceID(link); err == nil && id != 0 {
			if s = byID[id]; s == nil {
				s = &space{Namespace: Namespace{ID: id}, fd: -1}
				byID[id] = s
				v.spaces = append(v.spaces, s)
			}
		} else if s, err = v.byTable(byMount, own, at); err != nil {
			if fatal(err) {
				return err
			}
			denied++
			continue
		}
		v.inhabitant(s, st, at)
	}
	if err := v.tables(byMount); err != nil {
		return err
	}
	if denied > 0 {
		v.Incomplete = append(v.Incomplete, fmt.Sprintf("the mount namespaces of %d processes of other users cannot be seen", denied))
	}
	return nil
}

// inhabitant notes a process of the namespace.
func (v *Views) inhabitant(s *space, st process.Stat, at string) {
	if s.Count++; len(s.Processes) < maxProcesses {
		s.Processes = append(s.Processes, process.Process{PID: st.PID, Comm: st.Comm})
	}
	if s.Own || s.via.PID != 0 && s.Root == "" {
		return
	}
	// Through one that was locked into a part of it not all of its mounts show.
	root, err := v.proc.Readlink(at + "/root")
	if root == "/" || err != nil {
		root = ""
	}
	if s.via.PID == 0 || root == "" {
		s.via, s.Root = st, root
	}
}

// byTable finds the namespace of a process that does not let us see its number by
// its mounts, which everybody may see: the id of a mount is of one namespace.
func (v *Views) byTable(known map[string]*space, own *space, at string) (*space, error) {
	text, err := v.proc.ReadFile(at + "/mountinfo")
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(string(text), " ")
	if id, err := strconv.Atoi(first); err == nil && slices.ContainsFunc(own.table, func(m linux.MountStatus) bool { return m.ID == id }) {
		return own, nil
	}
	if s := known[first]; s != nil {
		return s, nil
	}
	table, err := parse(text)
	if err != nil || len(table) == 0 {
		return nil, errors.Join(err, syscall.EACCES)
	}
	s := &space{fd: -1}
	s.set(table)
	known[first] = s
	v.spaces = append(v.spaces, s)
	return s, nil
}

// tables reads the mounts of every namespace that has a process. Those that ended
// with their last process are left out.
func (v *Views) tables(byMount map[string]*space) error {
	kept := v.spaces[:0]
	parts := 0
	for _, s := range v.spaces {
		if s.table == nil {
			text, err := v.proc.ReadFile(v.proc.Lively(s.via) + "/mountinfo")
			if fatal(err) {
				return err
			}
			table, err2 := parse(text)
			if err != nil || err2 != nil {
				continue
			}
			s.set(table)
		}
		if s.Root != "" {
			parts++
		}
		kept = append(kept, s)
	}
	v.spaces = kept
	if parts > 0 {
		v.Incomplete = append(v.Incomplete, fmt.Sprintf("of %d mount namespaces only the part is seen that their processes are locked into (chroot)", parts))
	}
	return nil
}

// namespace is what is told of it.
func (v *Views) namespace(s *space) Namespace {
	n := s.Namespace
	if s.via.PID != 0 {
		n.Member, _ = v.proc.Membership(v.proc.Lively(s.via))
	}
	return n
}

// fatal reports whether the error is about our own means.
func fatal(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}
