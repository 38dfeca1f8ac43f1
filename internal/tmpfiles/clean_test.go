package tmpfiles

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
)

var longAgo = time.Date(2020, 1, 1, 0, 0, 0, 123456789, time.UTC)

// grow makes a tree: "a/" is a directory, "a" a file, "a|" a FIFO, "a->b" a
// link, "a=" a socket that nobody has bound any more. A name that ends in "!" is
// young; everything else was last used long ago.
func grow(t testing.TB, root string, names ...string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var old []string
	for _, name := range names {
		name, young := strings.CutSuffix(name, "!")
		link, target, isLink := strings.Cut(name, "->")
		p := filepath.Join(root, strings.TrimRight(link, "/|="))
		check(os.MkdirAll(filepath.Dir(p), 0o755))
		switch {
		case isLink:
			check(os.Symlink(target, p))
		case strings.HasSuffix(name, "/"):
			check(os.MkdirAll(p, 0o755))
		case strings.HasSuffix(name, "|"):
			check(syscall.Mkfifo(p, 0o600))
		case strings.HasSuffix(name, "="):
			bind(t, p, syscall.SOCK_STREAM)()
		default:
			check(os.WriteFile(p, nil, 0o644))
		}
		if !young {
			old = append(old, p)
		}
	}
	slices.Sort(old)
	for _, p := range slices.Backward(old) {
		age(t, p)
	}
	for _, name := range names { // and the directories that came with them
		for p := filepath.Dir(filepath.Join(root, name)); strings.HasPrefix(p, root+"/"); p = filepath.Dir(p) {
			if !slices.Contains(names, strings.TrimPrefix(p, root+"/")+"/!") {
				age(t, p)
			}
		}
	}
}

// age gives a node old access and modification times. The change time and the
// time of birth cannot be given, so the lines of these tests judge by the others.
func age(t testing.TB, p string) {
	t.Helper()
	ns := longAgo.UnixNano()
	if err := linux.Utimensat(linux.AT_FDCWD, p, ns, ns); err != nil {
		t.Fatal(err)
	}
}

// bind binds a socket and returns what closes it, which leaves its name.
func bind(t testing.TB, p string, typ int) (shut func()) {
	t.Helper()
	// A directory for temporary files can be deeper than an address may be long
	// (108 bytes, unix(7)).
	dir, err := os.Open(filepath.Dir(p))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	fd, err := syscall.Socket(syscall.AF_UNIX, typ|syscall.SOCK_CLOEXEC, 0)
	if err == nil {
		err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(p))})
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() { syscall.Close(fd) }
}

// names lists everything below root.
func names(t testing.TB, root string) (out []string) {
	t.Helper()
	var list func(dir string)
	list = func(dir string) {
		f, err := os.OpenFile(filepath.Join(root, dir), os.O_RDONLY|linux.O_NOATIME, 0) // looking is no use
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		entries, err := f.ReadDir(-1)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() {
				out = append(out, dir+e.Name()+"/")
				list(dir + e.Name() + "/")
			} else {
				out = append(out, dir+e.Name())
			}
		}
	}
	list("")
	slices.Sort(out)
	return out
}

