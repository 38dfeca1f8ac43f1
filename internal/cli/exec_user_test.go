package cli

import (
	"bufio"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/testenv"
)

// withUsers is inContainers where there are other users: an ordinary user's
// namespace has one.
func withUsers(t *testing.T, f func(t *testing.T, c *container)) {
	testenv.Need(t, testenv.Root)
	inContainers(t, func(t *testing.T, c *container) {
		mustDo(t, os.WriteFile(c.root+"/etc/passwd", []byte("root:x:0:0::/root:/bin/sh\napp:x:1234:1234::/home/app:/bin/sh\n"), 0o644))
		mustDo(t, os.WriteFile(c.root+"/etc/group", []byte("root:x:0:\napp:x:1234:\nlog:x:44:app\n"), 0o644))
		mustDo(t, os.MkdirAll(c.root+"/etc/systemd/system/app@.service.d", 0o755))
		mustDo(t, os.WriteFile(c.root+"/etc/systemd/system/app@.service", []byte("[Service]\nUser=app\nGroup=log\nRuntimeDirectory=app/%i app.d:link\n"), 0o644))
		mustDo(t, os.WriteFile(c.root+"/etc/systemd/system/app@.service.d/mode.conf", []byte("[Service]\nRuntimeDirectoryMode=2750\n"), 0o644))
		f(t, c)
	})
}

const showApp = `cd /run; stat -c '%a %u:%g %n' app app/* app.d app.d/* 2>/dev/null; readlink link; echo $RUNTIME_DIRECTORY`

func TestContainerWithUnit(t *testing.T) {
	withUsers(t, func(t *testing.T, c *container) {
		want := "755 0:0 app\n2750 1234:44 app/x\n2750 1234:44 app.d\napp.d\n/run/app/x:/run/app.d"
		for _, c.bounding = range []bool{false, true} {
			c.run(t, "exec", "--unit=app@x", "--", "sh", "-c", showApp).check(t, 0, want)
		}
		// Of an earlier time, of another user, with something in it.
		mustDo(t, os.Chown(c.root+"/run/app.d", 0, 0))
		mustDo(t, os.WriteFile(c.root+"/run/app.d/state", nil, 0o640))
		mustDo(t, os.Symlink("/etc/passwd", c.root+"/run/app.d/trap"))
		c.env = []string{"SLASHRUN_EXEC_UNIT=app@x.service"}
		o := c.run(t, "exec", "--", "sh", "-c", showApp+"; stat -c %u /etc/passwd")
		o.check(t, 0, "755 0:0 app\n2750 1234:44 app/x\n2750 1234:44 app.d\n640 1234:44 app.d/state\n777 1234:44 app.d/trap\napp.d\n/run/app/x:/run/app.d\n0")
		c.env = nil
		o = c.run(t, "exec", "--unit=app@x", "-n", "--", "true")
		if strings.Contains(o.stdout, "directory /run/app") || strings.Contains(o.stdout, "give ") {
			t.Errorf("still to do: %s", o.stdout)
		}
		for _, unit := range []string{"none", "app@", "../x", "app@x.socket"} {
			if o := c.run(t, "exec", "--unit="+unit, "--", "echo", "started"); o.code != 125 || o.stdout != "" || strings.Count(o.stderr, "\n") != 1 {
				t.Errorf("%s: %+v", unit, o)
			}
		}
		// As somebody else it can be made, and not given away; read-only it cannot.
		c.uid = 4321
		mustDo(t, os.RemoveAll(c.root+"/run/app"))
		mustDo(t, os.RemoveAll(c.root+"/run/app.d"))
		mustDo(t, os.Chmod(c.root+"/run", 0o777))
		o = c.run(t, "exec", "--unit=app@x", "--", "stat", "-c", "%a %u", "/run/app/x")
		o.check(t, 0, "2750 4321")
		if !strings.Contains(o.stderr, "takes CAP_CHOWN") || strings.Count(o.stderr, "\n") != 1 {
			t.Errorf("stderr %q", o.stderr)
		}
		c.readOnly = true
		mustDo(t, os.RemoveAll(c.root+"/run/app"))
		c.run(t, "exec", "--unit=app@x", "--", "echo", "started").check(t, 125, "")
	})
}

func TestContainerWithUser(t *testing.T) {
	withUsers(t, func(t *testing.T, c *container) {
		show := `id -u; id -G; grep -c '^Cap[EPIA][a-z]*:.0000000000000000$' /proc/self/status; echo $HOME; stat -c '%a %u %n' $XDG_RUNTIME_DIR`
		for _, c.bounding = range []bool{false, true} {
			o := c.run(t, "exec", "--user=app", "--", "sh", "-c", show)
			o.check(t, 0, "1234\n1234 44\n4\n/home/app\n700 1234 /run/user/1234")
			if o.stderr != "" {
				t.Errorf("stderr %q", o.stderr)
			}
		}
		c.run(t, "exec", "--user=77:78", "--no-new-privs", "--", "sh", "-c", "id -u; id -G; grep NoNewPrivs /proc/self/status").check(t, 0, "77\n78\nNoNewPrivs:\t1")
		c.run(t, "exec", "--user=nobody-here", "--", "echo", "started").check(t, 125, "")
		// No place for it in /run: a directory in /tmp, but none that was taken.
		c.readOnly = true
		c.mounts = append(c.mounts, ":/tmp")
		c.run(t, "exec", "--run=in-place", "--user=66:66", "--", "sh", "-c", "stat -c '%a %u %n' $XDG_RUNTIME_DIR").check(t, 0, "700 66 /tmp/runtime-66")
		c.mounts = c.mounts[:len(c.mounts)-1]
		o := c.run(t, "exec", "--run=in-place", "--user=66:66", "--", "sh", "-c", "echo ${XDG_RUNTIME_DIR-unset}")
		o.check(t, 0, "unset")
		if strings.Count(o.stderr, "\n") != 1 || !strings.Contains(o.stderr, "XDG_RUNTIME_DIR") {
			t.Errorf("stderr %q", o.stderr)
		}
		c.readOnly = false
		// A directory of another user is not used, and one in the environment that is
		// wrong is not kept.
		mustDo(t, os.MkdirAll(c.root+"/run/user/55", 0o700))
		mustDo(t, os.MkdirAll(c.root+"/tmp/runtime-55", 0o700))
		c.env = []string{"XDG_RUNTIME_DIR=/run/user/55"}
		c.run(t, "exec", "--user=55:55", "--", "sh", "-c", "echo ${XDG_RUNTIME_DIR-unset}").check(t, 0, "unset")
		c.run(t, "exec", "--", "sh", "-c", "echo ${XDG_RUNTIME_DIR-unset}").check(t, 0, "/run/user/55")
	})
}

