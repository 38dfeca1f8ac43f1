package boottest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/chroottest"
)

// inChroot runs f beside a tree that has slashrun in /usr/bin.
func inChroot(t *testing.T, s chroottest.System, f func(t *testing.T, c *chroottest.Chroot)) {
	t.Helper()
	prog := program(t)
	contrib, err := filepath.Abs("../../contrib")
	must(t, err)
	o := chroottest.Options{Keep: []string{filepath.Dir(prog)}, Env: []string{progEnv + "=" + prog, "BOOTTEST_CONTRIB=" + contrib}}
	chroottest.Run(t, s, o, func(t *testing.T, c *chroottest.Chroot) {
		c.Copy(t, os.Getenv(progEnv), "/usr/bin/slashrun")
		must(t, os.WriteFile(c.Dir+"/usr/lib/tmpfiles.d/boottest.conf", []byte("d /run/boottest 0710 root adm\n"), 0o644))
		f(t, c)
	})
}

func contrib(name string) string { return filepath.Join(os.Getenv("BOOTTEST_CONTRIB"), name) }

func run(t *testing.T, c *chroottest.Chroot, script string) string {
	t.Helper()
	out, err := c.Command(t.Context(), "sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s\nof: %s", err, out, script)
	}
	return string(out)
}

// ready is what a shell finds when /run is as it should be.
const ready = `
	grep -q ' /run tmpfs .*nosuid,nodev' /proc/mounts
	grep -q ' /run/lock tmpfs ' /proc/mounts
	test -s /run/slashrun/boot
	test "$(stat -c '%a %U %G' /run/boottest)" = "710 root adm"
	test "$(readlink /var/run)" = /run
	test ! -e /run/systemd/system
`

// OpenRC has mounted /run before a service starts; our script makes the rest, and
// checkpath of other scripts works beside it.
func TestOpenRC(t *testing.T) {
	inChroot(t, chroottest.OpenRC, func(t *testing.T, c *chroottest.Chroot) {
		c.Copy(t, contrib("openrc/slashrun"), "/etc/init.d/slashrun")
		run(t, c, `
			mount -t tmpfs -o mode=0755,nosuid,nodev,size=10% run /run
			mkdir -p /run/openrc && touch /run/openrc/softlevel
			for d in starting started stopping inactive wasinactive failed hotplugged daemons options exclusive scheduled init.d tmp; do mkdir /run/openrc/$d; done
			rc-update add slashrun boot
			rc-service --nodeps slashrun start
			cat > /etc/init.d/other <<-'S'
				#!/sbin/openrc-run
				start() { checkpath --directory --mode 0700 --owner root:adm /run/other; }
			S
			chmod +x /etc/init.d/other
			rc-service --nodeps other start
			test "$(stat -c %a /run/other)" = 700
			test "$(stat -c %a /run/lock)" = 755`+ready)
	})
}

// insserv puts our scripts where they belong, and they do their work in that
// order, beside Debian's own mountkernfs.sh.
func TestSysvinit(t *testing.T) {
	inChroot(t, chroottest.Sysvinit, func(t *testing.T, c *chroottest.Chroot) {
		for _, s := range []string{"slashrun-early", "slashrun-late"} {
			c.Copy(t, contrib("sysvinit/"+s), "/etc/init.d/"+s)
		}
		out := run(t, c, `
			update-rc.d slashrun-early defaults
			update-rc.d slashrun-late defaults
			ls /etc/rcS.d`)
		var order []string
		for _, name := range strings.Fields(out) {
			for _, s := range []string{"mountkernfs.sh", "slashrun-early", "slashrun-late", "bootmisc.sh"} {
				if strings.HasPrefix(name, "S") && strings.HasSuffix(name, s) {
					order = append(order, s)
				}
			}
		}
		if got := strings.Join(order, " "); got != "mountkernfs.sh slashrun-early slashrun-late bootmisc.sh" {
			t.Errorf("the order is %q\n%s", got, out)
		}
		run(t, c, `
			rm -rf /var/lock && mkdir /var/lock
			mount -t tmpfs -o nosuid,noexec,size=10%,mode=755 tmpfs /run # as mountkernfs.sh does
			/etc/init.d/slashrun-early start
			/etc/init.d/slashrun-late start
			test "$(stat -c %a /run/lock)" = 1777
			test "$(readlink /var/lock)" = /run/lock
			grep -q ' /run tmpfs .*noexec' /proc/mounts
			/etc/init.d/slashrun-late stop
			! /etc/init.d/slashrun-late status`+ready)
	})
}

// Stage 1 of runit on a root whose /run is a directory on disk with leftovers.
func TestRunit(t *testing.T) {
	inChroot(t, chroottest.Runit, func(t *testing.T, c *chroottest.Chroot) {
		c.Copy(t, contrib("runit/stage1"), "/etc/runit/run.sh")
		out := run(t, c, `
			echo 1 > /run/leftover.pid
			set +e; . /etc/runit/run.sh; set -e
			test ! -e /run/leftover.pid`+ready)
		if !strings.Contains(out, "leftover.pid") {
			t.Errorf("the leftover is not told: %s", out)
		}
	})
}

// The scripts are shell that dash takes, and initramfs-tools gets what it calls.
func TestScriptsAreShell(t *testing.T) {
	inChroot(t, chroottest.Sysvinit, func(t *testing.T, c *chroottest.Chroot) {
		for _, s := range []string{"initramfs-tools/hook", "initramfs-tools/init-top", "sysvinit/slashrun-early", "sysvinit/slashrun-late"} {
			c.Copy(t, contrib(s), "/tmp/script")
			run(t, c, "sh -n /tmp/script")
		}
		c.Copy(t, contrib("initramfs-tools/init-top"), "/tmp/script")
		run(t, c, `
			cp /usr/bin/slashrun /bin/slashrun 2>/dev/null || :
			mount -t tmpfs -o nodev,noexec,nosuid,size=10%,mode=0755 tmpfs /run
			test -z "$(sh /tmp/script prereqs)"
			sh /tmp/script
			test -s /run/slashrun/boot`)
	})
}
