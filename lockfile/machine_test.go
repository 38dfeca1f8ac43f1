package lockfile

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/testenv"
	"github.com/slashrun/slashrun/internal/vmtest"
)

// The machine's own PID namespace, of which only a machine of our own is sure to
// have no other beside it; and an old kernel, without pidfs.
func TestOnAMachine(t *testing.T) {
	if !vmtest.Inside() {
		testenv.Need(t, testenv.Root) // it needs none: one pass of the two is enough for a boot
	}
	vmtest.Run(t, vmtest.Options{Kernel: vmtest.Bookworm, Modules: []string{"overlay"}}, func(t *testing.T) {
		t.Run("queue", TestPlaceInTheQueue)
		t.Run("fair", TestFairOrder)
		t.Run("holders", TestHolders)
		t.Run("overlay", onOverlayfs) // an older one
		t.Run("uucp", uucpOnAMachine)
	})
}

func uucpOnAMachine(t *testing.T) {
	must(t, os.MkdirAll("/run/lock", 0o755))
	const path = "/run/lock/LCK..x"
	gone := exec.Command("/proc/self/exe", "-test.run=^$")
	must(t, gone.Run())
	stale := fmt.Sprintf("%10d\n", gone.Process.Pid)
	plant(t, path, stale)
	u, err := TryUUCP("/run/lock", "x", nil)
	must(t, err)
	must(t, u.Release())

	// A container with the directory: the number may be one of its processes.
	inner := exec.Command("/proc/self/exe")
	inner.Env = append(os.Environ(), "LOCKFILE_TEST_ROLE=flock", "LOCKFILE_TEST_PATH=/run/other")
	inner.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	c := start(t, inner)
	plant(t, path, stale)
	_, err = TryUUCP("/run/lock", "x", nil)
	wantErr(t, err, ErrHeld)
	if !strings.Contains(err.Error(), fmt.Sprintf("process %d", c.Process.Pid)) || !strings.Contains(err.Error(), "another PID namespace") {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("it was removed")
	}
	c.in.Close()
	c.Wait()
	u, err = TryUUCP("/run/lock", "x", nil)
	must(t, err)
	must(t, u.Release())
}
