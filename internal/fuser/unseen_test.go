package fuser

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// as makes an agent an ordinary user.
func as(uid uint32) func(*exec.Cmd) {
	return func(c *exec.Cmd) {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
}

// An ordinary user finds his own processes, locks and sockets of others without
// knowing more of them, and is told once what he cannot see.
func TestOrdinaryUser(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Net: true}, func(t *testing.T) {
		must(t, os.WriteFile("/run/file", nil, 0o644))
		mine, theirs, more, eye := start(t, as(1000)), start(t), start(t), start(t, as(1000))
		must(t, os.Chmod("/run", 0o777))
		mine.must(order{Do: "open", Path: "/run/file"})
		theirs.must(order{Do: "flock", Path: "/run/file"})
		more.must(order{Do: "open", Path: "/run/file"})
		theirs.must(order{Do: "listen", Path: "/run/theirs", Type: syscall.SOCK_STREAM, Flags: 3})
		mine.must(order{Do: "listen", Path: "/run/mine", Type: syscall.SOCK_STREAM, Flags: 3})

		r := eye.must(order{Do: "scan", Path: "/run/file"})
		want := []string{fmt.Sprintf("%d open r", mine.pid), fmt.Sprintf("%d locked FLOCK", theirs.pid)}
		slices.Sort(want)
		if !slices.Equal(r.Users, want) {
			t.Errorf("%q, not %q", r.Users, want)
		}
		n := 0
		for _, line := range r.Incomplete {
			if strings.Contains(line, "of other users cannot be seen") {
				n++
			}
		}
		if n != 1 || len(r.Incomplete) > 4 {
			t.Errorf("%q", r.Incomplete)
		}
		if r := eye.must(order{Do: "scan", Path: "/run/theirs"}); !slices.Equal(r.Users, []string{"0 listening stream 0/3 uid 0"}) {
			t.Errorf("%q", r.Users)
		}
		if r := eye.must(order{Do: "scan", Path: "/run/mine"}); !slices.Equal(r.Users, []string{fmt.Sprintf("%d listening stream 0/3 uid 1000", mine.pid)}) {
			t.Errorf("%q", r.Users)
		}

		for _, option := range []string{"hidepid=1", "hidepid=2"} {
			must(t, linux.Mount("proc", "/proc", "proc", 0, option))
			defer linux.Unmount("/proc", syscall.MNT_DETACH)
			r = eye.must(order{Do: "scan", Path: "/run/file"})
			if !mentions(r.Incomplete, "hidepid") || !slices.Contains(r.Users, fmt.Sprintf("%d open r", mine.pid)) || len(r.Users) != 2 {
				t.Errorf("%s: %q %q", option, r.Users, r.Incomplete)
			}
		}
	})
}

// Without a /proc the procfs that process.Open makes does as well; whoever may not
// make one is told so.
func TestNoProc(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.WriteFile("/run/file", nil, 0o644))
		a, eye := start(t), start(t)
		a.must(order{Do: "open", Path: "/run/file"})
		must(t, linux.Mount("none", "/proc", "tmpfs", 0, ""))
		defer linux.Unmount("/proc", syscall.MNT_DETACH)
		r, err := eye.ask(order{Do: "scan", Path: "/run/file"})
		if seccomptest.Current() != seccomptest.None { // no fsopen(2)
			if err == nil || !strings.Contains(err.Error(), "/proc is not mounted") {
				t.Errorf("%q %v", r.Users, err)
			}
			return
		}
		if err != nil || !slices.Equal(r.Users, []string{fmt.Sprintf("%d open r", a.pid)}) {
			t.Errorf("%q %v", r.Users, err)
		}
	})
}