// TestCleaning tells what stays, of trees in which everything is old that does
// not end in "!". The expectations were measured on systemd-tmpfiles 262.
func TestCleaning(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ops   Op
		tree  string
		lines string
		want  string
		fails bool
	}{
		{"files, directories, links and dead sockets go", Clean,
			"d/ d/a d/e/ d/s/f d/l->a d/p| d/x=", "d /d - - - amAM:1d", "d/", false},
		{"what was used stays, and what it lies in", Clean,
			"d/ d/a! d/s/f! d/s/g d/e/!", "d /d - - - amAM:1d", "d/ d/a d/e/ d/s/ d/s/f", false},
		{"a directory itself is judged by its own times", Clean,
			"d/ d/s/! d/s/f", "d /d - - - amAM:1d", "d/ d/s/", false},
		{"the time of birth counts too", Clean, "d/ d/a", "d /d - - - 1d", "d/ d/a", false},
		{"age 0 is everything", Clean, "d/ d/a! d/s/f!", "d /d - - - 0", "d/", false},
		{"no age is nothing", Clean, "d/ d/a", "d /d", "d/ d/a", false},
		{"infinity is nothing", Clean, "d/ d/a", "d /d - - - infinity", "d/ d/a", false},
		{"before 1970 is nothing", Clean, "d/ d/a", "d /d - - - 100y", "d/ d/a", false},
		{"~ keeps the first level", Clean, "d/ d/a d/s/f d/s/t/ d/e/", "d /d - - - ~amAM:1d", "d/ d/a d/e/ d/s/", false},
		{"a file and nothing are no directories", Clean, "a", "d /a - - - 0\nd /b - - - 0", "a", false},
		{"links are not followed", Clean, "d/ d/a l->d", "d /l - - - 0\ne /l* - - - 0", "d/ d/a l", false},
		{"links above are", Clean, "d/ d/s/ l->d", "d /l/s - - - 0", "d/ d/s/ l", false},
		{"e by pattern", Clean, "d1/a d2/a f", "e /d[1] - - - 0", "d1/ d2/ d2/a f", false},
		{"C", Clean, "d/a", "C /d - - - 0 /d", "d/", false},

		{"x protects all of it", Clean, "d/ d/x/f d/y/f", "d /d - - - 0\nx /d/x", "d/ d/x/ d/x/f", false},
		{"X protects the directory alone", Clean, "d/ d/x/f d/y/f", "d /d - - - 0\nX /d/x", "d/ d/x/", false},
		{"X takes over which times count", Clean, "d/ d/x/f", "d /d - - - am:1d\nX /d/x - - - b:2d", "d/ d/x/", false},
		{"x with an age of its own", Clean, "d/ d/x/f d/x/g!", "d /d - - - 0\nx /d/[x] - - - amAM:1d", "d/ d/x/ d/x/g", false},
		{"exclusion knows no braces", Clean, "d/ d/x/f", "d /d - - - 0\nx /d/{x,y}", "d/", false},
		{"* does not match a dot", Clean, "d/ d/.x d/x", "d /d - - - 0\nx /d/*", "d/ d/x", false},
		{"whatever has a line stays", Clean, "d/ d/a d/b d/c d/e/f d/g", "d /d - - - 0\nf /d/a\nz /d/b\nr /d/c\nd /d/e - - - 0", "d/ d/a d/b d/c d/e/", false},
		{"a line below", Clean, "d/ d/s/a d/s/b", "d /d - - - 0\nL /d/s/a - - - - x", "d/ d/s/ d/s/a", false},

		{"D empties", Remove, "d/! d/a! d/s/f!", "D /d", "d/", false},
		{"D of a link or a file", Remove, "d/a f l->d", "D /l\nD /f\nD /n", "d/ d/a f l", false},
		{"D of what has an own line", Remove, "d/a d/s/b", "D /d\nD /d/s", "d/ d/s/", false},
		{"R takes all", Remove, "d/a! d/s/f! f! l->d p| k=", "R /*", "", false},
		{"R leaves what is excluded, and the way there", Remove, "d/a d/s/f", "R /d\nx /d/s", "d/ d/s/ d/s/f", false},
		{"R of a path with a line of its own", Remove, "d/a d/b", "R /d\nf /d/a", "d/ d/a", false},
		{"r takes single nodes", Remove, "a! e/! l->a p| k=", "r /*", "", false},
		{"r of a directory with content fails", Remove, "d/a", "r /d", "d/ d/a", true},
		{"r of nothing", Remove, "", "r /d\nr /a/b/*\nR /c", "", false},
		{"remove is not clean", Remove, "d/a", "d /d - - - 0\ne /d - - - 0", "d/ d/a", false},

		{"r by age", Clean, "a b! e/ d/a", "r /* - - - amAM:1d", "b d/ d/a", false},
		{"r without an age", Clean, "a", "r /a", "a", false},
		{"R by age", Clean, "a b! d/a c/a! c/! d/s/b", "R /* - - - amAM:1d", "b c/ c/a", false},
		{"R by age keeps a young directory and cleans it", Clean, "c/! c/a", "R /c - - - amAM:1d", "c/", false},
		{"R ~ keeps the directory, but not a file", Clean, "a d/a d/s/b", "R /* - - - ~amAM:1d", "d/ d/a d/s/", false},

		{"purge", Purge, "d/a d/x/f d/y/f f l->d k", "d$ /d\nf$ /f\nL$ /l - - - - d\nf /k\nx /d/x", "d/ d/x/ d/x/f k", false},
		{"purge by pattern", Purge, "d1/a d2/a w1 w2", "e$ /d[1] - - - 0\nw$ /w* - - - - x", "d2/ d2/a", false},
		{"purge of a line of another type", Purge, "d/a", "f$ /d", "", false},
		{"purge of a parent comes last", Purge, "d/s/a", "d$ /d\nd$ /d/s", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, dry := range []bool{true, false} {
				root := t.TempDir()
				grow(t, root, strings.Fields(tt.tree)...)
				before := names(t, root)
				rec, res := apply(t, root, tt.ops, dry, strings.Split(tt.lines, "\n")...)
				after := names(t, root)
				if (res.First != nil) != tt.fails {
					t.Errorf("dry %t: failed with %v", dry, res.First)
				}
				var removed []string
				for _, n := range before {
					if !slices.Contains(strings.Fields(tt.want), n) {
						removed = append(removed, "\"/"+strings.TrimSuffix(n, "/")+"\"")
					}
				}
				var told []string
				for _, c := range rec.changes {
					_, path, _ := strings.Cut(c, " ")
					told = append(told, path)
				}
				slices.Sort(removed)
				slices.Sort(told)
				if diff := cmp.Diff(removed, told); diff != "" {
					t.Errorf("dry %t: -to be removed +told:\n%s", dry, diff)
				}
				want := strings.Fields(tt.want)
				if dry {
					want = before
				}
				if !slices.Equal(want, after) {
					t.Errorf("dry %t: left is %q, want %q; %q", dry, after, want, rec.problems)
				}
			}
		})
	}
}

