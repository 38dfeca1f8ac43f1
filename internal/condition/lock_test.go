package condition

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// initial says that the tests run where /proc/locks shows every lock.
var initial = testenv.Requirement{What: "the machine's PID namespace", Check: func() error {
	p, err := process.Open()
	if err != nil {
		return err
	}
	defer p.Close()
	if !p.Initial() {
		return os.ErrPermission
	}
	return nil
}}

// other is this test binary in another process, which says a line when it has done
// what it was told, and ends when its standard input does.
type other struct {
	*exec.Cmd
	in  interface{ Close() error }
	out *bufio.Scanner
}

func start(t testing.TB, env ...string) *other {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	o := &other{cmd, in, bufio.NewScanner(out)}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	o.line(t)
	return o
}

func (o *other) line(t testing.TB) string {
	t.Helper()
	if !o.out.Scan() {
		t.Fatal("the other process has ended")
	}
	return o.out.Text()
}

// Each kind of lock, given up in each way; nothing is ever locked by who waits.
func TestLock(t *testing.T) {
	testenv.Need(t, initial)
	for _, p := range []seccomptest.Profile{seccomptest.None, seccomptest.OldENOSYS} {
		for _, kind := range []string{"flock", "ofd", "posix"} {
			for _, how := range []string{"close", "exit", "unlock"} {
				t.Run(p.String()+"/"+kind+"/"+how, func(t *testing.T) {
					seccomptest.Run(t, p, func(t *testing.T) {
						path := filepath.Join(t.TempDir(), "lock")
						says(t, "lock:"+path, true, "so nobody holds it")
						must(t, os.WriteFile(path, nil, 0o600))
						says(t, "lock:"+path, true, "nobody holds it")
						o := start(t, "SLASHRUN_TEST_ROLE=lock", "SLASHRUN_TEST_FILE="+path, "SLASHRUN_TEST_KIND="+kind, "SLASHRUN_TEST_HOW="+how)
						why := "held by process " + itoa(o.Process.Pid) + " ("
						if kind == "ofd" {
							why = "held (OFDLCK); nobody waits for it"
						}
						says(t, "lock:"+path, false, why)
						r := begin(t, forever(Options{}), "lock:"+path)
						r.polls(6)
						o.in.Close()
						r.holds()
					})
				})
			}
		}
	}
}

// A lock that a child has from a parent that has ended.
func TestLockOfTheDead(t *testing.T) {
	testenv.Need(t, initial, testenv.Tool("flock"))
	path := filepath.Join(t.TempDir(), "lock")
	cmd := exec.Command("sh", "-c", "exec 9>"+path+"; flock 9; echo held; exec cat")
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer cmd.Wait()
	defer in.Close()
	bufio.NewReader(out).ReadString('\n')
	says(t, "lock:"+path, false, "held by process ")
	r := begin(t, forever(Options{}), "lock:"+path)
	r.polls(3)
	in.Close()
	r.holds()
}

// In a PID namespace below, the locks of others do not show: what is not seen is
// not free, unless nobody else can be there.
func TestLockOutside(t *testing.T) {
	testenv.Need(t, testenv.Root)
	path := os.Getenv("SLASHRUN_TEST_OUTER")
	if path == "" { // out here
		path = filepath.Join(t.TempDir(), "lock")
		must(t, os.WriteFile(path, nil, 0o600))
		fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_RDWR, 0)
		must(t, err)
		defer linux.Close(fd)
		must(t, linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB))
	}
	nstest.Run(t, nstest.Options{Keep: []string{path}, Env: []string{"SLASHRUN_TEST_OUTER=" + path}}, func(t *testing.T) {
		r := begin(t, forever(Options{}), "lock:"+path, "path:/run")
		<-r.done
		if r.err != nil || r.report.Met || !r.report.Never || !strings.Contains(r.report.Conditions[0].Why, "from inside of a container") {
			t.Errorf("%+v, %v", r.report, r.err)
		}
		// The user vouches for a place; then who locks there is seen, also where the
		// one who took the lock has ended.
		must(t, os.WriteFile("/run/lock", nil, 0o600))
		o := Options{Exclusive: []string{"/run"}}
		if got := once(t, o, "lock:/run/lock"); !got.Holds {
			t.Errorf("%+v", got)
		}
		in, out, err := os.Pipe()
		must(t, err)
		cmd := exec.Command("sh", "-c", "exec 9>/run/lock; flock 9; exec cat")
		cmd.Stdin = in
		must(t, cmd.Start())
		r = begin(t, forever(o), "lock:/run/lock", "path:/run/later")
		for once(t, o, "lock:/run/lock").Holds {
		}
		if got := once(t, o, "lock:/run/lock"); !strings.Contains(got.Why, "held by process") {
			t.Errorf("%+v", got)
		}
		mkdirs(t, "/run/later") // it is not enough: the lock is looked at again
		r.polls(8)
		out.Close()
		r.holds()
		cmd.Wait()
	})
}

