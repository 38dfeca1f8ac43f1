package fuser

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
)

// agentEnv marks the test binary that does what the test tells it to: the other
// process of these tests.
const agentEnv = "SLASHRUN_FUSER_AGENT"

// order is what the agent is to do. What it opens stays open until it ends.
type order struct {
	Do    string
	Path  string
	Flags int
	Type  int // of a socket
	FD    int
}

type reply struct {
	Err string
	FD  int
	PID int
}

// agent is the other process.
type agent struct {
	t   testing.TB
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
	pid int
}

func start(t testing.TB, change ...func(*exec.Cmd)) *agent {
	t.Helper()
	a := &agent{t: t, cmd: exec.CommandContext(t.Context(), "/proc/self/exe")}
	a.cmd.Env = append(os.Environ(), agentEnv+"=1", "GOMAXPROCS=1")
	a.cmd.Dir = "/"
	a.cmd.Stderr = os.Stderr
	for _, f := range change {
		f(a.cmd)
	}
	in, err := a.cmd.StdinPipe()
	must(t, err)
	out, err := a.cmd.StdoutPipe()
	must(t, err)
	must(t, a.cmd.Start())
	t.Cleanup(a.kill)
	a.in, a.out = json.NewEncoder(in), json.NewDecoder(out)
	a.pid = a.must(order{Do: "hello"}).PID
	return a
}

func (a *agent) kill() {
	a.cmd.Process.Kill()
	a.cmd.Wait()
}

func (a *agent) ask(o order) (reply, error) {
	var r reply
	if err := a.in.Encode(o); err != nil {
		return r, err
	}
	if err := a.out.Decode(&r); err != nil {
		return r, err
	}
	if r.Err != "" {
		return r, errors.New(r.Err)
	}
	return r, nil
}

func (a *agent) must(o order) reply {
	a.t.Helper()
	r, err := a.ask(o)
	if err != nil {
		a.t.Fatalf("%+v: %v", o, err)
	}
	return r
}

func agentMain() {
	runtime.LockOSThread() // of the main thread: what it changes is the process's
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if in.Decode(&o) != nil {
			os.Exit(0)
		}
		r := reply{PID: os.Getpid(), FD: -1}
		if err := do(o, &r); err != nil {
			r.Err = err.Error()
		}
		out.Encode(r)
	}
}

func do(o order, r *reply) (err error) {
	open := func(flags int) error {
		r.FD, err = syscall.Open(o.Path, flags|syscall.O_CLOEXEC, 0o644)
		return err
	}
	switch o.Do {
	case "hello":
		return nil
	case "open":
		return open(o.Flags)
	case "close":
		return syscall.Close(o.FD)
	case "map":
		flags := os.O_RDONLY
		if o.Flags&syscall.PROT_WRITE != 0 {
			flags = os.O_RDWR
		}
		if err := open(flags); err != nil {
			return err
		}
		defer syscall.Close(r.FD)
		_, err := syscall.Mmap(r.FD, 0, 4096, o.Flags, syscall.MAP_SHARED)
		return err
	case "flock":
		if err := open(os.O_RDWR); err != nil {
			return err
		}
		return syscall.Flock(r.FD, syscall.LOCK_EX|syscall.LOCK_NB)
	case "ofd", "posix":
		if err := open(os.O_RDWR); err != nil {
			return err
		}
		cmd := syscall.F_SETLK
		if o.Do == "ofd" {
			cmd = 37 // F_OFD_SETLK of linux/fcntl.h
		}
		return syscall.FcntlFlock(uintptr(r.FD), cmd, &syscall.Flock_t{Type: syscall.F_WRLCK})
	case "chdir":
		return syscall.Chdir(o.Path)
	case "chroot":
		return linux.Chroot(o.Path)
	case "unshare":
		return linux.Unshare(o.Flags)
	}
	return fmt.Errorf("no such order: %q", o.Do)
}
