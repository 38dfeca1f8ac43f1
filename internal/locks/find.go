package locks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/slashrun/slashrun/internal/process"
)

// sighting is a descriptor of a file that matters.
type sighting struct {
	pid, fd int
	node    node
	info    process.FDInfo
	locks   []Lock // of its open file description
}

// node is the identity of a file as stat(2) gives it.
type node struct{ dev, ino uint64 }

// finder looks at the descriptors of all processes.
type finder struct {
	proc *process.Proc
	// worth decides by what stat(2) gives whether fdinfo is read, which takes three
	// system calls to stat's one.
	worth func(process.Inode) bool
	// keep decides whether what was read matters. It may be nil: all does.
	keep func(*sighting) bool
	// pathOf decides whether the path of a descriptor is wanted; nil is never.
	pathOf func(*sighting) bool
	path   func(*sighting, string) // takes it

	found []sighting
	// looked has the processes that were listed: whether their descriptors could be
	// read.
	looked map[int]bool
	stats  map[int]process.Stat // of those that were sighted, or refused to be
	why    reasons
	fds    []int // reused, as buf
	buf    []byte

	lines, parsed int      // of locks: in fdinfo of this process; of all, kept
	last          []string // lock lines of the descriptor before
	lastParsed    []Lock
}

// maxRounds bounds how often the processes are listed until nobody is new.
const maxRounds = 8

