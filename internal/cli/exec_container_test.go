package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// containerEnv makes the test binary what a container runtime's last process is:
// it enters the root directory and becomes slashrun.
const containerEnv = "CLI_TEST_CONTAINER"

// container is how a container is started. Its root is a directory of a file
// system, as the drivers vfs and btrfs have it.
type container struct {
	root     string
	bounding bool // without CAP_SYS_ADMIN, as by default
	noChown  bool // without CAP_CHOWN
	readOnly bool
	noProc   bool
	uid      int      // 0 is root
	mounts   []string // SOURCE:TARGET, or :TARGET for a tmpfs
	env      []string
}

// newRoot is an image that borrows the machine's programs.
func newContainer(t *testing.T) *container {
	t.Helper()
	syscall.Umask(0)
	root, err := os.MkdirTemp("/tmp", "image")
	mustDo(t, err)
	mustDo(t, os.Chmod(root, 0o755))
	for _, d := range []string{"run", "proc", "tmp", "etc", "var", "dev", "usr"} {
		mustDo(t, os.Mkdir(root+"/"+d, 0o755))
	}
	mustDo(t, os.WriteFile(root+"/slashrun", nil, 0o755))
	exe, err := os.Executable()
	mustDo(t, err)
	c := &container{root: root, mounts: []string{"/usr:/usr", ":/usr/lib/tmpfiles.d", exe + ":/slashrun", "/dev:/dev"}}
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if target, err := os.Readlink("/" + d); err == nil {
			mustDo(t, os.Symlink(target, root+"/"+d))
		} else if _, err := os.Stat("/" + d); err == nil {
			mustDo(t, os.Mkdir(root+"/"+d, 0o755))
			c.mounts = append(c.mounts, "/"+d+":/"+d)
		}
	}
	return c
}

