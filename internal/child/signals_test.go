package child

import (
	"bufio"
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

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// blockedSleep is an init over sleep(1), which has every signal blocked, so that
// /proc says what has come. The process is the init.
func blockedSleep(t *testing.T, attr *syscall.SysProcAttr, argv ...string) *exec.Cmd {
	t.Helper()
	// The sleep ends by itself, because a killed init leaves it behind.
	cmd := exec.CommandContext(t.Context(), argv[0], append(argv[1:], "/bin/sleep", "60")...)
	if argv[0] == "/proc/self/exe" {
		cmd.Args[0] = "exec"
	}
	cmd.SysProcAttr = attr
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		all := linux.AllSignalsBut(32, 33)
		_, err := linux.SetThreadMask(&all)
		if err == nil {
			err = cmd.Start()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	lines := bufio.NewScanner(stderr)
	for argv[0] == "/proc/self/exe" && lines.Scan() && lines.Text() != "settled" {
		t.Log(lines.Text())
	}
	return cmd
}

func ours(flags ...string) []string {
	return append([]string{"/proc/self/exe", "-init", "-settled", "-mask", "0xfffffffe7fffffff"}, append(flags, "--")...)
}

func maskOf(set linux.Sigset) string { return fmt.Sprintf("%016x", uint64(set)) }

// What tini forwards we do, but for what the documentation says.
func TestForwarding(t *testing.T) {
	testenv.Need(t, testenv.Tool("tini"))
	nstest.Run(t, nstest.Options{}, testForwarding)
}

func testForwarding(t *testing.T) {
	// CONT and the stop signals discard one another; TestStopAndContinue has them.
	// tini dies of 32, 33 and those that come of faults.
	var all linux.Sigset
	for sig := syscall.Signal(1); sig <= linux.NumSignals; sig++ {
		if !(faults.Has(sig) || linux.Sigset(0).With(syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCONT, 32, 33, syscall.SIGABRT).Has(sig)) {
			all = all.With(sig)
		}
	}
	notOurs := linux.Sigset(0).With(syscall.SIGURG, syscall.SIGPROF, 34)
	tinis := all &^ linux.Sigset(0).With(syscall.SIGCHLD, syscall.SIGTTIN, syscall.SIGTTOU)
	for name, c := range map[string]struct {
		argv []string
		send linux.Sigset
		want linux.Sigset
	}{
		"tini": {[]string{"tini", "-s", "--"}, all, tinis},
		"ours": {ours(), all.With(syscall.SIGABRT) &^ linux.Sigset(0).With(34), tinis.With(syscall.SIGABRT) &^ notOurs},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := blockedSleep(t, nil, c.argv...)
			pid := onlyChild(t, cmd.Process.Pid)
			for sig := syscall.Signal(1); sig <= linux.NumSignals; sig++ {
				if c.send.Has(sig) {
					if err := syscall.Kill(cmd.Process.Pid, sig); err != nil {
						t.Fatal(err)
					}
				}
			}
			waitStatus(t, pid, "ShdPnd", maskOf(c.want))
		})
	}
}

// As the first process of a namespace nothing but SIGKILL from outside ends it.
func TestFirstProcessSurvives(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		cmd := blockedSleep(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}, ours()...)
		child := onlyChild(t, cmd.Process.Pid)
		for sig := syscall.Signal(1); sig <= linux.NumSignals; sig++ {
			if sig != syscall.SIGKILL && sig != syscall.SIGSTOP && sig != syscall.SIGCONT {
				syscall.Kill(cmd.Process.Pid, sig)
			}
		}
		waitStatus(t, child, "ShdPnd", maskOf(^linux.Sigset(0)&^(faults|unblockable|linux.Sigset(0).With(syscall.SIGCONT,
			syscall.SIGCHLD, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGURG, syscall.SIGPROF, 32, 33, 34))))
		if syscall.Kill(child, syscall.SIGKILL); cmd.Wait() == nil || cmd.ProcessState.ExitCode() != 128+9 {
			t.Errorf("it ended with %v", cmd.ProcessState)
		}
	})
}

// A stopped command is continued through the init, which does not stop itself.
func TestStopAndContinue(t *testing.T) {
	nstest.Run(t, nstest.Options{}, testStopAndContinue)
}

func testStopAndContinue(t *testing.T) {
	cmd := execCommand(t, "-init", "-settled", "--", "/bin/sleep", "60")
	k := talk(t, cmd, "settled")
	pid := onlyChild(t, cmd.Process.Pid)
	k.cmd.Process.Signal(syscall.SIGTSTP)
	waitStatus(t, pid, "State", "T (stopped)")
	k.cmd.Process.Signal(syscall.SIGCONT)
	waitStatus(t, pid, "State", "S (sleeping)")
	k.cmd.Process.Signal(syscall.SIGTERM)
	if k.cmd.Wait(); k.cmd.ProcessState.ExitCode() != 128+15 {
		t.Errorf("it ended with %v", k.cmd.ProcessState)
	}
}

// With Group the children of the command get a signal too.
func TestGroup(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		for name, flags := range map[string][]string{"group": {"-group"}, "command alone": nil} {
			t.Run(name, func(t *testing.T) {
				cmd := execCommand(t, append(append([]string{"-init", "-settled"}, flags...), "--", "/bin/sh", "-c", `trap : USR1
					sh -c 'trap "exit 9" USR1; echo ready; while :; do sleep 0.05; done' &
					while :; do wait $!; s=$?; [ $s -gt 127 ] || exit $s; done`)...)
				k := talk(t, cmd, "settled")
				if got := k.line(t); got != "ready" {
					t.Fatal(got)
				}
				cmd.Process.Signal(syscall.SIGUSR1)
				if flags == nil {
					cmd.Process.Signal(syscall.SIGTERM)
				}
				want := map[bool]int{true: 9, false: 128 + 15}[flags != nil]
				if cmd.Wait(); cmd.ProcessState.ExitCode() != want {
					t.Errorf("it ended with %v, want %d", cmd.ProcessState, want)
				}
			})
		}
	})
}

