package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
	"github.com/slashrun/slashrun/internal/vmtest"
)

// The test binary called with this first argument is the inside.
const insideArg = "sandbox-inside"

// outsideArg makes it the outside: it runs the rest of its arguments inside.
const outsideArg = "sandbox-outside"

func TestMain(m *testing.M) {
	denyCalls()
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case insideArg:
			os.Exit(testInside(os.Args[2:]))
		case "write-everywhere":
			os.Exit(writeEverywhere())
		case outsideArg:
			status, err := Run(Program{
				Args: append([]string{os.Args[0], insideArg}, os.Args[2:]...), Env: os.Environ(),
				Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
			})
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(StatusFailed)
			}
			os.Exit(status)
		}
	}
	vmtest.Setup()
	seccomptest.Setup()
	nstest.Main(m)
}

func testInside(argv []string) int {
	in, err := Enter()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return StatusFailed
	}
	for _, n := range in.Notes {
		fmt.Fprintln(os.Stderr, "note:", n)
	}
	if argv[0] == "describe" {
		fmt.Printf("own %v single %v user %d fresh %v\n", in.OwnUsers, in.Single, in.User, in.FreshProc)
		return 0
	}
	dir, _ := os.Getwd()
	status, err := in.Exec(Command{Args: argv, Env: os.Environ(), Dir: dir, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return status
}

// namespaces is what the tests need that are not in nstest's namespaces.
var namespaces = testenv.Requirement{What: "user, mount and PID namespaces", Check: sync.OnceValue(func() error {
	_, err := Run(Program{Args: []string{os.Args[0], insideArg, "true"}, Env: os.Environ()})
	return err
})}

// run runs argv inside and returns what it wrote and its status.
func run(t *testing.T, argv ...string) (string, int) {
	t.Helper()
	testenv.Need(t, namespaces)
	var out bytes.Buffer
	status, err := Run(Program{Args: append([]string{os.Args[0], insideArg}, argv...), Env: os.Environ(), Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), status
}

func sh(t *testing.T, script string) (string, int) {
	t.Helper()
	return run(t, "sh", "-c", script)
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		argv   []string
		status int
	}{
		{[]string{"true"}, 0},
		{[]string{"sh", "-c", "exit 3"}, 3},
		{[]string{"sh", "-c", "kill -TERM $$"}, 128 + 15},
		{[]string{"no-such-program-anywhere"}, StatusNotFound},
		{[]string{"/etc/passwd"}, StatusNotRunnable},
		{[]string{"/etc/passwd/x"}, StatusNotRunnable},
	} {
		if out, status := run(t, c.argv...); status != c.status {
			t.Errorf("%q: status %d, want %d: %s", c.argv, status, c.status, out)
		}
	}
}

func TestIsPID1sChildAlone(t *testing.T) {
	out, status := sh(t, `echo $$; ls -d /proc/[0-9]* | wc -l; ls /run | wc -l`)
	f := strings.Fields(out)
	if status != 0 || len(f) != 3 || f[2] != "0" {
		t.Fatalf("status %d: %s", status, out)
	}
	if !nstest.Inside() && (f[0] == "1" || len(f[1]) > 1) {
		t.Errorf("the shell is process %s, and there are %s processes", f[0], f[1])
	}
}

// world is where what would destroy a machine is tried: a machine of nstest's
// with a /dev of its own, so that a broken sandbox breaks that. Root stays root
// there, since that is what is hard to contain.
func world() nstest.Options { return nstest.Options{Real: os.Geteuid() == 0} }

// Nothing of the machine can be written to, and nobody inside can change that.
func TestTheMachineIsReadOnly(t *testing.T) { nstest.Run(t, world(), machineIsReadOnly) }

func machineIsReadOnly(t *testing.T) {
	file := t.TempDir() + "/f"
	if err := os.WriteFile(file, []byte("x"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{
		"echo y > " + file,
		"chmod 600 " + file,
		"mkdir /mkdir-in-root",
		"mount -o remount,rw,bind /",
		"mount -t tmpfs none /run",
		"umount /dev",
		"d=$(cat /proc/sys/kernel/domainname); echo $d > /proc/sys/kernel/domainname",
		"chmod 600 /dev/null",
		"rm /dev/null",
		": < /proc/1/environ",
		"ls /proc/1/root/",
	} {
		if out, status := sh(t, script); status == 0 {
			t.Errorf("%s: done: %s", script, out)
		}
	}
	if data, err := os.ReadFile(file); string(data) != "x" {
		t.Errorf("%q, %v", data, err)
	}
	for _, script := range []string{
		"echo y > /dev/null", "echo y > /dev/shm/f", "readlink /proc/self/exe", "cat " + file, "test $(umask) = " + umask(t),
	} {
		if out, status := sh(t, script); status != 0 {
			t.Errorf("%s: status %d: %s", script, status, out)
		}
	}
}

func umask(t *testing.T) string {
	out, err := exec.Command("sh", "-c", "umask").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestUsers(t *testing.T) {
	out, _ := run(t, "describe")
	if os.Geteuid() == 0 {
		if !strings.HasPrefix(out, "own true single false") {
			t.Error(out)
		}
		return
	}
	if want := fmt.Sprintf("own true single true user %d", os.Geteuid()); !strings.HasPrefix(out, want) {
		t.Errorf("%s, want %s", out, want)
	}
}

// The ways without mount_setattr and without a fresh procfs are the same to
// whoever looks.
func TestWithoutNewCalls(t *testing.T) {
	for _, p := range seccomptest.All {
		t.Run(p.String(), func(t *testing.T) {
			seccomptest.Run(t, p, func(t *testing.T) { nstest.Run(t, world(), machineIsReadOnly) })
		})
	}
}

func TestNotInside(t *testing.T) {
	if _, err := Enter(); !errors.Is(err, ErrNotInside) {
		t.Fatalf("Enter outside: %v", err)
	}
	out, err := exec.Command("/proc/self/exe", insideArg, "true").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != StatusFailed || !strings.Contains(string(out), "not the first one") {
		t.Errorf("%v: %s", err, out)
	}
}

// PID 1 of another's making, without our descriptors, is refused too.
func TestNotInsideAsPID1(t *testing.T) {
	nstest.Run(t, nstest.Options{PID1: true}, func(t *testing.T) {
		if _, err := Enter(); !errors.Is(err, ErrNotInside) || !strings.Contains(err.Error(), "handed down no mnt namespace") {
			t.Fatalf("Enter as PID 1: %v", err)
		}
	})
}

// killed starts an outside whose inside blocks, kills what kill says, and waits
// until the last process inside has closed its end of a pipe.
func killed(t *testing.T, kill func(outside *os.Process)) (status int) {
	t.Helper()
	testenv.Need(t, namespaces)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", outsideArg, "sh", "-c", "trap '' TERM; setsid sleep 1000 & echo ready; wait; sleep 1000")
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	line := make([]byte, 6)
	if _, err := io.ReadFull(r, line); err != nil {
		t.Fatal(err)
	}
	kill(cmd.Process)
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); err != nil {
		t.Errorf("a process inside is still there: %v", err)
	}
	_ = cmd.Wait() // the status is what is judged
	return statusOf(cmd.ProcessState.Sys().(syscall.WaitStatus))
}

func TestOutsideKilled(t *testing.T) {
	if status := killed(t, func(p *os.Process) { _ = p.Kill() }); status != 128+9 {
		t.Errorf("status %d", status)
	}
}

func TestPID1Killed(t *testing.T) {
	status := killed(t, func(p *os.Process) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.Pid, p.Pid))
		children := strings.Fields(string(text))
		if err != nil || len(children) == 0 {
			// Whichever thread forked is the parent on paper.
			out, err := exec.Command("sh", "-c", fmt.Sprintf("cat /proc/%d/task/*/children", p.Pid)).Output()
			if err != nil {
				t.Fatal(err)
			}
			children = strings.Fields(string(out))
		}
		for _, c := range children {
			var pid int
			fmt.Sscan(c, &pid)
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	})
	if status != 128+9 {
		t.Errorf("status %d", status)
	}
}

func TestSignalHandedOn(t *testing.T) {
	testenv.Need(t, namespaces)
	cmd := exec.Command("/proc/self/exe", outsideArg, "sh", "-c", `trap 'exit 5' TERM; trap 'exit 6' USR1; echo ready; while :; do read x; done`)
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
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	in.Close()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 5 {
		t.Errorf("%v, want the status of the trap", err)
	}
}

// writeEverywhere is a program inside that no shell is needed for: it fails where
// it could change something.
func writeEverywhere() int {
	status := 0
	for _, name := range []string{"/new", "/etc/new", "/root/new", "/../new", "/proc/1/root/new"} {
		if err := os.WriteFile(name, []byte("x"), 0o600); err == nil {
			fmt.Println("wrote", name)
			status = 1
		}
	}
	if err := os.WriteFile("/dev/shm/new", []byte("x"), 0o600); err != nil {
		fmt.Println(err)
		status = 1
	}
	if pid := os.Getpid(); pid == 1 || pid > 50 {
		fmt.Println("process", pid)
		status = 1
	}
	return status
}

// An initramfs has a root that pivot_root(2) refuses, and this is the oldest
// kernel there is a package of.
func TestInitramfs(t *testing.T) {
	if !vmtest.Inside() {
		testenv.Need(t, testenv.Root) // it needs none: one pass of the two is enough for a boot
	}
	vmtest.Run(t, vmtest.Options{Kernel: vmtest.Bookworm}, func(t *testing.T) {
		for _, dir := range []string{"/etc", "/root"} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		exe, err := os.Readlink("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		if out, status := run(t, exe, "write-everywhere"); status != 0 {
			t.Errorf("status %d: %s", status, out)
		}
		for _, name := range []string{"/new", "/etc/new", "/root/new", "/dev/shm/new"} {
			if _, err := os.Lstat(name); err == nil {
				t.Errorf("%s was made outside", name)
			}
		}
	})
}
