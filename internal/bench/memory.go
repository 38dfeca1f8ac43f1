package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
)

// From ptrace(2); package syscall does not have all of them.
const (
	ptraceExitKill  = 0x100000
	ptraceTraceAll  = syscall.PTRACE_O_TRACEFORK | syscall.PTRACE_O_TRACEVFORK | syscall.PTRACE_O_TRACECLONE
	waitAllChildren = 0x40000000 // __WALL, wait4(2)
)

// errNoTrace says that ptrace is not allowed here.
var errNoTrace = errors.New("cannot trace a process")

// peakMemory runs cmd under ptrace(2) and returns the largest VmHWM in bytes of
// its processes, each read when it exits: at PTRACE_EVENT_EXIT the memory is
// still there.
func peakMemory(cmd *exec.Cmd) (int64, error) {
	runtime.LockOSThread() // only the thread that started a tracee may trace it
	defer runtime.UnlockOSThread()
	attr := syscall.SysProcAttr{}
	if cmd.SysProcAttr != nil {
		attr = *cmd.SysProcAttr
	}
	attr.Ptrace = true
	cmd.SysProcAttr = &attr
	if err := cmd.Start(); errors.Is(err, syscall.EPERM) {
		return 0, fmt.Errorf("%w: %v", errNoTrace, err)
	} else if err != nil {
		return 0, err
	}
	defer cmd.Process.Release() // waited for below
	pid := cmd.Process.Pid
	var ws syscall.WaitStatus
	if _, err := wait4(pid, &ws); err != nil {
		return 0, err
	}
	if !ws.Stopped() {
		return 0, fmt.Errorf("ended before its exec: %v", describe(ws))
	}
	if err := syscall.PtraceSetOptions(pid, syscall.PTRACE_O_TRACEEXIT|ptraceTraceAll|ptraceExitKill); err != nil {
		cmd.Process.Kill()
		return 0, fmt.Errorf("%w: %v", errNoTrace, err)
	}
	return follow(pid)
}

// follow lets the stopped tracee pid and its children run until pid has ended.
func follow(pid int) (peak int64, err error) {
	known := map[int]bool{pid: true}
	next, sig := pid, 0
	for {
		// ESRCH: killed meanwhile; wait4 tells.
		if err := syscall.PtraceCont(next, sig); err != nil && err != syscall.ESRCH {
			return 0, fmt.Errorf("ptrace: %w", err)
		}
		var ws syscall.WaitStatus
		for {
			if next, err = wait4(-1, &ws); err != nil {
				return 0, err
			}
			if ws.Stopped() {
				break
			}
			if next == pid {
				if !ws.Exited() || ws.ExitStatus() != 0 {
					return 0, errors.New(describe(ws))
				}
				return peak, nil
			}
		}
		sig = int(ws.StopSignal())
		switch event := int(ws) >> 16; {
		case event == syscall.PTRACE_EVENT_EXIT:
			peak = max(peak, highWater(next))
			sig = 0
		case event != 0:
			sig = 0
		case !known[next]: // a new process or thread begins with SIGSTOP
			if sig == int(syscall.SIGSTOP) {
				sig = 0
			}
		case sig == int(syscall.SIGTRAP): // the stop of an execve
			sig = 0
		}
		known[next] = true
	}
}

// wait4 waits for pid, again where a signal interrupts.
func wait4(pid int, ws *syscall.WaitStatus) (int, error) {
	for {
		got, err := syscall.Wait4(pid, ws, waitAllChildren, nil)
		if err != syscall.EINTR {
			return got, os.NewSyscallError("wait4", err)
		}
	}
}

// highWater returns the peak resident set of process pid in bytes, 0 where it is
// not there.
func highWater(pid int) int64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(text, []byte("\nVmHWM:"))
	f := bytes.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	n, err := strconv.ParseInt(string(f[0]), 10, 64)
	if err != nil {
		return 0
	}
	return n << 10 // "kB" of proc_pid_status(5) are 1024 bytes
}

func describe(ws syscall.WaitStatus) string {
	if ws.Signaled() {
		return "ended by signal " + ws.Signal().String()
	}
	return "exit status " + strconv.Itoa(ws.ExitStatus())
}
