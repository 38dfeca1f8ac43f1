package podtest

import (
	"bytes"
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

// Options says what is special.
type Options struct {
	// Rootless runs podman as the user nobody, with 65536 subordinate user and
	// group IDs of its own: what root in the container makes belongs to nobody.
	Rootless bool
	// Driver says how images and containers are stored.
	Driver Driver
	// Keep names files and directories of the machine that are to be visible in
	// Run's function; see nstest.Options.
	Keep []string
	// Env is added to the environment of the test, as "NAME=value".
	Env []string
}

// Driver is a storage driver of podman.
type Driver string

const (
	// VFS copies the whole image for each container, and works everywhere. The root
	// of a container is a subdirectory of a file system, bound.
	VFS Driver = ""
	// Overlay lets containers share their image, as in production; with large
	// images it saves seconds a container. Rootless it needs user.* attributes on
	// tmpfs (Linux 6.6); where there are none Run takes VFS, as Podman.Driver tells.
	Overlay Driver = "overlay"
)

// Podman starts containers. It is good for the function that Run calls.
type Podman struct {
	// Driver is the one that is in use.
	Driver Driver
	dir    string // storage, configuration, and nobody's home
	user   *syscall.Credential
}

// nobody's IDs, and the first of the subordinate ones. Nothing of it reaches the
// machine: the ranges stand in a private copy of /etc/subuid.
const (
	nobody   = 65534
	firstSub = 200000
	subs     = 65536
)

// Run runs f with a podman of its own, in nstest's namespaces. It needs root,
// podman and crun, and ends t by the rules of testenv where they are missing.
func Run(t *testing.T, o Options, f func(t *testing.T, p *Podman)) {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.Tool("podman"), testenv.Tool("crun"), testenv.Tool("conmon"))
	if o.Rootless {
		testenv.Need(t, testenv.Tool("newuidmap"))
	}
	ns := nstest.Options{Real: true, Root: nstest.RootOverlay, Net: true, Keep: o.Keep, Env: o.Env}
	nstest.Run(t, ns, func(t *testing.T) {
		p, err := prepare(o)
		if err != nil {
			t.Fatalf("podtest: %v", err)
		}
		f(t, p)
	})
}

