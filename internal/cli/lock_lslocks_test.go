package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// lockAgent does a step for each argument and sleeps then: "say" prints "ready" and
// waits for a byte, "fork" has a child do the rest, too, "flock,FILE,N" and
// "ofd|posix,FILE,TYPE,START,LENGTH" open the file and lock it.
const lockAgent = `
$| = 1; my @keep;
while (defined(my $s = shift @ARGV)) {
  my ($op, $file, $n, $start, $len) = split /,/, $s;
  if ($op eq "say") { print "ready\n"; sysread(STDIN, my $x, 1); next }
  if ($op eq "fork") { fork; next }
  open(my $f, "+<", $file) or die "$file: $!";
  push @keep, $f;
  if ($op eq "flock") { flock($f, $n) or die "flock: $!"; next }
  fcntl($f, $op eq "ofd" ? 38 : 7, pack("s s x4 q q i x4", $n, 0, $start, $len, 0)) or die "fcntl: $!";
}
sleep;
`

// locker is a process that holds locks or waits for them; in is its input.
type locker struct {
	pid int
	in  io.Writer
	out *bufio.Reader
}

func lockers(t *testing.T, name string, args ...string) *locker {
	t.Helper()
	cmd := exec.Command(name, args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); cmd.Wait() })
	l := &locker{cmd.Process.Pid, in, bufio.NewReader(out)}
	l.ready(t)
	return l
}

func (l *locker) ready(t *testing.T) {
	t.Helper()
	if line, err := l.out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the child said %q, %v", line, err)
	}
}

func perlLocker(t *testing.T, steps ...string) *locker {
	t.Helper()
	testenv.Need(t, testenv.Tool("perl"))
	return lockers(t, "perl", append([]string{"-e", lockAgent}, steps...)...)
}

// waiterFor waits for a lock.
func waiterFor(t *testing.T, step string) *locker {
	t.Helper()
	l := perlLocker(t, "say", step)
	io.WriteString(l.in, "x")
	return l
}

// lockRow is a lock that is held, or one that waits (a star in the mode).
type lockRow struct {
	Kind, Mode string
	Start, End int64 // 0 for the end of the file
	Path       string
	Who        string // "PID:FD" of the holders, or the PID of who waits
}

func sortRows(rows []lockRow) []lockRow {
	slices.SortFunc(rows, func(a, b lockRow) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return rows
}

// runList runs "lock list" with the arguments.
func runList(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	env, out, errs := testEnv(append([]string{"slashrun", "lock", "list"}, args...)...)
	code = Run(context.Background(), env)
	return code, out.String(), errs.String()
}

// ourRows is what "lock list --json DIR" says.
func ourRows(t *testing.T, dir string) []lockRow {
	t.Helper()
	code, text, errs := runList(t, "--json", dir)
	var said struct{ Locks []lockJSON }
	if err := json.Unmarshal([]byte(text), &said); err != nil || code != ExitOK {
		t.Fatalf("%d, %v: %s%s", code, err, text, errs)
	}
	rows := []lockRow{}
	for _, l := range said.Locks {
		row := lockRow{Kind: l.Kind, Mode: map[string]string{"exclusive": "WRITE", "shared": "READ", "": "?"}[l.Mode], Start: l.Start, Path: l.Path}
		if l.End != nil {
			row.End = *l.End
		}
		for _, h := range l.Holder {
			for _, fd := range h.FDs {
				row.Who += fmt.Sprintf("%d:%d ", h.PID, fd)
			}
		}
		row.Who += l.Where
		rows = append(rows, row)
		for _, w := range l.Waiter {
			row := lockRow{Kind: l.Kind, Mode: map[string]string{"exclusive": "WRITE*", "shared": "READ*"}[w.Mode], Start: *w.Start, Path: l.Path, Who: fmt.Sprint(w.PID)}
			if w.End != nil {
				row.End = *w.End
			}
			rows = append(rows, row)
		}
	}
	return sortRows(rows)
}

// lslocksRows is what lslocks says of the files in dir.
func lslocksRows(t *testing.T, dir string) []lockRow {
	t.Helper()
	cmd := exec.Command(filepath.Join(testenv.DepsDir(), "util-linux", "run"), "lslocks", "--json", "--notruncate", "-o", "PID,TYPE,MODE,START,END,PATH,HOLDERS")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("lslocks: %v: %s", err, &errs)
	}
	var said struct {
		Locks []struct {
			PID        int
			Type, Mode string
			Start, End int64
			Path       string
			Holders    []string
		}
	}
	if err := json.Unmarshal(text, &said); err != nil && len(text) > 0 { // nothing at all where there are no locks
		t.Fatalf("lslocks: %v: %s", err, text)
	}
	rows := []lockRow{}
	for _, l := range said.Locks {
		if !strings.HasPrefix(l.Path, dir+"/") {
			continue
		}
		row := lockRow{Kind: l.Type, Mode: l.Mode, Start: l.Start, End: l.End, Path: l.Path, Who: fmt.Sprint(l.PID)}
		if !strings.HasSuffix(l.Mode, "*") {
			row.Who = ""
			for _, h := range l.Holders { // PID,COMMAND,FD
				f := strings.Split(h, ",")
				row.Who += f[0] + ":" + f[len(f)-1] + " "
			}
		}
		rows = append(rows, row)
	}
	return sortRows(rows)
}

