package stale

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/vmtest"
)

func TestMain(m *testing.M) {
	switch os.Args[0] {
	case agentName:
		agentMain()
	case attackerName:
		attackerMain()
	case sleeperName:
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	vmtest.Setup()
	seccomptest.Setup()
	nstest.Main(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newJudge(t testing.TB, o Options) *Judge {
	t.Helper()
	p, err := process.Open()
	must(t, err)
	t.Cleanup(p.Close)
	o.Proc = p
	j, err := New(context.Background(), o)
	must(t, err)
	return j
}

func look(t testing.TB, j *Judge, path string, kind Kind) *Finding {
	t.Helper()
	d, err := fsat.OpenDir(filepath.Dir(path))
	must(t, err)
	t.Cleanup(func() { d.Close() })
	f, err := j.Look(context.Background(), d, filepath.Base(path), path, kind)
	must(t, err)
	return f
}

func want(t testing.TB, f *Finding, v Verdict, p Proof) {
	t.Helper()
	last := Evidence{}
	for _, e := range f.Evidence {
		last = e
		if e.Proof == p {
			break
		}
	}
	if f.Verdict != v || last.Proof != p {
		t.Errorf("want %s (%s), got %s\n%+v", v, p, f, f.Evidence)
	}
}

// orphan leaves a socket file that nothing is bound to.
func orphan(t testing.TB, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// deadPID is the number of a process that has just been waited for.
func deadPID(t testing.TB) int {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	must(t, cmd.Run())
	return cmd.Process.Pid
}

// In the initial PID namespace or not, an orphaned socket is proven by the probe
// once it is old enough; a bound one is live, whatever it is.
func TestSockets(t *testing.T) {
	for _, p := range seccomptest.All {
		t.Run(p.String(), func(t *testing.T) {
			seccomptest.Run(t, p, func(t *testing.T) {
				dir := t.TempDir()
				j := newJudge(t, Options{})
				orphan(t, dir+"/orphan")
				want(t, look(t, j, dir+"/orphan", Guess), CannotTell, JustMade)
				for name, typ := range map[string]int{"stream": syscall.SOCK_STREAM, "dgram": syscall.SOCK_DGRAM, "seqpacket": syscall.SOCK_SEQPACKET} {
					fd, err := syscall.Socket(syscall.AF_UNIX, typ|syscall.SOCK_CLOEXEC, 0)
					must(t, err)
					defer syscall.Close(fd)
					must(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: dir + "/" + name}))
					want(t, look(t, j, dir+"/"+name, Guess), Live, SocketBound)
					must(t, os.Link(dir+"/"+name, dir+"/"+name+".hard"))
					must(t, os.Rename(dir+"/"+name, dir+"/"+name+".moved"))
					want(t, look(t, j, dir+"/"+name+".hard", Guess), Live, SocketBound)
					want(t, look(t, j, dir+"/"+name+".moved", Guess), Live, SocketBound)
				}
				waitOld(t, dir+"/orphan")
				f := look(t, j, dir+"/orphan", Guess)
				want(t, f, Stale, ConnectRefused)
				must(t, f.Remove(context.Background()))
				if exists(dir + "/orphan") {
					t.Error("still there")
				}
				if list, _ := filepath.Glob(dir + "/.*"); len(list) > 0 {
					t.Errorf("left: %q", list)
				}
			})
		})
	}
}

// waitOld waits until an inode's change is a second ago.
func waitOld(t testing.TB, path string) {
	t.Helper()
	var st syscall.Stat_t
	must(t, syscall.Lstat(path, &st))
	for time.Now().UnixNano()-st.Ctim.Nano() < newborn {
		time.Sleep(10 * time.Millisecond) // for the clock itself, not for a process
	}
}

// container runs f in a container of its own: a PID namespace with nobody but the
// test in it and an overlay as root.
func container(t *testing.T, f func(t *testing.T)) {
	nstest.Run(t, nstest.Options{Real: true, Root: nstest.RootOverlay, PID1: true}, f)
}

func TestExclusiveGround(t *testing.T) {
	container(t, func(t *testing.T) {
		j := newJudge(t, Options{})
		must(t, os.Mkdir("/srv/x", 0o755))
		pid := deadPID(t)
		must(t, os.WriteFile("/srv/x/dead.pid", fmt.Appendf(nil, "%d\n", pid), 0o644))
		f := look(t, j, "/srv/x/dead.pid", Guess)
		want(t, f, Stale, ProcessGone)
		must(t, f.Remove(t.Context()))
		if exists("/srv/x/dead.pid") {
			t.Error("still there")
		}
		must(t, os.WriteFile("/srv/x/self.pid", fmt.Appendf(nil, "%d\n", os.Getpid()), 0o644))
		want(t, look(t, j, "/srv/x/self.pid", Guess), CannotTell, OfThisRun)
		must(t, os.WriteFile("/run/dead.pid", fmt.Appendf(nil, "%d\n", pid), 0o644))
		want(t, look(t, j, "/run/dead.pid", Guess), CannotTell, ForeignNamespace)
		// The image is older than the run.
		want(t, look(t, j, "/etc/hostname", PIDFile), Stale, LeftBehind)
	})
}

// Whoever holds an object only to look at it is no user of it: on exclusive ground what
// is left behind is stale for them, too.
func TestHeldToLook(t *testing.T) {
	container(t, func(t *testing.T) {
		d, err := fsat.OpenDir("/")
		must(t, err)
		defer d.Close()
		j := newJudge(t, Options{})
		kin, err := j.proc.Company(t.Context())
		must(t, err)
		must(t, os.WriteFile("/held.lock", nil, 0o644))
		node, err := d.OpenNode("held.lock")
		must(t, err)
		defer node.Close()
		other, err := d.OpenNode("held.lock")
		must(t, err)
		defer other.Close()
		o := &object{node: node, dir: d, name: "held.lock", ground: &ground{kin: kin.Kin}}
		must(t, node.Stat(&o.st))
		f := &Finding{}
		if len(kin.Kin) == 0 || !j.heldByKin(f, o) {
			t.Error("a second descriptor is not seen")
		}
		j.Mine([]int{other.Fd()})
		if f = (&Finding{}); j.heldByKin(f, o) {
			t.Errorf("%s", f)
		}
	})
}
