package view

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

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
	kept   int // spaces with a descriptor
	unkept int // that would need one

	mountsKept, unlisted int
}

// maxKept bounds how many namespaces are held by a descriptor: any user can make
// thousands, and our descriptors are few.
const maxKept = 32

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

// patience is how long a process or a namespace may take to be read: see
// process.Each.
const patience = time.Second

// inhabitant is what is read of one process.
type inhabitant struct {
	st    process.Stat // PID 0: it has ended, or is none that counts
	ns    uint64       // 0: we may not see it
	table []byte       // then its mounts
	err   error        // why neither was told
}

// read looks at one process.
func (v *Views) read(pid int) (in inhabitant) {
	text, err := v.proc.ReadRecord(strconv.Itoa(pid)+"/stat", nil)
	if err != nil {
		in.err = err
		return in
	}
	st, err := process.ParseStat(text)
	if err != nil || st.Kernel() || st.Dead() {
		return in
	}
	in.st = st
	at := v.proc.Lively(st)
	link, err := v.proc.Readlink(at + "/ns/mnt")
	if in.ns = process.NamespaceID(link); in.ns == 0 {
		// The mounts of others everybody may see.
		if in.err = err; !process.Gone(err) {
			in.table, in.err = v.proc.ReadFile(at + "/mountinfo")
		}
	}
	return in
}

// inhabited finds the namespaces of all processes.
func (v *Views) inhabited(ctx context.Context, own *space) error {
	top, err := v.proc.Dir(".")
	if err != nil {
		return err
	}
	pids, err := top.Numbers(nil)
	top.Close()
	if err != nil {
		return err
	}
	pids = slices.DeleteFunc(pids, func(pid int) bool { return pid == v.proc.Self() })
	byID := map[uint64]*space{own.ID: own}
	byMount := map[string]*space{} // of namespaces whose number we may not see
	denied := 0
	silent, err := process.Each(ctx, pids, patience, v.read, func(pid int, in inhabitant) error {
		s := byID[in.ns]
		switch {
		case process.Gone(in.err), in.err == nil && in.st.PID == 0, errors.Is(in.err, syscall.EINVAL): // EINVAL: it is about to end and has no namespace any more
			return nil
		case fatal(in.err):
			return in.err
		case in.err != nil:
			denied++
			return nil
		case in.ns == 0:
			if s = v.byTable(byMount, own, in.table); s == nil {
				denied++
				return nil
			}
		case s == nil:
			s = &space{Namespace: Namespace{ID: in.ns}, fd: -1}
			byID[in.ns] = s
			v.spaces = append(v.spaces, s)
		}
		if s.Count++; len(s.Processes) < maxProcesses {
			s.Processes = append(s.Processes, process.Process{PID: in.st.PID, Comm: in.st.Comm})
		}
		v.through(s, in.st)
		return nil
	})
	if err != nil {
		return err
	}
	if err := v.tables(ctx); err != nil {
		return err
	}
	if denied > 0 {
		v.Incomplete = append(v.Incomplete, fmt.Sprintf("the mount namespaces of %d processes of other users cannot be seen", denied))
	}
	if len(silent) > 0 {
		v.Incomplete = append(v.Incomplete, fmt.Sprintf("%d processes do not answer, the first is process %d", len(silent), silent[0]))
	}
	return nil
}

// through notes a process as the one to look through, if there is no better one.
func (v *Views) through(s *space, st process.Stat) {
	if s.Own || s.via.PID != 0 && s.Root == "" {
		return
	}
	// Through one that was locked into a part of it not all of its mounts show.
	root, err := v.proc.Readlink(v.proc.Lively(st) + "/root")
	if root == "/" || err != nil {
		root = ""
	}
	if s.via.PID == 0 || root == "" {
		s.via, s.Root = st, root
	}
}

// byTable finds the namespace of a process that does not let us see its number by
// its mounts: the id of a mount is of one namespace.
func (v *Views) byTable(known map[string]*space, own *space, text []byte) *space {
	first, _, _ := strings.Cut(string(text), " ")
	if id, err := strconv.Atoi(first); err == nil && slices.ContainsFunc(own.table, func(m linux.MountStatus) bool { return m.ID == id }) {
		return own
	}
	if s := known[first]; s != nil {
		return s
	}
	table, err := parse(text)
	if err != nil || len(table) == 0 || !v.room(len(table)) {
		return nil
	}
	s := &space{fd: -1}
	s.set(table)
	known[first] = s
	v.spaces = append(v.spaces, s)
	return s
}

// tables reads the mounts of every namespace that has a process. Those that ended
// with their last process are left out.
func (v *Views) tables(ctx context.Context) error {
	type result struct {
		text []byte
		err  error
	}
	var read []*space
	unread := 0
	for _, s := range v.spaces {
		if s.table == nil {
			read = append(read, s)
		}
	}
	silent, err := process.Each(ctx, read, patience, func(s *space) (a result) {
		a.text, a.err = v.proc.ReadFile(v.proc.Lively(s.via) + "/mountinfo")
		return a
	}, func(s *space, a result) error {
		table, err := parse(a.text)
		switch {
		case fatal(a.err):
			return a.err
		case process.Gone(a.err) || errors.Is(a.err, syscall.EINVAL): // with its last process, or so it seems
		case a.err != nil || err != nil || !v.room(len(table)):
			unread++
		default:
			s.set(table)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if unread > 0 {
		v.Incomplete = append(v.Incomplete, fmt.Sprintf("the mounts of %d mount namespaces were not read, or are too many", unread))
	}
	if len(silent) > 0 {
		v.Incomplete = append(v.Incomplete, fmt.Sprintf("the mounts of %d mount namespaces cannot be read, as process %d and others do not answer", len(silent), silent[0].via.PID))
	}
	v.spaces = slices.DeleteFunc(v.spaces, func(s *space) bool { return s.table == nil })
	parts := 0
	for _, s := range v.spaces {
		if s.Root != "" {
			parts++
		}
	}
	if parts > 0 {
		v.Incomplete = append(v.Incomplete, fmt.Sprintf("of %d mount namespaces only the part is seen that their processes are locked into (chroot)", parts))
	}
	return nil
}

// maxMounts bounds how many mounts of other namespaces are kept in memory, some 250
// bytes each: any user can make namespaces with 100,000 mounts.
const maxMounts = 200_000

// room reports whether that many more are kept.
func (v *Views) room(n int) bool {
	if v.mountsKept+n > maxMounts {
		return false
	}
	v.mountsKept += n
	return true
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
