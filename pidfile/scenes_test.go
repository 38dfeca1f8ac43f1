package pidfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/runfs"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// alive fails the test if the process has ended.
func (p *program) alive(t *testing.T, what string) {
	t.Helper()
	proc, err := process.Open()
	must(t, err)
	defer proc.Close()
	id, err := proc.Ident(p.Process.Pid)
	if err != nil || id.Dead {
		t.Fatalf("%s: the process got a signal: %+v, %v", what, id, err)
	}
	id.Close()
}

// mustSignal fails the test if there was an error, other than that there are no
// pidfds here.
func mustSignal(t *testing.T, err error) {
	t.Helper()
	fd, perr := linux.PidfdOpen(os.Getpid())
	if perr == nil {
		linux.Close(fd)
		must(t, err)
	} else if !errors.Is(err, ErrNoPidfd) {
		t.Fatalf("%v, want %v: %v", err, ErrNoPidfd, perr)
	}
}

// An unprivileged user's PID file names root's process, in every way in which
// somebody other than root can have written it. Root's signal reaches nobody.
func TestSignalRefusesTheFilesOfOthers(t *testing.T) {
	testenv.Need(t, testenv.Root)
	trustedTest(t, func(t *testing.T, dir string) {
		root := filepath.Join(dir, "root.pid")
		victim, line := daemon(t, root)
		if line != "created" {
			t.Fatal(line)
		}
		text, err := os.ReadFile(root)
		must(t, err)
		const user, group = 1234, 1234
		mkdir := func(name string, mode os.FileMode, uid, gid int) string {
			path := filepath.Join(dir, name)
			must(t, os.Mkdir(path, 0o755))
			must(t, os.Chown(path, uid, gid))
			must(t, os.Chmod(path, mode))
			return path
		}
		file := func(path string, mode os.FileMode, uid, gid int, text string) string {
			must(t, os.WriteFile(path, []byte(text), 0o600))
			must(t, os.Chown(path, uid, gid))
			must(t, os.Chmod(path, mode))
			return path
		}
		pid := strconv.Itoa(victim.Process.Pid) + "\n"
		theirs := mkdir("theirs", 0o755, user, group)
		shared := mkdir("shared", 0o775, 0, group)
		sticky := mkdir("sticky", 0o1777|os.ModeSticky, 0, 0)
		must(t, os.Mkdir(filepath.Join(theirs, "sub"), 0o755))
		must(t, os.Symlink(root, filepath.Join(theirs, "link.pid")))
		must(t, os.Symlink(dir, filepath.Join(theirs, "dir")))
		for what, c := range map[string]struct {
			path string
			says string
		}{
			"their file":                      {file(dir+"/a.pid", 0o644, user, group, pid), "belongs to user 1234"},
			"their file, with proof":          {file(dir+"/b.pid", 0o644, user, group, string(text)), "belongs to user 1234"},
			"a file for everybody":            {file(dir+"/c.pid", 0o666, 0, 0, string(text)), "by everybody"},
			"a file of their group":           {file(dir+"/d.pid", 0o664, 0, group, string(text)), "by group 1234"},
			"root's file in their directory":  {file(theirs+"/e.pid", 0o644, 0, 0, string(text)), "belongs to user 1234"},
			"below their directory":           {file(theirs+"/sub/f.pid", 0o644, 0, 0, string(text)), "belongs to user 1234"},
			"in a directory of their group":   {file(shared+"/g.pid", 0o644, 0, 0, string(text)), "by group 1234"},
			"in a sticky directory":           {file(sticky+"/h.pid", 0o644, 0, 0, string(text)), "by everybody"},
			"by their link":                   {theirs + "/link.pid", "belongs to user 1234"},
			"through their directory link":    {theirs + "/dir/root.pid", "belongs to user 1234"},
			"through their directory and out": {theirs + "/../root.pid", "belongs to user 1234"},
		} {
			err := Signal(c.path, syscall.SIGKILL)
			if !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v, want it to say %q", what, err, c.says)
			}
			victim.alive(t, what)
		}
		// A link in a directory of root's is as good as the file.
		must(t, os.Symlink("food/./../food", "/run/to"))
		mustSignal(t, Signal("/run/to/root.pid", 0))
		must(t, os.Symlink("root.pid", dir+"/link.pid"))
		if err := Signal(dir+"/link.pid", 0); !errors.Is(err, ErrNoPIDFile) {
			t.Errorf("a link in the place of the file: %v", err)
		}
		must(t, os.Symlink("loop", dir+"/loop"))
		if err := Signal(dir+"/loop/x.pid", 0); !errors.Is(err, syscall.ELOOP) {
			t.Errorf("links without end: %v", err)
		}
		if err := Signal("/proc/self/root/run/food/root.pid", 0); !errors.Is(err, ErrUntrusted) {
			t.Errorf("through a link of /proc: %v", err)
		}
		// The user may use root's files, and root's kernel says what for.
		attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: group}}
		_, line = begin(t, attr, []string{"SLASHRUN_TEST_ROLE=signal", "SLASHRUN_TEST_FILE=" + root}, "/proc/self/exe")
		if !strings.Contains(line, "untrusted: false") || !strings.Contains(line, "operation not permitted") && !strings.Contains(line, "no pidfds") {
			t.Errorf("as the user: %s", line)
		}
		victim.alive(t, "as the user")
		// And in its own directory it may do everything.
		own := theirs + "/own.pid"
		_, line = begin(t, attr, []string{"SLASHRUN_TEST_ROLE=daemon", "SLASHRUN_TEST_FILE=" + own}, "/proc/self/exe")
		if line != "created" {
			t.Fatal(line)
		}
		_, line = begin(t, attr, []string{"SLASHRUN_TEST_ROLE=signal", "SLASHRUN_TEST_FILE=" + own}, "/proc/self/exe")
		if line != "untrusted: false error: <nil>" && !strings.Contains(line, "no pidfds") {
			t.Errorf("the user's own: %s", line)
		}
		mustSignal(t, Signal(root, syscall.SIGTERM))
	})
}

