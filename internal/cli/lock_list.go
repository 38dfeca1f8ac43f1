package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/getopt"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/locks"
	"github.com/slashrun/slashrun/internal/process"
)

// Exit codes of lock list.
const (
	exitListFailed   = 2
	exitListDeadlock = 3
	exitListMaybe    = 4
)

// lockListCommand is "lock list": its help, and what shells complete behind it.
func lockListCommand() *Command {
	return &Command{
		Name:    "lock list",
		Summary: "list the locks that are held, with who holds them and who waits",
		Args:    []string{"[OPTION]... [PATH]..."},
		Doc: `Lists the locks of the machine, or those of each PATH, or of a directory and
what is below it: of flock(2) (FLOCK), fcntl(2) (POSIX, and OFDLCK where the
lock belongs to an open file), and leases. A row is a process: all that hold the
lock, as children do that inherited the descriptor, also where the one that took
it has ended. A MODE with a star is one that waits. UPTIME is for how long the
process runs, not the lock. What cannot be seen is said on standard error.

--deadlocks lists processes that wait for one another in a circle. It says
"certain" where all threads of all of them sleep for these locks, or for a child
that does, from before to after a second look at all locks, none has a timer or
handler to wake it, and nobody is out of sight who may share a lock. The kernel
tells nobody of an alarm(2): one that a process has set would kill it.

  slashrun lock list
  slashrun lock list /run/lock /var/lib/dpkg/lock
  slashrun lock list --deadlocks; [ $? = 3 ] && alert "somebody waits for ever"
  slashrun lock list --json | jq '.locks[] | select(.waiters) | .path'`,
		Flags: lockListFlags,
		Files: true,
		Exits: []Exit{
			{ExitOK, "listed; --deadlocks: none is seen"},
			{ExitUsage, "bad usage, or the output could not be written"},
			{exitListFailed, "/proc cannot be used, or a PATH not be looked at"},
			{exitListDeadlock, "--deadlocks: there is one for certain, unless a signal or alarm ends it"},
			{exitListMaybe, "--deadlocks: there may be one; the reasons for the doubt are listed"},
		},
		Run: func(ctx context.Context, env *Env, args []string) int { return runLockList(ctx, env, args) },
	}
}

var lockListOptions = []getopt.Option{
	{Long: "deadlocks", Help: "list circles of processes that wait for one another"},
	{Long: "json", Help: "print JSON"},
	{Long: "help", Short: 'h', Help: "print this help"},
}

func lockListFlags() []Flag {
	var flags []Flag
	for _, o := range lockListOptions {
		flags = append(flags, Flag{Long: o.Long, Short: byte(o.Short), Help: o.Help})
	}
	return flags
}

// lockList is a command line of lock list.
type lockList struct {
	env       *Env
	proc      *process.Proc
	json      bool
	deadlocks bool
	files     map[locks.File]bool
	dirs      []lockDir
	failed    bool // about a PATH
}

// lockDir is a directory whose locks are wanted: by its path, for what is mounted
// below it, and by its place in its file system, for who knows it by another path.
type lockDir struct {
	path, within string // with a slash at the end
	file         locks.File
}

// runLockList is "lock list" with the arguments behind it.
func runLockList(ctx context.Context, env *Env, args []string) int {
	env.Command = lockListCommand()
	l := &lockList{env: env}
	p := getopt.New(lockListOptions, args)
	for p.Next() {
		switch p.Option().Long {
		case "deadlocks":
			l.deadlocks = true
		case "json":
			l.json = true
		case "help":
			return env.Help()
		}
	}
	if err := p.Err(); err != nil {
		return env.Usagef("lock list: %v", err)
	}
	proc, err := process.Open()
	if err != nil {
		env.Errorf("lock list: %v", err)
		return exitListFailed
	}
	defer proc.Close()
	l.proc = proc
	for _, path := range p.Operands() {
		if err := l.narrow(path); err != nil {
			env.Errorf("lock list: %s: %v", Quote(path), err)
			l.failed = true
		}
	}
	if l.failed && l.files == nil && l.dirs == nil {
		return exitListFailed
	}
	code := l.run(ctx)
	if code == ExitOK && l.failed {
		return exitListFailed
	}
	return code
}

