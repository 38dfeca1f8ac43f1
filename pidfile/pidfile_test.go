package pidfile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
	"github.com/slashrun/slashrun/internal/vmtest"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("SLASHRUN_TEST_ROLE"); role != "" {
		os.Exit(play(role, os.Getenv("SLASHRUN_TEST_FILE")))
	}
	vmtest.Setup()
	seccomptest.Setup()
	nstest.Main(m)
}

// play is this test binary as a program of its own.
func play(role, path string) int {
	if jail := os.Getenv("SLASHRUN_TEST_CHROOT"); jail != "" {
		if err := errors.Join(syscall.Chroot(jail), syscall.Chdir("/")); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	switch role {
	case "daemon": // creates the file, says so, and lives until its input ends
		f, err := Create(path)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("created")
		bufio.NewReader(os.Stdin).ReadString('\n')
		if os.Getenv("SLASHRUN_TEST_CLOSE") != "" {
			if err := f.Close(); err != nil {
				fmt.Println(err)
				return 1
			}
		}
	case "stranger", "heir": // locks the file, as who may read it, or inherited it, can
		flags := linux.O_RDONLY
		if role == "heir" {
			flags = linux.O_RDWR
		}
		fd, err := linux.Openat(linux.AT_FDCWD, path, flags, 0)
		if err == nil {
			err = linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB)
		}
		fmt.Println("locked", err)
		bufio.NewReader(os.Stdin).ReadString('\n')
	case "few descriptors":
		return fewDescriptors(path)
	case "check":
		s, err := Check(path)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println(s.Verdict, s.Evidence[len(s.Evidence)-1].Proof, s.Here != 0, s.Proven)
	case "signal":
		err := Signal(path, syscall.SIGTERM)
		fmt.Println("untrusted:", errors.Is(err, ErrUntrusted), "error:", err)
	}
	return 0
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// everyWay runs a test with every system call there, and under filters.
func everyWay(t *testing.T, f func(t *testing.T)) {
	for _, p := range seccomptest.All {
		t.Run(p.String(), func(t *testing.T) { seccomptest.Run(t, p, f) })
	}
}

// program is a child of ours.
type program struct {
	*exec.Cmd
	out *bufio.Reader
	in  interface{ Close() error }
}

// begin starts argv, or this binary in a role, and reads the first line it says.
func begin(t *testing.T, attr *syscall.SysProcAttr, env []string, argv ...string) (*program, string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.SysProcAttr, cmd.Stderr = append(os.Environ(), env...), attr, os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	p := &program{cmd, bufio.NewReader(out), in}
	t.Cleanup(func() { p.kill() })
	line, _ := p.out.ReadString('\n')
	return p, strings.TrimSuffix(line, "\n")
}

func (p *program) kill() {
	p.in.Close()
	p.Process.Kill()
	p.Wait()
}

// end lets the program end by itself.
func (p *program) end() {
	p.in.Close()
	p.Wait()
}

func daemon(t *testing.T, path string, env ...string) (*program, string) {
	t.Helper()
	return begin(t, nil, append(env, "SLASHRUN_TEST_ROLE=daemon", "SLASHRUN_TEST_FILE="+path), "/proc/self/exe")
}

// shell is a process with no interest in any PID file.
func shell(t *testing.T) *program {
	t.Helper()
	p, line := begin(t, nil, nil, "sh", "-c", "echo ready; read x")
	if line != "ready" {
		t.Fatalf("sh said %q", line)
	}
	return p
}

func names(t testing.TB, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return strings.Join(list, " ")
}

func TestCreate(t *testing.T) {
	everyWay(t, func(t *testing.T) {
		defer linux.Umask(linux.Umask(0o077))
		dir := t.TempDir()
		path := filepath.Join(dir, "food.pid")
		for round := range 2 {
			f, err := Create(path)
			must(t, err)
			st, err := os.Lstat(path)
			must(t, err)
			if st.Mode() != 0o644 {
				t.Errorf("mode %v", st.Mode())
			}
			text, err := os.ReadFile(path)
			must(t, err)
			if r, err := process.ParseRecord(text); err != nil || r.PID != os.Getpid() || !r.Own() || !r.Locked {
				t.Errorf("%q: %+v, %v", text, r, err)
			}
			if _, err := Create(path); !errors.Is(err, ErrHeld) {
				t.Errorf("a second time: %v", err)
			}
			if got := names(t, dir); got != "food.pid" {
				t.Errorf("entries %q", got)
			}
			must(t, f.Close())
			if got := names(t, dir); got != "" {
				t.Errorf("round %d: after Close: %q", round, got)
			}
			if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("closed again: %v", err)
			}
		}
	})
}