// In a user namespace all users that are not mapped look like one, which may be
// the caller's own number.
func TestSignalAsTheOverflowUser(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true, Root: nstest.RootEmpty}, func(t *testing.T) {
		const mapped = 5000
		must(t, os.Mkdir("/run/food", 0o755))
		path := "/run/food/food.pid"
		attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: mapped, Gid: mapped}}
		must(t, os.Chown("/run/food", mapped, mapped))
		victim, line := begin(t, attr, []string{"SLASHRUN_TEST_ROLE=daemon", "SLASHRUN_TEST_FILE=" + path}, "/proc/self/exe")
		if line != "created" {
			t.Fatal(line)
		}
		for _, dir := range []string{"/", "/run", "/run/food"} {
			must(t, os.Chown(dir, 1234, 1234))
		}
		must(t, os.Chown(path, 1234, 1234))
		for _, inner := range []int{65534, 77} {
			attr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: inner, HostID: mapped, Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: inner, HostID: mapped, Size: 1}},
				Credential:  &syscall.Credential{Uid: uint32(inner), Gid: uint32(inner), NoSetGroups: true}}
			_, line = begin(t, attr, []string{"SLASHRUN_TEST_ROLE=signal", "SLASHRUN_TEST_FILE=" + path}, "/proc/self/exe")
			if !strings.Contains(line, "untrusted: true") {
				t.Errorf("as user %d there: %s", inner, line)
			}
			victim.alive(t, "overflow user")
		}
	})
}

// Another user's FUSE file system: his program decides what is there, or never
// answers, as here. Nothing may wait for it.
func TestSignalAsksNoFUSE(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true, Root: nstest.RootEmpty}, func(t *testing.T) {
		must(t, os.Mkdir("/run/food", 0o755))
		err := syscall.Mknod("/dev/fuse", syscall.S_IFCHR|0o600, int(linux.Makedev(10, 229)))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
		dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
		testenv.Need(t, testenv.Requirement{What: "a kernel with FUSE", Check: func() error { return err }})
		defer dev.Close() // which ends the file system
		must(t, syscall.Mount("x", "/run/food", "fuse.x", 0, fmt.Sprintf("fd=%d,rootmode=40755,user_id=1234,group_id=1234,allow_other", dev.Fd())))
		if err := Signal("/run/food/food.pid", 0); !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "FUSE file system of user 1234") {
			t.Errorf("%v", err)
		}
	})
}

