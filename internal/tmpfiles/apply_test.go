package tmpfiles

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/testenv"
)

// recorder keeps what a run reports.
type recorder struct {
	mu       sync.Mutex
	changes  []string
	problems []string
}

func (r *recorder) Change(c Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes = append(r.changes, c.String())
}

func (r *recorder) Problem(p *Problem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = append(r.problems, p.Error())
}
func (r *recorder) Debug(Source, string, string) {}
func (r *recorder) Verbose() bool                { return false }
func (r *recorder) Changes() bool                { return true }

// apply runs lines on a directory as the root.
func apply(t testing.TB, root string, ops Op, dryRun bool, lines ...string) (*recorder, Result) {
	t.Helper()
	rec, res, err := applyOpt(t, context.Background(), root, Options{Ops: ops, DryRun: dryRun}, lines...)
	if err != nil {
		t.Fatal(err)
	}
	return rec, res
}

// applyOpt is apply with options of its own.
func applyOpt(t testing.TB, ctx context.Context, root string, opt Options, lines ...string) (*recorder, Result, error) {
	t.Helper()
	defer linux.Umask(linux.Umask(0))
	env := testEnv()
	env.SourceExists = func(p string) bool { _, err := os.Lstat(root + p); return err == nil }
	c := NewConfig()
	if err := c.Read("t.conf", strings.NewReader(strings.Join(lines, "\n")), env); err != nil {
		t.Fatal(err)
	}
	if len(c.Invalid) > 0 {
		t.Fatalf("test lines are invalid: %v", c.Invalid)
	}
	d, err := fsat.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	rec := &recorder{}
	opt.Root, opt.HardlinksProtected = d, true
	if opt.Report == nil {
		opt.Report = rec
	}
	res, err := c.Apply(ctx, opt)
	return rec, res, err
}

// tree tells what is below root, a line a node.
func tree(t testing.TB, root string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %o %d:%d", strings.TrimPrefix(p, root), st.Mode, st.Uid, st.Gid)
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFLNK:
			target, _ := os.Readlink(p)
			line += " -> " + target
		case syscall.S_IFREG:
			data, _ := os.ReadFile(p)
			line += fmt.Sprintf(" %q", data)
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCreateEveryTypeAndAgain(t *testing.T) {
	root := t.TempDir()
	lines := []string{
		"d /run/d 0750", "f /run/f 0640 - - - hello", "L /run/l - - - - f", "p /run/p 0600",
		"f /run/deep/er/f", "C /run/copy - - - - /src", "w /run/f - - - - J",
		"e /run/d 0710", "z /run/dee[p] 0700", "D /run/D 1777",
	}
	if err := os.MkdirAll(root+"/src/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/src/sub/a", []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if rec, res := apply(t, root, Create, false, lines...); res.First != nil {
		t.Fatal(rec.problems)
	}
	u := fmt.Sprintf("%d:%d", os.Geteuid(), os.Getegid())
	want := strings.ReplaceAll(`/run 40755 U
/run/D 41777 U
/run/copy 40755 U
/run/copy/sub 40755 U
/run/copy/sub/a 100600 U "content"
/run/d 40710 U
/run/deep 40700 U
/run/deep/er 40755 U
/run/deep/er/f 100644 U ""
/run/f 100640 U "Jello"
/run/l 120777 U -> f
/run/p 10600 U
/src 40755 U
/src/sub 40755 U
/src/sub/a 100600 U "content"`, "U", u)
	if diff := cmp.Diff(strings.Split(want, "\n"), tree(t, root)); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
	// d says 0750 and e 0710 on one path, so these two go on for ever; nothing else changes.
	rec, _ := apply(t, root, Create, true, lines...)
	if diff := cmp.Diff([]string{
		`chmod "/run/d": 0710 -> 0750`, `chmod "/run/d": 0750 -> 0710`,
	}, rec.changes); diff != "" {
		t.Errorf("second run (-want +got):\n%s", diff)
	}
}

// TestDryRunTellsWhatARunDoes holds the dry run to its promise on random lines
// over a few paths, so that lines meet each other's results.
func TestDryRunTellsWhatARunDoes(t *testing.T) {
	rounds := 400
	if testing.Short() {
		rounds = 50
	}
	for seed := range rounds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 7))
		lines := randomLines(rnd)
		root := t.TempDir()
		randomTree(t, rnd, root)
		before := tree(t, root)
		dry, dryRes := apply(t, root, Create, true, lines...)
		if diff := cmp.Diff(before, tree(t, root)); diff != "" {
			t.Fatalf("seed %d: the dry run changed something:\n%s\n%s", seed, strings.Join(lines, "\n"), diff)
		}
		real, realRes := apply(t, root, Create, false, lines...)
		if strings.Contains(fmt.Sprint(real.problems), syscall.ENXIO.Error()) {
			continue // w to a FIFO: whether somebody reads it cannot be found out without opening it
		}
		if diff := cmp.Diff(dry.changes, real.changes); diff != "" {
			diff = diff[:min(len(diff), 4000)]
			t.Fatalf("seed %d (-told +done):\n%s\nbefore:\n%s\n%s\nproblems: %v", seed,
				strings.Join(lines, "\n"), strings.Join(before, "\n"), diff, real.problems)
		}
		if (dryRes.First == nil) != (realRes.First == nil) {
			t.Fatalf("seed %d: the dry run failed with %v, the run with %v\n%s", seed, dryRes.First, realRes.First, strings.Join(lines, "\n"))
		}
	}
}

