package process

import (
	"bytes"
	"errors"
	"strconv"
)

// Stat is what we use of /proc/PID/stat, proc_pid_stat(5).
type Stat struct {
	PID    int
	Comm   string // at most 15 bytes, chosen by the process: any byte may be in it
	State  byte   // 'Z' and 'X' are dead
	Parent int    // 0 for init and for a process whose parent is outside the namespace
	Flags  uint64 // PF_ bits of linux/sched.h
	// Threads is how many threads there are, those of a zombie that leads a group
	// of living ones included.
	Threads int
	Start   uint64 // clock ticks after the boot, in the reader's time namespace
}

// pfKthread is PF_KTHREAD of linux/sched.h, a thread of the kernel.
const pfKthread = 0x00200000

// Kernel reports whether the process is a thread of the kernel.
func (s *Stat) Kernel() bool { return s.Flags&pfKthread != 0 }

// Dead reports whether the process has exited: a zombie holds nothing. One whose
// first thread alone has ended (pthread_exit(3) in main) shows as a zombie, too,
// and lives.
func (s *Stat) Dead() bool {
	return s.State == 'X' || s.State == 'x' || s.State == 'Z' && s.Threads <= 1
}

// ParseStat reads the one line of /proc/PID/stat. The name may hold spaces,
// parentheses and newlines, so it ends at the last parenthesis.
func ParseStat(line []byte) (Stat, error) {
	var s Stat
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 2 || end < open {
		return s, errors.New("no (NAME)")
	}
	var err error
	if s.PID, err = strconv.Atoi(string(line[:open-1])); err != nil {
		return Stat{}, errors.New("the process id is not a number")
	}
	s.Comm = string(line[open+1 : end])
	f := bytes.Fields(line[end+1:]) // f[0] is field 3
	if len(f) < 20 || len(f[0]) != 1 {
		return Stat{}, errors.New("fewer than 22 fields")
	}
	s.State = f[0][0]
	var e1, e2, e3, e4 error
	s.Parent, e1 = strconv.Atoi(string(f[1]))
	s.Flags, e2 = strconv.ParseUint(string(f[6]), 10, 64)
	s.Start, e3 = strconv.ParseUint(string(f[19]), 10, 64)
	s.Threads, e4 = strconv.Atoi(string(f[17]))
	if err := errors.Join(e1, e2, e3, e4); err != nil {
		return Stat{}, errors.New("a field is not a number")
	}
	return s, nil
}
