package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"syscall"
)

// Syscall is what /proc/PID/task/TID/syscall tells, proc_pid_syscall(5).
type Syscall struct {
	// Asleep says that the thread sleeps. Where it does not, the rest is nothing.
	Asleep bool
	// Number is the system call in which it sleeps, as its architecture counts; -1
	// outside of one (a page fault).
	Number int
	Args   [6]uint64
	SP, PC uint64
}

// ParseSyscall reads the one line of the file: "running", "-1 SP PC", or "NUMBER
// ARG ARG ARG ARG ARG ARG SP PC".
func ParseSyscall(line []byte) (Syscall, error) {
	f := bytes.Fields(line)
	if len(f) == 1 && string(f[0]) == "running" {
		return Syscall{}, nil
	}
	if len(f) != 3 && len(f) != 9 {
		return Syscall{}, fmt.Errorf("%d fields, not 1, 3 or 9", len(f))
	}
	s := Syscall{Asleep: true}
	var err error
	if s.Number, err = strconv.Atoi(string(f[0])); err != nil || (s.Number < 0) != (len(f) == 3) {
		return Syscall{}, errors.New("the number is none")
	}
	values := []*uint64{&s.SP, &s.PC}
	if len(f) == 9 {
		values = []*uint64{&s.Args[0], &s.Args[1], &s.Args[2], &s.Args[3], &s.Args[4], &s.Args[5], &s.SP, &s.PC}
	}
	for i, v := range values {
		hex, ok := bytes.CutPrefix(f[i+1], []byte("0x"))
		if *v, err = strconv.ParseUint(string(hex), 16, 64); err != nil || !ok {
			return Syscall{}, errors.New("an argument is no number")
		}
	}
	return s, nil
}

// Thread is what a thread does. Two that are equal and Asleep show that it slept
// from before the first to after the second: it did not run in between.
type Thread struct {
	TID      int
	Start    uint64 // clock ticks after the boot, in the reader's time namespace
	Switches uint64 // how often it gave up its processor or lost it
	Call     Syscall
}

// Syscall reads what the thread tid of the process pid does. It takes the right to
// trace the process, PTRACE_MODE_ATTACH_FSCREDS of ptrace(2).
func (p *Proc) Syscall(pid, tid int) (Syscall, error) {
	name := taskName(pid, tid, "/syscall")
	var buf [256]byte
	line, err := p.ReadRecord(name, buf[:0])
	if err != nil {
		return Syscall{}, err
	}
	s, err := ParseSyscall(line)
	if err != nil {
		err = &fs.PathError{Op: "parse", Path: "/proc/" + name, Err: err}
	}
	return s, err
}

// Thread reads all that a Thread has. It takes the right that Syscall takes.
func (p *Proc) Thread(pid, tid int) (Thread, error) {
	t := Thread{TID: tid}
	text, err := p.ReadRecord(taskName(pid, tid, "/stat"), make([]byte, 0, 512))
	if err != nil {
		return t, err
	}
	st, err := ParseStat(text)
	if err != nil {
		return t, err
	}
	t.Start = st.Start
	if t.Call, err = p.Syscall(pid, tid); err != nil {
		return t, err
	}
	if text, err = p.ReadRecord(taskName(pid, tid, "/status"), make([]byte, 0, 2<<10)); err != nil {
		return t, err
	}
	voluntary, err1 := statusNumber(text, "voluntary_ctxt_switches:")
	not, err2 := statusNumber(text, "nonvoluntary_ctxt_switches:")
	t.Switches = voluntary + not
	return t, errors.Join(err1, err2)
}

func taskName(pid, tid int, file string) string {
	return strconv.Itoa(pid) + "/task/" + strconv.Itoa(tid) + file
}

// statusNumber is the number in the line of /proc/PID/status that begins with key.
func statusNumber(text []byte, key string) (uint64, error) {
	for line := range bytes.Lines(text) {
		if v, ok := bytes.CutPrefix(line, []byte(key)); ok {
			return strconv.ParseUint(string(bytes.TrimSpace(v)), 10, 64)
		}
	}
	return 0, fmt.Errorf("/proc/PID/status has no %s", key)
}

// Threads lists the threads of a process.
func (p *Proc) Threads(pid int) ([]int, error) {
	names, err := p.names(strconv.Itoa(pid) + "/task")
	if err != nil {
		return nil, err
	}
	list := make([]int, 0, len(names))
	for _, name := range names {
		if tid, err := strconv.Atoi(name); err == nil {
			list = append(list, tid)
		}
	}
	return list, nil
}

// Signals are sets of signals of a process: signal N is the bit N-1.
type Signals struct {
	Caught  uint64 // there is a handler
	Waiting uint64 // has come for the whole process and is not blocked by its first thread
}

// Has reports whether the set has the signal.
func Has(set uint64, signal syscall.Signal) bool { return set>>(signal-1)&1 != 0 }

// Signals reads /proc/PID/status.
func (p *Proc) Signals(pid int) (s Signals, err error) {
	text, err := p.ReadRecord(strconv.Itoa(pid)+"/status", make([]byte, 0, 2<<10))
	if err != nil {
		return s, err
	}
	var blocked uint64
	sets := map[string]*uint64{"ShdPnd": &s.Waiting, "SigBlk": &blocked, "SigCgt": &s.Caught}
	for line := range bytes.Lines(text) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		if set := sets[string(key)]; set != nil {
			if *set, err = strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64); err != nil {
				return Signals{}, err
			}
			delete(sets, string(key))
		}
	}
	if len(sets) > 0 {
		return Signals{}, errors.New("/proc/PID/status has no signals")
	}
	s.Waiting &^= blocked
	return s, nil
}

// Timers is how many timers of timer_create(2) the process has, running or not. Of
// setitimer(2) and alarm(2) nothing is told anywhere. Kernels without
// CONFIG_CHECKPOINT_RESTORE have no such file: errors.ErrUnsupported.
func (p *Proc) Timers(pid int) (int, error) {
	text, err := p.ReadFile(strconv.Itoa(pid) + "/timers")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, errors.ErrUnsupported
	}
	if err != nil {
		return 0, err
	}
	n := 0
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, []byte("ID:")) {
			n++
		}
	}
	return n, nil
}
