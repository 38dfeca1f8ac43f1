package locks

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/testenv"
)

// lockOn is the one lock on the file.
func (t *Table) lockOn(tb testing.TB, path string) *Held {
	tb.Helper()
	var found *Held
	for i := range t.Locks {
		if t.Locks[i].Path == path {
			if found != nil {
				tb.Fatalf("two locks on %s: %+v", path, t.Locks)
			}
			found = &t.Locks[i]
		}
	}
	if found == nil {
		tb.Fatalf("no lock on %s: %+v", path, t)
	}
	return found
}

func holderPIDs(h *Held) (list []int) {
	for _, x := range h.Holders {
		if !slices.Contains(list, x.PID) {
			list = append(list, x.PID)
		}
	}
	return list
}

func TestScanEveryKind(t *testing.T) {
	everyWay(t, func(t *testing.T) {
		dir, f := files(t, "flock", "shared", "ofd", "posix")
		one := perl(t, "flock,"+f[0]+",2", "flock,"+f[1]+",1", "ofd,"+f[2]+",0,3,4", "posix,"+f[3]+",1,0,1", "say")
		tab := scanned(t, dir)
		for i, want := range []Lock{
			{Kind: Flock, Exclusive: true, PID: one.pid(), End: math.MaxInt64},
			{Kind: Flock, PID: one.pid(), End: math.MaxInt64},
			{Kind: OFD, PID: -1, Start: 3, End: 6},
			{Kind: POSIX, Exclusive: true, PID: one.pid()},
		} {
			h := tab.lockOn(t, f[i])
			want.Major, want.Minor, want.Ino = h.Major, h.Minor, h.Ino
			if h.Lock != want || len(h.Holders) != 1 || h.Holders[0].PID != one.pid() || h.Holders[0].Comm != "perl" || h.Holders[0].FD < 3 ||
				h.Where != "" || h.Foreign || len(h.Waiters) != 0 {
				t.Errorf("%s: %+v", filepath.Base(f[i]), h)
			}
		}
		if d := tab.Details(one.pid()); d.Started.IsZero() {
			t.Errorf("%+v", d)
		}
	})
}

func TestScanLease(t *testing.T) {
	dir, f := files(t, "leased")
	fd, err := syscall.Open(f[0], syscall.O_RDONLY, 0)
	must(t, err)
	defer syscall.Close(fd)
	const setlease = 1024 // F_SETLEASE, linux/fcntl.h
	if _, _, e := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), setlease, linux.F_RDLCK); e != 0 {
		t.Fatal(e)
	}
	h := scanned(t, dir).lockOn(t, f[0])
	if h.Kind != Lease || h.Exclusive || !slices.Equal(holderPIDs(h), []int{os.Getpid()}) {
		t.Errorf("%+v", h)
	}
}

// All who share the description hold the lock, the one that took it has ended; the
// lock may be on descriptor 0.
func TestScanTrueHolders(t *testing.T) {
	dir, f := files(t, "a", "b", "c")
	child := shell(t, `exec 9>"$1"; flock 9; (exec sleep 1000) & echo ready; read x; kill $!`, f[0])
	zero := exec.Command("/bin/sh", "-c", `exec <"$1"; flock 0; echo ready; exec sleep 1000`, "sh", f[1])
	z := start(t, zero)
	one := perl(t, "ofd,"+f[2]+",1,0,0", "fork", "say")
	one.ready(t)
	tab := scanned(t, dir)

	a := tab.lockOn(t, f[0])
	if list := holderPIDs(a); len(list) != 2 || list[0] != child.Process.Pid || slices.Contains(list, a.PID) || a.Where != "" {
		t.Errorf("%+v; %d took it", a, child.Process.Pid)
	}
	if b := tab.lockOn(t, f[1]); !slices.Equal(holderPIDs(b), []int{z.pid()}) || b.Holders[0].FD != 0 || b.Holders[0].Comm != "sleep" {
		t.Errorf("%+v", b)
	}
	if c := tab.lockOn(t, f[2]); len(holderPIDs(c)) != 2 || c.PID != -1 || c.Holders[0].PID != one.pid() {
		t.Errorf("%+v", c)
	}
}

