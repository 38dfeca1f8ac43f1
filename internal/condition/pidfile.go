package condition

import (
	"bytes"
	"errors"
	"io/fs"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/pidfile"
)

// unfinished is a PID file without a newline at its end, and since when it is as it
// is.
type unfinished struct {
	ino   uint64
	text  string
	since time.Time
}

// whole is how long a number without a newline must stay as it is to count: "12"
// may become "1234".
const whole = 250 * time.Millisecond

// unproven is the longest time between two looks at a file whose process cannot be
// told: they look at all processes.
const unproven = 4 * time.Second

// pidfile looks whether the process that a PID file names lives, and is proven to
// be that one.
func (l *look) pidfile(path string) {
	s := l.walk(path, false, 0)
	defer s.close()
	if s.fd < 0 {
		l.found(false, told, "%s", s.why)
		return
	}
	if s.st.Mode&syscall.S_IFMT == syscall.S_IFREG { // it is written in place
		const written = linux.IN_MODIFY | linux.IN_CLOSE_WRITE | linux.IN_ATTRIB
		wd, err := addWatch(l.inotify, s.fd, written)
		if err != nil {
			l.unwatched(path, err)
		} else {
			l.interest(interest{wd, "", written})
		}
	}
	s.close() // or we would be found to have it open
	st, err := pidfile.CheckExclusive(path, l.o.Exclusive...)
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		if errors.Is(err, syscall.ENOENT) { // and that it comes is an event
			l.found(false, settle, "%v", err)
		} else {
			l.found(false, poll, "%v", err)
		}
		return
	}
	switch {
	case st.Verdict == pidfile.Live && st.Proven:
		l.complete(path, st)
	case st.Verdict == pidfile.Live:
		l.found(false, poll, "%s, but that process is not proven to be the one that the file means", st.Why())
	case st.Verdict == pidfile.Unknown && st.PID > 0: // who else may write there changes without an event
		l.found(false, poll, "%s", st.Why())
		l.f.most = unproven
	default: // a dead process does not come back: the file has to change, which is an event
		l.found(false, told, "%s", st.Why())
	}
}

// complete is the end of a look at a file whose process lives.
func (l *look) complete(path string, st *pidfile.Status) {
	fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_RDONLY|linux.O_NONBLOCK|linux.O_NOCTTY|linux.O_NOFOLLOW, 0)
	if err != nil {
		l.found(false, settle, "%v", err)
		return
	}
	defer linux.Close(fd)
	var buf [4096]byte
	n, err := linux.Read(fd, buf[:])
	if err != nil {
		l.found(false, settle, "%v", err)
		return
	}
	if text := buf[:n]; bytes.IndexByte(text, '\n') < 0 {
		now := time.Now()
		var in syscall.Stat_t
		if err := linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &in); err != nil {
			l.found(false, settle, "%v", err)
			return
		}
		if u := &l.c.unfinished; u.ino != in.Ino || u.text != string(text) {
			*u = unfinished{in.Ino, string(text), now}
		}
		if now.Sub(l.c.unfinished.since) < whole {
			l.found(false, poll, "its number may not be complete yet: there is no newline behind it")
			return
		}
	}
	l.found(true, told, "%s", st.Why())
	if st.Here > 0 && l.proc != nil {
		if id, err := l.proc.Ident(st.Here); err == nil && id.Held() {
			// The loop waits for its end beside everything else.
			if l.f.pidfd, err = linux.Dup(id.Pidfd()); err != nil {
				l.f.pidfd = -1
			}
			id.Close()
		}
	}
	if l.f.pidfd < 0 {
		l.f.pace = poll
	}
}
