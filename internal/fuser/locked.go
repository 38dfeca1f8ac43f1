package fuser

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/locks"
	"github.com/slashrun/slashrun/internal/process"
)

// locks adds the locks that no descriptor showed: those of processes whose
// descriptors we may not see, and of nobody whom we see.
func (s *scan) locks() error {
	held, why, err := locks.Read(s.proc, func(l *locks.Lock) bool { return len(s.inodes(l)) > 0 })
	switch {
	case errors.Is(err, fs.ErrNotExist): // a kernel without file locks
		return nil
	case ours(err):
		return err
	case err != nil:
		why = "/proc/locks cannot be read: " + err.Error()
	}
	s.unseen.locks = why
	for _, l := range held {
		for _, id := range s.inodes(&l) {
			st, alive := s.comms[l.PID]
			if s.shown(id, l) || alive && l.PID == s.proc.Self() && !s.opts.Self {
				continue
			}
			u := Use{How: Locked, FD: -1, Lock: &l}
			if alive && !st.Dead() {
				u.Process, u.Start = process.Process{PID: st.PID, Comm: st.Comm}, st.Start
			}
			s.add(entry{Node{ID: id, Mode: syscall.S_IFREG}, u})
		}
	}
	return nil
}

// inodes are those asked about that the lock may be of, by the kernel's own
// numbers.
func (s *scan) inodes(l *locks.Lock) (list []ID) {
	super := linux.Makedev(l.Major, l.Minor)
	for id, o := range s.index.objects {
		if o.Super == super && (o.Number == l.Ino || o.Number == 0 && o.Ino == l.Ino) {
			return []ID{id}
		}
	}
	for i := range s.devices {
		if d := &s.devices[i]; d.Super == super && s.wants(d.Stat, l.Ino) {
			id := ID{d.Stat, l.Ino}
			if s.index.nodes[id] != nil {
				return []ID{id}
			}
			list = append(list[:0], id)
		}
	}
	return list
}

// shown reports whether a descriptor showed the lock.
func (s *scan) shown(id ID, l locks.Lock) bool {
	for _, u := range s.index.uses[id] {
		if u.Lock != nil && *u.Lock == l {
			return true
		}
	}
	return false
}