// Without pidfds nobody is signalled, and all else works.
func TestSignalNeedsPidfds(t *testing.T) {
	testenv.Need(t, testenv.Root)
	trustedTest(t, func(t *testing.T, dir string) {
		path := filepath.Join(dir, "food.pid")
		for _, p := range []seccomptest.Profile{seccomptest.EPERM, seccomptest.OldENOSYS} {
			seccomptest.Run(t, p, func(t *testing.T) {
				victim, line := daemon(t, path)
				if line != "created" {
					t.Fatal(line)
				}
				if err := Signal(path, syscall.SIGKILL); !errors.Is(err, ErrNoPidfd) {
					t.Errorf("%s: %v", p, err)
				}
				victim.alive(t, string(p))
				if s, err := Check(path); err != nil || s.Verdict != Live || !s.Proven {
					t.Errorf("%s: %+v, %v", p, s, err)
				}
				victim.kill()
			})
		}
	})
}

// startAs starts a process with the number pid, which must be free.
func startAs(t *testing.T, pid int) *program {
	t.Helper()
	for range 100 { // another may be faster
		must(t, os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0))
		p, line := begin(t, nil, nil, "sh", "-c", "echo ready; read x")
		if line == "ready" && p.Process.Pid == pid {
			return p
		}
		p.kill()
	}
	t.Fatalf("no process got the number %d", pid)
	return nil
}

// bareTest runs a test where the numbers in files are known to be our own: on the
// root mount of a container, with a /proc/sys that can be written to.
func bareTest(t *testing.T, f func(t *testing.T, path string)) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true, Root: nstest.RootOverlay}, func(t *testing.T) {
		must(t, syscall.Unmount("/proc", syscall.MNT_DETACH))
		must(t, syscall.Mount("proc", "/proc", "proc", 0, ""))
		must(t, os.MkdirAll("/srv/food", 0o755))
		f(t, "/srv/food/food.pid")
	})
}

// stamp makes the boot stamp, as if the clock had been set by so much since.
func stamp(t *testing.T, setBy time.Duration) {
	t.Helper()
	p, err := process.Open()
	must(t, err)
	defer p.Close()
	run, err := p.Identity()
	must(t, err)
	run.Offset -= int64(setBy)
	must(t, os.MkdirAll("/run/slashrun", 0o755))
	must(t, os.WriteFile("/run/slashrun/boot", []byte(runfs.Stamp{Identity: run}.Text()), 0o644))
}

// A bare file of another program: its process is signalled while it is proven to
// be the one, and another with the same number is not.
func TestBareFile(t *testing.T) {
	bareTest(t, func(t *testing.T, path string) {
		stamp(t, 0)
		first := startAs(t, 3000)
		must(t, os.WriteFile(path, []byte("3000\n"), 0o644))
		s, err := Check(path)
		if err != nil || s.Verdict != Live || !s.Proven || s.Name != "sh" || s.Here != 3000 {
			t.Fatalf("%+v, %v", s, err)
		}
		mustSignal(t, Signal(path, 0))
		var held *HeldError
		if _, err := Create(path); !errors.As(err, &held) || held.PID != 3000 {
			t.Errorf("a living one's file was taken over: %v", err)
		}
		stamp(t, time.Hour)
		if err := Signal(path, 0); !errors.Is(err, ErrUncertain) {
			t.Errorf("the clock was set: %v", err)
		}
		if s, err := Check(path); err != nil || s.Verdict == Stale {
			t.Errorf("the clock was set: %+v, %v", s, err)
		}
		stamp(t, 0)

		first.kill()
		if s, err := Check(path); err != nil || s.Verdict != Stale {
			t.Errorf("dead: %+v, %v", s, err)
		}
		// The file is of a minute ago, and a new process has the number.
		second := startAs(t, 3000)
		ago := time.Now().Add(-time.Minute)
		must(t, os.Chtimes(path, ago, ago))
		// What changes the inode and not the content says nothing about the process.
		for what, touch := range map[string]func() error{
			"chown": func() error { return os.Chown(path, 0, 0) }, "chmod": func() error { return os.Chmod(path, 0o644) },
			"link":   func() error { return errors.Join(os.Link(path, path+"2"), os.Remove(path+"2")) },
			"rename": func() error { return errors.Join(os.Rename(path, path+"2"), os.Rename(path+"2", path)) },
			"future": func() error { future := time.Now().Add(time.Hour); return os.Chtimes(path, future, future) },
		} {
			must(t, os.Chtimes(path, ago, ago))
			must(t, touch())
			err = Signal(path, syscall.SIGKILL)
			if !errors.Is(err, ErrNotRunning) && !errors.Is(err, ErrUncertain) {
				t.Errorf("the number of another, after %s: %v", what, err)
			}
			second.alive(t, what)
		}
	})
}

