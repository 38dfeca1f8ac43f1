package cli

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
)

// The owner of a directory on the way cannot have root remove files elsewhere, or
// take a volume for the container's own, by a link.
func TestStalePathsAreNotLedAway(t *testing.T) {
	withUsers(t, func(t *testing.T, c *container) {
		c.bounding = true
		for _, d := range []string{"/app", "/app/tmp", "/data", "/volume", "/opt"} {
			mustDo(t, os.Mkdir(c.root+d, 0o755))
		}
		victims := []string{"/data/1.pid", "/data/2.pid"}
		for _, v := range victims {
			mustDo(t, os.WriteFile(c.root+v, []byte("4242\n"), 0o644))
		}
		mustDo(t, os.Mkdir("/tmp/volume", 0o755))
		mustDo(t, os.WriteFile("/tmp/volume/live.pid", []byte("1\n"), 0o644))
		c.mounts = append(c.mounts, "/tmp/volume:/volume")
		for link, target := range map[string]string{"/app/tmp/pids": "/data", "/app/tmp/up": "../../data", "/app/tmp/vol": "/volume"} {
			mustDo(t, os.Symlink(target, c.root+link))
			mustDo(t, os.Lchown(c.root+link, 1234, 1234))
		}
		// And by root's own hand in a directory that is the user's.
		mustDo(t, os.Symlink("/data", c.root+"/app/tmp/roots"))
		mustDo(t, os.Chown(c.root+"/app/tmp", 1234, 1234))
		past()
		for _, arg := range []string{"/app/tmp/pids/*", "/app/tmp/up/*.pid", "/app/tmp/roots/1.pid", "/app/tmp/*/1.pid"} {
			o := c.run(t, "exec", "--user=app", "--stale="+arg, "--", "ls", "/data")
			o.check(t, 0, "1.pid\n2.pid")
			if said := strings.Contains(o.stderr, "is a link that is not followed"); said == strings.Contains(arg, "tmp/*") {
				t.Errorf("%s: stderr %q", arg, o.stderr)
			}
		}
		c.run(t, "exec", "--exclusive=/app/tmp/vol", "--stale=/volume/*.pid", "--", "ls", "/volume").check(t, 125, "")
		c.run(t, "exec", "--stale=/volume/*.pid", "--", "ls", "/volume").check(t, 0, "live.pid")
		// Root's own links in root's directories lead where they lead.
		mustDo(t, os.Symlink("../data", c.root+"/opt/link"))
		mustDo(t, os.Symlink("/opt/link", c.root+"/opt/again"))
		c.run(t, "exec", "--stale=/opt/again/1.pid", "--", "ls", "/data").check(t, 0, "2.pid")
		mustDo(t, os.Symlink("/volume", c.root+"/opt/vol"))
		c.run(t, "exec", "--exclusive=/opt/vol", "--stale=/opt/vol/*.pid", "--", "ls", "/volume").check(t, 0, "")
		mustDo(t, os.Symlink("loop", c.root+"/opt/loop"))
		c.run(t, "exec", "--exclusive=/opt/loop", "--", "true").check(t, 125, "")
	})
}

// A /run on which an init system runs, bound in from the machine: nothing is done
// there but what was asked for.
func TestContainerWithTheMachinesRun(t *testing.T) {
	inContainers(t, func(t *testing.T, c *container) {
		mustDo(t, os.Mkdir("/tmp/host", 0o755))
		mustDo(t, syscall.Mount("none", "/tmp/host", "tmpfs", 0, "mode=0755"))
		mustDo(t, os.MkdirAll("/tmp/host/systemd/system", 0o755))
		mustDo(t, os.WriteFile("/tmp/host/x.pid", []byte("4242\n"), 0o644))
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "/tmp/host/dead.sock", Net: "unix"})
		mustDo(t, err)
		l.SetUnlinkOnClose(false)
		mustDo(t, l.Close())
		mustDo(t, os.Mkdir(c.root+"/etc/tmpfiles.d", 0o755))
		mustDo(t, os.WriteFile(c.root+"/etc/tmpfiles.d/app.conf", []byte("d /run/app\n"), 0o644))
		c.mounts = append(c.mounts, "/tmp/host:/run")
		for _, c.bounding = range []bool{true, false} {
			o := c.run(t, "exec", "--", "ls", "/run")
			o.check(t, 0, "dead.sock\nsystemd\nx.pid")
			if o.stderr != "" {
				t.Errorf("stderr %q", o.stderr)
			}
		}
		c.run(t, "exec", "--tmpfiles=run", "--", "ls", "/run").check(t, 0, "app\ndead.sock\nsystemd\nx.pid")
	})
}

