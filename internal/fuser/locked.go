package fuser

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/locks"
	"github.com/slashrun/slashrun/internal/process"
)

// locks adds the locks that no descriptor showed: those of processes whose
// descriptors we may not see, and of nobody whom we see.
func (s *scan) locks() {
	text, err := s.proc.ReadFile("locks")
	if errors.Is(err, fs.ErrNotExist) {
		return // a kernel without file locks
	}
	if err != nil {
		s.unseen.locks = fmt.Sprintf("/proc/locks cannot be read: %v", err)
		return
	}
	for line := range strings.Lines(string(text)) {
		l, err := locks.Parse(line)
		if err != nil {
			s.unseen.locks = fmt.Sprintf("/proc/locks has a line that we do not know: %v", err)
			continue
		}
		if l.Waiting {
			continue
		}
		for _, id := range s.inodes(linux.Makedev(l.Major, l.Minor), l.Ino) {
			if s.shown(id, l) {
				continue
			}
			st, alive := s.comms[l.PID]
			if st.PID == s.proc.Self() && alive && !s.opts.Self {
				continue
			}
			u := Use{How: Locked, FD: -1, Lock: &l}
			if alive && !st.Dead() {
				u.Process, u.Start = process.Process{PID: st.PID, Comm: st.Comm}, st.Start
			}
			s.add(entry{Node{ID: id, Mode: syscall.S_IFREG}, u})
		}
	}
}

// inodes are those asked about that the kernel's own numbers may mean.
func (s *scan) inodes(super, number uint64) (list []ID) {
	for id, o := range s.index.objects {
		if o.Super == super && (o.Number == number || o.Number == 0 && o.Ino == number) {
			return []ID{id}
		}
	}
	for i := range s.devices {
		if d := &s.devices[i]; d.Super == super && s.wants(d.Stat, number) {
			id := ID{d.Stat, number}
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
