package seccomptest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

func TestMain(m *testing.M) {
	Setup()
	nstest.Main(m)
}

// Each call gets arguments with which it fails, so that an error that is not the
// filter's says that the filter let it pass.
var probes = []struct {
	name string
	old  bool
	call func() error
}{
	{"pidfd_open", false, func() error { _, err := linux.PidfdOpen(-1); return err }},
	{"mount_setattr", false, func() error { return linux.MountSetattr(-1, "x", 0, linux.MountAttr{}) }},
	{"fchmodat2", false, func() error { return linux.Fchmodat2Empty(-1, 0) }},
	{"statx", true, func() error { return linux.InMemory(false).StatxNul(-1, []byte("x\x00"), 0, 0, nil) }},
	{"copy_file_range", true, func() error { _, err := linux.CopyFileRange(-1, -1, 1); return err }},
	{"renameat2 with flags", true, func() error { return linux.Renameat2(-1, "x", -1, "y", linux.RENAME_NOREPLACE) }},
}

func TestProfilesDenyWhatTheySay(t *testing.T) {
	for _, p := range All[1:] {
		t.Run(p.String(), func(t *testing.T) {
			Run(t, p, func(t *testing.T) {
				if Current() != p {
					t.Errorf("Current() = %s", Current())
				}
				want, old, _ := p.spec()
				for _, probe := range probes {
					err := probe.call()
					if denied := errors.Is(err, want); denied != (!probe.old || old) {
						t.Errorf("%s: %v; denied %v", probe.name, err, denied)
					}
				}
				if err := linux.Renameat2(-1, "x", -1, "y", 0); !errors.Is(err, syscall.EBADF) {
					t.Errorf("renameat2 without flags: %v, want EBADF", err)
				}
			})
		})
	}
}

// The filter is on every thread, and threads and processes still start.
func TestEveryThread(t *testing.T) {
	Run(t, EPERM, func(t *testing.T) {
		var wg sync.WaitGroup
		gate := make(chan struct{})
		for range 16 {
			wg.Go(func() {
				<-gate
				if _, err := linux.PidfdOpen(-1); !errors.Is(err, syscall.EPERM) {
					t.Errorf("pidfd_open: %v, want EPERM", err)
				}
			})
		}
		close(gate)
		wg.Wait()
		out, err := exec.Command("sh", "-c", "true & wait; echo $(grep -c Seccomp: /proc/self/status)").CombinedOutput()
		if err != nil || string(out) != "1\n" {
			t.Errorf("sh: %q, %v", out, err)
		}
	})
}

func TestNoneIsRightHere(t *testing.T) {
	here := false
	Run(t, None, func(t *testing.T) { here = true })
	if !here {
		t.Error("Run under None did not call its function in this process")
	}
	if Current() != None {
		t.Skipf("this is a run under %s", Current())
	}
	if _, err := linux.PidfdOpen(-1); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("pidfd_open of -1 without a filter: %v, want EINVAL", err)
	}
}

// Namespaces under a filter, and a filter in namespaces.
func TestWithNamespaces(t *testing.T) {
	check := func(t *testing.T) {
		if !nstest.Inside() {
			t.Error("not in namespaces")
		}
		if _, err := linux.PidfdOpen(-1); !errors.Is(err, syscall.EPERM) {
			t.Errorf("pidfd_open: %v, want EPERM", err)
		}
		if err := os.WriteFile("/etc/seccomptest", nil, 0o644); !errors.Is(err, syscall.EROFS) {
			t.Errorf("writing to /etc: %v, want EROFS", err)
		}
		if err := os.WriteFile("/run/seccomptest", nil, 0o644); err != nil {
			t.Error(err)
		}
	}
	t.Run("inside", func(t *testing.T) {
		Run(t, EPERM, func(t *testing.T) { nstest.Run(t, nstest.Options{}, check) })
	})
	t.Run("outside", func(t *testing.T) {
		nstest.Run(t, nstest.Options{}, func(t *testing.T) { Run(t, EPERM, check) })
	})
	t.Run("real", func(t *testing.T) {
		Run(t, OldENOSYS, func(t *testing.T) {
			nstest.Run(t, nstest.Options{Real: true, Root: nstest.RootEmpty}, func(t *testing.T) {
				if _, err := linux.PidfdOpen(-1); !errors.Is(err, syscall.ENOSYS) {
					t.Errorf("pidfd_open: %v, want ENOSYS", err)
				}
			})
		})
	})
}

// TestSubject is what TestFailuresComeOut and TestPackageUnderAProfile start.
func TestSubject(t *testing.T) {
	switch os.Getenv("SECCOMPTEST_SUBJECT") {
	case "fails":
		Run(t, EPERM, func(t *testing.T) { t.Error("an error inside") })
	case "panics":
		Run(t, EPERM, func(t *testing.T) { panic("a panic inside") })
	case "exits":
		Run(t, EPERM, func(t *testing.T) { syscall.Exit(0) })
	case "skips":
		Run(t, EPERM, func(t *testing.T) { t.Skip("a reason inside") })
	case "probe":
		_, err := linux.PidfdOpen(-1)
		fmt.Printf("profile %s: %v\n", Current(), err)
	}
}

func subject(name string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestSubject$", "-test.v")
	cmd.Env = append(append(os.Environ(), "SECCOMPTEST_SUBJECT="+name), env...)
	return cmd
}

func TestFailuresComeOut(t *testing.T) {
	for name, want := range map[string]string{
		"fails": "an error inside", "panics": "a panic inside", "exits": "ended before its function returned", "skips": "skipped inside: ",
	} {
		out, err := subject(name).CombinedOutput()
		if (err != nil) != (name != "skips") || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, output without %q:\n%s", name, err, want, out)
		}
	}
}

func TestPackageUnderAProfile(t *testing.T) {
	out, err := subject("probe", "SLASHRUN_SECCOMP=enosys").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "profile enosys: pidfd_open: function not implemented") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = subject("probe", "SLASHRUN_SECCOMP=typo").CombinedOutput()
	if err == nil || !strings.Contains(string(out), `no seccomp profile is called "typo"`) {
		t.Errorf("a profile that does not exist: %v\n%s", err, out)
	}
}

func TestDenynew(t *testing.T) {
	testenv.Need(t, testenv.Tool("go"))
	bin := filepath.Join(t.TempDir(), "denynew")
	if out, err := exec.Command("go", "build", "-o", bin, "./cmd/denynew").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "eperm", exe, "-test.run=^TestSubject$", "-test.v")
	cmd.Env = append(os.Environ(), "SECCOMPTEST_SUBJECT=probe")
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("pidfd_open: operation not permitted")) {
		t.Errorf("%v\n%s", err, out)
	}
	for _, c := range []struct {
		args   []string
		status int
	}{
		{[]string{"eperm", "sh", "-c", "exit 7"}, 7},
		{[]string{"eperm", "/dev/null"}, 127},
		{[]string{"eperm", "no-such-program-here"}, 127},
		{[]string{"typo", "true"}, 125},
		{[]string{"eperm"}, 125},
	} {
		cmd := exec.Command(bin, c.args...)
		cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != c.status {
			t.Errorf("denynew %v: exit status %d, want %d", c.args, got, c.status)
		}
	}
}