// everything old, whichever way it is asked for
const cleanAll = "d /d - - - amAM:1d"

func TestWhatIsInUseStays(t *testing.T) {
	root := t.TempDir()
	t.Chdir(root) // socket names are short
	grow(t, root, "d/dead=", "d/lock", "d/locked/f", "d/shared/g", "d/shared/s/h", "d/sticky", "d/fifo|", "d/free", "d/lease")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	defer bind(t, "d/stream", syscall.SOCK_STREAM)() // bound, and nobody listens yet
	defer bind(t, "d/datagram", syscall.SOCK_DGRAM)()
	l, err := net.Listen("unix", "d/listening")
	must(err)
	defer l.Close()
	must(os.Rename("d/listening", "d/renamed"))
	must(os.Chmod("d/sticky", 0o644|os.ModeSticky))
	for name, how := range map[string]int{"d/lock": syscall.LOCK_EX, "d/locked": syscall.LOCK_SH, "d/shared/s": syscall.LOCK_EX} {
		f, err := os.Open(name)
		must(err)
		defer f.Close()
		must(syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB))
	}
	lease, err := os.OpenFile("d/lease", os.O_WRONLY, 0)
	must(err)
	defer lease.Close()
	const setLease = 1024 // F_SETLEASE of fcntl.h
	_, _, e := syscall.Syscall(syscall.SYS_FCNTL, lease.Fd(), setLease, syscall.F_WRLCK)
	if e != 0 && e != syscall.EINVAL && e != syscall.EAGAIN { // some file systems have no leases
		t.Fatal(e)
	}
	leased := e == 0
	for _, n := range []string{"stream", "datagram", "renamed"} {
		age(t, "d/"+n)
	}
	for _, n := range []string{"d/locked", "d/shared/s", "d/shared", "d"} {
		age(t, n)
	}
	want := []string{"d/", "d/datagram", "d/lock", "d/locked/", "d/locked/f", "d/renamed", "d/shared/",
		"d/shared/s/", "d/shared/s/h", "d/sticky", "d/stream"}
	if leased {
		want = append(want, "d/lease")
		slices.Sort(want)
	}
	for _, dry := range []bool{true, false} {
		rec, res := apply(t, root, Clean, dry, cleanAll)
		if res.First != nil {
			t.Error(res.First)
		}
		told := len(names(t, root)) - len(want)
		if dry && leased {
			told = 5 // only opening it finds a lease
		}
		if dry && len(rec.changes) != told {
			t.Errorf("told are %q, want %d", rec.changes, told)
		}
	}
	if got := names(t, root); !slices.Equal(got, want) {
		t.Errorf("left is\n%q, want\n%q", got, want)
	}
	// --remove walks the same way, but what it names itself goes unasked.
	apply(t, root, Remove, false, "R /d/*")
	if got := names(t, root); !slices.Equal(got, []string{"d/", "d/locked/", "d/shared/", "d/shared/s/", "d/shared/s/h"}[:1]) &&
		!slices.Equal(got, []string{"d/", "d/shared/", "d/shared/s/", "d/shared/s/h"}) {
		t.Errorf("left by R is %q", got)
	}
}

