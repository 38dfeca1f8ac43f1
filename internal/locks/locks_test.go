package locks

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
)

func init() { runtime.LockOSThread() } // main stays on the first thread, see leaderless

// leaderless ends the first thread of this process and leaves the others, until
// standard input ends.
func leaderless() {
	go func() {
		os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}()
	fmt.Println("ready")
	syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
}

// twolocks takes a flock on its first argument, says so, and waits for one on its
// second, by a thread of its own.
func twolocks() {
	var fds []int
	for _, path := range os.Args[1:] {
		fd, err := syscall.Open(path, syscall.O_RDONLY, 0)
		if err != nil {
			panic(err)
		}
		fds = append(fds, fd)
	}
	if err := linux.Flock(fds[0], linux.LOCK_EX|linux.LOCK_NB); err != nil {
		panic(err)
	}
	fmt.Println("ready")
	os.Stdin.Read(make([]byte, 1))
	panic(linux.FlockWait(fds[1], linux.LOCK_EX))
}

func TestMain(m *testing.M) {
	switch os.Getenv("SLASHRUN_TEST_ROLE") {
	case "leaderless":
		leaderless()
	case "twolocks":
		twolocks()
	case "scan":
		scanRole()
	}
	seccomptest.Setup()
	nstest.Main(m)
}

func TestParse(t *testing.T) {
	for line, want := range map[string]Lock{
		"1: FLOCK  ADVISORY  WRITE 3211 fe:00:9977912 0 EOF":          {Kind: Flock, Exclusive: true, PID: 3211, Major: 0xfe, Ino: 9977912, End: math.MaxInt64},
		"12: -> FLOCK  ADVISORY  READ  7 00:1b:5 0 EOF\n":             {Kind: Flock, Waiting: true, PID: 7, Minor: 0x1b, Ino: 5, End: math.MaxInt64},
		"2:  -> OFDLCK ADVISORY  WRITE -1 00:1b:5 3 9":                {Kind: OFD, Waiting: true, Exclusive: true, PID: -1, Minor: 0x1b, Ino: 5, Start: 3, End: 9},
		"3: POSIX  ADVISORY  READ  0 103:02:77 1073741826 1073742335": {Kind: POSIX, Major: 0x103, Minor: 2, Ino: 77, Start: 1073741826, End: 1073742335},
		"4: LEASE  ACTIVE    READ 9 08:01:1 0 EOF":                    {Kind: Lease, PID: 9, Major: 8, Minor: 1, Ino: 1, End: math.MaxInt64},
		"5: FLOCK  ADVISORY  NONE 9 <none>:0 0 EOF":                   {Kind: Flock, PID: 9, End: math.MaxInt64},
	} {
		got, err := Parse(line)
		if err != nil || got != want {
			t.Errorf("%q: %v\n%s", line, err, cmp.Diff(want, got))
		}
	}
	for _, bad := range []string{
		"", "1:", "1: ->", "1: FLOCK ADVISORY WRITE 1 0:0:0 0", "1: FLOCK ADVISORY MAYBE 1 0:0:0 0 EOF",
		"1: FLOCK ADVISORY WRITE x 0:0:0 0 EOF", "1: FLOCK ADVISORY WRITE 1 0:0 0 EOF", "1: FLOCK ADVISORY WRITE 1 0:0:x 0 EOF",
		"1: FLOCK ADVISORY WRITE 1 0:0:1 5 4", "1: FLOCK ADVISORY WRITE 1 0:0:1 -5 4", "1: FLOCK ADVISORY WRITE 1 0:0:1 0 99999999999999999999",
	} {
		if l, err := Parse(bad); err == nil {
			t.Errorf("%q was taken: %+v", bad, l)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("1: -> FLOCK  ADVISORY  WRITE 3211 fe:00:9977912 0 EOF")
	f.Add("3: POSIX  ADVISORY  READ  0 103:02:77 1073741826 1073742335")
	f.Fuzz(func(t *testing.T, line string) {
		l, err := Parse(line)
		if err != nil && l != (Lock{}) {
			t.Errorf("%+v with %v", l, err)
		}
		if err == nil && (l.Start < 0 || l.End < l.Start || l.Kind == "") {
			t.Errorf("%q gives %+v", line, l)
		}
	})
}

// everyWay runs a test with every system call there, and under each filter.
func everyWay(t *testing.T, f func(t *testing.T)) {
	for _, p := range seccomptest.All {
		t.Run(p.String(), func(t *testing.T) { seccomptest.Run(t, p, f) })
	}
}

func openFile(t *testing.T, path string) int {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return int(f.Fd())
}

func report(t *testing.T, fd int) *Report {
	t.Helper()
	p, err := process.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	r, err := Of(t.Context(), p, fd)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// shell starts a script that says "ready" when it holds what the test is about,
// and ends with its standard input.
func shell(t *testing.T, script string, args ...string) *exec.Cmd {
	t.Helper()
	testenv.Need(t, testenv.Tool("flock"))
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, "sh"}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the child said %q, %v", line, err)
	}
	return cmd
}

// who is the report in a few words, without what is not of this process tree.
func who(r *Report) (list []string) {
	for _, h := range r.Holders {
		mode := "shared"
		if h.Lock.Exclusive {
			mode = "exclusive"
		}
		if h.FD < 0 {
			mode += " by name alone"
		}
		list = append(list, strings.Join([]string{h.Lock.Kind, mode, h.Comm}, " "))
	}
	return list
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The process that took the lock has exited; the one that has the descriptor is
// the holder.
func TestTheTakerIsDead(t *testing.T) {
	everyWay(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "lock")
		child := shell(t, "exec 9>$1; flock 9; echo ready; read x", path)
		fd := openFile(t, path)
		r := report(t, fd)
		if got := cmp.Diff([]string{"FLOCK exclusive sh"}, who(r)); got != "" {
			t.Error(got)
		}
		if len(r.Holders) != 1 || r.Holders[0].PID != child.Process.Pid || r.Holders[0].FD != 9 || r.Holders[0].Lock.PID == child.Process.Pid {
			t.Errorf("%+v; the child is %d", r, child.Process.Pid)
		}
		if len(r.Unseen) != 0 || r.Free() {
			t.Errorf("%+v", r)
		}
	})
}