// Another instance is refused by name; after its death, however sudden, and a
// death before it could be waited for, nobody's help is needed.
func TestCreateBesideAnotherInstance(t *testing.T) {
	everyWay(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "food.pid")
		other, line := daemon(t, path)
		if line != "created" {
			t.Fatal(line)
		}
		_, err := Create(path)
		var held *HeldError
		if !errors.As(err, &held) || held.PID != other.Process.Pid || held.Name == "" || !errors.Is(err, ErrHeld) {
			t.Fatalf("%v: %+v", err, held)
		}
		if s, err := Check(path); err != nil || s.Verdict != Live || !s.Proven || s.PID != other.Process.Pid {
			t.Errorf("%+v, %v", s, err)
		}
		other.Process.Kill()
		waitNoReap(t, other.Process.Pid)
		if s, err := Check(path); err != nil || s.Verdict != Stale {
			t.Errorf("zombie: %+v, %v", s, err)
		}
		f, err := Create(path) // over the zombie's
		must(t, err)
		if s, err := Check(path); err != nil || s.PID != os.Getpid() || !s.Proven {
			t.Errorf("%+v, %v", s, err)
		}
		if got := names(t, dir); got != "food.pid" {
			t.Errorf("entries %q", got)
		}
		must(t, f.Close())
	})
}

// waitNoReap is waitid(2) with WEXITED|WNOWAIT.
func waitNoReap(t *testing.T, pid int) {
	t.Helper()
	if _, _, e := syscall.Syscall6(syscall.SYS_WAITID, 1, uintptr(pid), 0, 0x4|0x01000000, 0, 0); e != 0 {
		t.Fatal(e)
	}
}

// A daemon that has lost its descriptor (closefrom, and the like) still runs.
func TestCreateBesideOneThatLostItsLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "food.pid")
	other := shell(t)
	p, err := process.Open()
	must(t, err)
	defer p.Close()
	r, err := p.Record(other.Process.Pid)
	must(t, err)
	r.Locked = true
	must(t, os.WriteFile(path, []byte(r.Text()), 0o644))
	var held *HeldError
	if _, err := Create(path); !errors.As(err, &held) || held.PID != other.Process.Pid {
		t.Errorf("%v", err)
	}
	other.kill()
	f, err := Create(path)
	must(t, err)
	must(t, f.Close())
}

// Empty files are claimed by nobody; other content is not ours to overwrite.
func TestCreateOverWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "food.pid")
	for _, text := range []string{"", "\n", "\x00\x00\x00\x00"} {
		must(t, os.WriteFile(path, []byte(text), 0o600))
		f, err := Create(path)
		if err != nil {
			t.Errorf("over %q: %v", text, err)
			continue
		}
		must(t, f.Close())
	}
	for _, text := range []string{"root:x:0:0:root:/root:/bin/sh\n", "0\n", "-1\n", "12 13\n", strings.Repeat("9", 5000)} {
		must(t, os.WriteFile(path, []byte(text), 0o600))
		if _, err := Create(path); !errors.Is(err, ErrNoPIDFile) {
			t.Errorf("over %q: %v", text, err)
		}
		if got, _ := os.ReadFile(path); string(got) != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	must(t, os.Remove(path))
	for what, make := range map[string]func() error{
		"link":      func() error { return os.Symlink("elsewhere", path) },
		"directory": func() error { return os.Mkdir(path, 0o755) },
		"FIFO":      func() error { return syscall.Mkfifo(path, 0o644) },
	} {
		must(t, make())
		if _, err := Create(path); !errors.Is(err, ErrNoPIDFile) {
			t.Errorf("over a %s: %v", what, err)
		}
		if got := names(t, dir); got != "food.pid" {
			t.Errorf("over a %s: entries %q", what, got)
		}
		must(t, os.Remove(path))
	}
	for _, bad := range []string{"", "/", dir + "/", dir + "/..", dir + "/none/food.pid", dir + "/" + strings.Repeat("x", 256)} {
		if _, err := Create(bad); err == nil {
			t.Errorf("created %q", bad)
		}
	}
}

