package lockfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
)

func TestParseUUCP(t *testing.T) {
	for text, want := range map[string]int{
		"      1230\n": 1230, "1230": 1230, "0001230\n": 1230, "  812 minicom root\n": 812, "812\r\n": 812, "812\n900\n": 812, "4194304\n": 4194304,
	} {
		if pid, err := ParseUUCP([]byte(text)); err != nil || pid != want {
			t.Errorf("%q: %d, %v", text, pid, err)
		}
	}
	for _, bad := range []string{
		"", "\n", "    \n", "\n812\n", "0\n", "-1\n", "+1\n", "4194305\n", "99999999999999999999\n", "\x2c\x03\x00\x00", "0x10\n",
		"ttyS0\n", "812x\n", "8\x0012\n", strings.Repeat(" ", 300) + "1\n",
	} {
		if pid, err := ParseUUCP([]byte(bad)); err == nil || pid != 0 {
			t.Errorf("%q: %d, %v", bad, pid, err)
		}
	}
}

func FuzzParseUUCP(f *testing.F) {
	for _, s := range []string{"      1230\n", "  812 minicom root\n", "\x2c\x03\x00\x00", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		pid, err := ParseUUCP(text)
		if (err == nil) != (pid > 0) || pid > process.MaxPID {
			t.Errorf("%q: %d, %v", text, pid, err)
		}
		if again, err2 := ParseUUCP(fmt.Appendf(nil, "%10d\n", pid)); err == nil && (err2 != nil || again != pid) {
			t.Errorf("%d is not read back: %d, %v", pid, again, err2)
		}
	})
}

// everyWay runs a test with every system call there, and under each filter.
func everyWay(t *testing.T, f func(t *testing.T)) {
	for _, p := range seccomptest.All {
		t.Run(p.String(), func(t *testing.T) { seccomptest.Run(t, p, f) })
	}
}

func TestUUCP(t *testing.T) {
	everyWay(t, func(t *testing.T) {
		dir := t.TempDir()
		old := syscall.Umask(0o077)
		defer syscall.Umask(old)
		u, err := TryUUCP(dir, "ttyS0", nil)
		must(t, err)
		path := dir + "/LCK..ttyS0"
		text, err := os.ReadFile(path)
		must(t, err)
		if want := fmt.Sprintf("%10d\n", os.Getpid()); string(text) != want || u.Path() != path {
			t.Errorf("%q in %s", text, u.Path())
		}
		if st, err := os.Stat(path); err != nil || st.Mode() != 0o644 {
			t.Errorf("%v, %v", st.Mode(), err)
		}
		_, err = TryUUCP(dir, "ttyS0", &UUCPOptions{Private: true})
		wantErr(t, err, ErrHeld)
		var held *HeldError
		if !errors.As(err, &held) || held.PID != os.Getpid() || !strings.Contains(err.Error(), "has the file locked") {
			t.Errorf("%v", err)
		}
		other, err := TryUUCP(dir, "ttyS1", nil)
		must(t, err)
		must(t, other.Release())
		must(t, u.Release())
		wantErr(t, u.Release(), ErrNotHeld)
		if names, _ := os.ReadDir(dir); len(names) != 0 {
			t.Errorf("left behind: %v", names)
		}
		// What somebody else put there is not removed.
		u, err = TryUUCP(dir, "ttyS0", nil)
		must(t, err)
		must(t, os.Remove(path))
		must(t, os.WriteFile(path, []byte("theirs"), 0o644))
		wantErr(t, u.Release(), ErrReplaced)
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	})
}

