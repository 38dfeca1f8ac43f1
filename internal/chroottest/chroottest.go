// Package chroottest runs tests in a Debian root tree that has no systemd, for
// init scripts and the programs around them. Only tests import it, in a package
// whose TestMain is nstest's.
//
//	func TestMain(m *testing.M) { nstest.Main(m) }
//
//	func TestInitScript(t *testing.T) {
//		chroottest.Run(t, chroottest.OpenRC, chroottest.Options{}, func(t *testing.T, c *chroottest.Chroot) {
//			c.Copy(t, "testdata/slashrun.initd", "/etc/init.d/slashrun")
//			out, err := c.Command(t.Context(), "rc-service", "slashrun", "start").CombinedOutput()
//			...
//		})
//	}
//
// Run's function is in the namespaces of nstest.Run (Real, Net), whose rules hold.
// Each call unpacks a tree of its own on a tmpfs, which takes a second or two and
// 200 MB of memory, and may change it at will. In the tree
//
//   - /proc, /sys and /dev are those of nstest: the PID namespace's own, read-only,
//     and a private one;
//   - /run is what the tree has, an ordinary directory, as before a machine mounts
//     it; so what a script mounts there is mounted on the tmpfs of the tree;
//   - nothing was started.
//
// The trees come from test/deps.d/roots.sh ("make test-deps" as root). Beside the
// init system they have Debian's minimal packages, procps and strace.
//
// # When not to use it
//
// An init system as PID 1 of a machine is for vmtest, one in a container for
// podtest.
package chroottest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// System is one of the trees.
type System string

const (
	Sysvinit System = "sysvinit" // sysvinit-core, initscripts, sysv-rc, insserv
	OpenRC   System = "openrc"   // openrc under sysvinit's init, initscripts
	Runit    System = "runit"    // runit with runit-init
)

// Systems is all of them.
var Systems = []System{Sysvinit, OpenRC, Runit}

// Options says what is special.
type Options struct {
	// Keep names files and directories of the machine that are to be visible in
	// Run's function; see nstest.Options.
	Keep []string
	// Env is added to the environment of the test, as "NAME=value".
	Env []string
}

// Chroot is a tree. It is good for the function that Run calls.
type Chroot struct {
	// Dir is where it is.
	Dir string
}

// Run runs f beside a fresh tree of s. It needs root.
func Run(t *testing.T, s System, o Options, f func(t *testing.T, c *Chroot)) {
	t.Helper()
	name := "roots/" + string(s) + ".tar.zst"
	testenv.Need(t, testenv.Root, testenv.Tool("tar"), testenv.Tool("zstd"), testenv.Dep(name))
	archive := filepath.Join(testenv.DepsDir(), name)
	ns := nstest.Options{Real: true, Net: true, Keep: append([]string{archive}, o.Keep...), Env: o.Env}
	nstest.Run(t, ns, func(t *testing.T) {
		c, err := unpack(archive)
		if err != nil {
			t.Fatalf("chroottest: %v", err)
		}
		f(t, c)
	})
}

func unpack(archive string) (*Chroot, error) {
	c := &Chroot{Dir: "/tmp/chroot"}
	if err := os.Mkdir(c.Dir, 0o755); err != nil {
		return nil, err
	}
	// Set-user-ID programs and device nodes of the tree are to work.
	if err := linux.Mount("chroottest", c.Dir, "tmpfs", 0, "mode=0755"); err != nil {
		return nil, err
	}
	tar := exec.Command("tar", "--zstd", "-xpf", archive, "--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*", "-C", c.Dir)
	if out, err := tar.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("unpacking %s: %w\n%s", archive, err, out)
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if err := linux.Mount(dir, c.Dir+dir, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
	}
	return c, nil
}

// searchPath is $PATH in the tree.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Command is a command that runs in the tree, as root, with / as its working
// directory and a small environment. A name without a slash is looked up in the
// tree.
func (c *Chroot) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.look(name), args...)
	cmd.Args[0] = name
	cmd.Err = nil // a path is looked up outside, but meant inside
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + searchPath, "HOME=/root", "LANG=C.UTF-8", "TERM=dumb"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: c.Dir}
	return cmd
}

// look finds name in the tree; if it is not there, the start will say so.
func (c *Chroot) look(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	for _, dir := range strings.Split(searchPath, ":") {
		if _, err := os.Lstat(c.Dir + dir + "/" + name); err == nil {
			return dir + "/" + name
		}
	}
	return "/nonexistent/" + name
}

// Copy copies the file src into the tree, as dst and with src's permissions. It
// follows no link in the tree's last component: what is there is replaced.
func (c *Chroot) Copy(t testing.TB, src, dst string) {
	t.Helper()
	data, err := os.ReadFile(src)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(src)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(c.Dir, dst)
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(to, info.Mode().Perm()); err != nil {
		t.Fatal(err)
	}
}