// The directory is not ours to write to, the file is: tmpfiles.d made it so.
func TestCreateInPlace(t *testing.T) {
	testenv.Need(t, testenv.Root) // for a second user
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.Mkdir("/run/food", 0o755))
		path := "/run/food/food.pid"
		must(t, os.WriteFile(path, []byte(strings.Repeat(" ", 1000)), 0o644))
		must(t, os.Chown(path, 65534, 65534))
		attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		env := []string{"SLASHRUN_TEST_ROLE=daemon", "SLASHRUN_TEST_FILE=" + path, "SLASHRUN_TEST_CLOSE=1"}
		p, line := begin(t, attr, env, "/proc/self/exe")
		if line != "created" {
			t.Fatal(line)
		}
		text, err := os.ReadFile(path)
		must(t, err)
		if r, err := process.ParseRecord(text); err != nil || r.PID != p.Process.Pid || !r.Own() || strings.HasSuffix(string(text), "\n\n") {
			t.Errorf("%q: %+v, %v", text, r, err)
		}
		if _, line := begin(t, attr, env, "/proc/self/exe"); !strings.Contains(line, "holds it") {
			t.Errorf("a second one: %s", line)
		}
		p.end()
		if text, err := os.ReadFile(path); err != nil || len(text) != 0 {
			t.Errorf("after Close: %q, %v", text, err)
		}
	})
}

// Many start at once, over a file of a dead process and over none: one holds it
// at any time, and no start fails for another reason.
func TestCreateRace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "food.pid")
	var holders, most, got int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 100 {
				f, err := Create(path)
				if err != nil {
					if !errors.Is(err, ErrHeld) {
						t.Error(err)
						return
					}
					continue
				}
				mu.Lock()
				holders++
				got++
				most = max(most, holders)
				mu.Unlock()
				mu.Lock()
				holders--
				mu.Unlock()
				if i%3 == 0 { // dies without a word
					f.mu.Lock()
					linux.Ftruncate(f.fd, 0)
					linux.Close(f.fd)
					f.dir.Close()
					f.fd = -1
					f.mu.Unlock()
				} else if err := f.Close(); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
	if most != 1 {
		t.Errorf("%d held it at once", most)
	}
	if got < 8 {
		t.Errorf("%d creations worked", got)
	}
	if list := names(t, dir); list != "" && list != "food.pid" {
		t.Errorf("entries %q", list)
	}
}

// What was removed or replaced under us is not removed again.
func TestCloseLost(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "food.pid")
	f, err := Create(path)
	must(t, err)
	must(t, os.Remove(path))
	must(t, os.WriteFile(path, []byte("1\n"), 0o644))
	if err := f.Close(); !errors.Is(err, ErrLost) {
		t.Errorf("%v", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "1\n" {
		t.Errorf("the other's file: %q, %v", text, err)
	}
	must(t, os.Remove(path))
	if f, err = Create(path); err == nil {
		must(t, os.Remove(path))
		if err := f.Close(); !errors.Is(err, ErrLost) {
			t.Errorf("%v", err)
		}
	}
}

// The lock goes along with execve, the PID and the start time stay.
func TestKeepOnExec(t *testing.T) {
	path := filepath.Join(t.TempDir(), "food.pid")
	f, err := Create(path)
	must(t, err)
	must(t, f.KeepOnExec())
	p := shell(t) // a child, which inherits what a program that we became would
	must(t, linux.Close(f.fd))
	f.fd = -1
	if _, err := Create(path); !errors.Is(err, ErrHeld) {
		t.Errorf("beside the heir: %v", err)
	}
	p.kill()
	f, err = Create(path)
	must(t, err)
	must(t, f.Close())
}

// Somebody who can write to a dead one's file, as its children, has it locked: the
// error names who.
func TestCreateNamesWhoLocked(t *testing.T) {
	testenv.Need(t, testenv.Tool("flock"))
	path := filepath.Join(t.TempDir(), "food.pid")
	d, line := daemon(t, path)
	if line != "created" {
		t.Fatal(line)
	}
	d.kill()
	stranger, line := begin(t, nil, nil, "sh", "-c", "exec 9<>"+path+"; flock 9; echo ready; read x")
	if line != "ready" {
		t.Fatalf("%q", line)
	}
	_, err := Create(path)
	var held *HeldError
	if !errors.As(err, &held) || held.PID != stranger.Process.Pid || held.Name != "sh" {
		t.Errorf("%v", err)
	}
	stranger.kill()
	f, err := Create(path)
	must(t, err)
	must(t, f.Close())
}

// Somebody who looks at the lock by taking it for a moment does not make a start
// fail.
func TestCreateWhileSomebodyLooks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "food.pid")
	stop, done := make(chan bool), make(chan int)
	go func() {
		looks := 0
		defer func() { done <- looks }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if file, err := os.Open(path); err == nil {
				if linux.Flock(int(file.Fd()), linux.LOCK_SH|linux.LOCK_NB) == nil {
					looks++
				}
				file.Close()
			}
		}
	}()
	for range 100 {
		must(t, os.WriteFile(path, nil, 0o644))
		f, err := Create(path)
		if err != nil {
			t.Error(err)
			break
		}
		must(t, f.Close())
	}
	close(stop)
	t.Logf("%d looks", <-done)
}

