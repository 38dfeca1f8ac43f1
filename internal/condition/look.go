package condition

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/sockdiag"
)

// finding is the result of one look at one condition.
type finding struct {
	holds bool
	why   string // what was found, in words
	// pace says when to look again if no event comes.
	pace pace
	// most is the longest time until then, for pace poll; 0 is slowest.
	most time.Duration
	// never says that the answer cannot be found out here, whatever happens.
	never bool
	// interests are events after which to look again; blind is why they may not
	// tell everything, "" if they do.
	interests []interest
	blind     string
	note      string // a resource that has run out, for the caller to be told
	// pidfd is of the process that makes the condition hold, -1 without; the loop
	// closes it.
	pidfd int
	// dial is how to go on, for a condition of the network.
	dial *dial
}

// pace says what to do where no event comes.
type pace uint8

const (
	told   pace = iota // the kernel tells of every change
	settle             // it is in the making: look some more times, then wait to be told
	poll               // nothing tells: look again and again
)

// look is one look at one condition. It may wait for a file system for ever, and
// runs where the loop does not.
type look struct {
	c       *waiting
	o       *Options
	inotify int // -1 without
	proc    *process.Proc
	noProc  error
	shared  *shared
	ask     func(f func() error) error // for what starts a process, see waiter.ask
	f       finding
}

func (l *look) interest(list ...interest) { l.f.interests = append(l.f.interests, list...) }

// blind says that not every change is an event.
func (l *look) blind(format string, args ...any) {
	if l.f.blind == "" {
		l.f.blind = fmt.Sprintf(format, args...)
	}
}

// unwatched is blind for a directory or file that cannot be watched.
func (l *look) unwatched(path string, err error) {
	if path == "" {
		path = "the working directory"
	}
	l.blind("%s cannot be watched: %v", path, err)
	if errors.Is(err, syscall.ENOSPC) {
		l.f.note = "directories cannot be watched: no inotify watch is left (raise fs.inotify.max_user_watches)"
	}
}

// found sets the result.
func (l *look) found(holds bool, p pace, format string, args ...any) {
	l.f.holds, l.f.pace, l.f.why = holds, p, fmt.Sprintf(format, args...)
}

// run looks.
func (l *look) run() finding {
	l.f.pidfd = -1
	switch c := l.c.Condition; c.Kind {
	case Path:
		l.path(c.Operand)
	case Gone:
		l.gone(c.Operand)
	case Listen, Connect:
		l.socket(c)
	case TCP:
		l.names(c)
	case Lock:
		l.lock(c.Operand)
	case PIDFile:
		l.pidfile(c.Operand)
	case User:
		l.user(c.Operand)
	}
	if l.f.blind != "" { // whatever changes may be no event
		l.f.pace = poll
	}
	return l.f
}

func (l *look) path(path string) {
	s := l.walk(path, true, 0)
	defer s.close()
	if s.fd < 0 {
		l.found(false, told, "%s", s.why)
		return
	}
	l.found(true, told, "it is there")
}

func (l *look) gone(path string) {
	s := l.walk(path, false, 0)
	defer s.close()
	switch {
	case s.fd >= 0:
		l.found(false, told, "%s is still there", path)
	case s.absent:
		l.found(true, told, "%s", s.why)
	default:
		l.found(false, told, "%s", s.why)
	}
}

// mountOf is the mount that fd lies on.
func (l *look) mountOf(fd int) (*mounts.Mount, error) {
	if l.proc == nil {
		return nil, l.noProc
	}
	id, err := l.proc.MountID(fd)
	if err != nil {
		return nil, err
	}
	table, err := l.shared.mounts.read(l.proc)
	if err != nil {
		return nil, err
	}
	m := mounts.ByID(table, id)
	if m == nil {
		return nil, fmt.Errorf("its mount (id %d) is not in the mount table", id)
	}
	return m, nil
}

// comm is the name of a process, for messages; its number alone where it is gone.
func (l *look) comm(pid int) string {
	if pid <= 0 {
		return "a process that cannot be seen from here"
	}
	if text, err := l.proc.ReadFile(fmt.Sprintf("%d/comm", pid)); err == nil {
		return fmt.Sprintf("process %d (%s)", pid, strings.TrimSuffix(string(text), "\n"))
	}
	return fmt.Sprintf("process %d", pid)
}

// shared is what all looks of one batch see: read once, and not before the batch
// began.
type shared struct {
	mounts *mountCache

	mu        sync.Mutex
	table     *lockTable
	tableDone bool

	sockets    []sockdiag.Socket
	socketsErr error
	dumped     bool
}

// mountCache is the mount table, parsed again if a mount came or went.
type mountCache struct {
	mu    sync.Mutex
	text  []byte
	table []mounts.Mount
}

func (c *mountCache) read(p *process.Proc) ([]mounts.Mount, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text, err := p.MountInfo(false)
	if err != nil {
		return nil, err
	}
	if len(text) > 0 && len(text) == len(c.text) && &text[0] == &c.text[0] {
		return c.table, nil
	}
	table, err := mounts.ParseText(text)
	if err != nil {
		return nil, err
	}
	c.text, c.table = text, table
	return table, nil
}

// locks is the table of locks: read once, or with more as often as it takes to call
// something free.
func (s *shared) locks(p *process.Proc, more bool) *lockTable {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.table == nil {
		s.table = &lockTable{whole: true}
		s.table.read(p)
	}
	if more && !s.tableDone {
		s.tableDone = true
		s.table.more(p)
	}
	return s.table
}

// dump is the list of the unix sockets of this network namespace.
func (s *shared) dump() ([]sockdiag.Socket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dumped {
		s.dumped = true
		s.sockets, s.socketsErr = sockdiag.Dump()
	}
	return s.sockets, s.socketsErr
}

// closePidfd lets go what a finding holds.
func (f *finding) closePidfd() {
	if f.pidfd >= 0 {
		linux.Close(f.pidfd)
		f.pidfd = -1
	}
}
