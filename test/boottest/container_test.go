package boottest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/podtest"
)

// imageTree is an image with slashrun, a tmpfiles.d line, and a /run with what an
// image leaves there.
func imageTree(t *testing.T) string {
	t.Helper()
	tree := t.TempDir()
	copyFile(t, os.Getenv(progEnv), tree+"/bin/slashrun")
	copyFile(t, "/usr/bin/busybox", tree+"/bin/busybox")
	must(t, os.Symlink("busybox", tree+"/bin/sh"))
	for _, d := range []string{"/etc", "/usr/lib/tmpfiles.d", "/run/baked", "/var", "/tmp"} {
		must(t, os.MkdirAll(tree+d, 0o755))
	}
	must(t, os.WriteFile(tree+"/run/stale.pid", []byte("1\n"), 0o644))
	must(t, os.WriteFile(tree+"/etc/passwd", []byte("root:x:0:0::/:/bin/sh\nwww:x:33:33::/:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(tree+"/etc/group", []byte("root:x:0:\nwww:x:33:\n"), 0o644))
	must(t, os.WriteFile(tree+"/usr/lib/tmpfiles.d/app.conf", []byte("d /run/app 0750 www www\nR! /run/stale.pid\n"), 0o644))
	return tree
}

const look = `
	/bin/busybox stat -c "%n %a %u" /run /run/lock /run/slashrun /run/user /run/app
	/bin/busybox ls -a /run
	/bin/busybox cat /run/slashrun/boot
	/bin/busybox grep " /run" /proc/mounts`

// As PID 1, with podman's default capabilities and seccomp profile: there nothing
// can be mounted, and /run is laid out where it is. With CAP_SYS_ADMIN it is
// mounted, and the runtime's own bind mount in it comes along. A tmpfs from the
// runtime is adopted.
func TestAsPID1OfAContainer(t *testing.T) {
	prog := program(t)
	for name, rootless := range map[string]bool{"rootful": false, "rootless": true} {
		t.Run(name, func(t *testing.T) {
			o := podtest.Options{Rootless: rootless, Keep: []string{filepath.Dir(prog)}, Env: []string{progEnv + "=" + prog}}
			podtest.Run(t, o, func(t *testing.T, p *podtest.Podman) {
				image := p.Import(t, imageTree(t))
				for _, c := range []struct {
					name        string
					options     []string
					status      int
					has, hasNot []string
					stderr      string
				}{
					{"default", nil, 4,
						[]string{"/run 755 0\n", "/run/lock 1777 0\n", "/run/app 750 33\n", "baked\n", ".containerenv\n"},
						[]string{" /run tmpfs ", "stale.pid"}, "CAP_SYS_ADMIN"},
					{"cap-add", []string{"--cap-add=SYS_ADMIN"}, 0,
						[]string{" /run tmpfs ", "nr_inodes=819200", " /run/lock tmpfs ", "size=5120k", "/run/app 750 33\n", ".containerenv\n"},
						[]string{"stale.pid", "baked\n"}, "2 entries"},
					{"tmpfs", []string{"--tmpfs=/run"}, 4, // the limits are the runtime's, which we may not change
						[]string{"/run 755 0\n", "/run/app 750 33\n", " /run tmpfs "}, nil, "limits stay"},
				} {
					args := append(c.options, image, "/bin/sh", "-c", "/bin/slashrun boot --profile debian; code=$?;"+look+"; exit $code")
					r := p.Run(t, args...)
					if r.Status != c.status || !strings.Contains(r.Stderr, c.stderr) {
						t.Errorf("%s: status %d, want %d, with %q\n%v", c.name, r.Status, c.status, c.stderr, r)
					}
					for _, want := range append(c.has, "boot_id=", "/run/slashrun 755 0\n", "/run/user 755 0\n") {
						if !strings.Contains(r.Stdout, want) {
							t.Errorf("%s: no %q\n%v", c.name, want, r)
						}
					}
					for _, not := range c.hasNot {
						if strings.Contains(r.Stdout, not) {
							t.Errorf("%s: there is %q\n%v", c.name, not, r)
						}
					}
				}
			})
		})
	}
}

// A container that is started again finds what the last run left, and says so:
// the boot id is the same, the start of PID 1 is not.
func TestAContainerThatIsStartedAgain(t *testing.T) {
	prog := program(t)
	o := podtest.Options{Keep: []string{filepath.Dir(prog)}, Env: []string{progEnv + "=" + prog}}
	podtest.Run(t, o, func(t *testing.T, p *podtest.Podman) {
		image := p.Import(t, imageTree(t))
		r := p.Podman(t, "create", "--name=again", "--network=none", image, "/bin/slashrun", "boot", "--in-place")
		if r.Status != 0 {
			t.Fatal(r)
		}
		for i, want := range []string{"from the image or an earlier run", "an earlier run of this container"} {
			r := p.Podman(t, "start", "--attach", "again")
			if r.Status != 0 || !strings.Contains(r.Stderr, want) {
				t.Errorf("start %d: want %q\n%v", i, want, r)
			}
		}
	})
}