func mustDo(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// outcome is how a container ended.
type outcome struct {
	code           int
	stdout, stderr string
}

// run starts "slashrun ARGS" as PID 1 of new namespaces with the container's root.
func (c *container) run(t *testing.T, args ...string) outcome {
	t.Helper()
	cmd := c.command(args...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func (c *container) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append([]string{containerEnv + "=" + c.root, "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, c.env...)
	for k, on := range map[string]bool{"BOUNDING": c.bounding, "NO_CHOWN": c.noChown, "READ_ONLY": c.readOnly, "NO_PROC": c.noProc} {
		if on {
			cmd.Env = append(cmd.Env, containerEnv+"_"+k+"=1")
		}
	}
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s_UID=%d", containerEnv, c.uid), containerEnv+"_MOUNTS="+strings.Join(c.mounts, " "))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	return cmd
}

// enterContainer is the process that c.run starts; it does not return.
func enterContainer(root string) {
	runtime.LockOSThread() // capabilities and users are the thread's
	err := arrangeContainer(root)
	if err == nil {
		var env []string
		for _, kv := range os.Environ() {
			if !strings.HasPrefix(kv, containerEnv) {
				env = append(env, kv)
			}
		}
		err = syscall.Exec("/slashrun", append([]string{"slashrun"}, os.Args[1:]...), env)
	}
	fmt.Fprintln(os.Stderr, "container:", err)
	os.Exit(99)
}

func arrangeContainer(root string) error {
	step := func(what string, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
	if err := step("private", syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")); err != nil {
		return err
	}
	if err := step("root", syscall.Mount(root, root, "", syscall.MS_BIND, "")); err != nil {
		return err
	}
	for _, m := range strings.Fields(os.Getenv(containerEnv + "_MOUNTS")) {
		source, target, _ := strings.Cut(m, ":")
		var err error
		if source == "" {
			err = syscall.Mount("tmpfs", root+target, "tmpfs", 0, "mode=0755")
		} else {
			err = syscall.Mount(source, root+target, "", syscall.MS_BIND|syscall.MS_REC, "")
		}
		if err := step(m, err); err != nil {
			return err
		}
	}
	if os.Getenv(containerEnv+"_NO_PROC") == "" {
		if err := step("proc", syscall.Mount("proc", root+"/proc", "proc", 0, "")); err != nil {
			return err
		}
	}
	if os.Getenv(containerEnv+"_READ_ONLY") != "" {
		if err := step("read-only", syscall.Mount("", root, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, "")); err != nil {
			return err
		}
	}
	if err := step("chdir", os.Chdir(root)); err != nil {
		return err
	}
	if err := step("pivot_root", linux.PivotRoot(".", ".")); err != nil {
		return err
	}
	if err := step("umount", syscall.Unmount(".", syscall.MNT_DETACH)); err != nil {
		return err
	}
	for name, c := range map[string]int{"_BOUNDING": linux.CAP_SYS_ADMIN, "_NO_CHOWN": linux.CAP_CHOWN} {
		if os.Getenv(containerEnv+name) == "" {
			continue
		}
		if err := linux.DropBounding(^(uint64(1) << c)); err != nil {
			return err
		}
	}
	var uid int
	fmt.Sscan(os.Getenv(containerEnv+"_UID"), &uid)
	if uid != 0 {
		return step("uid", syscall.Setuid(uid))
	}
	return nil
}

// inContainers runs f where containers can be made.
func inContainers(t *testing.T, f func(t *testing.T, c *container)) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) { f(t, newContainer(t)) })
}

// everyKernel runs f with the newer system calls and without.
func everyKernel(t *testing.T, f func(t *testing.T, c *container)) {
	for _, p := range seccomptest.All {
		t.Run(p.String(), func(t *testing.T) {
			nstest.Run(t, nstest.Options{}, func(t *testing.T) {
				seccomptest.Run(t, p, func(t *testing.T) { f(t, newContainer(t)) })
			})
		})
	}
}

// plant puts what an application leaves that was killed. All of it is older than
// the next run by then.
func plant(t *testing.T, dir string) {
	t.Helper()
	mustDo(t, os.MkdirAll(dir, 0o755))
	mustDo(t, os.WriteFile(dir+"/app.pid", []byte("1\n"), 0o644)) // a number that is in use again
	mustDo(t, os.WriteFile(dir+"/gone.pid", []byte("4242\n"), 0o644))
	mustDo(t, os.WriteFile(dir+"/LCK..ttyS0", []byte("      4242\n"), 0o644))
	mustDo(t, syscall.Mkfifo(dir+"/fifo", 0o600))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/app.sock", Net: "unix"})
	mustDo(t, err)
	l.SetUnlinkOnClose(false)
	mustDo(t, l.Close())
	mustDo(t, os.WriteFile(dir+"/state", []byte("8080\n"), 0o644))
	past()
}

// past lets what was made become older than a container that starts now, by more
// than the clocks can be wrong: start times are counted in ticks of 10 ms.
func past() { time.Sleep(50 * time.Millisecond) }

func list(t *testing.T, dir string) string {
	t.Helper()
	names, err := os.ReadDir(dir)
	mustDo(t, err)
	var out []string
	for _, e := range names {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func (o outcome) check(t *testing.T, code int, stdout string) {
	t.Helper()
	if o.code != code || strings.TrimSpace(o.stdout) != stdout {
		t.Errorf("exit code %d, want %d; printed %q, want %q; stderr %q", o.code, code, o.stdout, stdout, o.stderr)
	}
}

// A container that may mount gets a new /run with what the image has there, and
// the mounts below it; what is underneath stays.
func TestContainerThatMayMount(t *testing.T) {
	everyKernel(t, func(t *testing.T, c *container) {
		plant(t, c.root+"/run/app")
		mustDo(t, os.Mkdir(c.root+"/run/secrets", 0o755))
		mustDo(t, os.Mkdir("/tmp/secret", 0o755))
		mustDo(t, os.WriteFile("/tmp/secret/token", []byte("t"), 0o400))
		c.mounts = append(c.mounts, "/tmp/secret:/run/secrets")
		for range 2 {
			o := c.run(t, "exec", "--run=tmpfs", "--", "sh", "-c", "echo $$; stat -f -c %T /run; cd /run/app; echo *; cat /run/secrets/token")
			o.check(t, 0, "1\ntmpfs\nstate\nt")
			if o.stderr != "" {
				t.Errorf("stderr %q", o.stderr)
			}
		}
		if got := list(t, c.root+"/run/app"); got != "LCK..ttyS0 app.pid app.sock fifo gone.pid state" {
			t.Errorf("underneath is left %q", got)
		}
	})
}

// The same root, started again and again without the right to mount, as docker
// restart does: what the last run left goes, and nothing else.
func TestContainerIsStartedAgain(t *testing.T) {
	everyKernel(t, func(t *testing.T, c *container) {
		c.bounding = true
		for range 3 {
			plant(t, c.root+"/run/app")
			o := c.run(t, "exec", "--verbose", "--", "sh", "-c", "stat -f -c %T /run/app; cd /run/app; echo *; echo $$ >app.pid")
			o.check(t, 0, "tmpfs\nstate")
			for _, want := range []string{"remove the pidfile /run/app/app.pid", "remove the socket /run/app/app.sock", "remove the fifo", "remove the lock /run/app/LCK..ttyS0"} {
				if !strings.Contains(o.stderr, want) {
					t.Errorf("%q is not in %q", want, o.stderr)
				}
			}
			mustDo(t, os.RemoveAll(c.root+"/run/app"))
		}
		plant(t, c.root+"/run/app")
		o := c.run(t, "exec", "--keep-stale", "--", "sh", "-c", "cd /run/app; echo *") // not ls, which stops at the filter
		o.check(t, 0, "LCK..ttyS0 app.pid app.sock fifo gone.pid state")
	})
}

// What is named outside of /run is judged by the same rules: on the image's own
// file system, on a volume, and on one that is named as exclusive.
func TestContainerWithStalePlaces(t *testing.T) {
	inContainers(t, func(t *testing.T, c *container) {
		c.bounding = true
		mustDo(t, os.MkdirAll(c.root+"/app/tmp/pids", 0o755))
		mustDo(t, os.Mkdir(c.root+"/volume", 0o755))
		mustDo(t, os.Mkdir("/tmp/volume", 0o755))
		c.mounts = append(c.mounts, "/tmp/volume:/volume")
		server, postmaster := c.root+"/app/tmp/pids/server.pid", "/tmp/volume/postmaster.pid"
		files := func() {
			mustDo(t, os.WriteFile(server, []byte("1"), 0o644))
			mustDo(t, os.WriteFile(postmaster, []byte("1\n/volume\n1\n5432\n/run\n*\n"), 0o600))
			past()
		}
		files()
		o := c.run(t, "exec", "--stale=/app/tmp/pids/*.pid", "--stale=/volume/postmaster.pid:/none/*", "--", "ls", "/app/tmp/pids", "/volume")
		o.check(t, 0, "/app/tmp/pids:\n\n/volume:\npostmaster.pid")
		if n := strings.Count(o.stderr, "\n"); n != 1 || !strings.Contains(o.stderr, "went on without: removing /volume/postmaster.pid") {
			t.Errorf("stderr %q", o.stderr)
		}
		o = c.run(t, "exec", "--strict", "--stale=/volume/postmaster.pid", "--", "echo", "started")
		o.check(t, 125, "")
		o = c.run(t, "exec", "--stale=/volume/postmaster.pid", "--exclusive=/volume", "--", "ls", "/volume")
		o.check(t, 0, "")
		files()
		c.env = []string{"SLASHRUN_EXEC_STALE=/volume/*:/app/*/pids/*", "SLASHRUN_EXEC_EXCLUSIVE=/volume"}
		o = c.run(t, "exec", "--", "ls", "/app/tmp/pids", "/volume")
		o.check(t, 0, "/app/tmp/pids:\n\n/volume:")
		c.env = nil
		o = c.run(t, "exec", "--exclusive=/no-such", "--", "true")
		o.check(t, 125, "")
	})
}

// Whatever a container lacks, its command starts, and one line says what is not
// as it should be.
func TestContainersThatLackThings(t *testing.T) {
	for name, change := range map[string]func(c *container){
		"read-only":          func(c *container) { c.readOnly, c.bounding = true, true },
		"random uid":         func(c *container) { c.uid = 54321 },
		"no proc":            func(c *container) { c.noProc, c.bounding = true, true },
		"read-only, no proc": func(c *container) { c.noProc, c.bounding, c.readOnly = true, true, true },
		"no run, writable":   func(c *container) { os.RemoveAll(c.root + "/run"); c.bounding = true },
		"no run":             func(c *container) { os.RemoveAll(c.root + "/run"); c.readOnly = true },
		"run is a file":      func(c *container) { os.RemoveAll(c.root + "/run"); os.WriteFile(c.root+"/run", nil, 0o644) },
		"run is a link":      func(c *container) { os.RemoveAll(c.root + "/run"); os.Symlink("var", c.root+"/run") },
	} {
		t.Run(name, func(t *testing.T) {
			if name == "random uid" {
				testenv.Need(t, testenv.Root) // an ordinary user's namespace has one user
			}
			inContainers(t, func(t *testing.T, c *container) {
				plant(t, c.root+"/run/app")
				mustDo(t, os.Mkdir(c.root+"/etc/tmpfiles.d", 0o755))
				mustDo(t, os.WriteFile(c.root+"/etc/tmpfiles.d/app.conf", []byte("d /run/needed 0755 - - -\n"), 0o644))
				change(c)
				o := c.run(t, "exec", "--", "echo", "started")
				o.check(t, 0, "started")
				if n := strings.Count(o.stderr, "\n"); n > 1 || n == 1 && !strings.HasPrefix(o.stderr, "slashrun: exec: went on without: ") {
					t.Errorf("stderr %q", o.stderr)
				}
				if silent := name == "run is a link" || name == "no run, writable"; silent != (o.stderr == "") {
					t.Errorf("stderr %q", o.stderr)
				}
				if o := c.run(t, "exec", "--strict", "--", "echo", "started"); o.stderr != "" && (o.code != 125 || o.stdout != "") {
					t.Errorf("--strict: %+v", o)
				}
				c.run(t, "exec", "--keep-stale", "--tmpfiles=none", "--run=in-place", "--strict", "--", "echo", "started")
			})
		})
	}
}

// A tmpfs on /run that another container uses too: a volume. Nothing that lives
// there is touched, by the proofs or by tmpfiles.d.
func TestContainerOnAVolumeThatIsInUse(t *testing.T) {
	inContainers(t, func(t *testing.T, c *container) {
		mustDo(t, os.Mkdir("/tmp/volume", 0o755))
		mustDo(t, syscall.Mount("none", "/tmp/volume", "tmpfs", 0, "mode=0755"))
		mustDo(t, os.Mkdir(c.root+"/etc/tmpfiles.d", 0o755))
		mustDo(t, os.WriteFile(c.root+"/etc/tmpfiles.d/app.conf", []byte("D /run/app 0755 - - -\nR! /run/app\nr /run/app/*.pid\nf+ /run/other - - - - new\n"), 0o644))
		plant(t, "/tmp/volume/app")
		// We ourselves are the other container: what we have is of another namespace.
		mustDo(t, os.WriteFile("/tmp/volume/app/live.pid", []byte(fmt.Sprint(os.Getpid())), 0o644))
		mustDo(t, os.WriteFile("/tmp/volume/app/first.pid", []byte("1\n"), 0o644))
		l, err := net.Listen("unix", "/tmp/volume/app/live.sock")
		mustDo(t, err)
		defer l.Close()
		c.mounts = append(c.mounts, "/tmp/volume:/run")
		for _, c.bounding = range []bool{true, false} {
			o := c.run(t, "exec", "--", "cat", "/run/other")
			o.check(t, 0, "new")
			if strings.Count(o.stderr, "\n") != 1 || !strings.Contains(o.stderr, "removing /run/app/LCK..ttyS0: ") || !strings.Contains(o.stderr, "name --exclusive /run/app if") {
				t.Errorf("stderr %q", o.stderr)
			}
			// Nobody has app.sock, which is proven as soon as it is a second old: that is
			// waited for.
			if got := list(t, "/tmp/volume/app"); got != "LCK..ttyS0 app.pid fifo first.pid gone.pid live.pid live.sock state" {
				t.Errorf("left is %q", got)
			}
		}
	})
}

// tmpfiles.d of the image: below /run by default, with removals where /run is ours,
// and without what only systemd would take away again.
func TestContainerTmpfiles(t *testing.T) {
	inContainers(t, func(t *testing.T, c *container) {
		mustDo(t, os.Mkdir(c.root+"/etc/tmpfiles.d", 0o755))
		mustDo(t, os.WriteFile(c.root+"/etc/tmpfiles.d/app.conf", []byte("D /run/app 0755 - - -\nd! /run/boot\nF! /run/nologin\n"+
			"d /run/systemd/seats\nd /var/lib\nd /var/lib/app\nd /var/run/old\n"), 0o644))
		mustDo(t, os.Symlink("/run", c.root+"/var/run"))
		for _, c.bounding = range []bool{true, false} {
			mustDo(t, os.MkdirAll(c.root+"/run/app", 0o755))
			mustDo(t, os.WriteFile(c.root+"/run/app/state", nil, 0o644))
			o := c.run(t, "exec", "--", "sh", "-c", "ls /run /run/app /var | grep -v -e slashrun -e lock -e user")
			o.check(t, 0, "/run:\napp\nboot\nold\n\n/run/app:\n\n/var:\nrun")
		}
		c.bounding = true
		c.run(t, "exec", "--tmpfiles=/run/nologin:/var/lib", "--", "sh", "-c", "ls /var; ls /run/nologin").check(t, 0, "lib\nrun\n/run/nologin")
		mustDo(t, os.RemoveAll(c.root+"/run/boot"))
		c.run(t, "exec", "--tmpfiles=none", "--", "ls", "/run").check(t, 0, "app\nnologin\nold")
		mustDo(t, os.RemoveAll(c.root+"/run/nologin"))
		c.run(t, "exec", "--tmpfiles=all", "--", "sh", "-c", "ls -d /run/boot /run/nologin /run/systemd /var/lib/app 2>/dev/null").check(t, 2, "/run/boot\n/var/lib/app")
		// A line that is wrong does not keep the others from counting, and a long list
		// is not told in full.
		mustDo(t, os.WriteFile(c.root+"/etc/tmpfiles.d/bad.conf", []byte("d /run/x 0755 no-such-user\nnonsense\nd /run/good\n"), 0o644))
		o := c.run(t, "exec", "--", "ls", "-d", "/run/good")
		o.check(t, 0, "/run/good")
		if !strings.Contains(o.stderr, "2 lines of tmpfiles.d, the first") || strings.Count(o.stderr, "\n") != 1 {
			t.Errorf("stderr %q", o.stderr)
		}
	})
}

// Empty directories of the image are nobody's leftovers.
func TestStaleWildcardsLeaveDirectories(t *testing.T) {
	inContainers(t, func(t *testing.T, c *container) {
		mustDo(t, os.MkdirAll(c.root+"/app/tmp/pids", 0o755))
		mustDo(t, os.Mkdir(c.root+"/app/tmp/lock.d", 0o755))
		for i := range 9 {
			mustDo(t, os.WriteFile(fmt.Sprintf("%s/app/tmp/%d.pid", c.root, i), []byte("1"), 0o644))
		}
		past()
		c.run(t, "exec", "--stale=/app/tmp/*", "--stale={/app/tmp/lock.d,/none}", "--", "ls", "/app/tmp").check(t, 125, "")
		c.run(t, "exec", "--stale=/app/{tmp/*,none}", "--", "ls", "/app/tmp").check(t, 0, "lock.d\npids")
		c.run(t, "exec", "--stale=/app/tmp/lock.d", "--", "ls", "/app/tmp").check(t, 0, "pids")
		mustDo(t, os.Mkdir("/tmp/volume", 0o755))
		mustDo(t, os.Mkdir(c.root+"/volume", 0o755))
		for i := range 9 {
			mustDo(t, os.WriteFile(fmt.Sprintf("/tmp/volume/%d.pid", i), []byte("1"), 0o644))
		}
		c.mounts = append(c.mounts, "/tmp/volume:/volume")
		if o := c.run(t, "exec", "--stale=/volume/*.pid", "--", "true"); o.code != 0 || !strings.Contains(o.stderr, "and 4 more, which --verbose tells") {
			t.Errorf("%+v", o)
		}
	})
}

// A stop before the command is there ends the preparation, and nothing starts.
func TestExecIsStopped(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		env, stdout, stderr := testEnv("slashrun", "exec", "--tmpfiles=none", "--", "echo", "started")
		if code := Run(ctx, env); code != 143 || stdout.Len() > 0 || !strings.Contains(stderr.String(), "stopped by a signal before echo was started") {
			t.Errorf("%d, %q, %q", code, stdout, stderr)
		}
		if list(t, "/run") != "" {
			t.Errorf("/run holds %q", list(t, "/run"))
		}
	})
}
