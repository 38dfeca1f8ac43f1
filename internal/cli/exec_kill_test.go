package cli

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/testenv"
)

// acts are the system calls that change something.
const acts = "/^(fsopen|fsconfig|fsmount|open_tree|move_mount|mkdirat|linkat|symlinkat|renameat|renameat2|unlinkat|fchownat|fchmod.*|write)$"

// SIGKILL after every system call of exec that acts: what is there afterwards is
// as before or complete, and starting again finishes and leaves nothing behind.
func TestContainerIsKilledAtEveryAct(t *testing.T) {
	for _, mount := range []bool{false, true} {
		t.Run(fmt.Sprintf("mount=%v", mount), func(t *testing.T) {
			inContainers(t, func(t *testing.T, c *container) {
				testenv.Need(t, testenv.Tool("strace"))
				c.bounding = !mount
				kills := 0
				for c.killOnce(t, kills+1, mount) {
					kills++
				}
				if kills < 15 {
					t.Errorf("%d kills: the list of calls fits no more", kills)
				}
				t.Logf("%d kills", kills)
			})
		})
	}
}

// killOnce starts the container, kills it after its nth act, and starts it again;
// false if it made fewer acts.
func (c *container) killOnce(t *testing.T, n int, mount bool) bool {
	t.Helper()
	mustDo(t, os.RemoveAll(c.root+"/run"))
	mustDo(t, os.Mkdir(c.root+"/run", 0o755))
	plant(t, c.root+"/run/app")
	const left = "LCK..ttyS0 app.pid app.sock fifo gone.pid state"
	killed, call := c.killAfter(t, n, "exec", "--unit=app", "--", "true")
	what := fmt.Sprintf("killed after act %d, %s", n, call)
	if got := list(t, c.root+"/run/app"); mount && got != left {
		t.Errorf("%s: underneath is %q", what, got)
	}
	past()
	o := c.run(t, "exec", "--unit=app", "--", "sh", "-c", "cat /run/app/state; find /run -name '.*' ! -path /run; ls -A /run/app; stat -c %a /run/made")
	if o.code != 0 || o.stdout != "8080\nstate\n700\n" || o.stderr != "" {
		t.Errorf("%s: then %+v", what, o)
	}
	return killed
}

// killAfter runs the container under strace, which holds it for a moment after
// each act and names it on a pipe, and kills it when the nth is named.
func (c *container) killAfter(t *testing.T, n int, args ...string) (reached bool, call string) {
	t.Helper()
	strace, err := testenv.LookTool("strace")
	mustDo(t, err)
	mustDo(t, os.MkdirAll(c.root+"/etc/systemd/system", 0o755))
	mustDo(t, os.WriteFile(c.root+"/etc/systemd/system/app.service", []byte("[Service]\nRuntimeDirectory=made\nRuntimeDirectoryMode=0700\n"), 0o644))
	r, w, err := os.Pipe()
	mustDo(t, err)
	defer r.Close()
	cmd := c.command(args...)
	inner := cmd.Args
	self, err := os.Executable()
	mustDo(t, err)
	inner[0] = self
	cmd.Path, cmd.Args = strace, append([]string{strace, "-f", "-qq", "-o", "/proc/self/fd/3", "-e", "trace=" + acts, "-e", "inject=" + acts + ":delay_exit=2000"}, inner...)
	// The namespaces are strace's, which then is their first process: unshare(1)
	// makes those of the container.
	cmd.SysProcAttr = nil
	unshare, err := testenv.LookTool("unshare")
	mustDo(t, err)
	cmd.Args = append(cmd.Args[:len(cmd.Args)-len(inner)], append([]string{unshare, "--pid", "--mount", "--fork", "--kill-child"}, inner...)...)
	cmd.ExtraFiles = []*os.File{w}
	var out strings.Builder
	cmd.Stderr = &out
	mustDo(t, cmd.Start())
	w.Close()
	seen, first, killed := 0, "", false
	for sc := bufio.NewScanner(r); sc.Scan(); {
		line := sc.Text()
		pid, act, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.Contains(line, "<unfinished") || strings.Contains(line, "+++") || strings.Contains(line, "---") {
			continue
		}
		if first == "" {
			first = pid // the container's own first thread acts first
		}
		if seen++; seen == n {
			call = act
			for _, thread := range []string{pid, first} { // one of them may have ended by now
				number, err := strconv.Atoi(thread)
				mustDo(t, err)
				killed = syscall.Kill(number, syscall.SIGKILL) == nil || killed
			}
		}
	}
	cmd.Wait()
	if seen >= n && !killed {
		t.Logf("act %d, %s: it had ended by itself", n, call)
	}
	if seen < n && out.Len() > 0 {
		t.Errorf("act %d: %s", n, out.String())
	}
	return seen >= n, call
}
