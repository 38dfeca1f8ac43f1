package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
)

func init() { runtime.LockOSThread() } // main stays on the first thread, see leaderless

func TestMain(m *testing.M) {
	switch os.Getenv("SLASHRUN_TEST_ROLE") {
	case "leaderless":
		leaderless()
	case "inner namespace":
		innerNamespace()
	case "hidden":
		hidden()
	case "record":
		tellRecord()
	}
	seccomptest.Setup()
	nstest.Main(m)
}

// leaderless ends the first thread of the process and leaves the others.
func leaderless() {
	go func() {
		bufio.NewReader(os.Stdin).ReadString('\n')
		os.Exit(0)
	}()
	fmt.Println("ready")
	syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
}

// everyWay runs a test with every system call there, and under each filter.
func everyWay(t *testing.T, f func(t *testing.T)) {
	for _, p := range seccomptest.All {
		t.Run(p.String(), func(t *testing.T) { seccomptest.Run(t, p, f) })
	}
}

// child starts a program that says a line when it is ready and ends with its
// standard input, and returns a function that ends it without waiting for it.
func child(t *testing.T, env string, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env)
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
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the child said %q, %v", line, err)
	}
	return cmd
}

func TestIdentOfOurselves(t *testing.T) {
	everyWay(t, func(t *testing.T) {
		p := open(t)
		id, err := p.Ident(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		defer id.Close()
		st, err := p.stat(os.Getpid())
		if err != nil || id.Start != st.Start || id.Comm != st.Comm || id.Dead || id.PIDNS == 0 {
			t.Errorf("%+v, want %+v, %v", id, st, err)
		}
		r, err := p.Record(os.Getpid())
		if err != nil || !r.Own() || r.PIDNS != id.PIDNS || r.Start != id.Start || r.Handle != id.Handle {
			t.Errorf("%+v, %v", r, err)
		}
		if back, err := ParseRecord([]byte(r.Text())); err != nil || back != r {
			t.Errorf("%q was read back as %+v, %v", r.Text(), back, err)
		}
	})
}

// The number of a thread has a directory in /proc, and is no process.
func TestIdentRefusesAThread(t *testing.T) {
	everyWay(t, func(t *testing.T) {
		p := open(t)
		tid := make(chan int)
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			runtime.LockOSThread()
			tid <- syscall.Gettid()
			<-stop
		}()
		n := <-tid
		if _, err := p.stat(n); err != nil {
			t.Fatalf("the thread has no /proc/%d: %v", n, err)
		}
		if id, err := p.Ident(n); !errors.Is(err, ErrNoProcess) {
			t.Errorf("thread %d of %d was taken: %+v, %v", n, os.Getpid(), id, err)
		}
	})
}

func TestIdentOfAZombie(t *testing.T) {
	everyWay(t, func(t *testing.T) {
		p := open(t)
		cmd := child(t, "X=", "sh", "-c", "echo ready; read x")
		pid := cmd.Process.Pid
		held, err := p.Ident(pid)
		if err != nil || held.Dead || held.Comm != "sh" {
			t.Fatalf("%+v, %v", held, err)
		}
		defer held.Close()
		cmd.Process.Kill()
		// Waits for the end, and leaves the zombie: WNOWAIT.
		if err := waitNoReap(pid); err != nil {
			t.Fatal(err)
		}
		id, err := p.Ident(pid)
		if err != nil || !id.Dead {
			t.Fatalf("a zombie: %+v, %v", id, err)
		}
		id.Close()
		if held.Held() {
			if ended, err := held.Ended(); !ended {
				t.Errorf("the held process has not ended, %v", err)
			}
			if err := held.Signal(syscall.SIGTERM); !errors.Is(err, ErrNoProcess) {
				t.Errorf("a zombie took a signal: %v", err)
			}
		} else if err := held.Signal(0); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("a signal without a pidfd: %v", err)
		}
		cmd.Wait()
		if id, err := p.Ident(pid); !errors.Is(err, ErrNoProcess) {
			t.Errorf("after the wait: %+v, %v", id, err)
		}
		if held.Handle == 0 {
			return
		}
		if id, err := p.IdentByHandle(held.Handle); !errors.Is(err, ErrNoProcess) && !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("by handle after the wait: %+v, %v", id, err)
		}
	})
}

