package locks

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/testenv"
)

func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func killGroup(pgid int) { syscall.Kill(-pgid, syscall.SIGKILL) }

// deadlocks scans until n threads wait, and looks for circles.
func deadlocks(t *testing.T, dir string, n int) []Deadlock {
	t.Helper()
	tab := scanUntil(t, dir, func(tab *Table) bool { return tab.waiting() >= n })
	tab.options.Files = only(tab)
	list, err := tab.Deadlocks(t.Context())
	must(t, err)
	return list
}

// only picks the files of the table.
func only(tab *Table) func(File) bool {
	mine := map[File]bool{}
	for i := range tab.Locks {
		mine[tab.Locks[i].File()] = true
	}
	return func(f File) bool { return mine[f] }
}

// sure reports whether a deadlock can be certain here: nobody is out of sight but the
// first process.
func sure(t *testing.T) bool {
	t.Helper()
	p, err := process.Open()
	must(t, err)
	defer p.Close()
	list, err := p.Processes()
	must(t, err)
	for _, st := range list {
		if st.PID == 1 || st.Kernel() || st.Dead() {
			continue
		}
		if _, err := p.Readlink(strconv.Itoa(st.PID) + "/cwd"); err != nil && !process.Gone(err) {
			return false
		}
	}
	return p.Initial() && p.Hidden() == ""
}

func pidsOf(d Deadlock) (list []int) {
	for _, w := range d.Waits {
		if !slices.Contains(list, w.PID) {
			list = append(list, w.PID)
		}
	}
	slices.Sort(list)
	return list
}

// wantCircle holds that there is one circle, of these processes.
func wantCircle(t *testing.T, got []Deadlock, certain bool, pids ...int) {
	t.Helper()
	slices.Sort(pids)
	if len(got) != 1 || !slices.Equal(pidsOf(got[0]), pids) {
		t.Fatalf("want a circle of %v, got %+v", pids, got)
	}
	if want := certain && sure(t); got[0].Certain != want || len(got[0].Proof) == 0 {
		t.Errorf("certain is %v, want %v: %q", got[0].Certain, want, got[0].Proof)
	}
}

// Each takes a lock, then asks for the other's.
func TestCircles(t *testing.T) {
	for name, steps := range map[string][2][2]string{
		"flock":         {{"flock,A,2", "flock,B,2"}, {"flock,B,2", "flock,A,2"}},
		"shared flock":  {{"flock,A,1", "flock,B,2"}, {"flock,B,1", "flock,A,2"}},
		"ofd":           {{"ofd,A,1,0,0", "ofd,B,1,0,0"}, {"ofd,B,1,0,0", "ofd,A,1,0,0"}},
		"flock and ofd": {{"flock,A,2", "ofd,B,1,0,0"}, {"ofd,B,1,0,0", "flock,A,2"}},
		"ofd and posix": {{"ofd,A,1,0,0", "posix,B,1,0,0"}, {"ofd,B,1,0,0", "posix,A,1,0,0"}},
		"posix holders": {{"posix,A,1,0,0", "ofd,B,1,0,0"}, {"posix,B,1,0,0", "ofd,A,1,0,0"}},
		"bytes":         {{"ofd,A,1,0,10", "ofd,A,1,100,10"}, {"ofd,A,1,100,10", "ofd,A,1,5,1"}},
		"upgrade":       {{"ofd,A,0,0,0", "ofd,A,1,0,0"}, {"ofd,A,0,0,0", "ofd,A,1,0,0"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, f := files(t, "a", "b")
			var agents [2]*agent
			for i, s := range steps {
				path := strings.NewReplacer("A", f[0], "B", f[1])
				agents[i] = perl(t, path.Replace(s[0]), "say", path.Replace(s[1]))
			}
			agents[0].on(t)
			agents[1].on(t)
			wantCircle(t, deadlocks(t, dir, 2), true, agents[0].pid(), agents[1].pid())
		})
	}
}

