package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// Called as flock there is no list: the word is an operand like any other, here a
// descriptor that is none.
func TestNoListCalledAsFlock(t *testing.T) {
	env, stdout, stderr := testEnv("flock", "list")
	if code := Run(context.Background(), env); code != exitLockUsage || stdout.Len() > 0 {
		t.Errorf("flock list = %d, %q, %q", code, stdout, stderr)
	}
}

// A circle is told with its proof, and by the exit code.
func TestLockListDeadlocks(t *testing.T) {
	dir := t.TempDir()
	f := lockFiles(t, dir, "a", "b")
	one := perlLocker(t, "flock,"+f[0]+",2", "say", "ofd,"+f[1]+",1,0,0")
	two := perlLocker(t, "ofd,"+f[1]+",1,0,0", "say", "flock,"+f[0]+",2")
	if code, text, _ := runList(t, "--deadlocks", dir); code != ExitOK || text != "" {
		t.Errorf("nobody waits: %d\n%s", code, text)
	}
	io.WriteString(one.in, "x")
	io.WriteString(two.in, "x")
	untilRows(t, dir, 4)
	code, text, _ := runList(t, "--deadlocks", dir)
	for _, want := range []string{
		fmt.Sprintf("process %d (perl", one.pid), fmt.Sprintf("process %d (perl", two.pid),
		"OFDLCK WRITE on " + f[1], "FLOCK WRITE on " + f[0],
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	switch {
	case code == exitListDeadlock && strings.HasPrefix(text, "deadlock, certain unless a signal or an alarm(2) ends it:\n") && strings.Contains(text, "  proof: "):
	case code == exitListMaybe && strings.HasPrefix(text, "deadlock, not certain:\n") && strings.Contains(text, "  doubt: ") && os.Geteuid() != 0:
	default:
		t.Errorf("%d\n%s", code, text)
	}
	jcode, text, _ := runList(t, "--deadlocks", "--json", f[0])
	var said struct{ Deadlocks []deadlockJSON }
	if err := json.Unmarshal([]byte(text), &said); err != nil || jcode != code || len(said.Deadlocks) != 1 ||
		len(said.Deadlocks[0].Waits) != 2 || said.Deadlocks[0].Certain != (code == exitListDeadlock) {
		t.Errorf("%d, %v\n%s", jcode, err, text)
	}
	// Another file is no part of it.
	other := lockFiles(t, dir, "c")
	if code, text, _ := runList(t, "--deadlocks", other[0]); code != ExitOK || text != "" {
		t.Errorf("%d\n%s", code, text)
	}
}

// Without /proc a procfs of our own is made, where that is allowed; else it is told.
func TestLockListWithoutProc(t *testing.T) {
	for _, p := range []seccomptest.Profile{seccomptest.None, seccomptest.EPERM} {
		t.Run(p.String(), func(t *testing.T) {
			nstest.Run(t, nstest.Options{Root: nstest.RootEmpty}, func(t *testing.T) {
				denied := p != seccomptest.None || seccomptest.Current() != seccomptest.None
				seccomptest.Run(t, p, func(t *testing.T) {
					dir := t.TempDir()
					f := lockFiles(t, dir, "a")
					fd, err := syscall.Open(f[0], syscall.O_RDWR|syscall.O_CLOEXEC, 0)
					if err != nil {
						t.Fatal(err)
					}
					if err := linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB); err != nil {
						t.Fatal(err)
					}
					if err := linux.Unmount("/proc", syscall.MNT_DETACH); err != nil {
						t.Fatal(err)
					}
					code, text, errs := runList(t, dir)
					if err := linux.Mount("proc", "/proc", "proc", 0, ""); err != nil { // which the test's report needs
						t.Fatal(err)
					}
					switch {
					case !denied && code == ExitOK && strings.Contains(text, f[0]+"\n"):
					case denied && code == exitListFailed && strings.Contains(errs, "/proc is not mounted"):
					default:
						t.Errorf("%d\n%s%s", code, text, errs)
					}
				})
			})
		})
	}
}

// What is below a directory is, by whichever path somebody opened it; what may be is
// told.
func TestLockListBelow(t *testing.T) {
	testenv.Need(t, testenv.Tool("unshare"), testenv.Tool("perl"), testenv.Tool("flock"))
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		for _, dir := range []string{"/run/dir", "/run/dir/sub", "/run/bound", "/run/elsewhere", "/run/dir2"} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		f := lockFiles(t, "/run/dir", "bound", "foreign", "flight", "sub/plain")
		lockFiles(t, "/run/dir2", "not below")
		if err := linux.Mount("/run/dir", "/run/bound", "", syscall.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		perlLocker(t, "flock,/run/bound/bound,2", "flock,"+f[3]+",2", "flock,/run/dir2/not below,2", "say")
		foreign := lockers(t, "unshare", "-m", "sh", "-c", `mount --bind /run/dir /run/elsewhere && exec 9>/run/elsewhere/foreign && flock 9 && echo ready && exec sleep 1000`)
		code, text, _ := runList(t, "/run/dir")
		if lines := strings.Count(text, "\n"); code != ExitOK || lines != 4 || strings.Contains(text, "not below") ||
			!strings.Contains(text, "/run/bound/bound\n") || !strings.Contains(text, f[3]+"\n") ||
			!strings.Contains(text, "/run/elsewhere/foreign  (in another mount namespace)\n") {
			t.Errorf("%d (%d in another namespace)\n%s", code, foreign.pid, text)
		}
		// Nobody has it open: the descriptor is in flight.
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := syscall.Open(f[2], syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Sendmsg(pair[0], []byte("x"), syscall.UnixRights(fd), nil, 0); err != nil {
			t.Fatal(err)
		}
		syscall.Close(fd)
		if code, text, errs := runList(t, "/run/dir"); code != ExitOK || !strings.Contains(errs, "1 more locks are on files of the same file system") {
			t.Errorf("%d\n%s%s", code, text, errs)
		}
		if code, text, _ := runList(t, f[2]); code != ExitOK || !strings.Contains(text, "inode ") || !strings.Contains(text, " on /run") {
			t.Errorf("%d\n%s", code, text)
		}
		runtime.KeepAlive(pair)
	})
}
