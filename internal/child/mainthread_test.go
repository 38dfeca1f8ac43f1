package child

import (
	"os"
	"strings"
	"testing"
)

// What the command's thread gives up the init keeps, and so does its main thread,
// by which kill(2) and prlimit(2) of others go. Which thread the runtime takes for
// a goroutine is chance: hence so often.
func TestMainThreadKeepsItsCredentials(t *testing.T) {
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("needs /proc:", err)
	}
	if strings.Contains(string(own), "\nNoNewPrivs:\t1\n") {
		t.Skip("needs a process without no_new_privs, and this one has it")
	}
	for range 50 {
		status, out, errs := run(t, execCommand(t, "-init", "-nnp", "--", "/bin/sh", "-c", "grep NoNewPrivs: /proc/$PPID/status /proc/self/status"))
		if lines := strings.Fields(out); status != 0 || len(lines) != 4 || lines[1] != "0" || lines[3] != "1" {
			t.Fatalf("status %d: %s%s", status, out, errs)
		}
	}
}