// A command that uses up the limit of processes does not take the init with it:
// the runtime ends where it can start no thread.
func TestNoMoreProcesses(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		testenv.Need(t, testenv.Tool("prlimit"))
		root := os.Getuid() == 0
		cmd := execCommand(t, "-init", "-settled", "--", "/bin/sleep", "60")
		if root && mapsMore() { // for root there is no limit
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4321, Gid: 4321}}
		}
		k := talk(t, cmd, "settled")
		pid := onlyChild(t, cmd.Process.Pid)
		initPID := strconv.Itoa(cmd.Process.Pid)
		if out, err := exec.CommandContext(t.Context(), "prlimit", "--nproc=1", "--pid", initPID).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for range 2000 {
			for _, sig := range []syscall.Signal{syscall.SIGWINCH, syscall.SIGCHLD, syscall.SIGURG, syscall.SIGCONT} {
				k.cmd.Process.Signal(sig)
			}
		}
		waitStatus(t, pid, "State", "S (sleeping)")
		k.cmd.Process.Signal(syscall.SIGTERM)
		if k.cmd.Wait(); k.cmd.ProcessState.ExitCode() != 128+15 {
			t.Errorf("it ended with %v", k.cmd.ProcessState)
		}
	})
}

// Where the limit is reached before, the command is not started, and the limit told.
func TestNoProcessForTheCommand(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		testenv.Need(t, testenv.Tool("prlimit"))
		if os.Getuid() == 0 && !mapsMore() {
			t.Log("the only user here is root, for whom there is no limit")
			return
		}
		cmd := execCommand(t, "-init", "-wait", "--", "/bin/sleep", "60")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4321, Gid: 4321}}
		var errs bytes.Buffer
		cmd.Stderr = &errs
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
			t.Fatalf("%q, %v", line, err)
		}
		if out, err := exec.CommandContext(t.Context(), "prlimit", "--nproc=1", "--pid", strconv.Itoa(cmd.Process.Pid)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		fmt.Fprintln(in)
		if cmd.Wait(); cmd.ProcessState.ExitCode() != 126 || !strings.Contains(errs.String(), "the limit of processes is reached") {
			t.Errorf("it ended with %v: %s", cmd.ProcessState, errs.String())
		}
	})
}

// mapsMore reports whether this user namespace has more than one user.
func mapsMore() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && !strings.HasSuffix(strings.TrimSpace(string(text)), " 1")
}

// What the command inherits the init does not keep: a reader of a pipe sees its end
// when the command has closed it.
func TestInheritedFilesAreNotKept(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := execCommand(t, "-init", "--", "/bin/sh", "-c", "echo ready >&3; exec 3>&-; read x")
	cmd.ExtraFiles = []*os.File{w}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil || b.String() != "ready\n" { // to the end of file
		t.Errorf("%q, %v", b.String(), err)
	}
	in.Close()
	cmd.Wait()
}

// Standard descriptors that are closed at the start are /dev/null, and nothing else
// of ours.
func TestClosedStandardDescriptors(t *testing.T) {
	for mode, flags := range modes {
		t.Run(mode, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			sh := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", `exec "$0" "$@" <&- >&- 2>&-`, program(t, "exec")},
				append(flags, "--", "/bin/sh", "-c", "x=$(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2); echo \"$x\" >"+out)...)...)
			if err := sh.Run(); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(out)
			if err != nil || string(text) != strings.Repeat("/dev/null\n", 3) {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
}

// SIGCHLD ignored at the start (then the kernel reaps) changes nothing.
func TestIgnoredSIGCHLD(t *testing.T) {
	sh := exec.CommandContext(t.Context(), "/bin/sh", "-c", `trap '' CHLD; exec "$0" -init -- /bin/sh -c 'exit 6'`, program(t, "exec"))
	if status, _, errs := run(t, sh); status != 6 {
		t.Errorf("status %d %s", status, errs)
	}
}

func TestNoDescriptors(t *testing.T) {
	testenv.Need(t, testenv.Tool("busybox")) // it needs no library, for which it would need a descriptor
	for mode, flags := range modes {
		t.Run(mode, func(t *testing.T) {
			sh := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", `ulimit -n 3; exec "$0" "$@"`, program(t, "exec")}, append(flags, "--", "busybox", "sh", "-c", "exit 6")...)...)
			status, _, errs := run(t, sh)
			if mode == "become" && status == 6 || mode == "init" && status == 126 && strings.Contains(errs, "no descriptor is left") {
				return
			}
			t.Errorf("status %d %s", status, errs)
		})
	}
}

// The death of whoever started it reaches the command.
func TestDeathSignal(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		sh := exec.CommandContext(t.Context(), "/bin/sh", "-c", `"$0" -init -settled -death 12 -mask 0x800 -- /bin/sleep 60 2>&1 & echo $!; wait`, program(t, "exec"))
		k := talk(t, sh, "")
		init, err := strconv.Atoi(k.line(t))
		if err != nil || k.line(t) != "settled" {
			t.Fatal(err)
		}
		pid := onlyChild(t, init)
		sh.Process.Kill()
		waitStatus(t, pid, "ShdPnd", maskOf(linux.Sigset(0).With(syscall.SIGUSR2)))
		syscall.Kill(init, syscall.SIGKILL)
		syscall.Kill(pid, syscall.SIGKILL)
	})
}
