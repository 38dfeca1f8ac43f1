package locktest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/testenv"
)

// signals are what a wrapper or a waiter is sent, with the number of each.
var signals = []syscall.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGABRT, syscall.SIGUSR1,
	syscall.SIGUSR2, syscall.SIGPIPE, syscall.SIGALRM, syscall.SIGTERM, syscall.SIGCHLD, syscall.SIGCONT, syscall.SIGURG,
	syscall.SIGVTALRM, syscall.SIGPROF, syscall.SIGWINCH, syscall.SIGIO, syscall.SIGPWR, syscall.SIGSYS, syscall.SIGXCPU,
	syscall.SIGXFSZ, syscall.SIGKILL, 35, 40, 64,
}

// harmless are those that do nothing by default.
var harmless = linux.Sigset(0).With(syscall.SIGCHLD, syscall.SIGCONT, syscall.SIGURG, syscall.SIGWINCH)

// start starts a flock in dir, without core dumps.
func start(t *testing.T, dir string, flock []string, stdin io.Reader, stdout io.Writer, args ...string) *exec.Cmd {
	t.Helper()
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT} { // what runs the tests may ignore them, nohup does
		if signal.Ignored(sig) {
			if err := linux.DefaultSignal(sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	argv := append(append([]string{"-c", `ulimit -c 0; exec "$@"`, "sh"}, flock...), args...)
	cmd := exec.Command("/bin/sh", argv...)
	cmd.Dir, cmd.Stdin, cmd.Stdout = dir, stdin, stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	return cmd
}

// end waits for the end of a program and says what it was.
func end(cmd *exec.Cmd) string {
	_ = cmd.Wait()
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return "killed by " + linux.SignalName(ws.Signal())
	}
	return "exit " + strconv.Itoa(ws.ExitStatus())
}

// handled waits until a signal that was sent has been taken: it is pending no more,
// in the process and its threads.
func handled(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	until(t, "the signal is taken", func() bool {
		if dead(pid) { // what killed it stays pending
			return true
		}
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		for _, name := range tasks {
			text, err := os.ReadFile(name)
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(text)) {
				key, value, _ := strings.Cut(line, ":")
				if key != "SigPnd" && key != "ShdPnd" {
					continue
				}
				if set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64); err == nil && linux.Sigset(set).Has(sig) {
					return false
				}
			}
		}
		return true
	})
}

// dead reports whether a process has ended, reaped or not.
func dead(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}

// Whoever waits for the lock is ended by a signal, or goes on to wait, as flock is.
func TestSignalsWhileWaiting(t *testing.T) {
	peer, own := reference(t), ours(t)
	try := func(t *testing.T, flock []string, sig syscall.Signal, args ...string) string {
		dir := t.TempDir()
		path := filepath.Join(dir, "F")
		release := hold(t, path, linux.LOCK_EX)
		cmd := start(t, dir, flock, nil, nil, append(args, "F", "true")...)
		until(t, "it waits", func() bool { _, waiting := locksOf(t, path); return waiting == 1 })
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		handled(t, cmd.Process.Pid, sig)
		release()
		return end(cmd)
	}
	for _, sig := range signals {
		for _, args := range [][]string{nil, {"-w", "100"}} {
			t.Run(strings.TrimSpace(fmt.Sprintf("%d %s", sig, strings.Join(args, " "))), func(t *testing.T) {
				t.Parallel()
				want, got := try(t, peer, sig, args...), try(t, own, sig, args...)
				if sig == syscall.SIGALRM && args != nil { // docs/lock.md: alarm-while-waiting
					want = "killed by SIGALRM"
				}
				if want != got {
					t.Errorf("flock: %s, ours: %s", want, got)
				}
			})
		}
	}
}