// Locks that look the same are of different open files: each has its own holders.
func TestScanEqualLocks(t *testing.T) {
	dir, f := files(t, "a")
	var want []int
	for range 3 {
		want = append(want, perl(t, "ofd,"+f[0]+",0,0,0", "say").pid())
	}
	slices.Sort(want)
	twice := perl(t, "ofd,"+f[0]+",0,0,0", "ofd,"+f[0]+",0,0,0", "say").pid()
	tab := scanned(t, dir)
	var got []int
	mine := 0
	for _, h := range tab.Locks {
		switch list := holderPIDs(&h); {
		case len(list) != 1 || len(h.Holders) != 1:
			t.Errorf("%+v", h)
		case list[0] == twice:
			mine++
		default:
			got = append(got, list[0])
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) || mine != 2 {
		t.Errorf("holders %v and %d of %d, want %v and 2", got, mine, twice, want)
	}
}

// However many locks somebody has, they are told apart, and bounded.
func TestScanManyLocks(t *testing.T) {
	const count = 900 // open files; below the usual limit
	dir, f := files(t, "a", "b")
	many := perl(t, append(slices.Repeat([]string{"ofd," + f[0] + ",0,0,0"}, count), "say")...)
	tab := scanned(t, dir)
	seen := map[int]bool{}
	for _, h := range tab.Locks {
		if len(h.Holders) != 1 || h.Holders[0].PID != many.pid() || seen[h.Holders[0].FD] {
			t.Fatalf("%+v", h)
		}
		seen[h.Holders[0].FD] = true
	}
	if len(seen) != count {
		t.Errorf("%d locks of %d", len(seen), count)
	}
	killGroup(many.pid())
	many.Wait()

	// 500 ranges on 400 descriptors are more than is read of one process.
	dups := start(t, exec.Command("perl", "-e", `
		$| = 1; my @keep;
		open(my $f, "+<", $ARGV[0]) or die;
		for (1 .. 500) { fcntl($f, 37, pack("s s x4 q q i x4", 1, 0, 2 * $_, 1, 0)) or die }
		for (1 .. 400) { open(my $d, "+<&", $f) or die; push @keep, $d }
		print "ready\n"; sleep`, f[1]))
	tab = scanned(t, dir)
	if len(tab.Locks) != 500 || !slices.Equal(holderPIDs(&tab.Locks[0]), []int{dups.pid()}) {
		t.Errorf("%d locks", len(tab.Locks))
	}
	if !strings.Contains(strings.Join(tab.Incomplete, "\n"), "too much memory") {
		t.Errorf("%q", tab.Incomplete)
	}
}

// Who waits for an OFD lock is in no list: the system calls tell. Equal waiters stay
// two; of those who want different bytes it is told who they are together.
func TestScanWaiters(t *testing.T) {
	dir, f := files(t, "a", "b", "c")
	holder := perl(t, "ofd,"+f[0]+",1,0,0", "flock,"+f[1]+",2", "ofd,"+f[2]+",1,0,0", "say")
	type want struct {
		lock Lock
		who  []int // one of these
	}
	var wants []want
	var either []int
	for _, step := range []struct {
		text string
		lock Lock
	}{
		{"ofd,A,1,20,10", Lock{Kind: OFD, Exclusive: true, Start: 20, End: 29}},
		{"ofd,A,1,20,10", Lock{Kind: OFD, Exclusive: true, Start: 20, End: 29}},
		{"posix,A,1,5,0", Lock{Kind: POSIX, Exclusive: true, Start: 5, End: math.MaxInt64}},
		{"flock,B,2", Lock{Kind: Flock, Exclusive: true, End: math.MaxInt64}},
		{"flock,B,1", Lock{Kind: Flock, End: math.MaxInt64}},
		{"ofd,C,1,0,10", Lock{Kind: OFD, Exclusive: true, End: 9}},
		{"ofd,C,0,20,10", Lock{Kind: OFD, Start: 20, End: 29}},
	} {
		a := perl(t, "say", strings.NewReplacer("A", f[0], "B", f[1], "C", f[2]).Replace(step.text))
		a.on(t)
		w := want{step.lock, []int{a.pid()}}
		if strings.Contains(step.text, "ofd,C") {
			either = append(either, a.pid())
		}
		wants = append(wants, w)
	}
	slices.Sort(either)
	for i := range wants[5:] {
		wants[5+i].who = either
	}
	tab := scanUntil(t, dir, func(tab *Table) bool {
		n := 0
		for _, h := range tab.Locks {
			for _, w := range h.Waiters {
				if w.TID != 0 || len(w.Among) == 2 {
					n++
				}
			}
		}
		return n == len(wants)
	})
	for _, h := range tab.Locks {
		if !slices.Equal(holderPIDs(&h), []int{holder.pid()}) {
			t.Errorf("%+v", h)
		}
		for _, w := range h.Waiters {
			got := want{w.Lock, []int{w.PID}}
			got.lock.Major, got.lock.Minor, got.lock.Ino, got.lock.PID, got.lock.Waiting = 0, 0, 0, 0, false
			if len(w.Among) > 0 {
				got.who = []int{w.Among[0].PID, w.Among[1].PID}
				slices.Sort(got.who)
			} else if w.TID != w.PID || w.FD < 3 || w.Comm != "perl" {
				t.Errorf("%+v", w)
			}
			i := slices.IndexFunc(wants, func(x want) bool { return x.lock == got.lock && slices.Equal(x.who, got.who) })
			if i < 0 || !w.Lock.Waiting {
				t.Errorf("%+v is none of %+v", w, wants)
				continue
			}
			wants = slices.Delete(wants, i, i+1)
		}
	}
	if len(wants) != 0 {
		t.Errorf("not found: %+v", wants)
	}
}

// A lock whose only descriptor is in flight in a socket is held by nobody that is
// to be seen, and is held.
func TestScanHeldInFlight(t *testing.T) {
	dir, f := files(t, "a", "b")
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	defer syscall.Close(pair[0])
	defer syscall.Close(pair[1])
	fd, err := syscall.Open(f[0], syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	must(t, err)
	must(t, linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB))
	must(t, syscall.Sendmsg(pair[0], []byte("x"), syscall.UnixRights(fd), nil, 0))
	must(t, syscall.Close(fd))

	waiter := perl(t, "say", "flock,"+f[0]+",2")
	waiter.on(t)
	h := scanUntil(t, dir, func(tab *Table) bool { return tab.waiting() == 1 }).lockOn(t, f[0])
	if initial := h.Where == Unseen; len(h.Holders) != 0 || !initial && h.Where != Outside || h.PID != os.Getpid() {
		t.Errorf("%+v", h)
	}
	if r := report(t, openFile(t, f[0])); len(r.Unseen) != 1 || len(r.Holders) != 0 || len(r.Waiters) != 1 {
		t.Errorf("%+v", r)
	}
}

// overlays are file systems on which /proc/locks and stat(2) differ: in the device,
// and where the layers are on two file systems, in the inode's number, too.
func TestScanOnOverlayfs(t *testing.T) {
	testenv.Need(t, testenv.Tool("perl"))
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.Mkdir("/run/other", 0o755))
		must(t, linux.Mount("test", "/run/other", "tmpfs", 0, ""))
		for i, options := range []string{
			"lowerdir=/run/lower,upperdir=/run/upper,workdir=/run/work,userxattr",
			"lowerdir=/run/other/lower,upperdir=/run/upper,workdir=/run/work,userxattr,xino=off",
			"lowerdir=/run/other/lower,upperdir=/run/upper,workdir=/run/work,userxattr,xino=on",
		} {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				for _, dir := range []string{"lower", "upper", "work", "other/lower", "merged"} {
					must(t, os.RemoveAll("/run/"+dir))
					must(t, os.Mkdir("/run/"+dir, 0o755))
				}
				must(t, os.WriteFile("/run/lower/lock", nil, 0o644))
				must(t, os.WriteFile("/run/other/lower/lock", nil, 0o644))
				must(t, linux.Mount("test", "/run/merged", "overlay", 0, options))
				defer linux.Unmount("/run/merged", 0)
				must(t, os.WriteFile("/run/merged/new", nil, 0o644))
				for _, path := range []string{"/run/merged/lock", "/run/merged/new"} {
					holder := perl(t, "flock,"+path+",2", "say")
					waiter := perl(t, "say", "flock,"+path+",1")
					waiter.on(t)
					scanUntil(t, "/run/merged", func(tab *Table) bool { return tab.waiting() == 1 })
					// All locks are in /proc/locks here: the scan as in the machine's own
					// namespace, where it picks the descriptors by number and device.
					for _, o := range []Options{{}, {whole: true}} {
						p, err := process.Open()
						must(t, err)
						tab, err := Scan(t.Context(), p, o)
						p.Close()
						must(t, err)
						h := tab.lockOn(t, path)
						if !slices.Equal(holderPIDs(h), []int{holder.pid()}) || len(h.Waiters) != 1 || h.Waiters[0].PID != waiter.pid() || h.Waiters[0].TID == 0 || h.Where != "" {
							t.Errorf("%+v", h)
						}
					}
					for _, a := range []*agent{waiter, holder} {
						killGroup(a.pid())
						a.Wait()
					}
				}
			})
		}
	})
}