// plant writes a lock file of another program.
func plant(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

// dead is the number of a process that is no more.
func dead(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("/bin/true")
	must(t, cmd.Run())
	return cmd.Process.Pid
}

func TestUUCPThatIsHeld(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/LCK..x"
	alive := start(t, exec.Command("sh", "-c", "echo ready; read x"))
	tid := make(chan int)
	stop := make(chan struct{})
	defer close(stop)
	var thread func()
	thread = func() {
		runtime.LockOSThread()
		if linux.Gettid() == os.Getpid() { // the first thread has the number of the process
			go thread()
		} else {
			tid <- linux.Gettid()
		}
		<-stop
	}
	go thread()
	for text, want := range map[string]string{
		fmt.Sprintf("%10d\n", alive.Process.Pid): fmt.Sprintf("held by process %d (sh)", alive.Process.Pid),
		fmt.Sprintf("%10d\n", os.Getpid()):       "this very process",
		fmt.Sprintf("%10d\n", <-tid):             "the number of a thread",
		"":                                       "names no process (no process id in it)",
		"\x2c\x03\x00\x00":                       "binary",
	} {
		plant(t, path, text)
		_, err := TryUUCP(dir, "x", &UUCPOptions{Private: true})
		wantErr(t, err, ErrHeld)
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != text {
			t.Errorf("%q became %q, %v", text, now, err)
		}
	}
	must(t, os.Remove(path))
	must(t, os.Symlink("/nothing", path))
	_, err := TryUUCP(dir, "x", nil)
	wantErr(t, err, ErrNotRegular)
	for _, line := range []string{"", "a/b", "a\x00"} {
		if _, err := TryUUCP(dir, line, nil); err == nil {
			t.Errorf("%q was locked", line)
		}
	}
	_, err = TryUUCP(dir+"/none", "x", nil)
	wantErr(t, err, fs.ErrNotExist)
}

func TestUUCPThatIsStale(t *testing.T) {
	everyWay(t, func(t *testing.T) {
		dir := t.TempDir()
		path := dir + "/LCK..x"
		zombie := exec.Command("/bin/true")
		must(t, zombie.Start())
		defer zombie.Wait()
		p, err := process.Open()
		must(t, err)
		defer p.Close()
		for {
			if id, err := p.Ident(zombie.Process.Pid); err != nil || id.Dead {
				break
			}
			runtime.Gosched()
		}
		killed := role(t, "uucp", dir+"/x")
		must(t, killed.Process.Kill())
		killed.Wait()
		left, err := os.ReadFile(path)
		must(t, err)
		for _, text := range []string{string(left), fmt.Sprintf("%10d\n", dead(t)), fmt.Sprintf("%d minicom root\n", zombie.Process.Pid)} {
			plant(t, path, text)
			u, err := TryUUCP(dir, "x", &UUCPOptions{Private: true})
			must(t, err)
			must(t, u.Release())
		}
	})
}

// In a PID namespace that is not the machine's, a number that is no process's
// here may be one's elsewhere: only the user can know that nobody else is there.
func TestUUCPOfAnotherPIDNamespace(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.Mkdir("/run/lock", 0o755))
		path := "/run/lock/LCK..x"
		plant(t, path, fmt.Sprintf("%10d\n", dead(t)))
		_, err := TryUUCP("/run/lock", "x", nil)
		wantErr(t, err, ErrHeld)
		if !strings.Contains(err.Error(), "PID namespace") {
			t.Error(err)
		}
		must(t, os.Remove(path))

		// A holder of ours in a namespace further below: its number means nothing
		// here, its flock does.
		inner := exec.Command("/proc/self/exe")
		inner.Env = append(os.Environ(), "LOCKFILE_TEST_ROLE=uucp", "LOCKFILE_TEST_PATH=/run/lock/x")
		inner.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
		c := start(t, inner)
		text, err := os.ReadFile(path)
		must(t, err)
		if string(text) != "         1\n" {
			t.Errorf("%q", text)
		}
		_, err = TryUUCP("/run/lock", "x", &UUCPOptions{Private: true})
		wantErr(t, err, ErrHeld)

		// It has the directory mounted, and sharedOutside sees that.
		p, err := process.Open()
		must(t, err)
		defer p.Close()
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		m, err := mountOf(p, int(f.Fd()))
		must(t, err)
		inside := pathInside(m, path)
		if inside != "/lock/LCK..x" {
			t.Errorf("%q on %+v", inside, m)
		}
		for file, want := range map[string]bool{inside: true, "": true} {
			if why := sharedOutside(p, m, file); strings.Contains(why, "has the same directory mounted") != want {
				t.Errorf("%q: %q", file, why)
			}
		}
		other := *m
		other.Minor += 1000
		if why := sharedOutside(p, &other, inside); why != "" {
			t.Error(why)
		}
		c.in.Close()
		c.Wait()
		if why := sharedOutside(p, m, inside); why != "" {
			t.Error(why)
		}
	})
}

