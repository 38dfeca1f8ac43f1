package nstest

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/testenv"
)

// userns is what the tests need that start another test binary: by starting one
// that passes they find out whether it can.
var userns = testenv.Requirement{What: "user namespaces with mounts", Check: func() error {
	cmd := exec.Command("unshare", "-Urm", "true")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("unshare: %w: %s", err, out)
	}
	return nil
}}

// process is a process that is not our child, held by a pidfd so that its number
// cannot come to mean another one.
type process struct{ pid, fd int }

// Wait waits until the process has ended (its pidfd becomes readable).
func (p *process) Wait() error {
	defer syscall.Close(p.fd)
	ended, err := linux.PollIn(p.fd, time.Minute)
	if err == nil && !ended {
		return fmt.Errorf("process %d lives on", p.pid)
	}
	return err
}

// descendants finds the processes below pid by their parents in /proc.
func descendants(t *testing.T, pid int) []*process {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	parents := map[int]int{}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// The name in parentheses may hold anything, so look from the last one.
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		parents[n], _ = strconv.Atoi(f[1])
	}
	var list []*process
	for n := range parents {
		for up := parents[n]; up > 0; up = parents[up] {
			if up == pid {
				if fd, err := linux.PidfdOpen(n); err == nil {
					list = append(list, &process{n, fd})
				}
				break
			}
		}
	}
	return list
}