// A lock that is held outside of our PID namespace is in no list. That a thread
// waits for it shows it.
func TestScanHeldOutside(t *testing.T) {
	f, err := os.Open("doc.go") // seen inside, too
	must(t, err)
	defer f.Close()
	if !nstest.Inside() {
		must(t, linux.Flock(int(f.Fd()), linux.LOCK_EX|linux.LOCK_NB))
	}
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		here, err := os.Getwd()
		must(t, err)
		path := filepath.Join(here, "doc.go")
		cmd := exec.Command("/bin/sh", "-c", `exec 9<"$1"; echo ready; exec flock 9`, "sh", path)
		waiter := start(t, cmd)
		h := scanUntil(t, here, func(tab *Table) bool { return tab.waiting() == 1 }).lockOn(t, path)
		if len(h.Holders) != 0 || h.Where != Outside || h.Waiters[0].PID != waiter.pid() || h.Kind != Flock {
			t.Errorf("%+v", h)
		}
		// Inside, too, the taker may be dead: then its lock is in fdinfo alone.
		dir, files := files(t, "a")
		child := shell(t, `exec 9>"$1"; flock 9; echo ready; read x`, files[0])
		later := perl(t, "say", "flock,"+files[0]+",2")
		later.on(t)
		h = scanUntil(t, dir, func(tab *Table) bool { return tab.waiting() == 1 }).lockOn(t, files[0])
		if !slices.Equal(holderPIDs(h), []int{child.Process.Pid}) || h.Where != "" || h.Waiters[0].PID != later.pid() {
			t.Errorf("%+v", h)
		}
	})
}

