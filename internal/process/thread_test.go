package process

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/testenv"
)

func TestParseSyscall(t *testing.T) {
	for line, want := range map[string]Syscall{
		"running\n":          {},
		"-1 0x7ffc 0x7f00\n": {Asleep: true, Number: -1, SP: 0x7ffc, PC: 0x7f00},
		"73 0x3 0x2 0x0 0x0 0x0 0x5 0x7ffc 0x7f00": {Asleep: true, Number: 73, Args: [6]uint64{3, 2, 5: 5}, SP: 0x7ffc, PC: 0x7f00},
	} {
		got, err := ParseSyscall([]byte(line))
		if err != nil || got != want {
			t.Errorf("%q: %v\n%s", line, err, cmp.Diff(want, got))
		}
	}
	for _, bad := range []string{"", "runs", "73 0x1 0x2", "-1 0x3 0x2 0x0 0x0 0x0 0x5 0x7ffc 0x7f00", "73 3 0x2 0x0 0x0 0x0 0x0 0x7ffc 0x7f00",
		"73 0x3 0x2 0x0 0x0 0x0 0x0 0x7ffc 0x1ffffffffffffffff"} {
		if s, err := ParseSyscall([]byte(bad)); err == nil {
			t.Errorf("%q was taken: %+v", bad, s)
		}
	}
}

func FuzzParseSyscall(f *testing.F) {
	f.Add("running")
	f.Add("73 0x3 0x2 0x0 0x0 0x0 0x5 0x7ffc 0x7f00")
	f.Fuzz(func(t *testing.T, line string) {
		s, err := ParseSyscall([]byte(line))
		if (err != nil || !s.Asleep) && s != (Syscall{}) {
			t.Errorf("%q gives %+v, %v", line, s, err)
		}
	})
}

// A child that waits for a lock sleeps in flock(2) and does not run; its timer and
// its handler are those of flock -w.
func TestThreadOfAChild(t *testing.T) {
	testenv.Need(t, testenv.Tool("flock"))
	p := open(t)
	lock, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := linux.Flock(int(lock.Fd()), linux.LOCK_EX|linux.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	for _, timer := range []bool{false, true} {
		args := []string{lock.Name(), "true"}
		if timer {
			args = append([]string{"-w", "3600"}, args...)
		}
		child := exec.Command("flock", args...)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { child.Process.Kill(); child.Wait() }()
		pid := child.Process.Pid
		var one Thread
		for !(one.Call.Asleep && one.Call.Number == syscall.SYS_FLOCK) {
			runtime.Gosched()
			if one, err = p.Thread(pid, pid); err != nil {
				t.Fatal(err)
			}
		}
		two, err := p.Thread(pid, pid)
		if err != nil || one != two || one.Call.Args[1] != linux.LOCK_EX || one.Switches == 0 {
			t.Errorf("%v\n%+v\n%+v", err, one, two)
		}
		if list, err := p.Threads(pid); err != nil || !slices.Equal(list, []int{pid}) {
			t.Errorf("threads %v, %v", list, err)
		}
		if got, err := p.Signals(pid); err != nil || Has(got.Caught, syscall.SIGALRM) != timer || got.Waiting != 0 {
			t.Errorf("flock %q: %+v, %v", args, got, err)
		}
		n, err := p.Timers(pid)
		if !errors.Is(err, errors.ErrUnsupported) && (err != nil || (n > 0) != timer) {
			t.Errorf("flock %q has %d timers, %v", args, n, err)
		}
	}
}

func TestDescriptors(t *testing.T) {
	p := open(t)
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("/bin/sh", "-c", "echo ready; read x")
	cmd.ExtraFiles = []*os.File{f} // its descriptor 3
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); cmd.Wait() }()
	bufio.NewReader(out).ReadString('\n')
	pid := cmd.Process.Pid

	st, err := p.stat(pid)
	if err != nil {
		t.Fatal(err)
	}
	top, err := p.Dir(p.Lively(st))
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	d, err := top.Dir("fd")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	list, err := d.Numbers(nil)
	for fd := range 4 { // and what the test itself has inherited
		if err != nil || !slices.Contains(list, fd) {
			t.Errorf("descriptors %v, %v; not %d", list, err, fd)
		}
	}
	var want syscall.Stat_t
	if err := linux.Fstatat(int(f.Fd()), "", linux.AT_EMPTY_PATH, &want); err != nil {
		t.Fatal(err)
	}
	if n, err := d.Inode("3"); err != nil || n.Dev != uint64(want.Dev) || n.Ino != want.Ino || n.Mode&syscall.S_IFMT != syscall.S_IFREG {
		t.Errorf("%+v, %v; want %+v", n, err, want)
	}
	if n, err := d.Inode("0"); err != nil || n.Mode&syscall.S_IFMT != syscall.S_IFIFO {
		t.Errorf("the pipe is %+v, %v", n, err)
	}
	if path, err := d.Readlink("3"); err != nil || path != f.Name() {
		t.Errorf("path %q, %v", path, err)
	}
	if info, _, err := top.FDInfo("3", nil); err != nil || info.Flags&syscall.O_ACCMODE != syscall.O_RDWR {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := d.Inode("77"); !Gone(err) {
		t.Errorf("there is no descriptor 77: %v", err)
	}
	same, err := linux.CompareFile(os.Getpid(), int(f.Fd()), pid, 3)
	other, err2 := linux.CompareFile(os.Getpid(), int(f.Fd()), pid, 1)
	back, err3 := linux.CompareFile(pid, 1, os.Getpid(), int(f.Fd()))
	if err == nil && (same != 0 || other == 0 || other != -back || err2 != nil || err3 != nil) { // an error: a filter, or a kernel without
		t.Errorf("kcmp: same %d, other %d and %d, %v, %v", same, other, back, err2, err3)
	}
}

// A record is whole, however small the buffer.
func TestReadRecord(t *testing.T) {
	p := open(t)
	for _, size := range []int{0, 1, 511, 512, 4096} {
		b, err := p.ReadRecord("self/status", make([]byte, 0, size))
		if err != nil || !strings.HasPrefix(string(b), "Name:") || !strings.Contains(string(b), "nonvoluntary_ctxt_switches:") {
			t.Errorf("with %d bytes: %v\n%s", size, err, b)
		}
	}
}