// narrow restricts the list to path, which is not opened: a FIFO or a device is
// only looked at.
func (l *lockList) narrow(path string) error {
	if !filepath.IsAbs(path) {
		path = filepath.Join(l.env.Dir(), path)
	}
	fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_PATH, 0)
	if err != nil {
		return plainErrno(err)
	}
	defer linux.Close(fd)
	var st syscall.Stat_t
	if err := linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st); err != nil {
		return plainErrno(err)
	}
	file, within, err := locks.PlaceOf(l.proc, fd)
	if errors.Is(err, locks.ErrNoMount) {
		// In a chroot whose root is no mount point. On most file systems the device of
		// stat(2) is that of the locks.
		l.env.Warnf("lock list: %s: %v; on overlayfs and btrfs its locks are not found by its path", Quote(path), err)
		file, within = locks.File{Major: linux.Major(uint64(st.Dev)), Minor: linux.Minor(uint64(st.Dev)), Ino: st.Ino}, ""
	} else if err != nil {
		return err
	}
	if l.files == nil {
		l.files = map[locks.File]bool{}
	}
	l.files[file] = true
	if st.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		dir, err := l.proc.FdPath(fd)
		if err != nil {
			return err
		}
		d := lockDir{path: strings.TrimSuffix(dir, "/") + "/", file: file}
		if within != "" {
			d.within = strings.TrimSuffix(within, "/") + "/"
		}
		l.dirs = append(l.dirs, d)
	}
	return nil
}

// picked reports whether a lock is one of those that were asked for.
func (l *lockList) picked(h *locks.Held) bool {
	if l.files == nil || l.files[h.File()] {
		return true
	}
	for _, dir := range l.dirs {
		if !h.Foreign && strings.HasPrefix(h.Path, dir.path) ||
			dir.within != "" && dir.sameFS(h) && strings.HasPrefix(h.Within, dir.within) {
			return true
		}
	}
	return false
}

func (d *lockDir) sameFS(h *locks.Held) bool {
	return d.file.Major == h.Major && d.file.Minor == h.Minor
}

// lost reports whether a lock may be below a directory that was asked for, and
// nobody knows: who has the file open cannot be looked at.
func (l *lockList) lost(h *locks.Held) bool {
	return h.Path == "" && !l.picked(h) && slices.ContainsFunc(l.dirs, func(d lockDir) bool { return d.sameFS(h) })
}

func (l *lockList) run(ctx context.Context) int {
	var o locks.Options
	if l.files != nil && l.dirs == nil && !l.deadlocks { // a circle goes through other files
		o.Files = func(f locks.File) bool { return l.files[f] }
	}
	t, err := locks.Scan(ctx, l.proc, o)
	if err != nil {
		l.env.Errorf("lock list: %v", err)
		return exitListFailed
	}
	if l.deadlocks {
		return l.circles(ctx, t)
	}
	list, lost := t.Locks[:0:0], 0
	for i := range t.Locks {
		if h := &t.Locks[i]; l.picked(h) {
			list = append(list, *h)
		} else if l.lost(h) {
			lost++
		}
	}
	if lost > 0 {
		t.Incomplete = append(t.Incomplete, fmt.Sprintf("%d more locks are on files of the same file system whose paths cannot be seen: they may be below, too; \"lock list\" without PATH shows them", lost))
	}
	l.unseen(t.Incomplete)
	return l.env.Output(func(w *bufio.Writer) {
		if l.json {
			writeJSON(w, struct {
				Locks      []lockJSON `json:"locks"`
				Incomplete []string   `json:"incomplete,omitempty"`
			}{lockListJSON(t, list), t.Incomplete})
		} else if len(list) > 0 {
			writeLocks(w, t, list)
		}
	})
}

// unseen says once what the list may lack.
func (l *lockList) unseen(why []string) {
	for _, line := range why {
		l.env.Warnf("lock list: %s", Quote(line))
	}
}

func writeJSON(w *bufio.Writer, v any) {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.Encode(v)
}

// plainErrno is the error without the name of the system call.
func plainErrno(err error) error {
	if se, ok := err.(*os.SyscallError); ok {
		return se.Err
	}
	return err
}