func TestTimesOfDirectoriesAreRestored(t *testing.T) {
	root := t.TempDir()
	grow(t, root, "d/a", "d/s/f", "d/s/k!", "d/s/t/u/f", "d/n/f!")
	apply(t, root, Clean, false, cleanAll)
	if got, want := names(t, root), []string{"d/", "d/n/", "d/n/f", "d/s/", "d/s/k"}; !slices.Equal(got, want) {
		t.Fatalf("left is %q, want %q", got, want)
	}
	for _, n := range []string{"d", "d/s", "d/n"} {
		var st fsat.Stat
		if err := fsat.StatAt(linux.AT_FDCWD, filepath.Join(root, n), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mtime != longAgo.UnixNano() {
			t.Errorf("%s was modified at %v", n, time.Unix(0, st.Mtime))
		}
	}
	// What --remove empties is not as before.
	apply(t, root, Remove, false, "D /d")
	if st, err := os.Stat(filepath.Join(root, "d")); err != nil || st.ModTime().Equal(longAgo) {
		t.Errorf("after D: %v, %v", st.ModTime(), err)
	}
}

// One line may change what another one judges. A dry run has to know that.
func TestDryRunTellsWhatARemovalDoes(t *testing.T) {
	rounds := 400
	if testing.Short() {
		rounds = 60
	}
	for seed := range rounds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 11))
		var lines []string
		for range 1 + rnd.IntN(6) {
			typ := pick(rnd, "d", "d$", "D", "e", "e$", "x", "X", "r", "R", "r", "R", "f$", "C")
			path := pick(rnd, "/a", "/a/b", "/a/b/c", "/a/f", "/e", "/l")
			if Type(typ[0]).Glob() {
				path = pick(rnd, path, "/a/*", "/*", "/a/{b,f}", "/*/*")
			}
			age := pick(rnd, "-", "0", "amAM:1d", "~amAM:1d", "AM:1d")
			if typ[0] == 'f' || typ == "r" && age[0] == '~' {
				age = "-"
			}
			lines = append(lines, typ+" "+path+" - - - "+age)
		}
		ops := []Op{Clean, Remove, Purge, Clean | Remove, Clean | Remove | Purge | Create, Create | Remove}[rnd.IntN(6)]
		var nodes []string
		for _, n := range []string{"a/", "a/b/", "a/b/c/", "a/b/c/g", "a/b/h", "a/f", "a/k/", "a/k/m|", "e/", "e/y/z", "l->a"} {
			switch rnd.IntN(5) {
			case 0:
				nodes = append(nodes, n+"!")
			case 1, 2, 3:
				nodes = append(nodes, n)
			}
		}
		root := t.TempDir()
		grow(t, root, nodes...)
		was := names(t, root)
		dry, dryRes := apply(t, root, ops, true, lines...)
		if diff := cmp.Diff(was, names(t, root)); diff != "" {
			t.Fatalf("seed %d: the dry run changed something:\n%s", seed, diff)
		}
		real, realRes := apply(t, root, ops, false, lines...)
		slices.Sort(dry.changes)
		slices.Sort(real.changes)
		if diff := cmp.Diff(dry.changes, real.changes); diff != "" {
			t.Fatalf("seed %d, %03b (-told +done):\n%s\n%s\n%s\nproblems: %q and %q", seed, ops, strings.Join(lines, "\n"), nodes, diff, dry.problems, real.problems)
		}
		if (dryRes.First == nil) != (realRes.First == nil) {
			t.Fatalf("seed %d: the dry run failed with %v, the run with %v\n%s\n%s", seed, dryRes.First, realRes.First, strings.Join(lines, "\n"), nodes)
		}
	}
}