// No descriptor left: there is no answer, and none that says "nobody".
func TestNoDescriptorsLeft(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.WriteFile("/run/file", nil, 0o644))
		a, eye := start(t), start(t)
		a.must(order{Do: "open", Path: "/run/file"})
		full := fmt.Sprintf("%d open r", a.pid)
		failed := 0
		for n := 24; n > 3; n-- {
			eye.must(order{Do: "nofile", FD: n})
			r, err := eye.ask(order{Do: "scan", Path: "/run/file"})
			switch {
			case err == nil && !slices.Contains(r.Users, full):
				t.Errorf("%d descriptors: %q, incomplete %q", n, r.Users, r.Incomplete)
			case err != nil && !strings.Contains(err.Error(), "too many open files"):
				t.Errorf("%d descriptors: %v", n, err)
			case err != nil:
				failed++
			}
		}
		if failed == 0 {
			t.Error("it never failed")
		}
	})
}

// A thread that left the descriptors and the directory of its process; with
// kcmp(2), and where a filter denies that.
func TestThreads(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		p := openProc(t)
		must(t, os.Mkdir("/run/d", 0o755))
		must(t, os.WriteFile("/run/d/file", nil, 0o644))
		a := start(t)
		r := a.must(order{Do: "thread", Path: "/run/d/file"})
		file, dir := identify(t, p, "/run/d/file"), identify(t, p, "/run/d")
		for _, kcmp := range []bool{true, false} {
			s, err := newScan(p, Options{Objects: []Object{file, dir}})
			must(t, err)
			if s.kcmp = s.kcmp && kcmp; kcmp && !s.kcmp {
				t.Fatal("the numbers are not ours")
			}
			must(t, s.processes(t.Context()))
			x := s.index
			want(t, x, file, fmt.Sprintf("%d open r", a.pid))
			want(t, x, dir, fmt.Sprintf("%d cwd", a.pid))
			for _, o := range []Object{file, dir} {
				if u := x.Of(o.ID); len(u) > 0 && (u[0].Thread != r.TID || u[0].PID != a.pid) {
					t.Errorf("kcmp %v: %+v, want thread %d", kcmp, u[0], r.TID)
				}
			}
		}
	})
}

// The first thread has ended, and the process lives: its own directory in /proc is
// as empty as a zombie's.
func TestFirstThreadGone(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		p := openProc(t)
		must(t, os.WriteFile("/run/file", nil, 0o644))
		a := start(t)
		a.must(order{Do: "open", Path: "/run/file"})
		must(t, a.in.Encode(order{Do: "exit-main"}))
		waitFor(t, func() bool {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.pid))
			return err == nil && strings.Contains(string(text), ") Z ")
		})
		a.must(order{Do: "hello"})
		file := identify(t, p, "/run/file")
		want(t, scanFor(t, p, Options{Objects: []Object{file}}), file, fmt.Sprintf("%d open r", a.pid))
	})
}

// waitFor waits until something is so that no event tells of.
func waitFor(t testing.TB, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
	}
}

// A file that goes from process to process, each of which ends at once, is never
// told to have no users.
func TestRelay(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		p := openProc(t)
		must(t, os.WriteFile("/run/file", nil, 0o644))
		must(t, os.WriteFile("/run/relay", []byte("#!/bin/sh\n[ -e /run/stop ] && exit\n/bin/sh /run/relay 3<&3 &\n"), 0o755))
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "exec 3</run/file; exec /bin/sh /run/relay")
		must(t, cmd.Run())
		file := identify(t, p, "/run/file")
		for range 50 {
			x := scanFor(t, p, Options{Objects: []Object{file}})
			// One that is looked at in its execve(2) may be refused to us.
			if len(x.Of(file.ID)) == 0 && !mentions(x.Incomplete, "come and go") && !mentions(x.Incomplete, "the descriptors") {
				t.Fatalf("nobody has it: %q", x.Incomplete)
			}
		}
		must(t, os.WriteFile("/run/stop", nil, 0o644))
	})
}

// FUSE whose daemon does not answer: with statx(2) it is not asked, without it is
// left behind, and everything else is found.
func TestHungFileSystem(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		testenv.Need(t, fuse)
		for _, profile := range seccomptest.All {
			t.Run(profile.String(), func(t *testing.T) {
				seccomptest.Run(t, profile, testHung)
			})
		}
	})
}

