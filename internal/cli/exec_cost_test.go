package cli

import (
	"os"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/testenv"
)

// Every container waits for exec, so with nothing to do it asks little: of the
// processes nothing, of tmpfiles.d nothing where there is none, of /run its list.
// (The Go runtime reads /proc/self/cgroup and mountinfo by itself.)
func TestExecAsksLittle(t *testing.T) {
	inContainers(t, func(t *testing.T, c *container) {
		testenv.Need(t, testenv.Tool("strace"))
		c.bounding = true
		calls := c.trace(t, "openat|openat2|statx|newfstatat|fstat|read|getdents64|readlinkat|readlink|mkdirat|write|unlinkat|renameat2", "exec", "--", "true")
		if len(calls) < 10 || len(calls) > 90 {
			t.Errorf("%d calls:\n%s", len(calls), strings.Join(calls, "\n"))
		}
		for _, call := range calls {
			for _, bad := range []string{`"self/mountinfo"`, "boot_id", `"1/stat"`, "passwd", `"self/cgroup"`, "mkdirat", "write(", "unlinkat", "renameat2"} {
				if strings.Contains(call, bad) {
					t.Errorf("it need not: %s", call)
				}
			}
		}
		t.Logf("%d calls", len(calls))
	})
}

// trace lists the system calls of slashrun itself, from its start to the command's.
func (c *container) trace(t *testing.T, calls string, args ...string) []string {
	t.Helper()
	strace, err := testenv.LookTool("strace")
	mustDo(t, err)
	unshare, err := testenv.LookTool("unshare")
	mustDo(t, err)
	self, err := os.Executable()
	mustDo(t, err)
	log := t.TempDir() + "/log"
	cmd := c.command(args...)
	cmd.Args = append([]string{strace, "-f", "-qq", "-o", log, "-e", "trace=/^(execve|" + calls + ")$", unshare, "--pid", "--mount", "--fork", self}, args...)
	cmd.Path, cmd.SysProcAttr = strace, nil
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(log)
	mustDo(t, err)
	var list []string
	started := false
	for line := range strings.Lines(string(text)) {
		_, call, _ := strings.Cut(strings.TrimSpace(line), " ")
		call = strings.TrimSpace(call)
		switch {
		case strings.HasPrefix(call, `execve("/slashrun"`):
			started = true
			list = nil // the runtime's own start is behind it, too
		case strings.HasPrefix(call, "execve(") && started:
			return list
		case started && !strings.HasPrefix(call, "<...") && !strings.HasPrefix(call, "---"):
			list = append(list, call)
		}
	}
	t.Fatalf("the command was not started:\n%s", text)
	return nil
}
