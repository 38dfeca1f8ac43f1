package podtest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
)

// ImportArchive makes an image called name of a root tree in a tar archive, which
// may be compressed with zstd. More says what else is in the image: path and text
// of executable files that replace what the archive has.
func (p *Podman) ImportArchive(t testing.TB, archive, name string, more map[string]string) {
	t.Helper()
	plain := filepath.Join(p.dir, "tmp", "image.tar")
	defer os.Remove(plain)
	if out, err := exec.Command("zstd", "-q", "-d", "-f", "--pass-through", archive, "-o", plain).CombinedOutput(); err != nil {
		t.Fatalf("zstd: %v\n%s", err, out)
	}
	dir := t.TempDir()
	for path, text := range more {
		if err := errors.Join(os.MkdirAll(filepath.Dir(dir+path), 0o755), os.WriteFile(dir+path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
		tar := exec.Command("tar", "--owner=0", "--group=0", "-C", dir, "-rf", plain, "."+path)
		if out, err := tar.CombinedOutput(); err != nil {
			t.Fatalf("tar: %v\n%s", err, out)
		}
	}
	if err := os.Chmod(plain, 0o644); err != nil {
		t.Fatal(err)
	}
	if r := p.Podman(t, "import", plain, name); r.Status != 0 {
		t.Fatalf("podman import: %v", r)
	}
}

// Build is "podman build" of the directory context with its Containerfile, and
// names the image tag. RUN lines are executed in the image's tree, without network.
func (p *Podman) Build(t testing.TB, context, tag string, options ...string) {
	t.Helper()
	// A copy, since podman's user may not be able to reach the directory.
	dir := filepath.Join(p.dir, "tmp", "build."+strings.ReplaceAll(tag, "/", "."))
	if err := os.CopyFS(dir, os.DirFS(context)); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	args := append([]string{"build", "--isolation=chroot", "--pull=never", "--layers=false", "--tag=" + tag}, options...)
	if r := p.Podman(t, append(args, dir)...); r.Status != 0 {
		t.Fatalf("podman build of %s: %v", context, r)
	}
}

// Container is a container that can be started again and again, on the root that
// the last start left.
type Container struct {
	Name    string
	p       *Podman
	pidFile string
}

// Create is "podman create --network=none" with the default seccomp profile and
// capabilities; args are options, the image and the command.
func (p *Podman) Create(t testing.TB, name string, args ...string) *Container {
	t.Helper()
	c := &Container{Name: name, p: p, pidFile: filepath.Join(p.dir, "tmp", name+".pid")}
	all := append([]string{"create", "--name=" + name, "--network=none", "--pull=never", "--pidfile=" + c.pidFile}, args...)
	if r := p.Podman(t, all...); r.Status != 0 {
		t.Fatalf("podman create: %v", r)
	}
	return c
}

// Running is a container between its start and its end.
type Running struct {
	// PID is the container's first process, as the test sees it: /proc/PID/root is
	// the container's root, and a socket there can be connected to.
	PID   int
	c     *Container
	pidfd int
	cmd   *exec.Cmd
	out   output
	ended chan struct{} // closed when podman start has ended
}

// Start starts c and returns as soon as its first process exists, which may be
// before it has executed its program.
func (c *Container) Start(t testing.TB) *Running {
	t.Helper()
	if err := os.Remove(c.pidFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	r := &Running{c: c, cmd: c.p.Command(t.Context(), "start", "--attach", c.Name), pidfd: -1, ended: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.out
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.cmd.Wait(); close(r.ended) }()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		ended := r.Ended() // before the look, which is the last one then
		text, err := os.ReadFile(c.pidFile)
		if err == nil && len(text) > 0 { // it is made first, and written then
			if r.PID, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
				t.Fatalf("%s: %v", c.pidFile, err)
			}
			break
		}
		if ended {
			t.Fatalf("podman start %s: %v\n%s", c.Name, r.cmd.ProcessState, r.Output())
		}
		time.Sleep(pause)
	}
	// Where it has ended already there is nothing to kill.
	if fd, err := linux.PidfdOpen(r.PID); err == nil {
		r.pidfd = fd
	}
	return r
}

// Ended tells whether the container has ended by itself.
func (r *Running) Ended() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

// Output is what the container has written until now, to both streams.
func (r *Running) Output() string { return r.out.String() }

// Kill kills the first process, and with it the kernel kills all of the container,
// without a chance to tidy up; then it waits for podman to notice.
func (r *Running) Kill(t testing.TB) {
	t.Helper()
	if r.pidfd >= 0 {
		if err := linux.PidfdSendSignal(r.pidfd, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatalf("killing the container: %v", err)
		}
	}
	r.Wait(t)
}

// Wait waits for the end of the container, which is also that of t's deadline, and
// returns the exit status of its first process.
func (r *Running) Wait(t testing.TB) int {
	t.Helper()
	<-r.ended // ends with t's context, which cmd has
	if r.pidfd >= 0 {
		syscall.Close(r.pidfd)
		r.pidfd = -1
	}
	return r.cmd.ProcessState.ExitCode()
}

// output collects what a process writes while others read it.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