// untilRows asks until there are so many rows: who waits may not wait yet.
func untilRows(t *testing.T, dir string, n int) []lockRow {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		rows := ourRows(t, dir)
		unknown := slices.ContainsFunc(rows, func(r lockRow) bool { return r.Who == "0" })
		if len(rows) == n && !unknown || ctx.Err() != nil {
			return rows
		}
		runtime.Gosched()
	}
}

func lockFiles(t *testing.T, dir string, names ...string) (paths []string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// Where lslocks is right we say the same.
func TestLockListBesideLslocks(t *testing.T) {
	testenv.Need(t, testenv.Dep("util-linux/run"), testenv.Tool("perl"), testenv.Tool("flock"))
	dir := t.TempDir()
	f := lockFiles(t, dir, "flock", "shared", "posix", "ofd", "inherited", "taker is dead")
	perlLocker(t, "flock,"+f[0]+",2", "flock,"+f[1]+",1", "posix,"+f[2]+",1,0,10", "posix,"+f[2]+",0,20,0", "ofd,"+f[3]+",1,5,5", "say")
	waiterFor(t, "flock,"+f[0]+",2")
	waiterFor(t, "flock,"+f[0]+",1")
	waiterFor(t, "posix,"+f[2]+",1,5,10")
	both := perlLocker(t, "flock,"+f[4]+",2", "fork", "say")
	both.ready(t)
	lockers(t, "/bin/sh", "-c", `exec 9>"$1"; flock 9; echo ready; read x`, "sh", f[5])
	ours := untilRows(t, dir, 10)
	if diff := cmp.Diff(lslocksRows(t, dir), ours); diff != "" || len(ours) != 10 {
		t.Errorf("%d rows; -lslocks +ours:\n%s", len(ours), diff)
	}
}

// wrong holds that we say what is true, and logs what lslocks says where that is
// something else.
func wrong(t *testing.T, dir string, want ...lockRow) {
	t.Helper()
	sortRows(want)
	if diff := cmp.Diff(want, untilRows(t, dir, len(want))); diff != "" {
		t.Errorf("-truth +ours:\n%s", diff)
	}
	if diff := cmp.Diff(want, lslocksRows(t, dir)); diff != "" {
		t.Logf("-truth +lslocks:\n%s", diff)
	} else {
		t.Log("lslocks is right, too")
	}
}

func TestLockListWhereLslocksIsWrong(t *testing.T) {
	testenv.Need(t, testenv.Dep("util-linux/run"), testenv.Tool("perl"), testenv.Tool("flock"))
	t.Run("taker died", func(t *testing.T) {
		dir := t.TempDir()
		f := lockFiles(t, dir, "a")
		sh := lockers(t, "/bin/sh", "-c", `exec 9>"$1"; flock 9; echo ready; read x`, "sh", f[0])
		wrong(t, dir, lockRow{Kind: "FLOCK", Mode: "WRITE", Path: f[0], Who: fmt.Sprintf("%d:9 ", sh.pid)})
	})
	t.Run("descriptor 0", func(t *testing.T) {
		dir := t.TempDir()
		f := lockFiles(t, dir, "a")
		sh := lockers(t, "/bin/sh", "-c", `exec <"$1"; flock 0; echo ready; exec sleep 1000`, "sh", f[0])
		wrong(t, dir, lockRow{Kind: "FLOCK", Mode: "WRITE", Path: f[0], Who: fmt.Sprintf("%d:0 ", sh.pid)})
	})
	t.Run("OFD waiter", func(t *testing.T) {
		dir := t.TempDir()
		f := lockFiles(t, dir, "a")
		holder := perlLocker(t, "ofd,"+f[0]+",1,0,0", "say")
		one, two := waiterFor(t, "ofd,"+f[0]+",1,0,9"), waiterFor(t, "ofd,"+f[0]+",1,0,9")
		wrong(t, dir, lockRow{Kind: "OFDLCK", Mode: "WRITE", Path: f[0], Who: fmt.Sprintf("%d:3 ", holder.pid)},
			lockRow{Kind: "OFDLCK", Mode: "WRITE*", End: 8, Path: f[0], Who: fmt.Sprint(one.pid)},
			lockRow{Kind: "OFDLCK", Mode: "WRITE*", End: 8, Path: f[0], Who: fmt.Sprint(two.pid)})
	})
	t.Run("two shared locks", func(t *testing.T) {
		dir := t.TempDir()
		f := lockFiles(t, dir, "a")
		one, two := perlLocker(t, "flock,"+f[0]+",1", "say"), perlLocker(t, "flock,"+f[0]+",1", "say")
		wrong(t, dir, lockRow{Kind: "FLOCK", Mode: "READ", Path: f[0], Who: fmt.Sprintf("%d:3 ", one.pid)},
			lockRow{Kind: "FLOCK", Mode: "READ", Path: f[0], Who: fmt.Sprintf("%d:3 ", two.pid)})
	})
	t.Run("equal OFD locks", func(t *testing.T) {
		dir := t.TempDir()
		f := lockFiles(t, dir, "a")
		one, two := perlLocker(t, "ofd,"+f[0]+",0,0,0", "say"), perlLocker(t, "ofd,"+f[0]+",0,0,0", "say")
		wrong(t, dir, lockRow{Kind: "OFDLCK", Mode: "READ", Path: f[0], Who: fmt.Sprintf("%d:3 ", one.pid)},
			lockRow{Kind: "OFDLCK", Mode: "READ", Path: f[0], Who: fmt.Sprintf("%d:3 ", two.pid)})
	})
	t.Run("in namespaces", func(t *testing.T) { wrongInNamespaces(t) })
}

func wrongInNamespaces(t *testing.T) {
	f, err := os.Open("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !nstest.Inside() {
		if err := linux.Flock(int(f.Fd()), linux.LOCK_EX|linux.LOCK_NB); err != nil {
			t.Fatal(err)
		}
	}
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		// Held outside of the PID namespace.
		here, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(here, "doc.go")
		sh := lockers(t, "/bin/sh", "-c", `exec 9<"$1"; echo ready; exec flock -s 9`, "sh", path)
		wrong(t, here, lockRow{Kind: "FLOCK", Mode: "?", Path: path, Who: "outside"},
			lockRow{Kind: "FLOCK", Mode: "READ*", Path: path, Who: fmt.Sprint(sh.pid)})
		if code, text, _ := runList(t, path); code != ExitOK || !strings.Contains(text, "(held outside this PID namespace)") {
			t.Errorf("%d\n%s", code, text)
		}
		// On overlayfs, whose layers are on two file systems.
		for _, dir := range []string{"lower", "other", "merged"} {
			if err := os.Mkdir("/run/"+dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := linux.Mount("test", "/run/other", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{"upper", "work"} {
			if err := os.Mkdir("/run/other/"+dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		lockFiles(t, "/run/lower", "old")
		if err := linux.Mount("test", "/run/merged", "overlay", 0, "lowerdir=/run/lower,upperdir=/run/other/upper,workdir=/run/other/work,userxattr,xino=off"); err != nil {
			t.Fatal(err)
		}
		lockFiles(t, "/run/merged", "new")
		holder := perlLocker(t, "flock,/run/merged/old,2", "flock,/run/merged/new,2", "say")
		one, two := waiterFor(t, "flock,/run/merged/old,2"), waiterFor(t, "flock,/run/merged/new,1")
		wrong(t, "/run/merged",
			lockRow{Kind: "FLOCK", Mode: "WRITE", Path: "/run/merged/old", Who: fmt.Sprintf("%d:3 ", holder.pid)},
			lockRow{Kind: "FLOCK", Mode: "WRITE*", Path: "/run/merged/old", Who: fmt.Sprint(one.pid)},
			lockRow{Kind: "FLOCK", Mode: "WRITE", Path: "/run/merged/new", Who: fmt.Sprintf("%d:4 ", holder.pid)},
			lockRow{Kind: "FLOCK", Mode: "READ*", Path: "/run/merged/new", Who: fmt.Sprint(two.pid)})
	})
}
