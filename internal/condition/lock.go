package condition

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/locks"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/stale"
)

// readLocks reads /proc/locks. A line that is not understood may be about any
// file, so it is an error.
func readLocks(p *process.Proc) ([]locks.Lock, error) {
	text, err := p.ReadFile("locks")
	if err != nil {
		return nil, err
	}
	var list []locks.Lock
	for line := range strings.Lines(string(text)) {
		k, err := locks.Parse(line)
		if err != nil {
			return nil, fmt.Errorf("/proc/locks: %w", err)
		}
		list = append(list, k)
	}
	return list, nil
}

// lock looks whether the file at path is locked, by whatever kind of lock but a
// lease, which is none. It is not opened, and no lock is tried: that would make
// another one fail who tries right then.
func (l *look) lock(path string) {
	s := l.walk(path, true, 0)
	defer s.close()
	switch {
	case s.fd < 0 && s.absent:
		l.found(true, told, "%s, so nobody holds it", s.why)
		return
	case s.fd < 0:
		l.found(false, told, "%s", s.why)
		return
	case l.proc == nil:
		l.impossible("%v", l.noProc)
		return
	case s.mount == nil:
		l.found(false, poll, "which file system it is on cannot be told, so its locks cannot be looked for")
		return
	case !mounts.Local(s.mount.FSType):
		l.impossible("it is on a %s, where another machine may hold a lock that is not seen here; take it to find out: slashrun lock", s.mount.FSType)
		return
	}
	// The lock goes after the last close of the file, or with LOCK_UN, of which
	// nothing tells: the event only makes the next look come sooner.
	const closed = linux.IN_CLOSE_WRITE | linux.IN_CLOSE_NOWRITE
	if wd, err := addWatch(l.inotify, s.fd, closed); err == nil {
		l.interest(interest{wd, "", closed})
	}
	l.unlocked(path, s)
}

func (l *look) impossible(format string, args ...any) {
	l.found(false, told, format, args...)
	l.f.never = true
}

// unlocked looks for a lock on what s holds.
func (l *look) unlocked(path string, s *sight) {
	ino := s.st.Ino
	if info, err := l.proc.FDInfo("self", s.fd); err == nil && info.Ino != 0 {
		ino = info.Ino
	}
	list, err := l.shared.locks(l.proc)
	if err != nil {
		l.found(false, poll, "locks cannot be seen: %v", err)
		return
	}
	waiting := 0
	var held *locks.Lock
	for i := range list {
		k := &list[i]
		switch {
		case k.Major != s.mount.Major || k.Minor != s.mount.Minor || k.Ino != ino || notALock(k.Kind):
		case k.Waiting:
			waiting++
		case held == nil:
			held = k
		}
	}
	switch {
	case held != nil && held.Kind == locks.OFD:
		l.found(false, poll, "held (%s); %s", held.Kind, queue(waiting))
	case held != nil:
		l.found(false, poll, "held by %s (%s); %s", l.comm(held.PID), held.Kind, queue(waiting))
	case waiting > 0: // one who waits is only there behind one who holds
		l.found(false, poll, "held by somebody; %s", queue(waiting))
	case l.proc.Initial():
		l.found(true, poll, "nobody holds it")
	default:
		l.unlockedInside(path, s)
	}
}

func queue(waiting int) string {
	if waiting == 0 {
		return "nobody waits for it"
	}
	return fmt.Sprintf("%d wait for it", waiting)
}

// notALock reports the kinds of /proc/locks that only announce accesses.
func notALock(kind string) bool { return kind == locks.Lease || kind == "DELEG" || kind == "LAYOUT" }

// unlockedInside is for a PID namespace below the machine's, where /proc/locks
// leaves out the locks of everybody outside, and those whose taker has ended.
func (l *look) unlockedInside(path string, s *sight) {
	ours, why, err := l.ours(s)
	switch {
	case err != nil:
		l.found(false, poll, "who may use %s cannot be told: %v", path, err)
		return
	case !ours:
		l.impossible("whether it is locked cannot be seen from inside of a container: %s; take it to find out: slashrun lock", why)
		return
	}
	r, err := locks.Of(context.Background(), l.proc, s.fd)
	switch {
	case err != nil:
		l.found(false, poll, "locks cannot be seen: %v", err)
	case len(r.Holders) > 0:
		l.found(false, poll, "held by process %d (%s)", r.Holders[0].PID, r.Holders[0].Comm)
	case len(r.Unseen) > 0:
		l.found(false, poll, "held by somebody")
	default:
		l.found(true, poll, "nobody holds it")
	}
}

// ours reports whether only processes of this PID namespace use what s holds.
func (l *look) ours(s *sight) (bool, string, error) {
	at, err := l.proc.FdPath(s.fd)
	if err != nil {
		return false, "", err
	}
	dir, err := fsat.OpenDir(filepath.Dir(at))
	if err != nil {
		return false, "", err
	}
	defer dir.Close()
	j, err := stale.New(context.Background(), stale.Options{Proc: l.proc, Exclusive: l.o.Exclusive})
	if err != nil {
		return false, "", err
	}
	return j.Ours(context.Background(), dir, filepath.Base(at))
}