func TestLeadsTo(t *testing.T) {
	for _, c := range []struct {
		root, file string
		want       bool
	}{
		{"/", "/lock/x", true}, {"/lock", "/lock/x", true}, {"/lock/x", "/lock/x", true}, {"/lock", "", true},
		{"/docker.sock", "/lock/x", false}, {"/loc", "/lock/x", false}, {"/lock/x/y", "/lock/x", false},
	} {
		if got := leadsTo(c.root, c.file); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// Workers find stale locks, and leave some: never are two inside, and nobody
// removes what another has just made.
func TestSoakStaleUUCPRace(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/LCK..x"
	gone := fmt.Appendf(nil, "%10d\n", dead(t))
	more := rounds(t, 1000)
	var inside, taken atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for more() {
				u, err := TryUUCP(dir, "x", &UUCPOptions{Private: true})
				if errors.Is(err, ErrHeld) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two inside")
				}
				runtime.Gosched()
				if same, err := u.isThere(u.fd); !same {
					t.Errorf("the file was taken away: %v", err)
				}
				inside.Add(-1)
				if taken.Add(1)%2 == 0 {
					must(t, u.Release())
					continue
				}
				// As if it had died: the file names nobody, and the flock is gone.
				if _, err := syscall.Pwrite(u.fd, gone, 0); err != nil {
					t.Error(err)
				}
				linux.Close(u.fd)
				u.dir.Close()
			}
		})
	}
	wg.Wait()
	if taken.Load() < 2 {
		t.Errorf("taken %d times", taken.Load())
	}
	t.Logf("taken %d times", taken.Load())
	os.Remove(path)
	if names, _ := os.ReadDir(dir); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}

func TestUUCPOnFullAndReadOnly(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.Mkdir("/run/full", 0o755))
		must(t, linux.Mount("test", "/run/full", "tmpfs", 0, "nr_inodes=2,mode=0755"))
		defer linux.Unmount("/run/full", 0)
		u, err := TryUUCP("/run/full", "a", nil)
		must(t, err)
		_, err = TryUUCP("/run/full", "b", nil)
		wantErr(t, err, syscall.ENOSPC)
		must(t, u.Release())
		plant(t, "/run/full/LCK..a", fmt.Sprintf("%10d\n", dead(t)))
		must(t, linux.Mount("", "/run/full", "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		for _, line := range []string{"a", "b"} {
			_, err = TryUUCP("/run/full", line, &UUCPOptions{Private: true})
			wantErr(t, err, syscall.EROFS)
		}
	})
}

// A lock that is another user's can be judged and not removed.
func TestUUCPOfAnotherUser(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.Mkdir("/run/lock", 0o755))
		must(t, os.Chmod("/run/lock", os.ModeSticky|0o777))
		plant(t, "/run/lock/LCK..x", fmt.Sprintf("%10d\n", dead(t)))
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestSubjectOfAnotherUser$", "-test.v")
		cmd.Env = append(os.Environ(), "LOCKFILE_SUBJECT=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "which is gone, cannot be removed: unlinkat: operation not permitted") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// TestSubjectOfAnotherUser is what the test above starts.
func TestSubjectOfAnotherUser(t *testing.T) {
	if os.Getenv("LOCKFILE_SUBJECT") != "" {
		_, err := TryUUCP("/run/lock", "x", &UUCPOptions{Private: true})
		wantErr(t, err, syscall.EPERM)
		t.Log(err)
	}
}