// The number of workers is not to be seen in the result.
func TestWorkersAgree(t *testing.T) {
	build := func(root string, rnd *rand.Rand) {
		var nodes []string
		for i := range 40 {
			dir := fmt.Sprintf("d/%c%d", 'a'+rnd.IntN(4), i)
			for range rnd.IntN(4) {
				dir += fmt.Sprintf("/s%d", rnd.IntN(3))
			}
			for k := range rnd.IntN(90) {
				young := pick(rnd, "", "", "", "!")
				nodes = append(nodes, fmt.Sprintf("%s/f%d%s", dir, k, young))
			}
		}
		for k := range 3000 {
			nodes = append(nodes, fmt.Sprintf("d/flat/%d%s", k, pick(rnd, "", "!")))
		}
		grow(t, root, nodes...)
	}
	var first, firstTold []string
	for i, workers := range []int{1, 2, 7} {
		root := t.TempDir()
		build(root, rand.New(rand.NewPCG(3, 3)))
		rec, res, err := applyOpt(t, t.Context(), root, Options{Ops: Clean, Workers: workers}, cleanAll, "x /d/a*/s1", "x /d/flat/*7")
		if err != nil || res.First != nil {
			t.Fatal(err, res.First)
		}
		slices.Sort(rec.changes)
		if left := names(t, root); i == 0 {
			first, firstTold = left, rec.changes
		} else if diff := cmp.Diff(first, left) + cmp.Diff(firstTold, rec.changes); diff != "" {
			t.Errorf("%d workers:\n%s", workers, diff)
		}
	}
	if len(first) < 1000 || len(firstTold) < 1000 {
		t.Errorf("only %d left and %d removed: the test is too small", len(first), len(firstTold))
	}
}

// hook calls a function at every change.
type hook struct {
	recorder
	change func(Change)
}

func (h *hook) Change(c Change) {
	h.recorder.Change(c)
	h.change(c)
}

