package pidfile

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/testenv"
	"github.com/slashrun/slashrun/internal/vmtest"
)

// The machine's own PID namespace, clocks that can be set, and kernels without
// and with process handles.
func TestOnAMachine(t *testing.T) {
	if !vmtest.Inside() {
		testenv.Need(t, testenv.Root) // it needs none: one pass of the two is enough for a boot
	}
	for _, k := range []vmtest.Kernel{vmtest.Bookworm, vmtest.Forky} {
		t.Run(string(k), func(t *testing.T) {
			vmtest.Run(t, vmtest.Options{Kernel: k}, func(t *testing.T) {
				must(t, os.Chmod("/", 0o755)) // an initramfs begins with 1777
				must(t, os.Mkdir("/run/food", 0o755))
				t.Run("create", machineCreate)
				t.Run("bare", machineBare)
				t.Run("clock", machineClock)
				t.Run("stranger", machineStranger)
			})
		})
	}
}

func machineCreate(t *testing.T) {
	const path = "/run/food/food.pid"
	first := daemonAs(t, path, 3000)
	if s, err := Check(path); err != nil || s.Verdict != Live || !s.Proven {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := Create(path); !errors.Is(err, ErrHeld) {
		t.Errorf("%v", err)
	}
	must(t, Signal(path, 0))
	first.kill()
	second := namesake(t, 3000)
	if s, err := Check(path); err != nil || s.Verdict != Stale {
		t.Errorf("reused: %+v, %v", s, err)
	}
	if err := Signal(path, syscall.SIGKILL); !errors.Is(err, ErrNotRunning) {
		t.Errorf("reused: %v", err)
	}
	second.alive(t, "reused")
	second.kill()
	f, err := Create(path)
	must(t, err)
	must(t, f.Close())
}

// daemonAs starts a daemon with the number pid.
func daemonAs(t *testing.T, path string, pid int) *program {
	t.Helper()
	for range 100 { // another may be faster
		must(t, os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0))
		p, line := daemon(t, path)
		if line != "created" {
			t.Fatal(line)
		}
		if p.Process.Pid == pid {
			return p
		}
		p.kill()
	}
	t.Fatalf("no process got the number %d", pid)
	return nil
}

// namesake is a process with the number pid and another file.
func namesake(t *testing.T, pid int) *program {
	t.Helper()
	return daemonAs(t, filepath.Join(t.TempDir(), "other.pid"), pid)
}

// bare writes the file of a program that knows nothing of us.
func bare(t *testing.T, p *program) string {
	t.Helper()
	path := "/run/food/bare.pid"
	must(t, os.WriteFile(path, []byte(strconv.Itoa(p.Process.Pid)+"\n"), 0o644))
	return path
}

func machineBare(t *testing.T) {
	stamp(t, 0)
	p := namesake(t, 4000)
	path := bare(t, p)
	if s, err := Check(path); err != nil || s.Verdict != Live || !s.Proven {
		t.Errorf("%+v, %v", s, err)
	}
	must(t, Signal(path, syscall.SIGTERM))
	p.Wait()
	if s, err := Check(path); err != nil || s.Verdict != Stale {
		t.Errorf("dead: %+v, %v", s, err)
	}
}

// The clock is set, as NTP does on a board without a battery. A living daemon's
// file must not become stale, nor may a later process with a number that is given
// again be taken for the daemon.
func machineClock(t *testing.T) {
	stamp(t, 0)
	for _, by := range []time.Duration{50 * 365 * 24 * time.Hour, time.Hour, 20 * time.Second, -20 * time.Second, -time.Hour} {
		p := namesake(t, 5000)
		path := bare(t, p)
		back := setClock(t, by)
		if s, err := Check(path); err != nil || s.Verdict == Stale {
			t.Errorf("%v: living: %+v, %v", by, s, err)
		}
		p.kill()
		p = namesake(t, 5000)
		err := Signal(path, syscall.SIGKILL)
		if !errors.Is(err, ErrUncertain) && !errors.Is(err, ErrNotRunning) {
			t.Errorf("%v: another's number: %v", by, err)
		}
		p.alive(t, by.String())
		p.kill()
		if s, err := Check(path); err != nil || s.Verdict != Stale {
			t.Errorf("%v: dead: %+v, %v", by, s, err)
		}
		// Files of ours do not ask the clock.
		own := "/run/food/own.pid"
		d, line := daemon(t, own)
		if line != "created" {
			t.Fatal(line)
		}
		back()
		if s, err := Check(own); err != nil || s.Verdict != Live || !s.Proven {
			t.Errorf("%v: %+v, %v", by, s, err)
		}
		must(t, Signal(own, syscall.SIGTERM))
		d.Wait()
		must(t, os.Remove(own))
	}
}

// setClock sets the machine's clock and returns what sets it back.
func setClock(t *testing.T, by time.Duration) func() {
	t.Helper()
	set := func(by time.Duration) {
		tv := syscall.NsecToTimeval(time.Now().Add(by).UnixNano())
		must(t, syscall.Settimeofday(&tv))
	}
	set(by)
	return func() { set(-by) }
}

// Another user locks a dead daemon's file, which he may read: daemons start all
// the same, and one of many at once. An heir of the daemon's lock counts.
func machineStranger(t *testing.T) {
	const path = "/run/food/strange.pid"
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	lock := func(role string, attr *syscall.SysProcAttr) *program {
		d, line := daemon(t, path)
		if line != "created" {
			t.Fatal(line)
		}
		d.kill()
		p, line := begin(t, attr, []string{"SLASHRUN_TEST_ROLE=" + role, "SLASHRUN_TEST_FILE=" + path}, "/proc/self/exe")
		if line != "locked <nil>" {
			t.Fatal(line)
		}
		return p
	}
	for range 2 {
		stranger := lock("stranger", nobody)
		var wg sync.WaitGroup
		var mu sync.Mutex
		created := 0
		for range 4 {
			wg.Go(func() {
				p, line := daemon(t, path)
				mu.Lock()
				if line == "created" {
					created++
				} else if !strings.Contains(line, "held by another") && !strings.Contains(line, "holds it") {
					t.Errorf("%s", line)
				}
				mu.Unlock()
				_ = p
			})
		}
		wg.Wait()
		if created != 1 {
			t.Errorf("%d daemons run beside the stranger's lock", created)
		}
		stranger.alive(t, "the stranger")
		stranger.kill()
		must(t, os.Remove(path)) // the daemons end with the test
		if got := names(t, "/run/food"); strings.Contains(got, "strange") {
			t.Errorf("left %s", got)
		}
	}
	heir := lock("heir", nil)
	var held *HeldError
	if _, err := Create(path); !errors.As(err, &held) || held.PID != heir.Process.Pid {
		t.Errorf("beside an heir: %v", err)
	}
	heir.kill()
}
