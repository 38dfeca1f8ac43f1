package bench

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"syscall"
	"unsafe"
)

// timed runs cmd and returns how long it took, in nanoseconds. exec.Cmd would open
// /dev/null and start goroutines in that time, and Go's scheduler would be busy
// beside the program that is measured: half a millisecond, more or less.
func (s *Side) timed(cmd *exec.Cmd) (int64, error) {
	if cmd.Err != nil {
		return 0, cmd.Err
	}
	if len(cmd.ExtraFiles) > 0 {
		return 0, fmt.Errorf("%s: more files than three", cmd.Path)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	files := []uintptr{null.Fd(), null.Fd(), null.Fd()}
	for i, stream := range []any{cmd.Stdin, cmd.Stdout, cmd.Stderr} {
		f, ok := stream.(*os.File)
		switch {
		case ok:
			files[i] = f.Fd()
		case stream != nil:
			return 0, fmt.Errorf("%s: stream %d is no file", cmd.Path, i)
		}
	}
	attr := &syscall.ProcAttr{Dir: cmd.Dir, Env: cmd.Environ(), Files: files, Sys: cmd.SysProcAttr}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))

	start := monotonic()
	pid, err := syscall.ForkExec(cmd.Path, cmd.Args, attr)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", cmd.Path, err)
	}
	var status syscall.WaitStatus
	for {
		_, _, e := syscall.RawSyscall6(syscall.SYS_WAIT4, uintptr(pid), uintptr(unsafe.Pointer(&status)), 0, 0, 0, 0)
		if e == 0 {
			break
		}
		if e != syscall.EINTR {
			return 0, os.NewSyscallError("wait4", e)
		}
	}
	took := monotonic() - start
	s.started = start
	switch {
	case status.Signaled():
		return took, fmt.Errorf("killed by signal %d", status.Signal())
	case status.ExitStatus() != 0:
		return took, fmt.Errorf("exit status %d", status.ExitStatus())
	}
	return took, nil
}

// monotonic reads CLOCK_MONOTONIC in nanoseconds.
func monotonic() int64 {
	var ts syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&ts)), 0) // cannot fail
	return ts.Nano()
}