// A file of another mount namespace is told to be of one, and has its holder.
func TestScanForeignMount(t *testing.T) {
	testenv.Need(t, testenv.Tool("unshare"), testenv.Tool("perl"))
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.Mkdir("/run/hidden", 0o755))
		cmd := exec.Command("unshare", "-m", "sh", "-c", `mount -t tmpfs none /run/hidden && exec 9>/run/hidden/lock && flock 9 && echo ready && exec sleep 1000`)
		a := start(t, cmd)
		h := scanned(t, "/run/hidden").lockOn(t, "/run/hidden/lock")
		if !h.Foreign || !slices.Equal(holderPIDs(h), []int{a.pid()}) {
			t.Errorf("%+v", h)
		}
	})
}

// Locks that come and go all the time tear /proc/locks, which is read in pieces:
// those that stay are seen each time, once.
func TestTornTable(t *testing.T) {
	dir, f := files(t, "quiet", "waited", "noise")
	perl(t, "flock,"+f[0]+",2", "ofd,"+f[1]+",1,0,0", "say")
	waiter := perl(t, "say", "ofd,"+f[1]+",1,0,0")
	waiter.on(t)
	scanUntil(t, dir, func(tab *Table) bool { return tab.waiting() == 1 })
	// 200 locks are several reads; they are released and taken without an end.
	start(t, exec.Command("perl", "-e", `
		$| = 1; my @f;
		for (1 .. 200) { open($f[$_], "<", $ARGV[0]) or die; flock($f[$_], 1) }
		print "ready\n";
		while (1) { for my $how (8, 1) { flock($_, $how) for @f[1 .. 200] } }`, f[2]))
	quiet, waited := openFile(t, f[0]), openFile(t, f[1])
	right := 0
	for range 10 {
		q, w := report(t, quiet), report(t, waited)
		// What could not be read whole is told, and then not what counts.
		said := strings.Join(append(q.Incomplete, w.Incomplete...), "\n")
		if strings.Contains(said, "come and go") {
			continue
		}
		right++
		if len(q.Holders) != 1 || len(q.Unseen) != 0 || len(w.Holders) != 1 || len(w.Unseen) != 0 || len(w.Waiters) != 1 {
			t.Fatalf("%+v\n%+v", q, w)
		}
	}
	if right == 0 {
		t.Error("the table was torn each time")
	}
}