// While the command runs a signal ends the wrapper as it ends flock, and the command
// goes on and holds the lock, but with -o.
func TestSignalsWhileRunning(t *testing.T) {
	peer, own := reference(t), ours(t)
	try := func(t *testing.T, flock []string, sig syscall.Signal, args ...string) string {
		dir := t.TempDir()
		path := filepath.Join(dir, "F")
		in, keep, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		defer keep.Close()
		out, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		cmd := start(t, dir, flock, in, w, append(args, "F", "sh", "-c", "echo ready; read line; echo $line; exit 3")...)
		w.Close()
		lines := bufio.NewReader(out)
		if line, err := lines.ReadString('\n'); err != nil || line != "ready\n" {
			t.Fatalf("%q, %v", line, err)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		status := ""
		if harmless.Has(sig) {
			handled(t, cmd.Process.Pid, sig)
		} else {
			status = end(cmd)
		}
		held, _ := locksOf(t, path)
		if _, err := keep.WriteString("bye\n"); err != nil {
			t.Fatal(err)
		}
		line, err := lines.ReadString('\n')
		if status == "" {
			status = end(cmd)
		}
		return fmt.Sprintf("locks held %d, command said %q %v, %s", held, line, err, status)
	}
	for _, sig := range signals {
		for _, args := range [][]string{nil, {"-o"}, {"-F"}} {
			t.Run(strings.TrimSpace(fmt.Sprintf("%d %s", sig, strings.Join(args, " "))), func(t *testing.T) {
				t.Parallel()
				want, got := try(t, peer, sig, args...), try(t, own, sig, args...)
				if want != got {
					t.Errorf("\nflock: %s\n ours: %s", want, got)
				}
			})
		}
	}
}

// Who is stopped and continued while it waits still gets the lock.
func TestStoppedWhileWaiting(t *testing.T) {
	for name, flock := range map[string][]string{"flock": reference(t), "ours": ours(t)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "F")
			release := hold(t, path, linux.LOCK_EX)
			cmd := start(t, dir, flock, nil, nil, "-w", "100", "F", "true")
			waits := func() bool { _, waiting := locksOf(t, path); return waiting == 1 }
			until(t, "it waits", waits)
			for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
				if err := cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
				if sig == syscall.SIGSTOP {
					until(t, "it is stopped", func() bool {
						text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
						return strings.Contains(string(text), ") T ")
					})
				}
			}
			until(t, "it waits again", waits)
			release()
			if got := end(cmd); got != "exit 0" {
				t.Error(got)
			}
		})
	}
}

// What a shell without job control runs in the background ignores SIGINT and SIGQUIT:
// neither ends the wait, and the command has both ignored.
func TestInTheBackground(t *testing.T) {
	try := func(t *testing.T, flock []string, args ...string) string {
		dir := t.TempDir()
		path := filepath.Join(dir, "F")
		release := hold(t, path, linux.LOCK_EX)
		var out buffer
		cmd := exec.Command("/bin/sh", append([]string{"-c", `"$@" & echo $!; wait $!; echo $?`, "sh"}, append(append(flock, args...), "F", "grep", "SigIgn", "/proc/self/status")...)...)
		cmd.Dir, cmd.Stdout = dir, &out
		must(t, cmd.Start())
		waiting(t, path, 1)
		until(t, "its number is told", func() bool { return strings.Contains(out.String(), "\n") })
		line, _, _ := strings.Cut(out.String(), "\n")
		pid, err := strconv.Atoi(line)
		must(t, err)
		for _, sig := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGINT} {
			must(t, syscall.Kill(pid, sig))
			handled(t, pid, sig)
		}
		release()
		_ = cmd.Wait()
		_, rest, _ := strings.Cut(out.String(), "\n")
		return rest
	}
	for _, args := range [][]string{nil, {"-w", "100"}, {"-F"}} {
		want, got := try(t, reference(t), args...), try(t, ours(t), args...)
		if want != got || !strings.HasSuffix(got, "\n0\n") {
			t.Errorf("%v: flock %q, ours %q", args, want, got)
		}
	}
}

// The command has the signals blocked that we were started with, but for those that
// the Go runtime has unblocked by the time that we can look.
func TestBlockedSignals(t *testing.T) {
	testenv.Need(t, testenv.Tool("perl"))
	block := func(flock []string, signals string, args ...string) string {
		script := `use POSIX; my $s = POSIX::SigSet->new(split /,/, shift); sigprocmask(SIG_BLOCK, $s); exec @ARGV or die`
		argv := append(append([]string{"-e", script, signals}, flock...), append(args, "F", "grep", "SigBlk", "/proc/self/status")...)
		_, out, diag := runs(t, t.TempDir(), nil, append([]string{"perl"}, argv...)...)
		return out + diag
	}
	for _, c := range []struct{ signals, want string }{
		{"10,12,13,14,17,28", "SigBlk:\t0000000008013a00\n"}, // flock
		{"1,15,10", "SigBlk:\t0000000000004201\n"},
	} {
		if got := block(reference(t), c.signals); got != c.want {
			t.Errorf("flock with %s blocked: %q, want %q", c.signals, got, c.want)
		}
	}
	for _, args := range [][]string{nil, {"-F"}, {"-w", "1"}} {
		for _, c := range []struct{ signals, want string }{
			{"10,12,13,14,28", "SigBlk:\t0000000008003a00\n"},
			{"1,15,10", "SigBlk:\t0000000000000200\n"}, // docs/lock.md: blocked-signals
		} {
			if got := block(ours(t), c.signals, args...); got != c.want {
				t.Errorf("%v with %s blocked: %q, want %q", args, c.signals, got, c.want)
			}
		}
	}
}