// writeLocks writes the table.
func writeLocks(w *bufio.Writer, t *locks.Table, list []locks.Held) {
	now := time.Now()
	rows := [][]string{{"COMMAND", "PID", "TYPE", "MODE", "START", "END", "UPTIME", "UNIT", "PATH"}}
	row := func(who process.Process, lock *locks.Lock, mode, path string) {
		r := []string{"-", "-", lock.Kind, mode, strconv.FormatInt(lock.Start, 10), rangeEnd(lock.End), "-", "-", path}
		if who.PID > 0 {
			d := t.Details(who.PID)
			r[0], r[1] = Quote(who.Comm), strconv.Itoa(who.PID)
			if !d.Started.IsZero() {
				r[6] = age(now.Sub(d.Started))
			}
			if s := d.Membership.String(); s != "" {
				r[7] = Quote(s)
			}
		}
		rows = append(rows, r)
	}
	for i := range list {
		h := &list[i]
		path := lockPath(h)
		for k := range h.Holders {
			who := &h.Holders[k]
			switch {
			case k > 0 && h.Holders[k-1].PID == who.PID: // another descriptor of it
			case who.FD < 0 && h.Kind == locks.Flock:
				row(who.Process, &h.Lock, lockMode(h), path+"  (took it; whether it still has it cannot be seen)")
			default:
				row(who.Process, &h.Lock, lockMode(h), path)
			}
		}
		if len(h.Holders) == 0 {
			row(process.Process{}, &h.Lock, lockMode(h), path+"  ("+nobody(h)+")")
		}
		for k := range h.Waiters {
			x := &h.Waiters[k]
			row(x.Process, &x.Lock, modeOf(&x.Lock)+"*", path+oneOf(x.Among))
		}
	}
	writeTable(w, rows)
}

// writeTable writes rows in columns; the second and numbers to the right, the last
// as it is.
func writeTable(w *bufio.Writer, rows [][]string) {
	width := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, s := range r {
			width[i] = max(width[i], len([]rune(s)))
		}
	}
	for _, r := range rows {
		for i, s := range r[:len(r)-1] {
			pad := strings.Repeat(" ", width[i]-len([]rune(s)))
			if h := rows[0][i]; h == "PID" || h == "START" || h == "END" || h == "UPTIME" {
				w.WriteString(pad + s + " ")
			} else {
				w.WriteString(s + pad + " ")
			}
		}
		w.WriteString(r[len(r)-1] + "\n")
	}
}

func modeOf(l *locks.Lock) string {
	if l.Exclusive {
		return "WRITE"
	}
	return "READ"
}

func lockMode(h *locks.Held) string {
	if h.Where == locks.Outside && h.PID == 0 {
		return "?"
	}
	return modeOf(&h.Lock)
}

func rangeEnd(end int64) string {
	if end == math.MaxInt64 {
		return "EOF"
	}
	return strconv.FormatInt(end, 10)
}

// lockPath is the file of a lock for people.
func lockPath(h *locks.Held) string {
	switch {
	case h.Path != "" && h.Foreign:
		return Quote(h.Path) + "  (in another mount namespace)"
	case h.Path != "":
		return Quote(h.Path)
	case h.Mount != "":
		return fmt.Sprintf("inode %d on %s", h.Ino, Quote(h.Mount))
	}
	return fmt.Sprintf("inode %d of device %d:%d", h.Ino, h.Major, h.Minor)
}

// oneOf names the processes that a waiter can be, a few of them.
func oneOf(list []process.Process) string {
	if len(list) == 0 {
		return ""
	}
	const enough = 5
	var names []string
	for i, p := range list {
		if i == enough {
			names = append(names, fmt.Sprintf("%d more", len(list)-enough))
			break
		}
		names = append(names, fmt.Sprintf("%d (%s)", p.PID, Quote(p.Comm)))
	}
	return "  (one of " + strings.Join(names, ", ") + ")"
}

// nobody says why a lock has no holder.
func nobody(h *locks.Held) string {
	if h.Where == locks.Outside {
		return "held outside this PID namespace"
	}
	if h.PID > 0 {
		return fmt.Sprintf("held by nobody who can be seen; process %d took it", h.PID)
	}
	return "held by nobody who can be seen"
}

// age is a span in its largest unit.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(max(d, 0)/time.Second)) + "s"
	case d < time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	}
	return strconv.Itoa(int(d/(24*time.Hour))) + "d"
}
