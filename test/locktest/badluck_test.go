package locktest

import (
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
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// inside runs a test in namespaces of its own, where ours is at hand.
func inside(t *testing.T, f func(t *testing.T, flock string)) {
	t.Helper()
	flock := os.Getenv("SLASHRUN_LOCKTEST_OURS") // inside it was built outside
	if flock == "" {
		flock = ours(t)[0]
	}
	nstest.Run(t, nstest.Options{Keep: []string{filepath.Dir(flock)}, Env: []string{"SLASHRUN_LOCKTEST_OURS=" + flock}}, func(t *testing.T) {
		f(t, os.Getenv("SLASHRUN_LOCKTEST_OURS"))
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// status runs ours and complains unless it ends with want, and says all of words.
func status(t *testing.T, want int, words string, argv ...string) {
	t.Helper()
	got, out, diag := runs(t, "/", nil, argv...)
	if got != want {
		t.Errorf("%q: status %d, want %d: %s%s", argv, got, want, out, diag)
	}
	for _, w := range strings.Split(words, "|") {
		if !strings.Contains(out+diag, w) {
			t.Errorf("%q says %q, want %q in it", argv, out+diag, w)
		}
	}
}

// A file system that is full or read-only is 73 where the file is missing, and no
// matter where it is there.
func TestFullAndReadOnly(t *testing.T) {
	inside(t, func(t *testing.T, flock string) {
		must(t, os.MkdirAll("/run/full", 0o755))
		must(t, syscall.Mount("tmpfs", "/run/full", "tmpfs", 0, "nr_inodes=3"))
		must(t, os.WriteFile("/run/full/a", nil, 0o644))
		for os.WriteFile(fmt.Sprintf("/run/full/%d", os.Getpid()), nil, 0o644) == nil {
			if err := os.WriteFile("/run/full/more", nil, 0o644); err != nil {
				break
			}
		}
		status(t, 73, "no space left", flock, "/run/full/new", "true")
		status(t, 73, "no space left", flock, "--fair", "/run/full/new", "true")
		status(t, 0, "", flock, "/run/full/a", "true")
		must(t, syscall.Mount("", "/run/full", "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		status(t, 73, "read-only", flock, "/run/full/new", "true")
		status(t, 0, "", flock, "/run/full/a", "true")
		status(t, 0, "", flock, "-s", "--fcntl", "/run/full/a", "true")
		status(t, 73, "read-only", flock, "--fcntl", "/run/full/a", "true")
		status(t, 73, "read-only", flock, "--fair", "/run/full/a", "true")
	})
}

// Without descriptors or processes it is 71, and the command does not run.
func TestNoDescriptors(t *testing.T) {
	dir := t.TempDir()
	flock := ours(t)[0]
	status(t, 71, "too many open files", "/bin/sh", "-c", "ulimit -n 3; exec "+flock+" "+dir+"/F true")
	// The pipe that tells whether the command could be executed takes two.
	got, out, diag := runs(t, dir, nil, "/bin/sh", "-c", "ulimit -n 5; exec "+flock+" F echo ran")
	if got != 71 || out != "" {
		t.Errorf("no descriptor for the start of a command: status %d, %q, %q", got, out, diag)
	}
}

// On a file system that shows another inode at each look the lock is kept in the end.
func TestUnstableInodes(t *testing.T) {
	testenv.Need(t, testenv.Tool("strace"))
	strace, _ := testenv.LookTool("strace")
	for _, args := range []string{"", "-n", "--fair"} {
		dir := t.TempDir()
		trace := filepath.Join(dir, "trace")
		argv := append([]string{strace, "-f", "-qq", "-o", trace, "-P", dir + "/F", "-e", "trace=newfstatat", "-e", "inject=newfstatat:retval=0", ours(t)[0]}, strings.Fields(args)...)
		status(t, 7, "", append(argv, dir+"/F", "/bin/sh", "-c", "exit 7")...)
		text, err := os.ReadFile(trace)
		must(t, err)
		if n := strings.Count(string(text), "(INJECTED)"); n < 900 {
			t.Errorf("%s: %d looks were falsified: the test tests nothing", args, n)
		}
	}
}

// Who may not write makes no file, and what may not be read cannot be locked.
func TestNoPermission(t *testing.T) {
	testenv.Need(t, testenv.NonRoot)
	dir := t.TempDir()
	flock := ours(t)[0]
	must(t, os.WriteFile(dir+"/secret", nil, 0o000))
	must(t, os.WriteFile(dir+"/shown", nil, 0o444))
	must(t, os.Chmod(dir, 0o555))
	t.Cleanup(func() { os.Chmod(dir, 0o755) })
	status(t, 66, "permission denied", flock, dir+"/new", "true")
	status(t, 66, "permission denied", flock, dir+"/secret", "true")
	status(t, 0, "", flock, dir+"/shown", "true")
	status(t, 66, "permission denied", flock, "--fair", dir+"/shown", "true")
}

// Without /proc there are locks as ever.
func TestNoProc(t *testing.T) {
	inside(t, func(t *testing.T, flock string) {
		release := hold(t, "/run/F", linux.LOCK_EX)
		must(t, syscall.Unmount("/proc", syscall.MNT_DETACH))
		status(t, 1, "", flock, "-n", "/run/F", "true")
		// Where the kernel lets us we have a /proc of our own, which nobody else sees.
		status(t, 9, "no lock on /run/F", flock, "-n", "-E", "9", "--verbose", "/run/F", "true")
		status(t, 1, "waiting for /run/F", flock, "-w", "2", "--report", "0.01", "/run/F", "true")
		release()
		for _, args := range [][]string{nil, {"-F"}, {"-o"}, {"--fcntl"}, {"--fair"}, {"-w", "1"}} {
			status(t, 7, "ran", append(append([]string{flock}, args...), "/run/F", "sh", "-c", "echo ran; exit 7")...)
		}
	})
}

// --name is /run/lock for root, also where everybody can make files there.
func TestNameInRunLock(t *testing.T) {
	inside(t, func(t *testing.T, flock string) {
		name := []string{flock, "--name", "x"}
		ran := append(append([]string(nil), name...), "echo", "ran")
		status(t, 66, "/run/lock", ran...)
		must(t, os.Mkdir("/run/lock", 0o755))
		must(t, os.Chmod("/run/lock", 0o1777|os.ModeSticky))
		status(t, 0, "ran", ran...)
		if st, err := os.Lstat("/run/lock/x"); err != nil || st.Mode() != 0o600 {
			t.Errorf("%v, %v", st, err)
		}
		hold(t, "/run/lock/x", linux.LOCK_EX)
		status(t, 1, "", append([]string{flock, "-n", "--name=x"}, "true")...)
		status(t, 64, "no name", flock, "--name", "a/b", "true")
		status(t, 64, "serial", flock, "--name", "LCK..ttyS0", "true")
		status(t, 64, "command", name...)
		status(t, 64, "-u", flock, "-u", "--name", "x", "true")
		must(t, os.WriteFile("/run/target", []byte("text"), 0o600))
		must(t, os.Symlink("/run/target", "/run/lock/link"))
		status(t, 77, "regular file", flock, "--name", "link", "true")
		must(t, syscall.Mkfifo("/run/lock/fifo", 0o666))
		status(t, 77, "regular file", flock, "--name", "fifo", "true") // and does not wait for a writer
		must(t, os.Link("/run/target", "/run/lock/hard"))
		status(t, 77, "names", flock, "--name", "hard", "true")
		must(t, os.WriteFile("/run/lock/shown", nil, 0o644))
		must(t, os.Chmod("/run/lock/shown", 0o644))
		status(t, 77, "mode", flock, "--name", "shown", "true")
	})
}

// On OpenRC /run/lock is writable for a group and not sticky. root's names are then in
// a directory of our own, which nobody can have put there.
func TestNameOnOpenRC(t *testing.T) {
	inside(t, func(t *testing.T, flock string) {
		must(t, os.Mkdir("/run/lock", 0o755))
		_ = os.Chown("/run/lock", 0, 14) // uucp; the group is not to be had everywhere
		must(t, os.Chmod("/run/lock", 0o775))
		named := func(args ...string) []string { return append([]string{flock}, args...) }
		status(t, 7, "/run/slashrun/lock/x|ran", named("--verbose", "--name=x", "sh", "-c", "echo ran; exit 7")...)
		for path, mode := range map[string]os.FileMode{"/run/slashrun": os.ModeDir | 0o755, "/run/slashrun/lock": os.ModeDir | 0o700, "/run/slashrun/lock/x": 0o600} {
			if st, err := os.Lstat(path); err != nil || st.Mode() != mode {
				t.Errorf("%s: %v, %v; want %v", path, st, err, mode)
			}
		}
		if _, err := os.Lstat("/run/lock/x"); err == nil {
			t.Error("there is a file in /run/lock too")
		}
		release := hold(t, "/run/slashrun/lock/x", linux.LOCK_EX)
		status(t, 1, "", named("-n", "--name=x", "true")...)
		release()
		status(t, 0, "", named("-n", "--name=x", "true")...)
		status(t, 0, "", "sh", "-c", "umask 777; exec "+flock+" --name=y true")
		// Directories that are not safe, and no directories.
		clear := func() { must(t, os.RemoveAll("/run/slashrun")) }
		for name, make := range map[string]func() error{
			"a link": func() error { return os.Symlink("/run/elsewhere", "/run/slashrun") },
			"a link below": func() error {
				return errors.Join(os.Mkdir("/run/slashrun", 0o755), os.Symlink("/run/elsewhere", "/run/slashrun/lock"))
			},
			"a file":      func() error { return os.WriteFile("/run/slashrun", nil, 0o644) },
			"for a group": func() error { return errors.Join(os.Mkdir("/run/slashrun", 0o755), os.Chmod("/run/slashrun", 0o775)) },
			"sticky, for all": func() error {
				return errors.Join(os.Mkdir("/run/slashrun", 0o755), os.Chmod("/run/slashrun", 0o777|os.ModeSticky))
			},
			"lock for a group": func() error {
				return errors.Join(os.MkdirAll("/run/slashrun/lock", 0o755), os.Chmod("/run/slashrun/lock", 0o770))
			},
		} {
			clear()
			must(t, os.MkdirAll("/run/elsewhere", 0o755))
			must(t, make())
			t.Log(name)
			status(t, 77, "/run/slashrun|/run/lock", named("--name=x", "true")...)
		}
		if list, err := os.ReadDir("/run/elsewhere"); err != nil || len(list) > 0 {
			t.Errorf("something was made through a link: %v, %v", list, err)
		}
		clear()
		must(t, os.Chmod("/run", 0o777))
		status(t, 77, "/run", named("--name=x", "true")...)
		must(t, os.Chmod("/run", 0o755))
		must(t, os.Remove("/run/lock"))
		must(t, os.Symlink("/run/elsewhere", "/run/lock"))
		status(t, 0, "/run/slashrun/lock/x", named("--verbose", "--name=x", "true")...)
	})
}

// What others put in the place of the file during the wait is refused as before it.
func TestNameReplacedByOthers(t *testing.T) {
	inside(t, func(t *testing.T, flock string) {
		must(t, os.Mkdir("/run/lock", 0o755))
		release := hold(t, "/run/lock/x", linux.LOCK_EX)
		must(t, os.Chmod("/run/lock/x", 0o600))
		var diag buffer
		cmd := exec.Command(flock, "--name=x", "true")
		cmd.Stderr = &diag
		must(t, cmd.Start())
		waiting(t, "/run/lock/x", 1)
		must(t, os.Remove("/run/lock/x"))
		must(t, syscall.Mkfifo("/run/lock/x", 0o666))
		release()
		if got := end(cmd); got != "exit 77" || !strings.Contains(diag.String(), "no regular file") {
			t.Errorf("%s, %s", got, diag.String())
		}
	})
}

// An ordinary user's names are in XDG_RUNTIME_DIR.
func TestNameOfAUser(t *testing.T) {
	testenv.Need(t, testenv.NonRoot)
	flock, dir := ours(t)[0], t.TempDir()
	must(t, os.Chmod(dir, 0o700))
	for _, c := range []struct {
		dir    string
		status int
	}{{dir, 0}, {"", 66}, {"relative", 66}, {dir + "/missing", 66}, {"/", 66}} {
		got, _, diag := runs(t, "/", []string{"XDG_RUNTIME_DIR=" + c.dir}, flock, "--name", "slashrun-locktest", "true")
		if got != c.status {
			t.Errorf("%q: status %d, want %d: %s", c.dir, got, c.status, diag)
		}
	}
	if _, err := os.Lstat(dir + "/slashrun-locktest"); err != nil {
		t.Error(err)
	}
}

// Container runtimes refuse the newer system calls: nothing here needs them.
func TestUnderSeccomp(t *testing.T) {
	// Under a filter nothing can be built.
	if os.Getenv("SLASHRUN_LOCKTEST_OURS") == "" {
		t.Setenv("SLASHRUN_LOCKTEST_OURS", ours(t)[0])
	}
	for _, p := range seccomptest.All {
		t.Run(p.String(), func(t *testing.T) {
			seccomptest.Run(t, p, func(t *testing.T) {
				dir, flock := t.TempDir(), ours(t)[0]
				path := filepath.Join(dir, "F")
				for _, args := range [][]string{nil, {"-F"}, {"-o"}, {"--fcntl"}, {"--fair"}, {"-w", "1"}, {"-s", "--fair"}} {
					status(t, 7, "", append(append([]string{flock}, args...), path, "/bin/sh", "-c", "exit 7")...)
				}
				hold(t, path, linux.LOCK_EX)
				status(t, 1, "held by process", flock, "-n", "--verbose", path, "true")
				status(t, 1, "held by process", flock, "-w", "2", "--report", "0.01", path, "true")
			})
		})
	}
}