// What may not be given away is made all the same, and said.
func TestContainerThatMayNotGiveAway(t *testing.T) {
	withUsers(t, func(t *testing.T, c *container) {
		c.bounding, c.noChown = true, true
		for range 2 {
			o := c.run(t, "exec", "--unit=app@x", "--", "stat", "-c", "%a %u %n", "/run/app/x")
			o.check(t, 0, "2750 0 /run/app/x")
			if strings.Count(o.stderr, "\n") != 1 || !strings.Contains(o.stderr, "CAP_CHOWN") {
				t.Errorf("stderr %q", o.stderr)
			}
		}
	})
}

// On an overlay of two file systems st_dev differs within one mount.
func TestUnitOnAnOverlayOfTwoFileSystems(t *testing.T) {
	withUsers(t, func(t *testing.T, c *container) {
		for _, d := range []string{"/tmp/a", "/tmp/b", "/tmp/merged"} {
			mustDo(t, os.Mkdir(d, 0o755))
		}
		mustDo(t, syscall.Mount("none", "/tmp/a", "tmpfs", 0, "mode=0755"))
		mustDo(t, syscall.Mount("none", "/tmp/b", "tmpfs", 0, "mode=0755"))
		for _, d := range []string{"/tmp/a/low", "/tmp/b/up", "/tmp/b/work"} {
			mustDo(t, os.Mkdir(d, 0o755))
		}
		// The image's run is the lower layer.
		mustDo(t, os.MkdirAll("/tmp/a/low/app.d/deep", 0o755))
		mustDo(t, os.WriteFile("/tmp/a/low/app.d/deep/file", nil, 0o644))
		err := syscall.Mount("overlay", "/tmp/merged", "overlay", 0, "lowerdir=/tmp/a/low,upperdir=/tmp/b/up,workdir=/tmp/b/work,userxattr")
		mustDo(t, err)
		c.mounts = append(c.mounts, "/tmp/merged:/run")
		c.run(t, "exec", "--unit=app@x", "--", "stat", "-c", "%u:%g", "/run/app.d", "/run/app.d/deep", "/run/app.d/deep/file").check(t, 0, "1234:44\n1234:44\n1234:44")
	})
}

// A file of the image's /run that has another name elsewhere is not copied: the
// copy could be given away.
func TestHardLinksAreNotLaundered(t *testing.T) {
	withUsers(t, func(t *testing.T, c *container) {
		mustDo(t, os.Mkdir(c.root+"/run/app.d", 0o755))
		mustDo(t, os.WriteFile(c.root+"/etc/secret", []byte("s"), 0o600))
		mustDo(t, os.Link(c.root+"/etc/secret", c.root+"/run/app.d/one"))
		mustDo(t, os.Link(c.root+"/etc/secret", c.root+"/run/two"))
		for _, c.bounding = range []bool{true, false} {
			o := c.run(t, "exec", "--unit=app@x", "--", "sh", "-c", "find /run -type f -uid 1234; ls /run | grep two")
			if o.stdout != map[bool]string{true: "two\n", false: ""}[c.bounding] {
				t.Errorf("%+v", o)
			}
		}
	})
}

// XDG_RUNTIME_DIR that somebody set is kept where it can be the command's.
func TestRuntimeDirOfTheUserIsKept(t *testing.T) {
	withUsers(t, func(t *testing.T, c *container) {
		mustDo(t, os.Mkdir(c.root+"/wl", 0o755))
		mustDo(t, os.Mkdir(c.root+"/own", 0o700))
		mustDo(t, os.Chown(c.root+"/own", 1234, 1234))
		show := []string{"--", "sh", "-c", "echo $XDG_RUNTIME_DIR"}
		for _, k := range []struct{ set, user, want string }{
			{"/wl", "", "/wl"}, {"/own", "app", "/own"}, {"/wl", "app", "/run/user/1234"}, {"/none", "", "/run/user/0"}, {"relative", "app", "/run/user/1234"},
		} {
			c.env = []string{"XDG_RUNTIME_DIR=" + k.set}
			args := []string{"exec"}
			if k.user != "" {
				args = append(args, "--user="+k.user)
			}
			c.run(t, append(args, show...)...).check(t, 0, k.want)
		}
	})
}
