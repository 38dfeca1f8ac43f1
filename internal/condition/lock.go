package condition

import (
	"bytes"
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

// lockTable is /proc/locks as a batch of looks sees it.
type lockTable struct {
	list []locks.Lock // of every read: what one of them had is not free
	text []byte
	// whole says that every read was of one moment; steady that a longer table did
	// not change over many reads.
	whole  bool
	steady bool
	err    error
}

const (
	// wholeReads is how many reads of one moment must lack a lock. (One is not
	// enough: the line of a lock with dozens behind it may be in a second read.)
	wholeReads = 3
	// steadyReads is how often a table of several pages must have the same text.
	// Somebody who takes and releases a lock at the head of the table can have one
	// read pass over the same line as the last, about every fourth time at best.
	steadyReads = 24
	mostReads   = 48
)

// read reads once more. A line that is not understood may be about any file, so it
// is an error.
func (t *lockTable) read(p *process.Proc) (same bool) {
	text, whole, err := p.Snapshot("locks")
	if err != nil {
		t.err = err
		return false
	}
	t.whole = t.whole && whole
	if t.text != nil && bytes.Equal(text, t.text) {
		return true
	}
	t.text = text
	for line := range strings.Lines(string(text)) {
		k, err := locks.Parse(line)
		if err != nil {
			t.err = fmt.Errorf("/proc/locks: %w", err)
			return false
		}
		t.list = append(t.list, k)
	}
	return false
}

// more reads until what is in no read can be called free, as far as this table alone
// can tell.
func (t *lockTable) more(p *process.Proc) {
	same := 1
	for reads := 1; reads < mostReads && t.err == nil; reads++ {
		if t.whole && reads >= wholeReads {
			return
		}
		if t.read(p) {
			same++
		} else {
			same = 1
		}
		if same >= steadyReads {
			t.steady = true
			return
		}
	}
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
	t := l.shared.locks(l.proc, false)
	if l.inTable(t, s, ino) {
		return
	}
	if t = l.shared.locks(l.proc, true); l.inTable(t, s, ino) {
		return
	}
	switch {
	case !l.proc.Initial():
		l.unlockedInside(path, s)
	case t.whole:
		l.found(true, poll, "nobody holds it")
	default:
		l.unlockedLong(t, s)
	}
}

// inTable reports whether the table answers the question: somebody holds the lock, or
// it cannot be read.
func (l *look) inTable(t *lockTable, s *sight, ino uint64) bool {
	if t.err != nil {
		l.found(false, poll, "locks cannot be seen: %v", t.err)
		return true
	}
	waiting := 0
	var held *locks.Lock
	for i := range t.list {
		k := &t.list[i]
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
	default:
		return false
	}
	return true
}

// unlockedLong is for a table of several pages, whose reads may have passed over a
// lock: then nobody must have a descriptor with it either, and where not all
// descriptors can be looked at the table must not change.
func (l *look) unlockedLong(t *lockTable, s *sight) {
	r, err := locks.Of(context.Background(), l.proc, s.fd)
	switch {
	case err != nil:
		l.found(false, poll, "locks cannot be seen: %v", err)
	case len(r.Holders) > 0:
		l.found(false, poll, "held by process %d (%s)", r.Holders[0].PID, r.Holders[0].Comm)
	case len(r.Unseen) > 0:
		l.found(false, poll, "held by somebody")
	case r.Free() || t.steady:
		l.found(true, poll, "nobody holds it")
	default:
		l.found(false, poll, "it cannot be told now: there are so many locks that /proc/locks gives them in several parts, they come and go between these, and %s", strings.Join(r.Incomplete, "; "))
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
		// That processes outside are not seen does not matter here.
		for _, why := range r.Incomplete {
			if !strings.HasPrefix(why, "processes outside of this PID namespace") {
				l.found(false, poll, "whether somebody holds it cannot be told: %s", why)
				return
			}
		}
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