// A process whose first thread has ended has its descriptors in another place.
func TestHolderWithoutItsFirstThread(t *testing.T) {
	testenv.Need(t, testenv.Tool("flock"))
	path := filepath.Join(t.TempDir(), "lock")
	self, err := os.Executable()
	must(t, err)
	child := shell(t, `exec 9>"$1"; flock 9; SLASHRUN_TEST_ROLE=leaderless exec "$2"`, path, self)
	for {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(child.Process.Pid) + "/stat")
		must(t, err)
		if strings.Contains(string(text), ") Z ") {
			break
		}
		runtime.Gosched()
	}
	r := report(t, openFile(t, path))
	if len(r.Holders) != 1 || r.Holders[0].PID != child.Process.Pid || r.Holders[0].FD != 9 {
		t.Errorf("%+v", r)
	}
}

func TestEveryKind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	fd := openFile(t, path)
	if r := report(t, fd); len(r.Holders)+len(r.Unseen)+len(r.Waiters) != 0 {
		t.Errorf("nobody holds it: %+v", r)
	}
	must(t, linux.Flock(fd, linux.LOCK_SH|linux.LOCK_NB))
	must(t, linux.OFDLock(fd, linux.F_RDLCK, 3, 4))
	must(t, syscall.FcntlFlock(uintptr(fd), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK, Start: 100, Len: 1}))
	r := report(t, fd)
	me := process.Process{PID: os.Getpid(), Comm: comm(t)}
	seen := map[string]Lock{}
	for _, h := range r.Holders {
		if h.Process != me || h.FD != fd {
			t.Errorf("%+v", h)
		}
		seen[h.Lock.Kind] = h.Lock
	}
	if len(r.Holders) != 3 || seen[Flock].Exclusive || seen[Flock].End != math.MaxInt64 ||
		seen[OFD].Start != 3 || seen[OFD].End != 6 || seen[OFD].PID != -1 ||
		!seen[POSIX].Exclusive || seen[POSIX].Start != 100 || seen[POSIX].PID != me.PID {
		t.Errorf("%+v", r)
	}
	l := seen[OFD]
	if l.Overlaps(0, 2) || !l.Overlaps(0, 3) || !l.Overlaps(6, 9) || l.Overlaps(7, 9) {
		t.Error("Overlaps is wrong")
	}
	// A second descriptor of the same open file is no second lock, and one of
	// another open file of the same inode has none.
	other := openFile(t, path)
	if r := report(t, other); len(r.Holders) != 3 {
		t.Errorf("%+v", r)
	}
}

