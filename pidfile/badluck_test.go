package pidfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/testenv"
)

// complete fails the test unless the file is absent, or one that can be read as a
// whole.
func complete(t *testing.T, path, what string, olds ...string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	must(t, err)
	for _, old := range olds {
		if string(text) == old {
			return
		}
	}
	// In the place of an old text blank lines may follow, until they are cut off.
	r, err := process.ParseRecord([]byte(strings.TrimRight(string(text), "\n") + "\n"))
	if err != nil || !r.Own() || !r.Locked {
		t.Errorf("%s: it is torn: %q (%v)", what, text, err)
	}
}

// SIGKILL before every single system call of a daemon's start and end leaves a
// file that is complete or absent, and the next start works.
func TestKilledAnywhere(t *testing.T) {
	testenv.Need(t, testenv.Tool("strace"), testenv.Root)
	// All that touch the file, and some between them. strace counts each by itself.
	calls := []string{"openat", "flock", "fchmod", "write", "linkat", "renameat", "renameat2", "unlinkat", "ftruncate", "close", "statx", "lseek", "read"}
	const dead = "4194304\nboot-id=01234567-89ab-cdef-0123-456789abcdef\ninit-start=1\npid-namespace=1\nstart=1\nlock=flock\n"
	for name, scene := range map[string]struct {
		old   string
		owner int // of the file, in a directory of root's
	}{
		"nothing there": {}, "a dead one's file": {old: dead}, "an empty file": {old: "\n"},
		"in place": {old: dead + strings.Repeat("x", 500) + "\n", owner: 65534},
	} {
		t.Run(name, func(t *testing.T) {
			nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
				const path = "/run/food/food.pid"
				must(t, os.Mkdir("/run/food", 0o755))
				attr := &syscall.SysProcAttr{}
				if scene.owner != 0 {
					attr.Credential = &syscall.Credential{Uid: uint32(scene.owner), Gid: uint32(scene.owner)}
				}
				env := append(os.Environ(), "SLASHRUN_TEST_ROLE=daemon", "SLASHRUN_TEST_FILE="+path, "SLASHRUN_TEST_CLOSE=1")
				self, err := os.Executable()
				must(t, err)
				killed := 0
				for _, call := range calls {
					for n := 1; ; n++ {
						os.Remove(path)
						if scene.old != "" {
							must(t, os.WriteFile(path, []byte(scene.old), 0o644))
							must(t, os.Chown(path, scene.owner, scene.owner))
						}
						what := fmt.Sprintf("SIGKILL at %s number %d", call, n)
						cmd := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace="+call,
							"-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n), self)
						cmd.Env, cmd.SysProcAttr = env, attr
						out, _ := cmd.Output() // its standard input is at its end: it creates and closes
						complete(t, path, what, scene.old, "")
						if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() && cmd.ProcessState.ExitCode() == 0 {
							if !strings.Contains(string(out), "created") {
								t.Fatalf("unharmed, it said %q", out)
							}
							break
						}
						killed++
						next := exec.Command(self)
						next.Env, next.SysProcAttr = env, attr
						if out, err := next.CombinedOutput(); err != nil || string(out) != "created\n" {
							t.Fatalf("after %s the next start said %q, %v", what, out, err)
						}
						if n > 600 {
							t.Fatal("it never got through")
						}
					}
				}
				if killed < 30 {
					t.Errorf("killed %d times only", killed)
				}
				left := strings.TrimPrefix(strings.TrimPrefix(names(t, "/run/food"), ".#slashrun.food.pid"), " ")
				if left != "" && left != "food.pid" {
					t.Errorf("after %d kills: %q", killed, left)
				}
				t.Logf("killed at %d calls", killed)
			})
		})
	}
}

// No space and no inode: the error says so, and what was there stays.
func TestNoSpace(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		for _, opts := range []string{"size=4k", "nr_inodes=2"} {
			dir := filepath.Join("/run", opts)
			must(t, os.Mkdir(dir, 0o755))
			must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, opts))
			path := filepath.Join(dir, "food.pid")
			if opts == "size=4k" {
				must(t, os.WriteFile(filepath.Join(dir, "full"), make([]byte, 4096), 0o644))
			} else {
				must(t, os.WriteFile(filepath.Join(dir, "full"), nil, 0o644))
			}
			if _, err := Create(path); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s: %v", opts, err)
			}
			if got := names(t, dir); got != "full" {
				t.Errorf("%s: left %q", opts, got)
			}
			must(t, os.Remove(filepath.Join(dir, "full")))
			f, err := Create(path)
			must(t, err)
			must(t, f.Close())
		}
	})
}