// Those who go on all the time are in no deadlock, however it looks while they are
// looked at one after the other.
func TestBusyIsNoDeadlock(t *testing.T) {
	dir, f := files(t, "a", "b", "held")
	for range 3 {
		start(t, exec.Command("perl", "-e", `
			$| = 1; print "ready\n";
			while (1) { for (0, 1) { open($f[$_], "<", $ARGV[$_]) or die; flock($f[$_], 2) } close($f[1]); close($f[0]) }`, f[0], f[1]))
	}
	perl(t, "flock,"+f[2]+",2", "say")
	waiter := perl(t, "say", "flock,"+f[2]+",2")
	waiter.on(t)
	for range 20 {
		tab := scanUntil(t, dir, func(tab *Table) bool { return tab.waiting() > 0 })
		got, err := tab.Deadlocks(t.Context())
		must(t, err)
		got = slices.DeleteFunc(got, func(d Deadlock) bool { return !strings.HasPrefix(d.Waits[0].Path, dir) })
		if len(got) != 0 {
			t.Fatalf("%+v", got)
		}
	}
}

// An ordinary user does not see what root's processes have open: that is told in a
// few lines, whatever their number, and who took the locks is told by name.
func TestScanNotOurDescriptors(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		_, f := files(t, "flock", "ofd")
		root := perl(t, "flock,"+f[0]+",2", "ofd,"+f[1]+",1,0,0", "fork", "fork", "fork", "fork", "say")
		for range 15 {
			root.ready(t)
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "SLASHRUN_TEST_ROLE=scan")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		text, err := cmd.Output()
		must(t, err)
		var tab Table
		must(t, json.Unmarshal(text, &tab))
		if n := len(tab.Incomplete); n == 0 || n > 4 || !strings.Contains(strings.Join(tab.Incomplete, "\n"), "processes cannot be seen") {
			t.Errorf("%q", tab.Incomplete)
		}
		// An OFD lock has no process, so that those of the machine are there, too.
		tab.Locks = slices.DeleteFunc(tab.Locks, func(h Held) bool { return h.Mount != "/tmp" })
		for _, h := range tab.Locks {
			switch h.Kind {
			case Flock:
				if len(h.Holders) != 1 || h.Holders[0].PID != root.pid() || h.Holders[0].FD != -1 {
					t.Errorf("%+v", h)
				}
			case OFD:
				if len(h.Holders) != 0 || h.Where == "" {
					t.Errorf("%+v", h)
				}
			}
		}
		if len(tab.Locks) != 2 {
			t.Errorf("%+v", tab.Locks)
		}
	})
}

// scanRole prints what Scan gives.
func scanRole() {
	p, err := process.Open()
	if err == nil {
		var tab *Table
		if tab, err = Scan(context.Background(), p, Options{}); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(tab)
		}
	}
	if err != nil {
		panic(err)
	}
	os.Exit(0)
}