func TestContainerWithInit(t *testing.T) {
	inContainers(t, func(t *testing.T, c *container) {
		c.run(t, "exec", "--init", "--", "sh", "-c", "test $$ != 1 && exit 9").check(t, 9, "")
		c.run(t, "exec", "--init", "--", "sh", "-c", "kill -TERM $$").check(t, 143, "")
		c.run(t, "exec", "--init", "--", "no-such").check(t, 127, "")
		// A signal reaches the command, through the init and without.
		for _, args := range [][]string{{"exec", "--init", "--"}, {"exec", "--"}} {
			cmd := c.command(append(args, "sh", "-c", "trap 'echo stopping; exit 3' TERM; echo ready; while :; do read x || :; done <>/dev/ptmx")...)
			cmd.Stdin = nil
			out, err := cmd.StdoutPipe()
			mustDo(t, err)
			cmd.Stderr = os.Stderr
			mustDo(t, cmd.Start())
			lines := bufio.NewScanner(out)
			if !lines.Scan() || lines.Text() != "ready" {
				t.Fatalf("%q", lines.Text())
			}
			mustDo(t, cmd.Process.Signal(syscall.SIGTERM))
			lines.Scan()
			if cmd.Wait(); lines.Text() != "stopping" || cmd.ProcessState.ExitCode() != 3 {
				t.Errorf("%v: %q, %v", args, lines.Text(), cmd.ProcessState)
			}
		}
	})
}

// systemd as the command owns /run.
func TestContainerWithSystemd(t *testing.T) {
	inContainers(t, func(t *testing.T, c *container) {
		mustDo(t, os.MkdirAll(c.root+"/opt/systemd", 0o755))
		mustDo(t, os.WriteFile(c.root+"/opt/systemd/systemd", []byte("#!/bin/sh\nls /run\n"), 0o755))
		mustDo(t, os.Symlink("/opt/systemd/systemd", c.root+"/init"))
		plant(t, c.root+"/run/app")
		o := c.run(t, "exec", "--verbose", "--", "/init")
		o.check(t, 0, "app")
		if !strings.Contains(o.stderr, "leave /run to systemd") {
			t.Errorf("stderr %q", o.stderr)
		}
		c.run(t, "exec", "--init", "--", "/init").check(t, 125, "")
		c.env = []string{"PATH=/none:/"}
		c.run(t, "exec", "--", "init").check(t, 127, "") // the script finds no ls on that PATH
		if got := list(t, c.root+"/run/app"); !strings.Contains(got, "app.pid") {
			t.Errorf("left is %q", got)
		}
	})
}

// Who may not give files away has use for them all the same: any user on a volume.
func TestContainerOfAnyUser(t *testing.T) {
	withUsers(t, func(t *testing.T, c *container) {
		mustDo(t, os.Mkdir("/tmp/volume", 0o777))
		mustDo(t, os.Mkdir(c.root+"/etc/tmpfiles.d", 0o755))
		mustDo(t, os.WriteFile(c.root+"/etc/tmpfiles.d/app.conf", []byte("d /run/app 0750 app log\nf /run/app/state 0640 app log - x\nd /run/bad 0750 no-such log\n"), 0o644))
		mustDo(t, os.WriteFile(c.root+"/etc/systemd/system/dyn.service", []byte("[Service]\nDynamicUser=yes\nUser=made-up\nGroup=made-up\nRuntimeDirectory=dyn\n"), 0o644))
		c.mounts = append(c.mounts, "/tmp/volume:/run")
		c.uid = 12345
		o := c.run(t, "exec", "--unit=dyn", "--", "sh", "-c", "cd /run; stat -c '%a %u %n' app app/state dyn; cat app/state")
		o.check(t, 0, "750 12345 app\n640 12345 app/state\n755 12345 dyn\nx")
		for _, want := range []string{"owners that 2 lines of tmpfiles.d name", "a line of tmpfiles.d: ", "no-such"} {
			if !strings.Contains(o.stderr, want) || strings.Count(o.stderr, "\n") != 1 {
				t.Errorf("%q is not in stderr %q", want, o.stderr)
			}
		}
		// Again nothing fails, so but for the line that is wrong nothing is said.
		c.uid = 0
		mustDo(t, os.RemoveAll("/tmp/volume/dyn"))
		c.run(t, "exec", "--unit=dyn", "--user=77:78", "--", "stat", "-c", "%u:%g", "/run/dyn").check(t, 0, "77:78")
	})
}
