package nstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/rerun"
	"github.com/slashrun/slashrun/internal/testenv"
)

func TestMain(m *testing.M) { Main(m) }

func TestRunIsEmptyAndPrivate(t *testing.T) {
	name := fmt.Sprintf("/run/slashrun-nstest-%d", os.Getpid())
	Run(t, Options{}, func(t *testing.T) {
		entries, err := os.ReadDir("/run")
		if err != nil || len(entries) != 0 {
			t.Errorf("/run has %v, %v; want nothing", entries, err)
		}
		if err := os.WriteFile("/run/slashrun-nstest-mark", nil, 0o644); err != nil {
			t.Error(err)
		}
		if err := linux.Mount("x", "/run", "tmpfs", 0, ""); err != nil {
			t.Error(err)
		}
	})
	for _, path := range []string{name, "/run/slashrun-nstest-mark"} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s came out of the namespace", path)
		}
	}
}

func TestInsideIsAnotherMachine(t *testing.T) {
	for _, o := range []Options{{}, {SingleUser: true}, {Real: true}, {PID1: true}, {Root: RootEmpty}, {Real: true, Root: RootEmpty}, {Real: true, Root: RootOverlay}, {Net: true}} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			Run(t, o, func(t *testing.T) {
				if !Inside() {
					t.Error("Inside() = false")
				}
				pid := os.Getpid()
				if (pid == 1) != o.PID1 || pid > 100 {
					t.Errorf("process ID %d", pid)
				}
				var st syscall.Statfs_t
				if err := syscall.Statfs("/", &st); err != nil {
					t.Fatal(err)
				}
				if ro := st.Flags&1 != 0; ro != (o.Root == RootReadOnly) {
					t.Errorf("/ is read-only: %v", ro)
				}
				f, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
				if err != nil {
					t.Errorf("/dev/null: %v", err)
				} else if _, err := f.Write([]byte("x")); err != nil {
					t.Errorf("/dev/null: %v", err)
				}
				err = os.Chmod("/dev/null", 0o600)
				if !o.Real && !errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.EPERM) {
					t.Errorf("chmod of the machine's /dev/null: %v, want EROFS", err)
				}
				if host, _ := os.Hostname(); host != "nstest" {
					t.Errorf("host name %q", host)
				}
				if d := t.TempDir(); !strings.HasPrefix(d, "/tmp/") {
					t.Errorf("t.TempDir() = %s", d)
				}
				if _, err := os.Stat("nstest_test.go"); err != nil {
					t.Errorf("the package's directory is out of sight: %v", err)
				}
				exe, err := os.Executable()
				if err != nil {
					t.Fatal(err)
				}
				if out, err := exec.Command(exe, "-test.list=TestInsideIs").Output(); err != nil || !bytes.Contains(out, []byte("TestInsideIsAnotherMachine")) {
					t.Errorf("running the test binary by its path: %q, %v", out, err)
				}
				if os.Getenv(envName) != "" {
					t.Errorf("$%s is left for programs that the test starts", envName)
				}
				for fd := fdReport; fd < 16; fd++ {
					link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
					if err == nil && (strings.HasPrefix(link, "mnt:[") || strings.HasPrefix(link, "pid:[")) {
						t.Errorf("descriptor %d is still %s", fd, link)
					}
				}
			})
		})
	}
}