func TestWait(t *testing.T) { trustedTest(t, testWait) }

func testWait(t *testing.T, dir string) {
	path := filepath.Join(dir, "food.pid")
	other, line := daemon(t, path)
	if line != "created" {
		t.Fatal(line)
	}
	p, err := Find(path)
	if errors.Is(err, ErrNoPidfd) {
		mustSignal(t, err)
		return
	}
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if p.PID() != other.Process.Pid || p.Name() == "" {
		t.Errorf("%d %q", p.PID(), p.Name())
	}
	must(t, p.Signal(0))
	done := make(chan error, 1)
	go func() { done <- p.Wait(context.Background()) }()
	must(t, p.Signal(syscall.SIGTERM))
	must(t, <-done)
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a signal to the dead: %v", err)
	}
	must(t, p.Close())
	for _, err := range []error{p.Close(), p.Signal(0), p.Wait(context.Background())} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	if err := Signal(path, 0); !errors.Is(err, ErrNotRunning) {
		t.Errorf("the file of a dead process: %v", err)
	}
	if err := Signal(filepath.Join(dir, "none.pid"), 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// trustedTest runs a test with a directory that only we and root can have made.
func trustedTest(t *testing.T, f func(t *testing.T, dir string)) {
	nstest.Run(t, nstest.Options{Root: nstest.RootEmpty}, func(t *testing.T) {
		must(t, os.MkdirAll("/run/food", 0o755))
		f(t, "/run/food")
	})
}

func TestIDsInFiles(t *testing.T) { trustedTest(t, testIDsInFiles) }

func testIDsInFiles(t *testing.T, dir string) {
	path := filepath.Join(dir, "food.pid")
	for _, c := range []struct {
		text string
		want error
	}{
		{"1\n", ErrUncertain}, {strconv.Itoa(os.Getpid()) + "\n", ErrUncertain}, {"0\n", ErrNoPIDFile}, {"-1\n", ErrNoPIDFile},
		{"", ErrNoPIDFile}, {"4194304\n", ErrNotRunning},
	} {
		must(t, os.WriteFile(path, []byte(c.text), 0o644))
		if err := Signal(path, 0); !errors.Is(err, c.want) {
			// A bare number proves nothing where others may write, or we cannot see all.
			if !(c.want == ErrNotRunning && errors.Is(err, ErrUncertain)) {
				t.Errorf("%q: %v, want %v", c.text, err, c.want)
			}
		}
	}
}

// A file that another wrote for PID 1, with all the proof there is.
func TestSignalRefusesInit(t *testing.T) {
	trustedTest(t, func(t *testing.T, dir string) {
		path := filepath.Join(dir, "food.pid")
		for _, pid := range []int{1, os.Getpid()} {
			must(t, WriteFor(path, pid))
			if err := Signal(path, 0); !errors.Is(err, ErrUncertain) {
				t.Errorf("%d: %v", pid, err)
			}
			must(t, os.Remove(path))
		}
	})
}

// What a process calls itself does not reach the terminal.
func TestErrorsEscapeNames(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "a\x1b[31m\nb")
	sleep, err := os.ReadFile("/bin/sleep")
	must(t, err)
	must(t, os.WriteFile(program, sleep, 0o755))
	cmd := exec.Command(program, "1000")
	must(t, cmd.Start())
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	path := filepath.Join(dir, "food.pid")
	must(t, WriteFor(path, cmd.Process.Pid))
	_, err = Create(path)
	var held *HeldError
	if !errors.As(err, &held) || held.Name != "a\x1b[31m\nb" || strings.ContainsAny(err.Error(), "\x1b\n") || !strings.Contains(err.Error(), `a\x1b[31m\nb`) {
		t.Errorf("%q", err)
	}
	st, err := Check(path)
	must(t, err)
	if strings.ContainsAny(st.Why(), "\x1b\n") {
		t.Errorf("%q", st.Why())
	}
}

func TestStatTypes(t *testing.T) {
	var st fsat.Stat
	st.Mode = syscall.S_IFREG | 0o644
	for _, c := range []struct {
		uid, mode uint32
		ok        bool
	}{
		{0, 0o644, true}, {7, 0o600, true}, {8, 0o600, false}, {0, 0o664, false}, {0, 0o646, false}, {7, 0o1777, false}, {0, 0o755, true},
	} {
		st.UID, st.Mode = c.uid, syscall.S_IFREG|c.mode
		if err := checkNode("x", &st, [2]uint32{0, 7}); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrUntrusted) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
