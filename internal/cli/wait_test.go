package cli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/condition"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// slashrunLink is a path by which the test binary is slashrun.
func slashrunLink(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	mustDo(t, err)
	link := filepath.Join(t.TempDir(), "slashrun")
	mustDo(t, os.Symlink(exe, link))
	return link
}

// blocked returns how the threads of a process sleep, once all do in calls that
// have no end: "ppoll" for one, "futex" for the others of the runtime.
func blocked(t *testing.T, pid int) {
	t.Helper()
	numbers := map[string][2]int{"amd64": {271, 202}, "arm64": {73, 98}}[runtime.GOARCH]
	ppoll, futex := strconv.Itoa(numbers[0]), strconv.Itoa(numbers[1])
	for {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		mustDo(t, err)
		endless, busy := 0, 0
		for _, task := range tasks {
			text, err := os.ReadFile(task + "/syscall")
			mustDo(t, err)
			f := strings.Fields(string(text))
			switch {
			case f[0] == ppoll && f[3] == "0x0": // no timeout
				endless++
			case f[0] == futex:
			default:
				busy++
			}
		}
		if endless == 1 && busy == 0 {
			return
		}
	}
}

// usage is the CPU time of a process in clock ticks, and how often its threads have
// begun to wait.
func usage(t *testing.T, pid int) (ticks, switches int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	mustDo(t, err)
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	utime, _ := strconv.Atoi(f[11])
	stime, _ := strconv.Atoi(f[12])
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	mustDo(t, err)
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		mustDo(t, err)
		for line := range strings.Lines(string(text)) {
			if v, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				n, _ := strconv.Atoi(strings.TrimSpace(v))
				switches += n
			}
		}
	}
	return utime + stime, switches
}

// A hundred conditions take no CPU while nothing happens: all threads are in calls
// without an end, and what happens elsewhere in the same directory wakes one once.
func TestWaitSleeps(t *testing.T) {
	link := slashrunLink(t)
	nstest.Run(t, nstest.Options{Keep: []string{link}}, func(t *testing.T) { // where nobody else makes files or mounts
		d := t.TempDir()
		args := []string{"wait"}
		for i := range 25 {
			name := fmt.Sprintf("%s/%d", d, i)
			mustDo(t, os.Mkdir(name, 0o755))
			args = append(args, "gone:"+name, "path:"+name+"/x/y", "listen:"+name+"/s", "pidfile:"+name+"/p.pid")
		}
		cmd := exec.Command(slashrunLink(t), args...)
		mustDo(t, cmd.Start())
		defer cmd.Wait()
		defer cmd.Process.Kill()
		blocked(t, cmd.Process.Pid)
		_, before := usage(t, cmd.Process.Pid)
		const others = 50
		for i := range others {
			mustDo(t, os.Mkdir(fmt.Sprintf("%s/0/other%d", d, i), 0o755))
		}
		blocked(t, cmd.Process.Pid)
		_, after := usage(t, cmd.Process.Pid)
		if after-before > 8*others {
			t.Errorf("%d events made it wait %d times", others, after-before)
		}
		t.Logf("%d events made it wait %d times", others, after-before)
	})
}

// SIGINT and SIGTERM end it at once, as the shell expects.
func TestWaitSignals(t *testing.T) {
	link := slashrunLink(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		mustDo(t, linux.DefaultSignal(sig)) // what runs the tests may ignore it, and then it stays so
		cmd := exec.Command(link, "wait", "path:/nowhere")
		mustDo(t, cmd.Start())
		blocked(t, cmd.Process.Pid)
		mustDo(t, cmd.Process.Signal(sig))
		cmd.Wait()
		if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != sig {
			t.Errorf("%v: %v", sig, cmd.ProcessState)
		}
	}
}

// To the first process of a PID namespace a signal without a handler does nothing.
func TestWaitSignalPID1(t *testing.T) {
	link := slashrunLink(t)
	nstest.Run(t, nstest.Options{Keep: []string{filepath.Dir(link)}}, func(t *testing.T) {
		cmd := exec.Command(slashrunLink(t), "wait", "path:/nowhere")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		mustDo(t, cmd.Start())
		blockedOrPolling(t, cmd.Process.Pid)
		mustDo(t, cmd.Process.Signal(syscall.SIGTERM))
		cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != 128+int(syscall.SIGTERM) {
			t.Errorf("%v", cmd.ProcessState)
		}
	})
}

// blockedOrPolling returns once a thread sleeps in ppoll(2).
func blockedOrPolling(t *testing.T, pid int) {
	t.Helper()
	ppoll := map[string]string{"amd64": "271", "arm64": "73"}[runtime.GOARCH]
	for {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
		mustDo(t, err)
		for _, task := range tasks {
			if text, err := os.ReadFile(task); err == nil && strings.HasPrefix(string(text), ppoll+" ") {
				return
			}
		}
	}
}

// Without inotify, by whichever resource has run out, it looks every so often, and
// says so once.
func TestWaitWithoutInotify(t *testing.T) {
	testenv.Need(t, testenv.Tool("strace"))
	link := slashrunLink(t)
	for what, scene := range map[string]struct{ inject, note string }{
		"instances": {"inotify_init1:error=EMFILE", "there is no inotify instance (inotify_init1: too many open files; fs.inotify.max_user_instances limits them): looking every so often instead"},
		"watches":   {"inotify_add_watch:error=ENOSPC", "directories cannot be watched: no inotify watch is left (raise fs.inotify.max_user_watches): looking every so often instead"},
	} {
		t.Run(what, func(t *testing.T) {
			d := t.TempDir()
			cmd := exec.Command("strace", "-f", "-qq", "-o", d+"/trace", "-e", "trace=inotify_init1,inotify_add_watch", "-e", "inject="+scene.inject,
				link, "wait", "-v", "path:"+d+"/a/b", "path:"+d+"/here")
			mustDo(t, os.Mkdir(d+"/here", 0o755))
			var errs bytes.Buffer
			cmd.Stderr = &errs
			mustDo(t, cmd.Start())
			for !strings.Contains(lookAt(t, d+"/trace"), "(INJECTED)") {
			}
			mustDo(t, os.MkdirAll(d+"/a/b", 0o755))
			mustDo(t, cmd.Wait())
			if n := strings.Count(errs.String(), "looking every so often"); n != 1 || !strings.Contains(errs.String(), scene.note) {
				t.Errorf("%s", errs.String())
			}
		})
	}
}

func lookAt(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

// The line on a terminal is one line, whatever the width.
func TestWaitLine(t *testing.T) {
	r := &condition.Report{Elapsed: 3_400_000_000, Conditions: []condition.Result{
		{Condition: "path:/a", Holds: true}, {Condition: "tcp:db:5432", Why: "10.0.0.3:5432: connection refused"}, {Condition: "path:/x\x1b[2J\n", Why: "there is no \x07"},
	}}
	for width, want := range map[int]string{
		500: `slashrun: waited 3 s for 2 of 3: tcp:db:5432 (10.0.0.3:5432: connection refused), "path:/x\x1b[2J\n" ("there is no \a")`,
		40:  "slashrun: waited 3 s for 2 of 3: tcp...",
		3:   "...",
		0:   "slashrun: waited 3 s for 2 of 3: tcp:db:5432 (10.0.0.3:5432: connection refu...",
	} {
		if got := waitLine("slashrun", r, width); got != want {
			t.Errorf("%d: %q", width, got)
		}
	}
}