func TestRootsKeepAndWrites(t *testing.T) {
	host := t.TempDir() // below /tmp, so hidden unless kept
	if err := os.WriteFile(host+"/file", []byte("kept"), 0o666); err != nil {
		t.Fatal(err)
	}
	os.Chmod(filepath.Dir(host), 0o755)
	// Only the outside knows the directory: inside, TempDir is another one.
	env := []string{"NSTEST_KEPT=" + host}
	keep := []string{host, "/bin", "/usr", "/lib", "/lib64"}
	if Inside() {
		host = os.Getenv("NSTEST_KEPT")
	}
	check := func(t *testing.T) {
		if text, err := os.ReadFile(host + "/file"); err != nil || string(text) != "kept" {
			t.Errorf("the kept file: %q, %v", text, err)
		}
		if err := os.WriteFile(host+"/file", nil, 0o644); !errors.Is(err, syscall.EROFS) {
			t.Errorf("writing to the kept file: %v, want EROFS", err)
		}
		if out, err := exec.Command("/bin/sh", "-c", "echo hello").Output(); err != nil || string(out) != "hello\n" {
			t.Errorf("sh: %q, %v", out, err)
		}
	}
	t.Run("read-only", func(t *testing.T) {
		Run(t, Options{Keep: keep[:1], Env: env}, func(t *testing.T) {
			check(t)
			for _, path := range []string{"/etc/nstest", "/var/tmp/nstest", "nstest-file"} {
				err := os.WriteFile(path, nil, 0o644)
				if !errors.Is(err, syscall.EROFS) {
					os.Remove(path)
					t.Errorf("writing %s: %v, want EROFS", path, err)
				}
			}
		})
	})
	for _, root := range []Root{RootOverlay, RootEmpty} {
		t.Run(string(root), func(t *testing.T) {
			o := Options{Root: root, Keep: keep, Env: env}
			if root == RootOverlay {
				o.Real, o.Keep = true, keep[:1] // the others are there
			}
			Run(t, o, func(t *testing.T) {
				check(t)
				path := "/etc/slashrun-nstest"
				err := os.WriteFile(path, []byte("x"), 0o644)
				if err != nil {
					t.Errorf("writing to the private root: %v", err)
				}
			})
			if _, err := os.Lstat("/etc/slashrun-nstest"); err == nil {
				t.Error("the file came out of the namespace")
			}
		})
	}
}

func TestUsers(t *testing.T) {
	chown := func() error {
		if err := os.WriteFile("/run/file", nil, 0o644); err != nil {
			return err
		}
		return os.Chown("/run/file", 7, 8)
	}
	t.Run("single", func(t *testing.T) {
		Run(t, Options{SingleUser: true}, func(t *testing.T) {
			if err := chown(); !errors.Is(err, syscall.EINVAL) {
				t.Errorf("chown in a single-user namespace: %v, want EINVAL", err)
			}
		})
	})
	t.Run("all", func(t *testing.T) {
		testenv.Need(t, testenv.Root)
		Run(t, Options{}, func(t *testing.T) {
			if err := chown(); err != nil {
				t.Errorf("chown with all users mapped: %v", err)
			}
			if err := syscall.Mknod("/run/dev", syscall.S_IFCHR|0o600, 0x103); !errors.Is(err, syscall.EPERM) {
				t.Errorf("mknod of a device: %v, want EPERM", err)
			}
			if err := os.WriteFile("/proc/sys/kernel/printk", []byte("4"), 0o644); err == nil {
				t.Error("/proc/sys can be written")
			}
		})
	})
	t.Run("real", func(t *testing.T) {
		Run(t, Options{Real: true}, func(t *testing.T) {
			if err := chown(); err != nil {
				t.Errorf("chown: %v", err)
			}
			if err := syscall.Mknod("/tmp/dev", syscall.S_IFCHR|0o600, 0x103); err != nil {
				t.Errorf("mknod of a device: %v", err)
			}
			for _, path := range []string{"/proc/sysrq-trigger", "/proc/sys/kernel/panic"} {
				if f, err := os.OpenFile(path, os.O_WRONLY, 0); !errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.ENOENT) {
					f.Close()
					t.Errorf("opening %s: %v, want EROFS", path, err)
				}
			}
		})
	})
}

func TestNetworkNamespaceHasLoopback(t *testing.T) {
	Run(t, Options{Net: true}, func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:1") // nobody else can have it
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		ifs, err := net.Interfaces()
		if err != nil || len(ifs) < 1 || ifs[0].Flags&net.FlagUp == 0 {
			t.Errorf("interfaces %v, %v; want lo that is up", ifs, err)
		}
		for _, i := range ifs {
			if i.Name != "lo" && i.Flags&net.FlagUp != 0 {
				t.Errorf("interface %s is up", i.Name)
			}
		}
	})
}

// A namespace like ours can be made inside, with a procfs of its own.
func TestNestsAgain(t *testing.T) {
	Run(t, Options{}, func(t *testing.T) {
		if !FreshProc() {
			testenv.Need(t, testenv.Requirement{What: "a fresh procfs", Check: func() error { return errors.New("/proc is masked") }})
		}
		cmd := exec.Command("unshare", "-Urmpf", "sh", "-c", "mount -t proc proc /proc && mount -t tmpfs x /run && echo $$")
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != "1\n" {
			t.Errorf("unshare: %q, %v", out, err)
		}
	})
}

