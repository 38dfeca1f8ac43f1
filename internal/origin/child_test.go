package origin

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
)

// childEnv marks the test binary that is the other process of these tests: it does
// the steps in it, says so, and waits until it is killed.
const childEnv = "SLASHRUN_ORIGIN_CHILD"

// step is what the child does: a verb and its arguments.
type step []string

// start starts a child, which is ready when start returns.
func start(t testing.TB, flags uintptr, steps ...step) int {
	t.Helper()
	text, err := json.Marshal(steps)
	must(t, err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	in, err := cmd.StdinPipe() // its end is ours
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		t.Fatalf("child: %q, %v", line, err)
	}
	return cmd.Process.Pid
}

// childMain is the child.
func childMain(text string) {
	var steps []step
	err := json.Unmarshal([]byte(text), &steps)
	var keep []any
	for _, s := range steps {
		if err == nil {
			var held any
			held, err = s.do()
			keep = append(keep, held)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	os.Stdin.Read(make([]byte, 1))
	os.Exit(min(len(keep), 0))
}

func (s step) do() (any, error) {
	switch s[0] {
	case "open":
		flags, _ := strconv.Atoi(s[2])
		return syscall.Open(s[1], flags, 0)
	case "flock":
		fd, err := syscall.Open(s[1], syscall.O_RDWR, 0)
		if err == nil {
			err = syscall.Flock(fd, syscall.LOCK_EX)
		}
		return fd, err
	case "lease":
		fd, err := syscall.Open(s[1], syscall.O_RDWR, 0)
		if err == nil {
			if _, _, e := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), 1024, syscall.F_WRLCK); e != 0 { // F_SETLEASE, linux/fcntl.h
				err = e
			}
		}
		return fd, err
	case "map":
		fd, err := syscall.Open(s[1], syscall.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		defer syscall.Close(fd)
		return syscall.Mmap(fd, 0, 4096, syscall.PROT_READ, syscall.MAP_SHARED)
	case "cwd":
		return nil, os.Chdir(s[1])
	case "listen":
		if s[1] == "unixgram" {
			return net.ListenUnixgram(s[1], &net.UnixAddr{Name: s[2], Net: s[1]})
		}
		return net.ListenUnix(s[1], &net.UnixAddr{Name: s[2], Net: s[1]})
	case "connect":
		return net.Dial(s[1], s[2])
	case "private":
		return nil, syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	case "bind":
		return nil, syscall.Mount(s[1], s[2], "", syscall.MS_BIND, "")
	case "overlay":
		return nil, syscall.Mount("overlay", s[2], "overlay", 0, s[1])
	case "read-only":
		return nil, syscall.Mount("", s[1], "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
	}
	return nil, fmt.Errorf("no step %q", s)
}
