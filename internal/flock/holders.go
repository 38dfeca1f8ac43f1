package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/locks"
	"github.com/slashrun/slashrun/internal/process"
)

// Holder is a process that holds the lock.
type Holder struct {
	process.Process
	Exclusive bool
	// Membership is its service or container, zero where none is known.
	Membership process.Membership
	// Since is when the process began, which is not when it took the lock: that
	// the kernel does not keep. Zero where it cannot be told.
	Since time.Time
}

// Holders is who held the lock at some moment while [Look] looked.
type Holders struct {
	// Processes hold the lock, each once; all of those that share the open file.
	Processes []Holder
	// Unseen says that the lock is, or may be, held by a process that cannot be
	// seen, for one of the reasons of Incomplete or in another PID namespace.
	Unseen     bool
	Incomplete []string
}

// enough is how many holders are named.
const enough = 5

// String is the end of a sentence: "held by process 812 (nginx)".
func (h *Holders) String() string {
	if len(h.Processes) == 0 {
		if !h.Unseen {
			return "free by now"
		}
		s := "held by no process that can be seen from here"
		if len(h.Incomplete) > 0 {
			s += " (" + clean(h.Incomplete[0]) + ")"
		}
		return s
	}
	var b strings.Builder
	b.WriteString("held ")
	if !h.Processes[0].Exclusive {
		b.WriteString("shared ")
	}
	b.WriteString("by ")
	for i := range h.Processes {
		if i == enough {
			fmt.Fprintf(&b, " and %d more", len(h.Processes)-enough)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(h.Processes[i].String())
	}
	return b.String()
}

// String names the process: "process 812 (nginx) of nginx.service, running since
// 2026-11-23 05:50:58".
func (h *Holder) String() string {
	s := fmt.Sprintf("process %d (%s)", h.PID, clean(h.Comm))
	if !h.Membership.IsZero() {
		s += " of " + clean(h.Membership.String())
	}
	if !h.Since.IsZero() {
		s += ", running since " + h.Since.Format(time.DateTime)
	}
	return s
}

// complete adds what else is known of a holder, if it lives on.
func (h *Holder) complete(p *process.Proc) {
	pid := strconv.Itoa(h.PID)
	h.Membership, _ = p.Membership(pid)
	if text, err := p.ReadFile(pid + "/stat"); err == nil {
		if st, err := process.ParseStat(text); err == nil {
			h.Since, _ = p.Started(st)
		}
	}
}

// clean makes a name that a process chose itself fit for a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// Request is what [Look] is to be told about the lock, and the descriptor that it is
// to have beside it, -1 for none.
func (f *File) Request() (request string, fd int) {
	o := &f.opts
	fd = f.dir
	if f.path == "" {
		fd = f.fd
	} else if fd == linux.AT_FDCWD {
		fd = -1
	}
	return fmt.Sprintf("%d %t %t %d %d %t %s", os.Getpid(), o.Shared, o.Record, o.Start, o.Length, f.follow != 0, f.path), fd
}

// Look looks for who holds locks that the one of a [File.Request] conflicts with: it
// reads the descriptors of all processes, which takes milliseconds, and is for
// messages. fd is the request's descriptor; it is closed. Without /proc it is an
// error.
//
// Look in a process that nobody depends on. Whoever follows the links of a process in
// /proc may be held up for as long as it pleases a file server: by one that is in
// execve(2), and closes a file that does not answer. A thread that hangs so can keep
// the whole process from ending, whatever signal it gets, and with the process
// everybody who waits for it. So the caller starts a process that does it, and kills
// and leaves it at a time limit. A lock that is inherited must not stay open in that
// one: of the descriptor there is at once no more than O_PATH, and all others have to
// be closed before.
func Look(ctx context.Context, request string, fd int) (*Holders, error) {
	var o Options
	var asker int
	var nofollow bool
	fields := strings.SplitN(request, " ", 7)
	if len(fields) != 7 {
		return nil, errors.New("no request")
	}
	if _, err := fmt.Sscan(strings.Join(fields[:6], " "), &asker, &o.Shared, &o.Record, &o.Start, &o.Length, &nofollow); err != nil {
		return nil, err
	}
	dir, path, flags := fd, fields[6], linux.O_PATH
	if path == "" {
		dir, path = linux.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd)
	} else if fd < 0 {
		dir = linux.AT_FDCWD
	}
	if nofollow {
		flags |= linux.O_NOFOLLOW
	}
	file, err := linux.Openat(dir, path, flags, 0)
	if fd >= 0 {
		linux.Close(fd)
	}
	if err != nil {
		return nil, err
	}
	defer linux.Close(file)
	return o.holders(ctx, file, asker)
}

// holders looks for those who keep asker from the lock on the file that is open as fd.
func (o *Options) holders(ctx context.Context, fd, asker int) (*Holders, error) {
	p, err := process.Open()
	if err != nil {
		return nil, err
	}
	defer p.Close()
	r, err := locks.Of(ctx, p, fd)
	if err != nil {
		return nil, err
	}
	h := &Holders{Incomplete: r.Incomplete}
	known := map[int]int{}
	for _, x := range r.Holders {
		if x.PID == asker || !o.conflicts(&x.Lock) {
			continue
		}
		i, ok := known[x.PID]
		if !ok {
			i = len(h.Processes)
			known[x.PID] = i
			h.Processes = append(h.Processes, Holder{Process: x.Process})
			if i < enough {
				h.Processes[i].complete(p)
			}
		}
		h.Processes[i].Exclusive = h.Processes[i].Exclusive || x.Lock.Exclusive
	}
	h.Unseen = len(h.Processes) == 0 && len(r.Incomplete) > 0
	for _, u := range r.Unseen {
		h.Unseen = h.Unseen || len(h.Processes) == 0 && o.conflicts(&u)
	}
	return h, nil
}

// conflicts reports whether x is a lock of the kind and the bytes that we want,
// held in a way that keeps us out.
func (o *Options) conflicts(x *locks.Lock) bool {
	if o.Shared && !x.Exclusive {
		return false
	}
	if !o.Record {
		return x.Kind == locks.Flock
	}
	return (x.Kind == locks.OFD || x.Kind == locks.POSIX) && x.Overlaps(o.Start, o.end())
}
