package child

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// Exit statuses are tini's.
func TestInitStatus(t *testing.T) {
	testenv.Need(t, testenv.Tool("tini"))
	for _, script := range []string{"exit 0", "exit 3", "exit 255", "kill -TERM $$", "kill -KILL $$", "kill -SEGV $$", "ulimit -c 0; kill -ABRT $$", "kill -40 $$"} {
		t.Run(script, func(t *testing.T) {
			got, _, _ := run(t, execCommand(t, "-init", "--", "/bin/sh", "-c", script))
			want, _, _ := run(t, exec.CommandContext(t.Context(), "tini", "-s", "--", "/bin/sh", "-c", script))
			if got != want {
				t.Errorf("status %d, tini's is %d", got, want)
			}
		})
	}
}

// talker is a command that one can talk with.
type talker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// talk starts cmd; what it writes to standard error up to the line until comes
// first, unless that is empty.
func talk(t *testing.T, cmd *exec.Cmd, until string) *talker {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	errs, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	k := &talker{cmd, in, bufio.NewScanner(out)}
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	for lines := bufio.NewScanner(errs); until != "" && lines.Scan() && lines.Text() != until; {
		t.Log(lines.Text())
	}
	return k
}

func (k *talker) line(t *testing.T) string {
	t.Helper()
	if !k.out.Scan() {
		t.Fatalf("it ended: %v", k.out.Err())
	}
	return k.out.Text()
}

// onlyChild waits until the process pid has a child that has begun its program.
func onlyChild(t *testing.T, pid int) int {
	t.Helper()
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		t.Fatal(err)
	}
	for t.Context().Err() == nil {
		lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		if err != nil || len(lists) == 0 {
			t.Fatalf("process %d is gone", pid)
		}
		for _, l := range lists {
			text, _ := os.ReadFile(l)
			if f := strings.Fields(string(text)); len(f) == 1 {
				if exe, err := os.Readlink("/proc/" + f[0] + "/exe"); err == nil && exe != own {
					n, _ := strconv.Atoi(f[0])
					return n
				}
			}
		}
	}
	t.Fatal(t.Context().Err())
	return 0
}

// waitStatus waits until a field of /proc/PID/status is want.
func waitStatus(t *testing.T, pid int, field, want string) {
	t.Helper()
	got := ""
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		if got = statusFields(string(text), field)[field]; got == want {
			return
		}
	}
	t.Fatalf("process %d has %s %s, want %s", pid, field, got, want)
}

// A signal from before the command is there reaches it, behind whatever flood of
// others.
func TestEarlySignals(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP} { // what runs the tests may ignore them
			if err := linux.DefaultSignal(sig); err != nil {
				t.Fatal(err)
			}
		}
		all := linux.Sigset(0).With(early...)
		for flood, want := range map[int]string{0: maskOf(all &^ linux.Sigset(0).With(syscall.SIGUSR1)), 5000: maskOf(all)} {
			t.Run(strconv.Itoa(flood), func(t *testing.T) {
				// The command has them blocked from its first instruction on, so that
				// the kernel can say which came, however early.
				k := talk(t, execCommand(t, "-init", "-wait", "-mask", "0xfffffffe7fffffff", "--", "/bin/sleep", "60"), "")
				if got := k.line(t); got != "held" {
					t.Fatalf("it says %q", got)
				}
				for range flood {
					k.cmd.Process.Signal(syscall.SIGUSR1)
				}
				for _, sig := range early {
					if sig != syscall.SIGUSR1 {
						k.cmd.Process.Signal(sig)
					}
				}
				fmt.Fprintln(k.in)
				pid := onlyChild(t, k.cmd.Process.Pid)
				waitStatus(t, pid, "ShdPnd", want)
				syscall.Kill(pid, syscall.SIGKILL)
				if k.cmd.Wait(); k.cmd.ProcessState.ExitCode() != 128+9 {
					t.Errorf("it ended with %v", k.cmd.ProcessState)
				}
			})
		}
	})
}

// Thousands of orphans are reaped, as PID 1 and as a subreaper.
func TestReaping(t *testing.T) {
	const script = `
		i=0; while [ $i -lt 100 ]; do
			sh -c 'for j in 1 2 3 4 5 6 7 8 9 10; do (true & true & exec true) & done'
			i=$((i+1))
		done
		# What is left of them ends by itself; the one that reads the pipe ends last.
		exec 3>&1
		while set -- $(cat /proc/$PPID/task/*/children); [ $# -gt 1 ]; do
			sleep 0.01
		done
		echo "$# left"`
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		status, out, errs := run(t, execCommand(t, "-init", "--", "/bin/sh", "-c", script))
		if status != 0 || strings.TrimSpace(out) != "1 left" {
			t.Errorf("status %d, %q %s", status, out, errs)
		}
	})
}

// What is left when the command ends is left alone.
func TestOrphansAtTheEnd(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		var out bytes.Buffer
		cmd := execCommand(t, "-init", "--", "/bin/sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!; exit 5")
		cmd.Stdout = &out
		if err := cmd.Run(); cmd.ProcessState.ExitCode() != 5 {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(out.String()))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Errorf("the orphan %d: %v", pid, err)
		}
	})
}