// A whole table, and one that is not understood.
func TestLockWithoutProc(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.WriteFile("/run/lock", nil, 0o600))
		must(t, syscall.Mount("none", "/proc", "tmpfs", 0, ""))
		defer syscall.Unmount("/proc", syscall.MNT_DETACH)
		r := begin(t, forever(Options{Any: true}), "lock:/run/lock", "path:/run/x")
		r.polls(4) // the other may still hold
		mkdirs(t, "/run/x")
		r.holds()
	})
}

// A table of locks that is longer than a page comes in parts, and while others give
// up locks a part may leave out what is held. That is not free.
func TestLockInTornTable(t *testing.T) {
	testenv.Need(t, initial)
	d := t.TempDir()
	start(t, "SLASHRUN_TEST_ROLE=many", "SLASHRUN_TEST_FILE="+d+"/held")
	start(t, "SLASHRUN_TEST_ROLE=many", "SLASHRUN_TEST_FILE="+d+"/churn", "SLASHRUN_TEST_KIND=churn")
	var texts []string
	inodes := map[uint64]bool{}
	for i := range 100 {
		path := d + "/held" + itoa(i)
		texts = append(texts, "lock:"+path)
		var st syscall.Stat_t
		must(t, syscall.Stat(path, &st))
		inodes[st.Ino] = true
	}
	p, err := process.Open()
	must(t, err)
	defer p.Close()
	torn := 0
	for range 100 { // 10,000 looks
		table := lockTable{whole: true}
		table.read(p)
		must(t, table.err)
		seen := map[uint64]bool{}
		for _, k := range table.list {
			seen[k.Ino] = true
		}
		for ino := range inodes {
			if !seen[ino] {
				torn++
				break
			}
		}
		r := begin(t, Options{Any: true}, texts...)
		<-r.done
		must(t, r.err)
		if r.report.Met {
			for _, c := range r.report.Conditions {
				if c.Holds {
					t.Errorf("%+v", c)
				}
			}
			return
		}
	}
	t.Logf("%d of 100 single reads were torn", torn)
}

// With more than a page of locks that nobody touches, free is told.
func TestLockInLongTable(t *testing.T) {
	testenv.Need(t, initial)
	d := t.TempDir()
	start(t, "SLASHRUN_TEST_ROLE=many", "SLASHRUN_TEST_FILE="+d+"/held")
	must(t, os.WriteFile(d+"/free", nil, 0o600))
	begin(t, forever(Options{}), "lock:"+d+"/free").holds()
	says(t, "lock:"+d+"/held7", false, "held by process ")
}

// Who opens and closes a file that is waited for causes an event each time, and may
// do so without any right to what the one who waits does: that keeps nobody busy.
func TestEventsKeepNobodyBusy(t *testing.T) {
	testenv.Need(t, initial)
	path := t.TempDir() + "/lock"
	must(t, os.WriteFile(path, nil, 0o644))
	fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_RDWR, 0)
	must(t, err)
	defer linux.Close(fd)
	must(t, linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB))
	r := begin(t, forever(Options{}), "lock:"+path)
	r.polls(12)
	const events = 50_000
	for range events {
		fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_RDONLY, 0)
		must(t, err)
		linux.Close(fd)
	}
	r.cancel()
	<-r.done
	c := r.report.Conditions[0]
	if most := int(r.report.Elapsed/breath) + int(r.report.Elapsed/slowest) + 20; c.Looks > most {
		t.Errorf("%d looks in %v, %d would be right", c.Looks, r.report.Elapsed, most)
	}
	t.Logf("%d looks at %d events in %v", c.Looks, events, r.report.Elapsed)
}