func TestCircleOfThree(t *testing.T) {
	dir, f := files(t, "a", "b", "c", "d")
	var pids []int
	var agents []*agent
	for i := range 3 {
		a := perl(t, "flock,"+f[i]+",2", "say", fmt.Sprintf("flock,%s,2", f[(i+1)%3]))
		agents, pids = append(agents, a), append(pids, a.pid())
	}
	// One who waits for a lock of the circle is not in it.
	behind := perl(t, "flock,"+f[3]+",2", "say", "flock,"+f[0]+",2")
	for _, a := range append(agents, behind) {
		a.on(t)
	}
	got := deadlocks(t, dir, 4)
	wantCircle(t, got, true, pids...)
	for i, w := range got[0].Waits {
		if next := got[0].Waits[(i+1)%3]; !slices.Contains(w.On, next.Process) || w.TID == 0 || w.Path == "" || w.Lock.Kind != Flock {
			t.Errorf("%+v does not wait for %+v", w, next)
		}
	}
}

// A process that has locked a file waits for itself when it opens it anew.
func TestAloneInACircle(t *testing.T) {
	dir, f := files(t, "a")
	a := perl(t, "flock,"+f[0]+",2", "say", "flock,"+f[0]+",2")
	a.on(t)
	wantCircle(t, deadlocks(t, dir, 1), true, a.pid())
}

// A wait that is long and will end is none.
func TestSlowIsNoDeadlock(t *testing.T) {
	dir, f := files(t, "a", "b", "c")
	slow := perl(t, "flock,"+f[1]+",2", "say") // holds b, and works
	one := perl(t, "flock,"+f[0]+",2", "say", "flock,"+f[1]+",2")
	two := perl(t, "ofd,"+f[2]+",1,0,0", "say", "flock,"+f[0]+",2")
	one.on(t)
	two.on(t)
	if got := deadlocks(t, dir, 2); len(got) != 0 {
		t.Errorf("%d works and has b, and this is called a deadlock: %+v", slow.pid(), got)
	}
}

// A child that shares the lock and is awake may release it: there is a doubt. If it
// waits in the circle, too, there is none.
func TestSharedDescription(t *testing.T) {
	dir, f := files(t, "a", "b")
	one := perl(t, "flock,"+f[0]+",2", "fork", "say", "flock,"+f[1]+",2")
	one.ready(t) // both
	two := perl(t, "flock,"+f[1]+",2", "say", "flock,"+f[0]+",2")
	one.on(t) // one of them
	two.on(t)
	got := deadlocks(t, dir, 2)
	if len(got) != 1 || got[0].Certain || len(got[0].Proof) == 0 || len(pidsOf(got[0])) != 2 {
		t.Fatalf("%+v", got)
	}
	if !strings.Contains(got[0].Proof[0], "(perl) does not wait for a lock") && sure(t) {
		t.Errorf("%q", got[0].Proof)
	}
	one.on(t) // the other
	got = deadlocks(t, dir, 3)
	if len(got) != 1 || got[0].Certain != sure(t) || len(pidsOf(got[0])) != 3 {
		t.Fatalf("%+v", got)
	}
}

