package locks

import (
	"errors"
	"io/fs"
	"math"
	"slices"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
)

// request is a thread that sleeps for a lock, as its system call says. Of fcntl(2)
// the bytes and the mode are in the memory of the process, which is not looked at:
// who maps a file there that does not answer (FUSE) would have us wait for it, in a
// state in which nothing kills us.
type request struct {
	pid, tid, fd int
	kind         string
	exclusive    bool // of flock(2) alone
	file         File
	// among are the waiting locks that it can be, where they differ.
	among []Lock
}

// requestOf reads what a sleeping thread waits for, if it is a lock. The number of
// a system call is that of our own architecture; for a 32-bit process on a 64-bit
// machine the numbers are others, and then nothing is found.
func requestOf(pid int, t *process.Syscall) (request, bool) {
	r := request{pid: pid, fd: int(int32(t.Args[0]))}
	if !t.Asleep || r.fd < 0 {
		return r, false
	}
	switch {
	case t.Number == syscall.SYS_FLOCK:
		op := int(t.Args[1])
		r.kind, r.exclusive = Flock, op&linux.LOCK_EX != 0
		return r, op&linux.LOCK_NB == 0 && op&(linux.LOCK_EX|linux.LOCK_SH) != 0
	case t.Number == syscall.SYS_FCNTL && t.Args[1] == linux.F_OFD_SETLKW:
		r.kind = OFD
	case t.Number == syscall.SYS_FCNTL && t.Args[1] == linux.F_SETLKW:
		r.kind = POSIX
	default:
		return r, false
	}
	return r, true
}

// fits reports whether a waiting lock may be what the thread asked for.
func (r *request) fits(l *Lock) bool {
	return r.kind == l.Kind && r.file == l.File() && (l.PID <= 0 || l.PID == r.pid) &&
		(r.kind != Flock || r.exclusive == l.Exclusive)
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
		type said struct {
			list []request
			err  error
		}
		got, ok := answer(func() (x said) { x.list, x.err = requests(s.proc, pid); return x })
		if !ok {
			got.err = errNoAnswer
		}
		if got.err != nil {
			s.why.add(reason{text: "what the threads wait for of", cause: cause(got.err)}, whoIs(s.name(pid)))
		}
		for _, r := range got.list {
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
			for j := range w.Among {
				w.Among[j] = s.name(w.Among[j].PID)
			}
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
		if r, ok := requestOf(pid, &call); ok {
			r.tid = tid
			list = append(list, r)
		}
	}
	return list, failed
}

// assign gives the waiters their threads and returns the requests that are left.
// One that may be either of several gets them all to choose from.
func (t *Table) assign() (left []request) {
	waiters := map[File][]*Waiter{}
	for i := range t.Locks {
		for k := range t.Locks[i].Waiters {
			file := t.Locks[i].File()
			waiters[file] = append(waiters[file], &t.Locks[i].Waiters[k])
		}
	}
	for i := range t.requests {
		r := &t.requests[i]
		var fit *Waiter
		for _, w := range waiters[r.file] {
			switch {
			case w.TID != 0 || !r.fits(&w.Lock):
			case fit == nil:
				fit = w
				r.among = append(r.among, w.Lock)
			case !slices.Contains(r.among, w.Lock):
				r.among = append(r.among, w.Lock)
			}
		}
		switch {
		case fit == nil:
			left = append(left, *r)
		case len(r.among) == 1:
			fit.PID, fit.TID, fit.FD, r.among = r.pid, r.tid, r.fd, nil
		}
	}
	for i := range t.requests {
		for _, w := range waiters[t.requests[i].file] {
			if r := &t.requests[i]; w.TID == 0 && slices.Contains(r.among, w.Lock) {
				w.Among = append(w.Among, process.Process{PID: r.pid})
			}
		}
	}
	return left
}

// waitOutside is for a PID namespace below the machine's: a lock that is held
// outside of it is not in /proc/locks, nor is who waits for it. That a thread
// sleeps tells of both.
func (s *scan) waitOutside(t *Table, left []request) {
	for _, r := range left {
		l := Lock{Kind: r.kind, Exclusive: r.exclusive, Waiting: true, PID: r.pid, End: math.MaxInt64,
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
		t.Locks[i].Waiters = append(t.Locks[i].Waiters, Waiter{Process: s.name(r.pid), Lock: l, TID: r.tid, FD: r.fd})
	}
}