func comm(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/comm")
	must(t, err)
	return strings.TrimSpace(string(text))
}

// waitFor asks until the report is as wanted.
func waitFor(t *testing.T, fd int, ok func(*Report) bool) *Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		r := report(t, fd)
		if ok(r) {
			return r
		}
		if ctx.Err() != nil {
			t.Fatalf("%+v", r)
		}
		runtime.Gosched()
	}
}

func TestWaiters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	fd := openFile(t, path)
	must(t, linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB))
	child := shell(t, "echo ready; exec flock $1 true", path)
	r := waitFor(t, fd, func(r *Report) bool { return len(r.Waiters) == 1 })
	if w := r.Waiters[0]; len(r.Waiters) != 1 || w.PID != child.Process.Pid || w.Comm != "flock" || !w.Lock.Exclusive {
		t.Errorf("%+v", r)
	}
}

// On overlayfs /proc/locks has another device than stat(2): that waiters are
// found, who are in no fdinfo, shows that the two were brought together.
func TestOverlayfs(t *testing.T) {
	testenv.Need(t, testenv.Tool("flock"))
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		for _, dir := range []string{"lower", "upper", "work", "merged"} {
			must(t, os.Mkdir("/run/"+dir, 0o755))
		}
		must(t, os.WriteFile("/run/lower/lock", nil, 0o644))
		must(t, linux.Mount("test", "/run/merged", "overlay", 0, "lowerdir=/run/lower,upperdir=/run/upper,workdir=/run/work,userxattr"))
		defer linux.Unmount("/run/merged", 0)
		for _, name := range []string{"lock", "new"} {
			path := "/run/merged/" + name
			fd := openFile(t, path)
			must(t, linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB)) // by one who lives: else the waiters are hidden, too
			shell(t, "echo ready; exec flock $1 true", path)
			r := waitFor(t, fd, func(r *Report) bool { return len(r.Waiters) == 1 })
			if len(r.Holders) != 1 || r.Holders[0].PID != os.Getpid() || len(r.Waiters) != 1 || len(r.Unseen) != 0 {
				t.Errorf("%+v", r)
			}
			must(t, linux.Flock(fd, linux.LOCK_UN))
		}
	})
}

// A lock of a process outside of our PID namespace is in no list, and nothing is
// called free.
func TestOtherPIDNamespace(t *testing.T) {
	f, err := os.Open("doc.go") // seen inside, too
	must(t, err)
	defer f.Close()
	fd := int(f.Fd())
	if !nstest.Inside() {
		must(t, linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB))
		if r := report(t, fd); len(r.Holders) != 1 {
			t.Errorf("outside: %+v", r)
		}
	}
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		if err := linux.Flock(fd, linux.LOCK_SH|linux.LOCK_NB); !errors.Is(err, syscall.EAGAIN) {
			t.Fatalf("%v: the lock is not held outside", err)
		}
		r := report(t, fd)
		if len(r.Holders) != 0 || r.Free() || len(r.Incomplete) == 0 {
			t.Errorf("%+v", r)
		}
	})
}

// An ordinary user does not see what root's processes have open.
func TestNotOurDescriptors(t *testing.T) {
	testenv.Need(t, testenv.NonRoot)
	fd := openFile(t, filepath.Join(t.TempDir(), "lock"))
	if r := report(t, fd); r.Free() || len(r.Incomplete) == 0 {
		t.Errorf("%+v", r)
	}
}

func TestFreeIsProven(t *testing.T) {
	testenv.Need(t, testenv.Root)
	p, err := process.Open()
	must(t, err)
	defer p.Close()
	fd := openFile(t, filepath.Join(t.TempDir(), "lock"))
	// Root with fewer capabilities than another process may not look into it.
	all := p.Initial()
	list, err := p.Processes()
	must(t, err)
	for _, st := range list {
		if _, err := p.Readlink(strconv.Itoa(st.PID) + "/cwd"); err != nil && !process.Gone(err) {
			all = false
		}
	}
	if r := report(t, fd); r.Free() != all {
		t.Errorf("%+v, all can be seen: %v", r, all)
	}
	if _, err := Of(t.Context(), p, -1); !errors.Is(err, syscall.EBADF) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Of(ctx, p, fd); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