// The report's descriptor is still there after the garbage collector has run:
// it was closed once by the finalizer of an os.File that nobody held.
func TestReportsAfterGarbageCollection(t *testing.T) {
	Run(t, Options{}, func(t *testing.T) {
		before, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fdReport))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			ran := make(chan bool)
			runtime.SetFinalizer(&struct{ c chan bool }{ran}, func(x *struct{ c chan bool }) { close(x.c) })
			runtime.GC()
			<-ran // finalizers run one after the other, so earlier ones have run
		}
		if after, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fdReport)); after != before {
			t.Errorf("descriptor %d was %s and is %q (%v)", fdReport, before, after, err)
		}
	})
}

func TestSeveralCalls(t *testing.T) {
	for i := range 2 {
		Run(t, Options{}, func(t *testing.T) {
			if s := rerun.Load(); s.Frames[0].Call != i {
				t.Errorf("call %d runs the function of call %d", s.Frames[0].Call, i)
			}
		})
	}
	t.Run("sub (with) regexp | characters", func(t *testing.T) {
		Run(t, Options{}, func(t *testing.T) {
			t.Run("deeper", func(t *testing.T) {})
		})
	})
}

// TestSubject holds the tests that end badly; the tests below start them.
func TestSubject(t *testing.T) {
	if os.Getenv("NSTEST_SUBJECT") == "" {
		return
	}
	subject := func(name string, o Options, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			Run(t, o, f)
			fmt.Println("AFTER " + name)
		})
	}
	subject("passes", Options{}, func(t *testing.T) { t.Log("a log line inside") })
	subject("fails", Options{}, func(t *testing.T) { t.Error("an error inside") })
	subject("failsInSubtest", Options{}, func(t *testing.T) {
		t.Run("deep", func(t *testing.T) { t.Error("a deep error") })
		t.Run("other", func(t *testing.T) {})
	})
	subject("failsInCleanup", Options{}, func(t *testing.T) { t.Cleanup(func() { t.Error("an error in a cleanup") }) })
	subject("skips", Options{}, func(t *testing.T) { t.Skip("a reason inside") })
	subject("panics", Options{}, func(t *testing.T) { panic("a panic inside") })
	subject("panicsAsPID1", Options{PID1: true}, func(t *testing.T) { panic("a panic inside") })
	subject("exits0", Options{}, func(t *testing.T) { os.Exit(0) })
	subject("exits3", Options{}, func(t *testing.T) { os.Exit(3) })
	subject("exitsBySyscall", Options{}, func(t *testing.T) { syscall.Exit(0) })
	subject("killed", Options{}, func(t *testing.T) { syscall.Kill(os.Getpid(), syscall.SIGKILL); forever() })
	subject("nests", Options{}, func(t *testing.T) {
		Run(t, Options{}, func(t *testing.T) { t.Error("an error two levels down") })
	})
	subject("keepsNothing", Options{Keep: []string{"/nonexistent/file"}}, func(t *testing.T) {})
	subject("hangs", Options{}, func(t *testing.T) { forever() })
	subject("sleeps", Options{}, func(t *testing.T) { // for TestChildrenDieWithTheParent
		cmd := exec.Command("sleep", "1000")
		cmd.ExtraFiles = []*os.File{os.Stdout}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		cmd.Stdout = os.Stdout
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		fmt.Println("UP")
		forever()
	})
}

// forever waits in the kernel. A select without cases would end in the runtime's
// "all goroutines are asleep" where the binary has no cgo.
func forever() {
	for {
		syscall.Pause()
	}
}

// subject starts this test binary for one part of TestSubject.
func subject(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{"-test.run=^TestSubject$/^" + name + "$", "-test.v"}, args...)...)
	cmd.Env = append(os.Environ(), "NSTEST_SUBJECT=1")
	return cmd
}

