package chroottest

import (
	"os"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func TestEachSystem(t *testing.T) {
	programs := map[System][]string{
		Sysvinit: {"/sbin/init", "/etc/init.d/mountkernfs.sh", "update-rc.d"},
		OpenRC:   {"/sbin/init", "rc-service", "openrc-run", "checkpath"},
		Runit:    {"/sbin/init", "runsvdir", "sv"},
	}
	for _, s := range Systems {
		t.Run(string(s), func(t *testing.T) {
			Run(t, s, Options{}, func(t *testing.T, c *Chroot) {
				for _, p := range programs[s] {
					out, err := c.Command(t.Context(), "sh", "-c", "PATH=$PATH:/lib/rc/bin:/lib/rc/sbin; command -v "+p).CombinedOutput()
					if err != nil {
						t.Errorf("%s is not there: %v %s", p, err, out)
					}
				}
				script := `
					set -e
					echo inside >/etc/chroottest
					test "$(stat -c %d /)" != "$(stat -c %d /dev)"
					test ! -d /run/systemd/system
					echo x >/dev/null
					chown 1234:1234 /etc/chroottest
					mount -t tmpfs run /run
					grep -q ' /run tmpfs ' /proc/mounts
					echo "pid 1 is $(cat /proc/1/comm), I am $(id -u)"`
				out, err := c.Command(t.Context(), "sh", "-c", script).CombinedOutput()
				if err != nil || !strings.Contains(string(out), "I am 0") {
					t.Errorf("%v\n%s", err, out)
				}
				if text, err := os.ReadFile(c.Dir + "/etc/chroottest"); err != nil || string(text) != "inside\n" {
					t.Errorf("what the command wrote: %q, %v", text, err)
				}
			})
			if _, err := os.Lstat("/etc/chroottest"); err == nil {
				t.Error("the file is outside")
			}
		})
	}
}

func TestCopyReplaces(t *testing.T) {
	Run(t, Runit, Options{}, func(t *testing.T, c *Chroot) {
		src := t.TempDir() + "/script"
		if err := os.WriteFile(src, []byte("#!/bin/sh\necho copied\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/etc/passwd", c.Dir+"/usr/local/bin/script"); err != nil {
			t.Fatal(err)
		}
		c.Copy(t, src, "/usr/local/bin/script")
		if out, err := c.Command(t.Context(), "script").CombinedOutput(); err != nil || string(out) != "copied\n" {
			t.Errorf("%q, %v", out, err)
		}
		if err := c.Command(t.Context(), "no-such-program").Run(); err == nil {
			t.Error("a program that is not there ran")
		}
	})
}