var randomPaths = []string{"/a", "/a/b", "/a/b/c", "/a/f", "/l", "/l/x", "/e", "/e/*", "/*", "/a/{b,f}", "/s/t/u"}

func pick(rnd *rand.Rand, of ...string) string { return of[rnd.IntN(len(of))] }

func randomLines(rnd *rand.Rand) []string {
	var lines []string
	for range 1 + rnd.IntN(6) {
		path := randomPaths[rnd.IntN(len(randomPaths))]
		typ := pick(rnd, "d", "d", "f", "f", "f+", "L", "L+", "L?", "p", "p+", "w", "w+", "e", "z", "Z", "C", "C+", "d=", "f=", "L=", "p=")
		if Type(typ[0]).in(plainTypes) && strings.ContainsAny(path, "*{") {
			path = "/a/b"
		}
		mode := pick(rnd, "-", "0755", "0700", "~0711", ":0750", "2755")
		user := "-"
		if os.Geteuid() == 0 {
			user = pick(rnd, "-", "-", "alice", ":bob", "root")
		}
		arg := "-"
		switch typ[0] {
		case 'f', 'w':
			arg = pick(rnd, "one", "two and more", "x")
		case 'L':
			arg = pick(rnd, "/a", "a/b", "/nowhere", "/e")
		case 'C':
			arg = pick(rnd, "/e", "/s", "/a", "/missing")
		}
		lines = append(lines, fmt.Sprintf("%s %s %s %s - - %s", typ, path, mode, user, arg))
	}
	return lines
}

func randomTree(t *testing.T, rnd *rand.Rand, root string) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{"/a", "/a/b", "/a/f", "/l", "/e", "/e/y"} {
		if rnd.IntN(3) == 0 || p == "/a/b" && rnd.IntN(2) == 0 {
			continue
		}
		if _, err := os.Lstat(filepath.Dir(root + p)); err != nil {
			continue
		}
		if st, err := os.Lstat(filepath.Dir(root + p)); err != nil || !st.IsDir() {
			continue
		}
		switch rnd.IntN(6) {
		case 0, 1, 2:
			check(os.Mkdir(root+p, 0o755))
			if os.Geteuid() == 0 && rnd.IntN(4) == 0 {
				check(os.Lchown(root+p, 1000, 1000))
			}
		case 3:
			check(os.WriteFile(root+p, []byte("one"), 0o644))
		case 4:
			check(os.Symlink(pick(rnd, "/a", "e", "nowhere"), root+p))
		case 5:
			check(syscall.Mkfifo(root+p, 0o600))
		}
	}
}

func TestFifoIsNeverWaitedFor(t *testing.T) {
	root := t.TempDir()
	if err := syscall.Mkfifo(root+"/p", 0o600); err != nil {
		t.Fatal(err)
	}
	_, res := apply(t, root, Create, false, "w /p - - - - x", "f /p", "f+ /p - - - - y", "z /p 0644", "t /p - - - - user.a=b")
	if res.Failures == 0 {
		t.Error("writing to a FIFO without a reader succeeded")
	}
}

