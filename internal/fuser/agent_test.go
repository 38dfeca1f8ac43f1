package fuser

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
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
	Other int
}

type reply struct {
	Err string
	FD  int
	PID int

	Other int
	TID   int

	Users, Incomplete []string
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

var (
	in  = json.NewDecoder(os.Stdin)
	out = json.NewEncoder(os.Stdout)
)

func agentMain() {
	runtime.LockOSThread() // to the main thread: what it changes is the process's
	serve()
}

func serve() {
	for {
		var o order
		if in.Decode(&o) != nil {
			os.Exit(0)
		}
		r := reply{PID: os.Getpid(), FD: -1}
		if o.Do == "thread" {
			go func() { // does not return: it answers by itself
				r.Err = do(o, &r).Error()
				out.Encode(r)
			}()
			continue
		}
		if err := do(o, &r); err != nil {
			r.Err = err.Error()
		}
		out.Encode(r)
	}
}

// scan is Identify and Scan, by the agent.
func (r *reply) scan(o order) error {
	p, err := process.Open()
	if err != nil {
		return err
	}
	defer p.Close()
	fd, err := linux.Openat(linux.AT_FDCWD, o.Path, linux.O_PATH|linux.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	ob, err := Identify(p, fd)
	linux.Close(fd)
	if err != nil {
		return err
	}
	x, err := Scan(context.Background(), p, Options{Objects: []Object{ob}, Sockets: true})
	if err != nil {
		return err
	}
	r.Users, r.Incomplete = users(x, ob.ID), x.Incomplete
	return nil
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
	case "bind", "listen":
		r.FD, err = syscall.Socket(syscall.AF_UNIX, o.Type|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
		if err == nil {
			err = syscall.Bind(r.FD, &syscall.SockaddrUnix{Name: o.Path})
		}
		if err == nil && o.Do == "listen" {
			err = syscall.Listen(r.FD, o.Flags)
		}
		return err
	case "connect":
		r.FD, err = syscall.Socket(syscall.AF_UNIX, o.Type|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
		if err == nil {
			err = syscall.Connect(r.FD, &syscall.SockaddrUnix{Name: o.Path})
		}
		return err
	case "accept":
		r.FD, _, err = syscall.Accept4(o.FD, syscall.SOCK_CLOEXEC)
		return err
	case "pair":
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		r.FD, r.Other = pair[0], pair[1]
		return err
	case "send": // the descriptor Other into the queue behind FD, and close it here
		if err := syscall.Sendmsg(o.FD, []byte{0}, syscall.UnixRights(o.Other), nil, 0); err != nil {
			return err
		}
		return syscall.Close(o.Other)
	case "receive":
		buf, oob := make([]byte, 1), make([]byte, 64)
		_, n, _, _, err := syscall.Recvmsg(o.FD, buf, oob, syscall.MSG_CMSG_CLOEXEC)
		if err != nil {
			return err
		}
		msgs, err := syscall.ParseSocketControlMessage(oob[:n])
		if err != nil {
			return err
		}
		fds, err := syscall.ParseUnixRights(&msgs[0])
		r.FD = fds[0]
		return err
	case "scan": // the file, as the agent sees it
		return r.scan(o)
	case "nofile":
		return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(o.FD), Max: uint64(o.FD)})
	case "thread": // opens the file and goes there, in a thread that shares neither with the others
		return linux.OnThread(syscall.CLONE_FILES|syscall.CLONE_FS, func() error {
			if err := open(os.O_RDONLY); err != nil {
				return err
			}
			if err := syscall.Chdir(filepath.Dir(o.Path)); err != nil {
				return err
			}
			r.TID = syscall.Gettid()
			out.Encode(*r)
			select {}
		})
	case "exit-main": // the first thread alone
		go serve()
		syscall.Syscall(syscall.SYS_EXIT, 0, 0, 0) // and not RawSyscall, which would take a processor of the runtime along
		return nil
	case "chdir":
		return syscall.Chdir(o.Path)
	case "chroot":
		return linux.Chroot(o.Path)
	case "unshare":
		return linux.Unshare(o.Flags)
	}
	return fmt.Errorf("no such order: %q", o.Do)
}