func TestWhatHappensInsideIsSeenOutside(t *testing.T) {
	for _, c := range []struct {
		name string
		fail bool
		want string
		args []string
	}{
		{"passes", false, "a log line inside", nil},
		{"passes", false, "AFTER passes", nil},
		{"fails", true, "an error inside", nil},
		{"fails", true, "an error inside", []string{"-test.v=false"}},
		{"failsInSubtest", true, "--- FAIL: TestSubject/failsInSubtest/deep", nil},
		{"failsInCleanup", true, "an error in a cleanup", nil},
		{"skips", false, "a reason inside", nil},
		{"panics", true, "a panic inside", nil},
		{"panicsAsPID1", true, "a panic inside", nil},
		{"exits0", true, "unexpected call to os.Exit(0)", nil},
		{"exits3", true, "exit status 3", nil},
		{"exitsBySyscall", true, "ended before its function returned", nil},
		{"killed", true, "killed", nil},
		{"nests", true, "an error two levels down", nil},
		{"keepsNothing", true, "/nonexistent/file", nil},
		{"hangs", true, "test timed out", []string{"-test.timeout=2s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			testenv.Need(t, userns)
			out, err := subject(c.name, c.args...).CombinedOutput()
			if (err != nil) != c.fail {
				t.Errorf("error %v, want failure %v", err, c.fail)
			}
			if !strings.Contains(string(out), c.want) {
				t.Errorf("the output does not have %q", c.want)
			}
			if c.fail && strings.Contains(string(out), "AFTER") {
				t.Error("the test goes on after a failure inside")
			}
			if strings.Contains(string(out), "--- SKIP") != (c.name == "skips") {
				t.Error("skipped, or not, as it should not")
			}
			if t.Failed() {
				t.Logf("output:\n%s", out)
			}
		})
	}
}

// A pattern that goes on below the test that calls Run selects inside.
func TestDeeperPattern(t *testing.T) {
	testenv.Need(t, userns)
	out, err := subject("failsInSubtest$/^other").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestSubject/failsInSubtest/other") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Everything inside dies when the outer process is killed with SIGKILL.
func TestChildrenDieWithTheParent(t *testing.T) {
	testenv.Need(t, userns)
	cmd := subject("sleeps")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	seen := ""
	buf := make([]byte, 4096)
	for !strings.Contains(seen, "UP") {
		n, err := r.Read(buf)
		if err != nil {
			t.Fatalf("before the processes were up: %v\n%s", err, seen)
		}
		seen += string(buf[:n])
	}
	inner := descendants(t, cmd.Process.Pid)
	for try := 0; len(inner) < 3 && try < 100; try++ { // a listing of /proc is no snapshot
		time.Sleep(10 * time.Millisecond)
		inner = descendants(t, cmd.Process.Pid)
	}
	if len(inner) < 3 {
		t.Errorf("below process %d there are %v, want PID 1, the test and sleep; it printed %q", cmd.Process.Pid, inner, seen)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	r.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Errorf("the pipe is still held: %v", err)
	}
	for _, p := range inner {
		if err := p.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// The environment alone starts nothing.
func TestRefusesWithoutNamespaces(t *testing.T) {
	for _, stage := range []string{stageInit, stageBody} {
		cmd := exec.Command("/proc/self/exe", "-test.run=^$")
		cmd.Env = append(os.Environ(), envName+`={"Stage":"`+stage+`"}`)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "refusing to run") {
			t.Errorf("stage %s: %v\n%s", stage, err, out)
		}
		// With descriptors, of our own namespaces: these are not another's.
		cmd = exec.Command("/proc/self/exe", "-test.run=^$")
		cmd.Env = append(os.Environ(), envName+`={"Stage":"`+stage+`","Options":{"Real":true}}`)
		for _, path := range []string{"/dev/null", "/proc/self/ns/mnt", "/proc/self/ns/user", "/proc/self/ns/pid", "/", "/dev/null"} {
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		}
		out, err = cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "still the outside's mnt namespace") {
			t.Errorf("stage %s with descriptors: %v\n%s", stage, err, out)
		}
	}
}

// Nothing of a test remains on the machine: no mount, no process.
func TestLeavesNothing(t *testing.T) {
	testenv.Need(t, userns)
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if out, err := subject("passes").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Errorf("mounts before:\n%s\nafter:\n%s", before, after)
	}
	if left := descendants(t, os.Getpid()); len(left) != 0 {
		t.Errorf("processes left: %v", left)
	}
}