func TestReadOnlyFileSystem(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.Mkdir("/run/ro", 0o755))
		must(t, syscall.Mount("tmpfs", "/run/ro", "tmpfs", 0, ""))
		must(t, os.WriteFile("/run/ro/old.pid", nil, 0o644))
		must(t, syscall.Mount("", "/run/ro", "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		for _, name := range []string{"/run/ro/food.pid", "/run/ro/old.pid"} {
			if _, err := Create(name); !errors.Is(err, syscall.EROFS) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if s, err := Check("/run/ro/old.pid"); err != nil || s.Verdict != Unknown {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

// With any number of descriptors left, Create works, or fails with EMFILE and
// leaves nothing; the same for the others.
func TestNoDescriptors(t *testing.T) {
	seccompFree := t.TempDir()
	path := filepath.Join(seccompFree, "food.pid")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "SLASHRUN_TEST_ROLE=few descriptors", "SLASHRUN_TEST_FILE="+path)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "enough") {
		t.Errorf("%v\n%s", err, out)
	}
	if got := names(t, seccompFree); got != "" {
		t.Errorf("left %q", got)
	}
}

// fewDescriptors is the role for the test above.
func fewDescriptors(path string) int {
	var hold []int
	for { // the lowest free numbers, up to a limit that is near
		fd, err := linux.Openat(linux.AT_FDCWD, "/dev/null", linux.O_RDONLY, 0)
		if err != nil || fd > 60 {
			break
		}
		hold = append(hold, fd)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 60, Max: 60}); err != nil {
		fmt.Println(err)
		return 1
	}
	created := false
	for len(hold) > 0 {
		f, err := Create(path)
		switch {
		case err == nil:
			created = true
			if _, err := Check(path); err != nil && !errors.Is(err, syscall.EMFILE) {
				fmt.Println("check:", err)
				return 1
			}
			if err := f.Close(); err != nil {
				fmt.Println("close:", err)
				return 1
			}
		case created:
			fmt.Println("it worked with fewer:", err)
			return 1
		case !errors.Is(err, syscall.EMFILE):
			fmt.Println("create:", err)
			return 1
		}
		if _, err := os.Lstat(path); err == nil {
			fmt.Println("left behind with", len(hold))
			return 1
		}
		linux.Close(hold[len(hold)-1])
		hold = hold[:len(hold)-1]
	}
	if created {
		fmt.Println("enough")
	}
	return 0
}

// Without a /proc that shows us, the file has the number alone, and the lock.
func TestNoProc(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		self, err := os.Executable()
		must(t, err)
		must(t, os.Mkdir("/run/food", 0o755))
		must(t, os.Chown("/run/food", 65534, 65534))
		attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		env := func(role string) []string {
			return []string{"SLASHRUN_TEST_ROLE=" + role, "SLASHRUN_TEST_FILE=/run/food/food.pid", "SLASHRUN_TEST_CLOSE=1"}
		}
		for what, arrange := range map[string]func() error{
			"hidepid": func() error { return syscall.Mount("proc", "/proc", "proc", 0, "hidepid=2") },
			"no proc": func() error { return syscall.Mount("tmpfs", "/proc", "tmpfs", 0, "") },
		} {
			must(t, arrange())
			p, line := begin(t, attr, env("daemon"), self)
			if line != "created" {
				t.Fatalf("%s: %s", what, line)
			}
			text, err := os.ReadFile("/run/food/food.pid")
			must(t, err)
			if string(text) != fmt.Sprintf("%d\nlock=flock\n", p.Process.Pid) {
				t.Errorf("%s: %q", what, text)
			}
			if _, line := begin(t, attr, env("daemon"), self); !strings.Contains(line, "holds it") {
				t.Errorf("%s: a second one: %s", what, line)
			}
			if _, line := begin(t, attr, env("check"), self); strings.Contains(line, "stale") {
				t.Errorf("%s: check says %s", what, line)
			}
			p.kill() // and nobody's help is needed
			if p, line = begin(t, attr, env("daemon"), self); line != "created" {
				t.Errorf("%s: after a crash: %s", what, line)
			}
			p.end()
			if got := names(t, "/run/food"); got != "" {
				t.Errorf("%s: left %s", what, got)
			}
			must(t, syscall.Unmount("/proc", syscall.MNT_DETACH))
		}
	})
}

// In a chroot there is no /proc, and the mount table does not show what is around
// it. Root makes a procfs of its own there.
func TestChroot(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		must(t, os.MkdirAll("/run/outer/jail/run", 0o755))
		env := func(role string) []string {
			return []string{"SLASHRUN_TEST_ROLE=" + role, "SLASHRUN_TEST_FILE=/run/food.pid", "SLASHRUN_TEST_CHROOT=/run/outer/jail"}
		}
		noProc := func(line string) bool { // where a filter denies fsopen(2)
			return strings.Contains(line, "a procfs of our own cannot be made")
		}
		for range 2 {
			p, line := begin(t, nil, env("daemon"), "/proc/self/exe")
			if line != "created" {
				t.Fatal(line)
			}
			if _, line := begin(t, nil, env("daemon"), "/proc/self/exe"); !strings.Contains(line, "holds it") {
				t.Errorf("a second one: %s", line)
			}
			if _, line := begin(t, nil, env("check"), "/proc/self/exe"); line != "live process-alive true true" && !noProc(line) {
				t.Errorf("check: %s", line)
			}
			if _, line := begin(t, nil, env("signal"), "/proc/self/exe"); line != "untrusted: false error: <nil>" && !noProc(line) {
				t.Errorf("signal: %s", line)
			}
			p.kill()
		}
	})
}

// The other user's file is in our way, and cannot be locked or replaced.
func TestNoPermission(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.Mkdir("/run/food", 0o755))
		must(t, os.WriteFile("/run/food/secret.pid", nil, 0o600))
		must(t, os.WriteFile("/run/food/open.pid", nil, 0o644))
		attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		for _, name := range []string{"secret.pid", "open.pid", "new.pid"} {
			_, line := begin(t, attr, []string{"SLASHRUN_TEST_ROLE=daemon", "SLASHRUN_TEST_FILE=/run/food/" + name}, "/proc/self/exe")
			if !strings.Contains(line, "permission denied") {
				t.Errorf("%s: %s", name, line)
			}
		}
		if got := names(t, "/run/food"); got != "open.pid secret.pid" {
			t.Errorf("entries %s", got)
		}
	})
}