// fuse is FUSE in the kernel.
var fuse = testenv.Requirement{What: "FUSE in the kernel", Check: func() error {
	text, err := os.ReadFile("/proc/filesystems")
	if err == nil && !strings.Contains(string(text), "\tfuse\n") {
		err = errors.New("/proc/filesystems does not have it")
	}
	return err
}}

func testHung(t *testing.T) {
	p := openProc(t)
	if err := syscall.Mknod("/dev/fuse", syscall.S_IFCHR|0o600, int(linux.Makedev(10, 229))); !errors.Is(err, os.ErrExist) {
		must(t, err)
	}
	daemon, err := linux.Openat(linux.AT_FDCWD, "/dev/fuse", linux.O_RDWR|linux.O_NONBLOCK, 0)
	must(t, err)
	must(t, os.MkdirAll("/run/hung", 0o755))
	must(t, linux.Mount("none", "/run/hung", "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", daemon)))
	defer linux.Unmount("/run/hung", syscall.MNT_DETACH)
	greet(t, daemon)
	stop, stopped := make(chan struct{}), make(chan struct{})
	defer func() { close(stop); <-stopped }()
	go func() { // takes every request and answers none: whoever waits cannot even be killed
		defer close(stopped)
		defer linux.Close(daemon) // which lets go of whoever waits
		for buf := make([]byte, 1<<17); ; {
			linux.PollIn(daemon, 10*time.Millisecond)
			linux.Read(daemon, buf)
			select {
			case <-stop:
				return
			default:
			}
		}
	}()

	must(t, os.WriteFile("/run/file", nil, 0o644))
	file := identify(t, p, "/run/file")
	lines := []string{}
	for range 12 { // more than are waited for one by one
		a := start(t)
		a.must(order{Do: "open", Path: "/run/hung", Flags: linux.O_PATH})
		a.must(order{Do: "open", Path: "/run/hung", Flags: linux.O_PATH})
		a.must(order{Do: "open", Path: "/run/file"})
		lines = append(lines, fmt.Sprintf("%d open r", a.pid))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	x, err := Scan(ctx, p, Options{Objects: []Object{file}, Patience: 200 * time.Millisecond})
	must(t, err)
	want(t, x, file, lines...)
	asked := !statxWorks()
	if got := mentions(x.Incomplete, "uses are on file systems"); got != asked {
		t.Errorf("%q", x.Incomplete)
	}
	threads, err := filepath.Glob("/proc/self/task/*/wchan")
	must(t, err)
	for _, name := range threads {
		if at, _ := os.ReadFile(name); strings.Contains(string(at), "fuse") || strings.Contains(string(at), "request_wait") {
			t.Errorf("%s: %s", name, at)
		}
	}
}

// greet answers FUSE_INIT, the first request, as linux/fuse.h has it.
func greet(t testing.TB, daemon int) {
	t.Helper()
	e := binary.NativeEndian
	buf := make([]byte, 1<<17)
	_, err := linux.PollIn(daemon, time.Minute)
	must(t, err)
	_, err = linux.Read(daemon, buf)
	must(t, err)
	out := make([]byte, 16+64) // struct fuse_out_header, struct fuse_init_out
	e.PutUint32(out, uint32(len(out)))
	e.PutUint64(out[8:], e.Uint64(buf[8:])) // unique
	e.PutUint32(out[16:], 7)                // FUSE_KERNEL_VERSION
	e.PutUint32(out[20:], 31)
	e.PutUint32(out[36:], 4096) // max_write
	_, err = linux.Write(daemon, out)
	must(t, err)
}

func statxWorks() bool {
	var sx linux.StatxT
	return linux.Statx(linux.AT_FDCWD, "/", 0, linux.STATX_INO, &sx) == nil
}