// A container starts again, and finds the number of yesterday in the file of a
// program that locks nothing.
func TestCreateOverALeftBareFile(t *testing.T) {
	bareTest(t, func(t *testing.T, path string) {
		for _, text := range []string{"4321\n", "4321", strconv.Itoa(os.Getpid()) + "\n"} {
			must(t, os.WriteFile(path, []byte(text), 0o644))
			if s, err := Check(path); err != nil || s.Verdict != Stale && s.PID == 4321 {
				t.Errorf("%q: %+v, %v", text, s, err)
			}
			f, err := Create(path)
			if err != nil {
				t.Errorf("%q: %v", text, err)
				continue
			}
			must(t, f.Close())
		}
	})
}

// startOf is when a process started, in clock ticks.
func startOf(t *testing.T, pid int) uint64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	st, err := process.ParseStat(text)
	must(t, err)
	return st.Start
}

// A file of ours, and another process with its number.
func TestReusedNumber(t *testing.T) {
	bareTest(t, func(t *testing.T, path string) {
		first := daemonAs(t, path, 4000)
		before := startOf(t, 4000)
		first.kill()
		second := startAs(t, 4000)
		for startOf(t, 4000) == before { // the same 1/100 s: without pidfs handles they are one
			second.kill()
			second = startAs(t, 4000)
		}
		if s, err := Check(path); err != nil || s.Verdict != Stale || s.PID != 4000 {
			t.Errorf("%+v, %v", s, err)
		}
		if err := Signal(path, syscall.SIGKILL); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%v", err)
		}
		second.alive(t, "reused number")
		f, err := Create(path)
		must(t, err)
		must(t, f.Close())
	})
}

// A file that names this very process, which did not write it, is of before.
func TestBareFileNamesUs(t *testing.T) {
	bareTest(t, func(t *testing.T, path string) {
		must(t, os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644))
		f, err := Create(path)
		must(t, err)
		must(t, f.Close())
		// On a volume it may be another container's process.
		must(t, os.WriteFile("/run/food.pid", []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644))
		if _, err := Create("/run/food.pid"); !errors.Is(err, ErrUncertain) {
			t.Errorf("%v", err)
		}
	})
}

// contained runs a role in a PID namespace of its own with its own /proc, as PID 1.
func contained(t *testing.T, role, path string) (*program, string) {
	t.Helper()
	self, err := os.Executable() // /proc/self/exe would be unshare
	must(t, err)
	return begin(t, nil, []string{"SLASHRUN_TEST_ROLE=" + role, "SLASHRUN_TEST_FILE=" + path},
		"unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", self)
}

