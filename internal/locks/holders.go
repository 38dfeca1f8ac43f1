package locks

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// Holder is a process that holds a lock.
type Holder struct {
	process.Process
	// FD is its descriptor of the locked open file, -1 where only /proc/locks
	// names the process, which then took the lock and may have passed it on.
	FD   int
	Lock Lock
}

// Waiter is a process that waits for a lock. PID is -1 for an OFD lock.
type Waiter struct {
	process.Process
	Lock Lock
}

// Report is who uses the locks of one file.
type Report struct {
	Holders []Holder // by process, then descriptor; one that has two of the description is there twice
	// Waiters are in the order of /proc/locks. The kernel counts its entries anew for
	// each read(2): where another lock came meanwhile, one is there twice.
	Waiters []Waiter
	// Unseen are locks that are held by nobody whom we can see.
	Unseen []Lock
	// Incomplete says why holders may be missing.
	Incomplete []string
}

// Free reports whether it is proven that nobody held a lock on the file.
func (r *Report) Free() bool {
	return len(r.Holders) == 0 && len(r.Unseen) == 0 && len(r.Incomplete) == 0
}

// maxReasons bounds Incomplete.
const maxReasons = 16

func (r *Report) incomplete(format string, args ...any) {
	if len(r.Incomplete) < maxReasons {
		r.Incomplete = append(r.Incomplete, fmt.Sprintf(format, args...))
	}
}

// Of reports on the file that is open as fd, which may be an O_PATH descriptor.
// The caller's own locks are in it too.
func Of(ctx context.Context, p *process.Proc, fd int) (*Report, error) {
	s := search{proc: p, report: new(Report), comms: map[int]string{}}
	var st syscall.Stat_t
	if err := linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st); err != nil {
		return nil, err
	}
	s.dev, s.ino = uint64(st.Dev), st.Ino
	table, err := s.table(fd)
	if err != nil {
		return nil, err
	}
	if err := s.processes(ctx); err != nil {
		return nil, err
	}
	if !p.Initial() {
		s.report.incomplete("processes outside of this PID namespace cannot be seen")
	}
	if why := p.Hidden(); why != "" {
		s.report.incomplete("%s", why)
	}
	s.rest(table)
	return s.report, nil
}

type search struct {
	proc     *process.Proc
	dev, ino uint64 // as stat(2) gives them
	report   *Report
	comms    map[int]string
}

// table is the lines of /proc/locks that are about the file fd.
func (s *search) table(fd int) ([]Lock, error) {
	info, err := s.proc.FDInfo("self", fd)
	if err != nil {
		return nil, err
	}
	text, err := s.proc.MountInfo(false)
	if err != nil {
		return nil, err
	}
	all, err := mounts.ParseText(text)
	if err != nil {
		return nil, err
	}
	m := mounts.ByID(all, info.MountID)
	if m == nil {
		s.report.incomplete("the file's mount (id %d) is not in our mount table, so /proc/locks cannot be searched", info.MountID)
		return nil, nil
	}
	ino := info.Ino
	if ino == 0 {
		ino = s.ino
	}
	locks, err := s.proc.ReadFile("locks")
	if err != nil {
		s.report.incomplete("/proc/locks cannot be read: %v", err)
		return nil, nil
	}
	var list []Lock
	for line := range strings.Lines(string(locks)) {
		l, err := Parse(line)
		if err != nil {
			s.report.incomplete("/proc/locks has a line that we do not know: %v", err)
			continue
		}
		if l.Major == m.Major && l.Minor == m.Minor && l.Ino == ino {
			list = append(list, l)
		}
	}
	return list, nil
}

// processes finds who has the file open with a lock.
func (s *search) processes(ctx context.Context) error {
	list, err := s.proc.Processes()
	if err != nil {
		return err
	}
	for _, st := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.comms[st.PID] = st.Comm
		if !st.Kernel() && st.State != 'X' && st.State != 'x' {
			s.process(process.Process{PID: st.PID, Comm: st.Comm}, s.proc.Lively(st))
		}
	}
	return nil
}

// process looks at the descriptors of who, whose directory in the procfs is at.
func (s *search) process(who process.Process, at string) {
	names, err := s.proc.Names(at + "/fd")
	if err != nil {
		if !process.Gone(err) {
			s.report.incomplete("cannot see the descriptors of process %d (%s): %v", who.PID, who.Comm, err)
		}
		return
	}
	for _, name := range names {
		dev, ino, err := s.proc.Inode(at + "/fd/" + name)
		if err != nil || dev != s.dev || ino != s.ino {
			continue // gone, or a file system that does not answer and so is not ours, which did
		}
		fd, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		info, err := s.proc.FDInfo(at, fd)
		if err != nil {
			if !process.Gone(err) {
				s.report.incomplete("cannot see descriptor %d of process %d (%s): %v", fd, who.PID, who.Comm, err)
			}
			continue
		}
		for _, line := range info.Locks {
			if l, err := Parse(line); err != nil {
				s.report.incomplete("fdinfo of process %d has a line that we do not know: %v", who.PID, err)
			} else if !l.Waiting {
				s.report.Holders = append(s.report.Holders, Holder{who, fd, l})
			}
		}
	}
}

// rest sorts what only /proc/locks has.
func (s *search) rest(table []Lock) {
	for _, l := range table {
		switch comm, alive := s.comms[l.PID]; {
		case l.Waiting:
			s.report.Waiters = append(s.report.Waiters, Waiter{process.Process{PID: l.PID, Comm: comm}, l})
		case s.seen(l):
		case alive:
			s.report.Holders = append(s.report.Holders, Holder{process.Process{PID: l.PID, Comm: comm}, -1, l})
		default:
			s.report.Unseen = append(s.report.Unseen, l)
		}
	}
}

// seen reports whether fdinfo had the lock.
func (s *search) seen(l Lock) bool {
	for _, h := range s.report.Holders {
		if h.FD >= 0 && h.Lock == l {
			return true
		}
	}
	return false
}