func TestCancelledCleanUpStopsAndLeavesNoTrace(t *testing.T) {
	root := t.TempDir()
	var nodes []string
	for i := range 3000 {
		nodes = append(nodes, fmt.Sprintf("d/%d/%d", i%30, i))
	}
	grow(t, root, nodes...)
	ctx, cancel := context.WithCancel(t.Context())
	rec := &hook{}
	rec.change = func(Change) {
		if len(rec.changes) == 50 {
			cancel()
		}
	}
	_, _, err := applyOpt(t, ctx, root, Options{Ops: Clean, Report: rec}, cleanAll)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled run returned %v", err)
	}
	left, dirs := 0, 0
	for _, n := range names(t, root) {
		if !strings.HasSuffix(n, "/") {
			left++
			continue
		}
		dirs++
		if st, err := os.Stat(filepath.Join(root, n)); err != nil || !st.ModTime().Equal(longAgo) {
			t.Errorf("%s was modified at %v", n, st.ModTime())
		}
	}
	if left < 2900 || dirs < 28 {
		t.Errorf("%d files and %d directories are left: it did not stop", left, dirs)
	}
}

// A tree may be deeper than the process may hold descriptors.
func TestDeepTree(t *testing.T) {
	depth := 5000
	if !testing.Short() {
		depth = 100_000
	}
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		root := t.TempDir()
		dig(t, root, depth, 0)
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 300, Max: limit.Max}); err != nil {
			t.Fatal(err)
		}
		for _, dry := range []bool{true, false} {
			rec, res, err := applyOpt(t, t.Context(), root, Options{Ops: Remove, DryRun: dry}, "R /d")
			if err != nil || res.First != nil || len(rec.changes) != 2*depth {
				t.Fatalf("dry %t: %d changes, %v, %v", dry, len(rec.changes), err, res.First)
			}
		}
		if left := names(t, root); len(left) > 0 {
			t.Errorf("left are %d, like %q", len(left), left[0])
		}
	})
}

// dig makes a chain of directories, with a file in each, and returns the one at
// level held.
func dig(t *testing.T, root string, depth, held int) (inner *fsat.Dir) {
	t.Helper()
	d, err := fsat.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	attr := fsat.Attr{UID: fsat.KeepID, GID: fsat.KeepID, Mode: 0o755}
	for i := range depth {
		name := "d"
		if err := d.Mkdir(name, attr); err != nil {
			t.Fatal(err)
		}
		sub, err := d.OpenDir(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := sub.WriteFile("f", nil, attr); err != nil {
			t.Fatal(err)
		}
		if i == held {
			inner = d
		} else {
			d.Close()
		}
		d = sub
	}
	d.Close()
	return inner
}

// What is above a directory that is moved away during the walk is not what it
// was before: nothing may be removed from wherever it went to.
func TestMovedTreeIsNotFollowedUp(t *testing.T) {
	root := t.TempDir()
	inner := dig(t, root, 1200, 600)
	defer inner.Close()
	grow(t, root, "victim/f")
	moved := false
	rec := &hook{}
	rec.change = func(c Change) {
		if moved || c.Action != ActRmdir {
			return
		}
		moved = true
		dst, err := fsat.OpenDir(filepath.Join(root, "victim"))
		if err == nil {
			err = linux.Renameat2(inner.Fd(), "d", dst.Fd(), "d", 0)
			dst.Close()
		}
		if err != nil {
			t.Error(err)
		}
	}
	// The deepest directory is the first to go, when the upper ones are closed.
	_, res, err := applyOpt(t, t.Context(), root, Options{Ops: Remove, Report: rec, Workers: 2}, "R /d")
	if err != nil {
		t.Fatal(err)
	}
	if !moved || res.First == nil || !errors.Is(res.First, errMoved) {
		t.Errorf("moved %t, failed with %v", moved, res.First)
	}
	if _, err := os.Stat(filepath.Join(root, "victim/f")); err != nil {
		t.Error(err)
	}
}

func TestProgress(t *testing.T) {
	root := t.TempDir()
	grow(t, root, "d/a", "d/b!", "d/s/c")
	var last Stats
	_, _, err := applyOpt(t, t.Context(), root, Options{Ops: Clean, Progress: func(s Stats) { last = s }}, cleanAll)
	if err != nil || last != (Stats{Seen: 4, Removed: 3}) {
		t.Errorf("progress ended at %+v, %v", last, err)
	}
}
