package locktest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/lockfile"
)

// opened opens a file as a shell has it that calls flock with a descriptor.
func opened(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// onDescriptor starts ours with f as descriptor 3.
func onDescriptor(t *testing.T, f *os.File, stderr *os.File, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(ours(t)[0], append(args, "3")...)
	cmd.ExtraFiles = []*os.File{f}
	if stderr != nil { // else a typed nil
		cmd.Stderr = stderr
	}
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// isFree fails unless the lock can be had by somebody who has no part in it.
func isFree(t *testing.T, path, when string) {
	t.Helper()
	f := opened(t, path)
	defer f.Close()
	if err := linux.Flock(int(f.Fd()), linux.LOCK_EX|linux.LOCK_NB); err != nil {
		t.Errorf("%s the lock cannot be had: %v", when, err)
	}
}

// sleepsIn reports whether a thread of a process is in a system call.
func sleepsIn(pid, call int) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
	for _, name := range tasks {
		if text, _ := os.ReadFile(name); strings.HasPrefix(string(text), fmt.Sprintf("%d ", call)) {
			return true
		}
	}
	return false
}

// Between the end of its time and its own end nothing is granted on a descriptor that
// the shell keeps. What holds it up there is a full pipe, to which it writes who
// holds the lock.
func TestTimeoutNeverLocksADescriptor(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "F")
	release := hold(t, path, linux.LOCK_EX)
	shells := opened(t, path)
	var pipe [2]int
	must(t, syscall.Pipe2(pipe[:], syscall.O_CLOEXEC))
	r, w := os.NewFile(uintptr(pipe[0]), "r"), os.NewFile(uintptr(pipe[1]), "w")
	defer r.Close()
	defer w.Close()
	must(t, syscall.SetNonblock(pipe[1], true))
	for {
		if _, err := syscall.Write(pipe[1], make([]byte, 4096)); errors.Is(err, syscall.EAGAIN) {
			break
		}
	}
	must(t, syscall.SetNonblock(pipe[1], false))
	cmd := onDescriptor(t, shells, w, "--verbose", "-w", "2", "-E", "9")
	w.Close()
	waiting(t, path, 1)
	// Its time is over, and it cannot say so. (A line of /proc/locks may be missing
	// while others' come and go.)
	until(t, "nobody waits", func() bool {
		_, n := locksOf(t, path)
		return n == 0 && !sleepsIn(cmd.Process.Pid, syscall.SYS_FLOCK)
	})
	if dead(cmd.Process.Pid) {
		t.Fatal("it has ended: the test tests nothing")
	}
	release()
	isFree(t, path, "while it stands between the limit and its end,")
	text, err := io.ReadAll(r)
	if got := end(cmd); got != "exit 9" || err != nil || !strings.Contains(string(text), "no lock on descriptor 3") {
		t.Errorf("%s, %v, it says %q", got, err, strings.TrimLeft(string(text), "\x00"))
	}
	isFree(t, path, "after its end")
}

// However one of the queue of --fair ends, the queue goes on, though the shell has the
// descriptor open.
func TestFairOnADescriptor(t *testing.T) {
	flock := ours(t)[0]
	for name, sig := range map[string]syscall.Signal{"timeout": 0, "SIGTERM": syscall.SIGTERM, "SIGKILL": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "F")
			release := hold(t, path, linux.LOCK_EX)
			shells := opened(t, path)
			var cmd *exec.Cmd
			want := "exit 1"
			if sig == 0 {
				cmd = onDescriptor(t, shells, nil, "--fair", "-w", "0.01")
			} else {
				cmd = onDescriptor(t, shells, nil, "--fair")
				waiting(t, path, 1)
				must(t, cmd.Process.Signal(sig))
				want = "killed by " + linux.SignalName(sig)
			}
			if got := end(cmd); got != want {
				t.Errorf("%s, want %s", got, want)
			}
			other := opened(t, path)
			if queue, _, err := linux.OFDConflict(int(other.Fd()), linux.F_WRLCK, lockfile.TurnstileStart, lockfile.TurnstileLen); queue || err != nil {
				t.Errorf("the queue is closed %v, %v", queue, err)
			}
			release()
			status(t, 7, "", flock, "--fair", path, "sh", "-c", "exit 7")
			// And it works: the lock is the shell's.
			if got := end(onDescriptor(t, shells, nil, "--fair")); got != "exit 0" {
				t.Error(got)
			}
			status(t, 1, "", flock, "--fair", "-n", path, "true")
		})
	}
	// Where the file cannot be opened anew it is refused at once, not when it is busy.
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	defer w.Close()
	var diag buffer
	cmd := exec.Command(flock, "--fair", "3")
	cmd.ExtraFiles, cmd.Stderr = []*os.File{r}, &diag
	_ = cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != 65 || !strings.Contains(diag.String(), "no regular file") {
		t.Errorf("a pipe: status %d, %s", got, diag.String())
	}
}

// A name that a process gives itself, or a file has, does not draw on the terminal.
func TestMessagesOnATerminal(t *testing.T) {
	flock, dir := ours(t)[0], t.TempDir()
	evil := "\x1b[2J\u202e\u009bx"
	for _, argv := range [][]string{
		{dir + "/" + evil + "/F", "true"}, {dir + "/F", dir + "/" + evil}, {dir + "/F", evil}, {evil}, {"-w", evil, "F", "true"}, {"--" + evil},
		{"--start", evil, "F", "true"}, {"-E", evil, "F", "true"}, {"--name", evil, "true"}, {"-" + evil, "F"}, {"--verbose", dir + "/F", "sh", "-c", "true", evil},
	} {
		_, out, diag := runs(t, dir, []string{"XDG_RUNTIME_DIR=" + dir + "/" + evil}, append([]string{flock}, argv...)...)
		for _, bad := range []string{"\x1b", "\u202e", "\u009b"} {
			if strings.Contains(out+diag, bad) {
				t.Errorf("%q writes %q", argv, out+diag)
			}
		}
	}
	hold(t, filepath.Join(dir, "F"), linux.LOCK_EX)
	me := fmt.Sprintf("held by process %d (", os.Getpid())
	status(t, 1, me, flock, "-n", "--verbose", dir+"/F", "true")
}
