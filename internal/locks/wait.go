package locks

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"math"
	"slices"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
)

// request is a thread that sleeps for a lock, as its system call says.
type request struct {
	pid, tid, fd int
	kind         string
	exclusive    bool
	// start and end are the bytes, of fcntl(2) where ranged says that they are known:
	// they are in the memory of the process.
	ranged     bool
	start, end int64
	file       File
}

// requestOf reads what a sleeping thread waits for, if it is a lock. The number of
// a system call is that of our own architecture; for a 32-bit process on a 64-bit
// machine the numbers are others, and then nothing is found.
func requestOf(p *process.Proc, pid int, t *process.Syscall) (request, bool) {
	r := request{pid: pid, fd: int(int32(t.Args[0])), end: math.MaxInt64}
	if !t.Asleep || r.fd < 0 {
		return r, false
	}
	switch t.Number {
	case syscall.SYS_FLOCK:
		op := int(t.Args[1])
		r.kind, r.exclusive, r.ranged = Flock, op&linux.LOCK_EX != 0, true
		return r, op&linux.LOCK_NB == 0 && op&(linux.LOCK_EX|linux.LOCK_SH) != 0
	case syscall.SYS_FCNTL:
		switch t.Args[1] {
		case linux.F_OFD_SETLKW:
			r.kind = OFD
		case linux.F_SETLKW:
			r.kind = POSIX
		default:
			return r, false
		}
		r.readFlock(p, t.Args[2])
		return r, true
	}
	return r, false
}

// readFlock reads struct flock of fcntl(2) from the memory of the process. Where
// that is not allowed, or the bytes count from elsewhere than the beginning of the
// file, they stay unknown.
func (r *request) readFlock(p *process.Proc, address uint64) {
	var b [24]byte // l_type 2, l_whence 2, a hole of 4, l_start 8, l_len 8
	if p.Peek(r.pid, address, b[:]) != nil {
		return
	}
	whence := int16(binary.NativeEndian.Uint16(b[2:]))
	r.exclusive = int16(binary.NativeEndian.Uint16(b[0:])) == linux.F_WRLCK
	r.start = int64(binary.NativeEndian.Uint64(b[8:]))
	length := int64(binary.NativeEndian.Uint64(b[16:]))
	switch {
	case whence != 0 || r.start < 0: // SEEK_SET
		return
	case length > 0:
		r.end = r.start + length - 1
	case length < 0:
		r.start, r.end = r.start+length, r.start-1
	}
	r.ranged = r.start >= 0 && r.end >= r.start
}

// fits reports whether a waiting lock may be what the thread asked for.
func (r *request) fits(l *Lock) bool {
	if r.kind != l.Kind || r.file != l.File() || l.PID > 0 && l.PID != r.pid {
		return false
	}
	return !r.ranged || r.exclusive == l.Exclusive && r.start == l.Start && r.end == l.End
}

// waiters finds the processes and threads of those who wait.
func (s *scan) waiters(t *Table) {
	files := map[File]bool{} // that somebody waits for
	named := map[int]bool{}  // processes that /proc/locks says wait
	byFD := false            // somebody waits whom it does not name
	for i := range t.Locks {
		for _, w := range t.Locks[i].Waiters {
			files[w.Lock.File()] = true
			named[w.PID] = true
			byFD = byFD || w.PID <= 0
		}
	}
	if len(files) == 0 && !s.all {
		return
	}
	open := map[[2]int]File{}
	suspects := map[int]bool{}
	var order []int
	for i := range s.found {
		x := &s.found[i]
		file := s.fileOf(x)
		if !files[file] && !s.all {
			continue
		}
		open[[2]int{x.pid, x.fd}] = file
		if (named[x.pid] || byFD || s.all) && !suspects[x.pid] {
			suspects[x.pid] = true
			order = append(order, x.pid)
		}
	}
	for _, pid := range order {
		list, err := requests(s.proc, pid)
		if err != nil {
			s.why.add(reason{text: "what the threads wait for of", cause: cause(err)}, whoIs(s.name(pid)))
		}
		for _, r := range list {
			var ok bool
			if r.file, ok = open[[2]int{r.pid, r.fd}]; ok && s.options.Files(r.file) {
				t.requests = append(t.requests, r)
			}
		}
	}
	left := t.assign()
	for i := range t.Locks {
		for k := range t.Locks[i].Waiters {
			w := &t.Locks[i].Waiters[k]
			w.Process = s.name(w.PID)
		}
	}
	if s.all {
		s.waitOutside(t, left)
	}
}

// requests are the threads of a process that sleep for a lock. The error is the
// first about a thread that could not be asked.
func requests(p *process.Proc, pid int) (list []request, failed error) {
	tids, err := p.Threads(pid)
	if err != nil && !process.Gone(err) {
		failed = err
	}
	for _, tid := range tids {
		call, err := p.Syscall(pid, tid)
		if err != nil {
			if failed == nil && !process.Gone(err) {
				failed = err
			}
			if errors.Is(err, fs.ErrPermission) {
				break // the same answer for all threads
			}
			continue
		}
		if r, ok := requestOf(p, pid, &call); ok {
			r.tid = tid
			list = append(list, r)
		}
	}
	return list, failed
}

// assign gives the waiters their threads and returns the requests that are left.
// One whose bytes are not known goes to a waiter if it can be no other.
func (t *Table) assign() (left []request) {
	slices.SortStableFunc(t.requests, func(a, b request) int {
		if a.ranged == b.ranged {
			return 0
		} else if a.ranged {
			return -1
		}
		return 1
	})
	for _, r := range t.requests {
		if !t.give(&r) {
			left = append(left, r)
		}
	}
	return left
}

func (t *Table) give(r *request) bool {
	var fit *Waiter
	for i := range t.Locks {
		if t.Locks[i].File() != r.file {
			continue
		}
		for k := range t.Locks[i].Waiters {
			switch w := &t.Locks[i].Waiters[k]; {
			case w.TID != 0 || !r.fits(&w.Lock):
			case fit == nil:
				fit = w
			case fit.Lock != w.Lock:
				return false // it could be either
			}
		}
	}
	if fit != nil {
		fit.PID, fit.TID, fit.FD = r.pid, r.tid, r.fd
	}
	return fit != nil
}

// waitOutside is for a PID namespace below the machine's: a lock that is held
// outside of it is not in /proc/locks, nor is who waits for it. That a thread
// sleeps tells of both.
func (s *scan) waitOutside(t *Table, left []request) {
	for _, r := range left {
		l := Lock{Kind: r.kind, Exclusive: r.exclusive, Waiting: true, PID: r.pid, Start: r.start, End: r.end,
			Major: r.file.Major, Minor: r.file.Minor, Ino: r.file.Ino}
		i := slices.IndexFunc(t.Locks, func(h Held) bool {
			return h.Conflicts(&l) || h.File() == r.file && h.Kind == r.kind && h.PID == 0 && h.Where == Outside
		})
		if i < 0 {
			held := l
			held.Waiting, held.Exclusive, held.PID = false, true, 0
			i = len(t.Locks)
			t.Locks = append(t.Locks, Held{Lock: held, Where: Outside})
		}
		t.Locks[i].Waiters = append(t.Locks[i].Waiters, Waiter{s.name(r.pid), l, r.tid, r.fd})
	}
}