// flock(1) of a shell waits for its command, which waits for the other's lock.
func TestCircleThroughChildren(t *testing.T) {
	testenv.Need(t, testenv.Tool("flock"))
	for _, close := range []string{"", "-o"} { // with -o the command does not have the lock
		t.Run("flock "+close, func(t *testing.T) {
			dir, f := files(t, "a", "b")
			run := func(first, second string) *agent {
				return start(t, exec.Command("/bin/sh", "-c", `exec flock $1 "$2" sh -c 'echo ready; read x; flock "$1" true; :' sh "$3"`, "sh", close, first, second))
			}
			one, two := run(f[0], f[1]), run(f[1], f[0])
			for _, a := range []*agent{one, two} {
				_, err := a.in.Write([]byte("x\n"))
				must(t, err)
			}
			got := deadlocks(t, dir, 2)
			if len(got) != 1 || got[0].Certain != sure(t) {
				t.Fatalf("%+v", got)
			}
			if list := pidsOf(got[0]); close != "" && (len(list) != 6 || !slices.Contains(list, one.pid()) || !slices.Contains(list, two.pid())) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// flock -w gives up by a timer.
func TestATimerIsADoubt(t *testing.T) {
	testenv.Need(t, testenv.Tool("flock"))
	dir, f := files(t, "a", "b")
	one := perl(t, "flock,"+f[0]+",2", "say", "flock,"+f[1]+",2")
	two := start(t, exec.Command("/bin/sh", "-c", `exec 8<"$1" 9<"$2"; flock 8; echo ready; read x; exec flock -w 3600 9`, "sh", f[1], f[0]))
	one.on(t)
	_, err := two.in.Write([]byte("x\n"))
	must(t, err)
	got := deadlocks(t, dir, 2)
	wantCircle(t, got, false, one.pid(), two.pid())
	if said := strings.Join(got[0].Proof, "\n"); sure(t) && !strings.Contains(said, "(flock) has a") {
		t.Error(said)
	}
}

// A child that ends interrupts a process that has a handler for that.
func TestSIGCHLDIsADoubt(t *testing.T) {
	dir, f := files(t, "a", "b")
	one := perl(t, "sigchld", "flock,"+f[0]+",2", "say", "flock,"+f[1]+",2")
	two := perl(t, "flock,"+f[1]+",2", "say", "flock,"+f[0]+",2")
	one.on(t)
	two.on(t)
	got := deadlocks(t, dir, 2)
	wantCircle(t, got, false, one.pid(), two.pid())
	if said := strings.Join(got[0].Proof, "\n"); sure(t) && !strings.Contains(said, "SIGCHLD") {
		t.Error(said)
	}
}

// Who cannot be looked at may share the lock, whoever that is.
func TestOutOfSightIsADoubt(t *testing.T) {
	testenv.Need(t, testenv.NonRoot)
	dir, f := files(t, "a", "b")
	one := perl(t, "flock,"+f[0]+",2", "say", "flock,"+f[1]+",2")
	two := perl(t, "flock,"+f[1]+",2", "say", "flock,"+f[0]+",2")
	one.on(t)
	two.on(t)
	got := deadlocks(t, dir, 2)
	wantCircle(t, got, false, one.pid(), two.pid())
	if said := strings.Join(got[0].Proof, "\n"); !strings.Contains(said, "cannot be seen") {
		t.Error(said)
	}
}

// Another thread may release the lock: a program in Go always has one.
func TestAThreadIsADoubt(t *testing.T) {
	dir, f := files(t, "a", "b")
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self, f[0], f[1])
	cmd.Env = append(os.Environ(), "SLASHRUN_TEST_ROLE=twolocks")
	one := start(t, cmd)
	two := perl(t, "flock,"+f[1]+",2", "say", "flock,"+f[0]+",2")
	one.on(t)
	two.on(t)
	got := deadlocks(t, dir, 2)
	wantCircle(t, got, false, one.pid(), two.pid())
	if said := strings.Join(got[0].Proof, "\n"); sure(t) && !strings.Contains(said, "of process "+strconv.Itoa(one.pid())) {
		t.Error(said)
	}
}

// A thousand processes wait in the queue of one lock, and two of them for each
// other.
func TestAThousandProcesses(t *testing.T) {
	dir, f := files(t, "a", "b", "queue")
	one := perl(t, "flock,"+f[2]+",2", "flock,"+f[0]+",2", "say", "flock,"+f[1]+",2")
	two := perl(t, "flock,"+f[1]+",2", "say", "flock,"+f[0]+",2")
	const crowd = 1000
	queue := start(t, exec.Command("perl", "-e", `
		for (1 .. $ARGV[1]) { if (fork == 0) { open(my $f, "<", $ARGV[0]); flock($f, 2); exit } }
		$| = 1; print "ready\n"; sleep`, f[2], strconv.Itoa(crowd)))
	one.on(t)
	two.on(t)
	got := deadlocks(t, dir, crowd+2)
	wantCircle(t, got, true, one.pid(), two.pid())
	killGroup(queue.pid())
}

// All who share a lock wait for another: there is a bound to what is said of them.
func TestACrowdInACircle(t *testing.T) {
	dir, f := files(t, "a", "b")
	const crowd = 200
	two := perl(t, "flock,"+f[1]+",2", "say", "flock,"+f[0]+",2")
	all := start(t, exec.Command("perl", "-e", `
		open(my $a, "<", $ARGV[0]); flock($a, 2);
		for (1 .. $ARGV[2]) { if (fork == 0) { open(my $f, "<", $ARGV[1]); flock($f, 2); exit } }
		$| = 1; print "ready\n"; open(my $f, "<", $ARGV[1]); flock($f, 2); sleep`, f[0], f[1], strconv.Itoa(crowd)))
	two.on(t)
	got := deadlocks(t, dir, crowd+2)
	if len(got) != 1 || got[0].Certain != sure(t) || len(pidsOf(got[0])) != crowd+2 || len(got[0].Proof) > maxProof+10 {
		t.Errorf("%d circles; %+v", len(got), got)
	}
	killGroup(all.pid())
}