// processes looks at every process. One that is forked meanwhile, by one that was
// looked at and has ended since, is in a later list.
func (f *finder) processes(ctx context.Context) error {
	if f.looked == nil {
		f.looked, f.stats = map[int]bool{}, map[int]process.Stat{}
	}
	var pids []int
	for range maxRounds {
		top, err := f.proc.Dir(".")
		if err == nil {
			pids, err = top.Numbers(pids[:0])
			top.Close()
		}
		if err != nil {
			return fmt.Errorf("the processes cannot be listed: %w", err)
		}
		fresh := false
		for _, pid := range pids {
			if _, known := f.looked[pid]; known {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			fresh = true
			if f.looked[pid], err = f.process(pid, strconv.Itoa(pid)); err != nil {
				return err
			}
		}
		if !fresh {
			return nil
		}
	}
	f.why.add(reason{text: "processes come and go faster than they can be listed", loose: true}, "")
	return nil
}

// process looks at one process and reports whether it could be seen. An error is
// about ourselves.
func (f *finder) process(pid int, at string) (seen bool, err error) {
	err = f.descriptors(pid, at)
	if err == nil && len(f.fds) > 0 {
		return true, nil
	}
	if process.Gone(err) {
		return true, nil // what has ended holds nothing
	}
	if ours(err) {
		return false, err
	}
	// It has no descriptors that we see: a thread of the kernel, one that must not
	// be looked at, or one whose first thread has ended. Its stat tells.
	st, err2 := f.stat(pid)
	if err2 != nil || st.Kernel() || st.Dead() {
		return true, nil
	}
	if lively := f.proc.Lively(st); lively != at {
		err = f.descriptors(pid, lively)
	}
	if err == nil || process.Gone(err) {
		return true, nil
	}
	if ours(err) {
		return false, err
	}
	f.why.add(reason{text: "the descriptors of", cause: cause(err)}, whoIs(process.Process{PID: st.PID, Comm: st.Comm}))
	return false, nil
}

// ours reports whether an error is about us and not about whom we look at.
func ours(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// descriptors looks at the descriptors of a process, whose directory in the procfs
// is at.
func (f *finder) descriptors(pid int, at string) error {
	f.fds = f.fds[:0]
	top, err := f.proc.Dir(at)
	if err != nil {
		return err
	}
	defer top.Close()
	d, err := top.Dir("fd")
	if err != nil {
		return err
	}
	defer d.Close()
	if f.fds, err = d.Numbers(f.fds); err != nil {
		return err
	}
	f.lines = 0
	for _, fd := range f.fds {
		if err := f.descriptor(top, d, pid, fd); err != nil && !process.Gone(err) {
			return err
		}
	}
	return nil
}

// descriptor looks at one. An error is about all of the process.
func (f *finder) descriptor(top, d *process.Dir, pid, fd int) error {
	name := strconv.Itoa(fd)
	inode, err := d.Inode(name)
	switch {
	case process.Gone(err):
		return nil
	case err != nil:
		// Some file systems refuse to say (FUSE of another user). But whoever may list
		// the descriptors (CAP_DAC_OVERRIDE) need not be allowed to look into a process
		// that is privileged further: then every one is refused.
		if _, err := d.Readlink(name); err != nil {
			return err
		}
	case !f.worth(inode):
		return nil
	}
	if f.tooMany(pid) {
		return nil
	}
	s := sighting{pid: pid, fd: fd, node: node{inode.Dev, inode.Ino}}
	if s.info, f.buf, err = top.FDInfo(name, f.buf); err != nil {
		return err
	}
	f.parse(&s)
	if f.keep != nil && !f.keep(&s) {
		return nil
	}
	if f.pathOf != nil && f.pathOf(&s) {
		if path, err := d.Readlink(name); err == nil {
			f.path(&s, path)
		}
	}
	f.found = append(f.found, s)
	if _, known := f.stats[pid]; !known {
		// Cheaper here than later. In the directory of a thread it would be the thread's.
		if f.buf, err = top.Record("stat", f.buf); err == nil {
			if st, err := process.ParseStat(f.buf); err == nil && st.PID == pid {
				f.stats[pid] = st
			}
		}
	}
	return nil
}

// Who may have many locks (RLIMIT_NOFILE open files, each with any number of bytes
// locked) must not make us use all memory. A process of which more is seen is left,
// and that is told.
const (
	maxLines  = 1 << 17 // of locks in fdinfo, for each process
	maxParsed = 1 << 20 // locks that are kept, of all
)

// parse reads the lock lines of a sighting. Those of a descriptor that is a dup(2) of
// the one before are the same.
func (f *finder) parse(s *sighting) {
	lines := s.info.Locks
	s.info.Locks = nil
	if len(lines) == 0 {
		return
	}
	if f.lines += len(lines); slices.Equal(lines, f.last) {
		s.locks = f.lastParsed
		return
	}
	s.locks = make([]Lock, 0, len(lines))
	for _, line := range lines {
		if l, err := Parse(line); err != nil {
			f.why.add(reason{text: "fdinfo has a line that we do not know: " + err.Error(), loose: true}, "")
		} else if !l.Waiting {
			s.locks = append(s.locks, l)
		}
	}
	f.parsed += len(s.locks)
	f.last, f.lastParsed = lines, s.locks
}

// tooMany reports whether no more is to be read of this process.
func (f *finder) tooMany(pid int) bool {
	if f.lines < maxLines && f.parsed < maxParsed {
		return false
	}
	f.why.add(reason{text: "so many locks that not all descriptors were looked at: those of", cause: "it would take too much memory", loose: true}, whoIs(f.name(pid)))
	return true
}

// stat reads the stat line of a process, once.
func (f *finder) stat(pid int) (process.Stat, error) {
	if st, ok := f.stats[pid]; ok {
		return st, nil
	}
	b, err := f.proc.ReadRecord(strconv.Itoa(pid)+"/stat", make([]byte, 0, 512))
	if err != nil {
		return process.Stat{}, err
	}
	st, err := process.ParseStat(b)
	if err == nil {
		f.stats[pid] = st
	}
	return st, err
}

// name is the process with this number; it has no name if it is gone.
func (f *finder) name(pid int) process.Process {
	st, _ := f.stat(pid)
	return process.Process{PID: pid, Comm: st.Comm}
}

// alive reports whether a process of our PID namespace has the number, and whether
// its descriptors could be read.
func (f *finder) alive(pid int) (alive, seen bool) {
	seen, listed := f.looked[pid]
	if pid <= 0 || !listed {
		return false, false
	}
	st, err := f.stat(pid)
	return err == nil && !st.Dead(), seen
}

// whoIs names a process in a sentence; a name that would draw on a terminal does not.
func whoIs(p process.Process) string {
	comm := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, p.Comm)
	return fmt.Sprintf("%d (%s)", p.PID, comm)
}

// cause is an error without the path, which is another one for each process.
func cause(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	var no syscall.Errno
	if errors.As(err, &no) {
		return no.Error()
	}
	return err.Error()
}

// reason is why something was not seen: about processes, of which there are many
// ("the descriptors of", "permission denied"), or a sentence of its own.
type reason struct {
	text, cause string
	// loose says that anybody may be missing, not only those who are named.
	loose bool
}

// reasons counts them, so that a thousand processes are one line.
type reasons struct {
	order []reason
	about map[reason][]string // at most a few of each
	count map[reason]int
	loose bool // one of them is
}

// maxReasons bounds the lines, and examples the names in each.
const (
	maxReasons = 16
	examples   = 3
)

func (r *reasons) add(why reason, who string) {
	if r.count == nil {
		r.about, r.count = map[reason][]string{}, map[reason]int{}
	}
	r.loose = r.loose || why.loose
	if r.count[why]++; r.count[why] == 1 {
		r.order = append(r.order, why)
	}
	if who != "" && len(r.about[why]) < examples && !slices.Contains(r.about[why], who) {
		r.about[why] = append(r.about[why], who)
	}
}

// lines is one line for each reason.
func (r *reasons) lines() (list []string) {
	for _, why := range r.order {
		if len(list) == maxReasons {
			break
		}
		names, n := strings.Join(r.about[why], ", "), r.count[why]
		switch {
		case why.cause == "":
			list = append(list, why.text)
		case n == 1:
			list = append(list, fmt.Sprintf("%s process %s cannot be seen: %s", why.text, names, why.cause))
		case n > examples:
			list = append(list, fmt.Sprintf("%s %d processes cannot be seen, %s and others: %s", why.text, n, names, why.cause))
		default:
			list = append(list, fmt.Sprintf("%s %d processes cannot be seen, %s: %s", why.text, n, names, why.cause))
		}
	}
	return list
}