func TestUnsafeWayIsRefusedBeforeAnythingIsMade(t *testing.T) {
	testenv.Need(t, testenv.Root) // for a directory of another user
	root := t.TempDir()
	for _, p := range []string{"/u", "/u/own"} {
		if err := os.Mkdir(root+p, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Lchown(root+p, 1000, 1000); err != nil {
			t.Fatal(err)
		}
	}
	for p, target := range map[string]string{"/u/link": "/etc", "/u/rel": "../etc", "/u/in": "own"} {
		if err := os.Symlink(target, root+p); err != nil {
			t.Fatal(err)
		}
		if err := os.Lchown(root+p, 1000, 1000); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/etc/shadow", []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/shadow", root+"/u/shadow"); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(root+"/u/shadow", 1000, 1000); err != nil {
		t.Fatal(err)
	}
	before := tree(t, root)
	for _, line := range []string{
		"d /u/new/sub", "f /u/link/x", "f /u/rel/x", "d /u/link/y", "w /u/shadow - - - - owned",
		"z /u/link/shadow 0666", "e /u/link 0777", "e /u/rel 0777", "C /u/link/c - - - - /etc", "p /u/rel/p",
		"f= /u/link/shadow/x", "L+ /u/link/shadow - - - - /", "a /u/li*/shadow - - - - o::rwx", "Z /u/link 0777",
	} {
		rec, res := apply(t, root, Create, false, line)
		var unsafe bool
		for _, p := range rec.problems {
			unsafe = unsafe || strings.Contains(p, "unsafe path")
		}
		if line == "Z /u/link 0777" { // the link itself, which has no mode
			continue
		}
		if res.First == nil || !unsafe {
			t.Errorf("%q was not refused: %v", line, rec.problems)
		}
		if len(rec.changes) > 0 {
			t.Errorf("%q changed %v", line, rec.changes)
		}
		if diff := cmp.Diff(before, tree(t, root)); diff != "" {
			t.Fatalf("%q changed the tree:\n%s", line, diff)
		}
	}
	// The user's own link to the user's own directory is no danger.
	if rec, res := apply(t, root, Create, false, "f /u/in/x"); res.First != nil {
		t.Errorf("a safe link was refused: %v", rec.problems)
	}
}

func TestLinksResolveInsideTheRoot(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, root+"/abs"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../../../../.."+outside, root+"/up"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(outside+"/f", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	apply(t, root, Create, false, "f /abs/new", "d /up/new", "w /abs/f - - - - owned", "z /up/f 0666", "Z /abs 0777", "r /abs/f", "C /copy - - - - /abs/f")
	if got := tree(t, outside); len(got) != 1 || !strings.Contains(got[0], `100600`) || !strings.Contains(got[0], `"x"`) {
		t.Errorf("outside of the root: %v", got)
	}
}

func TestLoopOfLinksEnds(t *testing.T) {
	root := t.TempDir()
	for a, b := range map[string]string{"x": "y", "y": "x", "self": "self/self"} {
		if err := os.Symlink(a, root+"/"+b[:min(len(b), 4)]); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	for _, line := range []string{"f /x/f", "d /self/d", "e /x 0700", "w /y - - - - a"} {
		if _, res := apply(t, root, Create, false, line); res.First == nil {
			t.Errorf("%q: no error from a loop of links", line)
		}
	}
}

func TestTreeIsNotCopiedIntoItself(t *testing.T) {
	for _, line := range []string{"C /a/b - - - - /a", "C+ /a/b - - - - /a", "C /a/b/c - - - - /a", "C /b - - - - /"} {
		root := t.TempDir()
		if err := os.MkdirAll(root+"/a/x", 0o755); err != nil {
			t.Fatal(err)
		}
		rec, res := apply(t, root, Create, false, line)
		if res.First == nil || !strings.Contains(fmt.Sprint(rec.problems), "inside of the source") {
			t.Errorf("%q was not refused: %v", line, rec.problems)
		}
		if got := tree(t, root); len(got) > 3 { // /a, /a/x, and a parent
			t.Errorf("%q made\n%s", line, strings.Join(got, "\n"))
		}
	}
}

func TestTemporaryNamesDoNotStay(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(root+"/src/d", 0o755); err != nil {
		t.Fatal(err)
	}
	apply(t, root, Create, false, "f /f 4755 - - - x", "p /p 0666", "L /l - - - - x", "C /c - - - - /src", "L+ /f - - - - /p", "d /d 2755")
	for _, line := range tree(t, root) {
		if strings.Contains(line, fsat.TempPrefix) {
			t.Errorf("left behind: %s", line)
		}
	}
}

func TestFailedCopyLeavesNothing(t *testing.T) {
	testenv.Need(t, testenv.NonRoot) // root reads everything
	root := t.TempDir()
	if err := os.MkdirAll(root+"/src", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"a", "b", "c"} {
		if err := os.WriteFile(root+"/src/"+f, []byte("x"), 0o200); err != nil {
			t.Fatal(err)
		}
	}
	if _, res := apply(t, root, Create, false, "C /dst - - - - /src"); res.First == nil {
		t.Error("a tree that cannot be read was copied")
	}
	if got := tree(t, root); slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "dst") || strings.Contains(s, fsat.TempPrefix) }) {
		t.Errorf("left behind: %v", got)
	}
}