// prepare makes the namespace ready for podman.
func prepare(o Options) (*Podman, error) {
	// A cgroup2 without controllers, and read-only: crun sees that there is
	// nothing to do, and no cgroup of the machine can be touched.
	if err := os.MkdirAll("/sys/fs/cgroup", 0o755); err != nil {
		return nil, err
	}
	const flags = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC | syscall.MS_RDONLY
	if err := linux.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", flags, ""); err != nil {
		return nil, fmt.Errorf("cgroup2 on /sys/fs/cgroup: %w", err)
	}
	p := &Podman{Driver: o.Driver, dir: "/tmp/podman"}
	if o.Rootless && !hasUserXattrs("/tmp") {
		p.Driver = VFS
	}
	dirs := []string{p.dir, p.dir + "/home", p.dir + "/run", p.dir + "/tmp", p.dir + "/root", p.dir + "/runroot", "/run/user"}
	if o.Rootless {
		p.user = &syscall.Credential{Uid: nobody, Gid: nobody}
		dirs = append(dirs, fmt.Sprintf("/run/user/%d", nobody))
	}
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
		if o.Rootless && d != "/run/user" {
			if err := os.Chown(d, nobody, nobody); err != nil {
				return nil, err
			}
		}
	}
	if err := os.Chmod("/run/user", 0o755); err != nil {
		return nil, err
	}
	files := map[string]string{
		p.dir + "/containers.conf": containersConf,
		p.dir + "/storage.conf":    fmt.Sprintf("[storage]\ndriver = %q\ngraphroot = %q\nrunroot = %q\n", p.driver(), p.dir+"/root", p.dir+"/runroot"),
		p.dir + "/policy.json":     `{"default":[{"type":"insecureAcceptAnything"}]}`,
		"/etc/subuid":              fmt.Sprintf("nobody:%d:%d\n", firstSub, subs),
		"/etc/subgid":              fmt.Sprintf("nobody:%d:%d\nnogroup:%[1]d:%d\n", firstSub, subs),
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// hasUserXattrs tells whether files in dir may have user.* attributes, in which an
// overlay in a user namespace keeps what it must remember.
func hasUserXattrs(dir string) bool {
	return syscall.Setxattr(dir, "user.podtest", []byte("1"), 0) == nil
}

// driver is what podman calls p.Driver.
func (p *Podman) driver() string {
	if p.Driver == VFS {
		return "vfs"
	}
	return string(p.Driver)
}

// containersConf: no events and no cgroups, since nobody looks at them and they
// would be the machine's; and limits that need no CAP_SYS_RESOURCE, which the
// default ones of podman do.
const containersConf = `[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
netns = "none"
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "crun"
`

// Command is podman with args: "podman", then the flags that keep it to its
// directory, then args.
func (p *Podman) Command(ctx context.Context, args ...string) *exec.Cmd {
	flags := []string{
		"--root=" + p.dir + "/root", "--runroot=" + p.dir + "/runroot", "--tmpdir=" + p.dir + "/tmp",
		"--storage-driver=" + p.driver(), "--runtime=crun", "--cgroup-manager=cgroupfs", "--log-level=error",
	}
	cmd := exec.CommandContext(ctx, "podman", append(flags, args...)...)
	runtimeDir := "/run/user/0"
	if p.user != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.user}
		runtimeDir = fmt.Sprintf("/run/user/%d", p.user.Uid)
	}
	cmd.Dir = p.dir + "/home"
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + p.dir + "/home", "XDG_RUNTIME_DIR=" + runtimeDir, "TMPDIR=/tmp",
		"CONTAINERS_CONF=" + p.dir + "/containers.conf", "CONTAINERS_STORAGE_CONF=" + p.dir + "/storage.conf",
	}
	return cmd
}

// Result is how a command of podman ended.
type Result struct {
	Stdout, Stderr string
	Status         int // of the container's PID 1, or 125 to 127 from podman itself
}

// String is for messages.
func (r Result) String() string {
	return fmt.Sprintf("exit status %d\n--- standard output\n%s\n--- standard error\n%s", r.Status, r.Stdout, r.Stderr)
}

// Podman runs any command of podman. It ends t if podman cannot be started; the
// exit status is for the caller to judge.
func (p *Podman) Podman(t testing.TB, args ...string) Result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := p.Command(t.Context(), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("podman %s: %v", args[0], err)
	}
	return Result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// Import makes an image of the directory tree, which may be nothing more than one
// static program, and returns its name. Options are those of "podman import", for
// instance "--change=ENTRYPOINT [\"/slashrun\"]".
func (p *Podman) Import(t testing.TB, tree string, options ...string) string {
	t.Helper()
	archive := filepath.Join(p.dir, "image.tar")
	tar := exec.Command("tar", "--numeric-owner", "-C", tree, "-cf", archive, ".")
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	defer os.Remove(archive)
	r := p.Podman(t, append(append([]string{"import"}, options...), archive)...)
	if r.Status != 0 {
		t.Fatalf("podman import: %v", r)
	}
	return lastLine(r.Stdout)
}

// lastLine is the ID of an image, at the end of what made it printed.
func lastLine(out string) string {
	out = strings.TrimSpace(out)
	return strings.TrimPrefix(out[strings.LastIndexByte(out, '\n')+1:], "sha256:")
}

// Run is "podman run --rm --network=none" with the default seccomp profile and
// capabilities; args are options, the image and the command.
func (p *Podman) Run(t testing.TB, args ...string) Result {
	t.Helper()
	return p.Podman(t, append([]string{"run", "--rm", "--network=none", "--pull=never"}, args...)...)
}