// waitNoReap is waitid(P_PID, pid, NULL, WEXITED|WNOWAIT).
func waitNoReap(pid int) error {
	_, _, e := syscall.Syscall6(syscall.SYS_WAITID, 1, uintptr(pid), 0, 0x4|0x01000000, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// A process whose first thread has ended looks like a zombie and is alive.
func TestIdentOfAProcessWithoutItsFirstThread(t *testing.T) {
	everyWay(t, func(t *testing.T) {
		p := open(t)
		cmd := child(t, "SLASHRUN_TEST_ROLE=leaderless", "/proc/self/exe")
		var st Stat
		for st.State != 'Z' { // the thread is on its way out
			var err error
			if st, err = p.stat(cmd.Process.Pid); err != nil {
				t.Fatal(err)
			}
			runtime.Gosched()
		}
		if st.Dead() {
			t.Errorf("stat: %+v", st)
		}
		id, err := p.Ident(cmd.Process.Pid)
		if err != nil || id.Dead {
			t.Fatalf("%+v, %v", id, err)
		}
		defer id.Close()
		if err := id.Signal(0); err != nil && id.Held() {
			t.Error(err)
		}
	})
}

// What a process has open is open still when its first thread has ended, whose
// directory in /proc is empty then.
func TestUsersOfLeaderless(t *testing.T) {
	p := open(t)
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := child(t, "SLASHRUN_TEST_ROLE=leaderless", "sh", "-c", `exec 9<"$1"; exec "$2"`, "sh", dir+"/file", self)
	for st := (Stat{}); st.State != 'Z'; runtime.Gosched() { // the thread is on its way out
		if st, err = p.stat(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	u := p.Users(context.Background(), dir, 0, false, false)
	if len(u.Incomplete) >= maxReasons {
		t.Skip("Users ends early: there are too many processes that only root can look at")
	}
	if len(u.Holders) != 1 || u.Holders[0].PID != cmd.Process.Pid || u.Holders[0].How != "fd 9" {
		t.Errorf("%+v, want process %d with fd 9", u.Holders, cmd.Process.Pid)
	}
}

func TestIdentByHandle(t *testing.T) {
	p := open(t)
	cmd := child(t, "X=", "sh", "-c", "echo ready; read x")
	id, err := p.Ident(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer id.Close()
	if id.Handle == 0 {
		return // before Linux 6.9, or without pidfds
	}
	again, err := p.IdentByHandle(id.Handle)
	if errors.Is(err, errors.ErrUnsupported) {
		return // before Linux 6.14
	}
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if h, err := linux.PidfdHandle(again.Pidfd()); err != nil || h != id.Handle {
		t.Errorf("name_to_handle_at gives %d, %v; the inode number is %d", h, err, id.Handle)
	}
	if again.PID != id.PID || again.Start != id.Start {
		t.Errorf("%+v by handle, %+v by number", again, id)
	}
	if _, err := p.IdentByHandle(1<<63 + 7); !errors.Is(err, ErrNoProcess) {
		t.Errorf("a handle of nobody: %v", err)
	}
}

func TestIdentOfNobody(t *testing.T) {
	p := open(t)
	for _, pid := range []int{0, -1, -os.Getpid(), MaxPID, 1<<31 - 1} {
		if id, err := p.Ident(pid); !errors.Is(err, ErrNoProcess) {
			t.Errorf("%d: %+v, %v", pid, id, err)
		}
	}
}

// With a /proc of the outer namespace, the number of a process is another's in
// ours.
func TestIdentRefusesTheProcOfAnotherNamespace(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		// A child in one more PID namespace sees this namespace's /proc.
		cmd := exec.Command("/proc/self/exe")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		cmd.Env = append(os.Environ(), "SLASHRUN_TEST_ROLE=inner namespace")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "refused") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// innerNamespace is the inner part of the test above.
func innerNamespace() {
	p, err := Open()
	if err != nil || os.Getpid() != 1 {
		fmt.Println(os.Getpid(), err)
		os.Exit(1)
	}
	if id, err := p.Ident(1); err == nil || errors.Is(err, ErrNoProcess) {
		fmt.Printf("%+v, %v\n", id, err)
		os.Exit(1)
	}
	fmt.Println("refused")
	os.Exit(0)
}

func TestIdentBehindHidepid(t *testing.T) {
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		if err := syscall.Mount("proc", "/proc", "proc", 0, "hidepid=2"); err != nil {
			t.Fatal(err)
		}
		other := child(t, "X=", "sh", "-c", "echo ready; read x")
		cmd := exec.Command("/proc/self/exe")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Env = append(os.Environ(), "SLASHRUN_TEST_ROLE=hidden", "SLASHRUN_TEST_PID="+strconv.Itoa(other.Process.Pid))
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "hidden") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// hidden is the inner part of the test above.
func hidden() {
	pid, _ := strconv.Atoi(os.Getenv("SLASHRUN_TEST_PID"))
	for _, f := range seccomptest.All[:2] {
		p, err := Open()
		if err == nil {
			err = seccomptest.Install(f)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if id, err := p.Ident(pid); !errors.Is(err, ErrHidden) {
			fmt.Printf("%s: %+v, %v\n", f, id, err)
			os.Exit(1)
		}
	}
	fmt.Println("hidden")
	os.Exit(0)
}

// tellRecord says who we are, and ends with standard input.
func tellRecord() {
	p, err := Open()
	if err == nil {
		var r Record
		if r, err = p.Record(os.Getpid()); err == nil {
			fmt.Println(strings.ReplaceAll(r.Text(), "\n", " "))
			bufio.NewReader(os.Stdin).ReadString('\n')
			os.Exit(0)
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

// recorder starts this binary by a program and returns the record that it makes
// of itself.
func recorder(t *testing.T, argv ...string) (r Record, end func()) {
	t.Helper()
	self, err := os.Executable() // /proc/self/exe would be unshare's
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(argv[0], append(argv[1:], self)...)
	cmd.Env = append(os.Environ(), "SLASHRUN_TEST_ROLE=record")
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = func() { in.Close(); cmd.Wait() }
	t.Cleanup(end)
	line, _ := bufio.NewReader(out).ReadString('\n')
	r, err = ParseRecord([]byte(strings.ReplaceAll(line, " ", "\n")))
	if err != nil || !r.Own() {
		t.Fatalf("%q: %v", line, err)
	}
	return r, end
}

// A process in a time namespace reads other start times of itself than we do.
func TestRecordInATimeNamespace(t *testing.T) {
	testenv.Need(t, testenv.Tool("unshare"))
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		p := open(t)
		r, _ := recorder(t, "unshare", "--time", "--boottime", "86400")
		mine, err := p.Record(r.PID)
		if err != nil || mine != r {
			t.Errorf("in the time namespace %+v\noutside %+v, %v", r, mine, err)
		}
	})
}

// Whom a record means is found from the namespace above, under another number, and
// not from a sister, whatever has the number there.
func TestFind(t *testing.T) {
	testenv.Need(t, testenv.Tool("unshare"))
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		p := open(t)
		handles := false
		if _, err := p.IdentByHandle(1 << 60); errors.Is(err, ErrNoProcess) {
			handles = true
		}
		unshare := []string{"unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"}
		inner, end := recorder(t, unshare...)
		handles = handles && inner.Handle != 0 // without pidfds nobody learns the own one
		if inner.PID != 1 {
			t.Fatalf("%+v", inner)
		}
		switch id, err := p.Find(inner); {
		case handles && err != nil:
			t.Error(err)
		case handles:
			if id.PID == 1 || id.Start != inner.Start {
				t.Errorf("%+v, want another number than in %+v", id, inner)
			}
			id.Close()
		case !errors.Is(err, ErrElsewhere):
			t.Errorf("%+v, %v", id, err)
		}
		blind := inner
		blind.Handle = 0
		if id, err := p.Find(blind); !errors.Is(err, ErrElsewhere) {
			t.Errorf("without a handle: %+v, %v", id, err)
		}
		end()
		if id, err := p.Find(inner); !errors.Is(err, ErrElsewhere) {
			// We are not in the machine's namespace: it could be in a sister of ours.
			t.Errorf("after its end: %+v, %v", id, err)
		}

		ours, end := recorder(t, "env")
		for _, c := range []struct {
			change func(*Record)
			want   error
		}{
			{func(r *Record) {}, nil},
			{func(r *Record) { r.Handle = 0 }, nil},
			{func(r *Record) { r.Handle = 0; r.Start-- }, ErrNoProcess},
			{func(r *Record) { r.Handle += 1 << 40 }, ErrNoProcess},
			{func(r *Record) { r.Handle = 0; r.InitStart++ }, ErrNoProcess},
			{func(r *Record) { r.Handle = 0; r.PIDNS++ }, ErrElsewhere},
			{func(r *Record) { r.BootID = boot }, ErrNoProcess},
			{func(r *Record) { r.BootID = "" }, errors.ErrUnsupported},
		} {
			r := ours
			c.change(&r)
			if r.Handle != 0 && r.Handle != ours.Handle && ours.Handle == 0 {
				continue // another handle is one only where there are handles
			}
			id, err := p.Find(r)
			if !errors.Is(err, c.want) {
				t.Errorf("%+v: %+v, %v, want %v", r, id, err, c.want)
			}
			if id != nil {
				id.Close()
			}
		}
		end()
		if id, err := p.Find(ours); !errors.Is(err, ErrNoProcess) {
			t.Errorf("after its end: %+v, %v", id, err)
		}
	})
}