// Two containers share a directory: the boot id is the same, and so is the PID,
// which is 1. And a container that is started again finds its own file.
func TestContainers(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Tool("unshare"))
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		const path = "/run/food.pid"
		live, line := contained(t, "daemon", path)
		if line != "created" {
			t.Fatal(line)
		}
		text, err := os.ReadFile(path)
		must(t, err)
		if !strings.HasPrefix(string(text), "1\n") {
			t.Fatalf("%q", text)
		}
		if _, line := contained(t, "daemon", path); !strings.Contains(line, "holds it") {
			t.Errorf("a second container started beside the first: %s", line)
		}
		if _, line := contained(t, "check", path); strings.Contains(line, "stale") {
			t.Errorf("a living container's file: %s", line)
		}
		if got, _ := os.ReadFile(path); string(got) != string(text) {
			t.Errorf("the living one's file became %q", got)
		}
		for range 5 {
			live.kill()
			if live, line = contained(t, "daemon", path); line != "created" {
				t.Fatalf("started again: %s", line)
			}
			if _, line := contained(t, "daemon", path); !strings.Contains(line, "holds it") {
				t.Errorf("a second one: %s", line)
			}
		}
		live.end()
		if got := names(t, "/run"); got != "food.pid" {
			t.Errorf("left: %s", got)
		}
	})
}

// The readers there are understand the file, and see the lock.
func TestOtherReaders(t *testing.T) {
	testenv.Need(t, testenv.Tool("start-stop-daemon"), testenv.Tool("pkill"), testenv.Tool("flock"))
	path := filepath.Join(t.TempDir(), "food.pid")
	p, line := daemon(t, path)
	if line != "created" {
		t.Fatal(line)
	}
	for _, c := range []struct {
		argv string
		ok   bool
	}{
		{"start-stop-daemon --status --pidfile " + path, true},
		{"start-stop-daemon --stop --test --pidfile " + path, true},
		{"pkill -0 -F " + path, true},
		{"pkill -0 -L -F " + path, true}, // -L fails where the file is not locked
		{"flock -n " + path + " true", false},
		{"sh -c 'read pid <" + path + " && kill -0 $pid && test $pid = " + strconv.Itoa(p.Process.Pid) + "'", true},
		// What sysvinit's and Red Hat's scripts do: each word of digits.
		{"sh -c 'n=0; for w in $(cat " + path + "); do case $w in *[!0-9]*) ;; *) n=$((n+1)) ;; esac; done; test $n = 1'", true},
	} {
		out, err := exec.Command("sh", "-c", c.argv).CombinedOutput()
		if (err == nil) != c.ok {
			t.Errorf("%s: %v\n%s", c.argv, err, out)
		}
	}
	p.kill()
	if out, err := exec.Command("pkill", "-0", "-L", "-F", path).CombinedOutput(); err == nil {
		t.Errorf("a dead one's file counts as locked: %s", out)
	}
}

// WriteFor names another process, without holding the file.
func TestWriteFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "food.pid")
	other := shell(t)
	for range 2 {
		must(t, WriteFor(path, other.Process.Pid))
		if s, err := Check(path); err != nil || s.Verdict != Live || !s.Proven || s.PID != other.Process.Pid {
			t.Errorf("%+v, %v", s, err)
		}
	}
	var held *HeldError
	if err := WriteFor(path, os.Getpid()); !errors.As(err, &held) || held.PID != other.Process.Pid {
		t.Errorf("over a living one's: %v", err)
	}
	other.kill()
	must(t, WriteFor(path, os.Getpid()))
	if err := WriteFor(filepath.Join(filepath.Dir(path), "none.pid"), other.Process.Pid); !errors.Is(err, ErrNotRunning) {
		t.Errorf("for a dead process: %v", err)
	}
	if got := names(t, filepath.Dir(path)); got != "food.pid" {
		t.Errorf("entries %q", got)
	}
	f, err := Create(path) // names us already
	must(t, err)
	if err := WriteFor(path, os.Getpid()); !errors.Is(err, ErrHeld) {
		t.Errorf("over a held one: %v", err)
	}
	must(t, f.Close())
}

func TestHeldErrorText(t *testing.T) {
	e := &HeldError{Path: "/run/x.pid", PID: 7, Name: "x", Why: "it is locked"}
	if got := fmt.Sprint(e); got != "/run/x.pid: process 7 (x) holds it: it is locked" {
		t.Errorf("%s", got)
	}
}
