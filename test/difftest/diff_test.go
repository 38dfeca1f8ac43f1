package difftest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/testenv"
)

var suiteStart = time.Now()

func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == "nothing":
		os.Exit(0)
	case filepath.Base(os.Args[0]) == "limited":
		os.Exit(limitedMain())
	case filepath.Base(os.Args[0]) == "careless":
		os.Exit(carelessMain())
	case os.Getenv(workerEnv) != "":
		os.Exit(workerMain())
	case os.Getenv(mutantEnv) != "":
		os.Exit(mutantMain())
	case os.Getenv(attackerEnv) != "":
		os.Exit(attackerMain())
	}
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

const reference = "systemd-tmpfiles/usr/bin/systemd-tmpfiles"

func referencePath() string { return filepath.Join(testenv.DepsDir(), reference) }

// referenceIs262 says whether differences fail: a newer reference only reports.
func referenceIs262(t testing.TB) bool {
	v, err := os.ReadFile(filepath.Join(testenv.DepsDir(), "systemd-tmpfiles/version"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.HasPrefix(string(v), "262")
}

var built struct {
	once sync.Once
	dir  string
	err  error
}

// slashrun builds ./cmd/slashrun once, as it is shipped: static.
func slashrun(t testing.TB) string {
	t.Helper()
	if p := os.Getenv("SLASHRUN_DIFF_OURS"); p != "" {
		return p
	}
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "difftest"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-trimpath", "-o", built.dir+"/slashrun", "github.com/slashrun/slashrun/cmd/slashrun")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir + "/slashrun"
}

// A program is one side of a comparison: an executable in the worker's root and
// what comes before the arguments.
type program struct {
	exe  string
	argv []string
}

var (
	theReference = program{exe: "/x/reference"}
	// Ours is called both ways.
	ours       = program{"/x/slashrun", []string{"tmpfiles"}}
	oursAsPeer = program{"/x/systemd-tmpfiles", nil}
)

func executables(t testing.TB) map[string]string {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"reference": referencePath(), "slashrun": slashrun(t), "mutant": self}
}

// differs runs the case on both sides and returns what is different, or "".
func differs(w *worker, c *Case, a, b program) (diff string, want, got []Step, err error) {
	if want, err = w.run(c, a.exe, a.argv...); err != nil {
		return "", nil, nil, fmt.Errorf("the reference: %w", err)
	}
	if got, err = w.run(c, b.exe, b.argv...); err != nil {
		return "", nil, nil, fmt.Errorf("ours: %w", err)
	}
	return compare(c, want, got), want, got, nil
}

func compare(c *Case, want, got []Step) string {
	var b strings.Builder
	for i := range want {
		w, g := want[i], got[i]
		if w.Exit != g.Exit {
			fmt.Fprintf(&b, "step %d %q: exit %d, the reference exits %d\n", i+1, c.Cmds[i], g.Exit, w.Exit)
		}
		if c.Output && w.Stdout != g.Stdout {
			fmt.Fprintf(&b, "step %d %q: standard output (- reference, + ours):\n%s", i+1, c.Cmds[i], cmp.Diff(w.Stdout, g.Stdout))
		}
		if d := treeDiff(lines(w.Tree, c.timesMatter()), lines(g.Tree, c.timesMatter())); d != "" {
			fmt.Fprintf(&b, "step %d %q: tree (- reference, + ours):\n%s", i+1, c.Cmds[i], d)
		}
	}
	return b.String()
}

// timesMatter says whether access times count: where the command ages things or
// removes from directories that it puts back. A walk that only creates may touch
// an access time or not.
func (c *Case) timesMatter() bool {
	for _, args := range c.Cmds {
		if slices.Contains(args, "--clean") && !slices.Contains(args, "--create") && c.UID == 0 {
			return true
		}
	}
	return false
}

func lines(tree []Node, atimes bool) []string {
	var out []string
	for _, n := range tree {
		if !atimes || n.Type == 'l' {
			n.Atime = 0
		}
		if len(n.Content) > 2000 {
			n.Content = fmt.Sprintf("%s... (%d bytes)", n.Content[:40], len(n.Content))
		}
		out = append(out, n.String())
	}
	return out
}

func treeDiff(want, got []string) string {
	in := func(s []string) map[string]bool {
		m := map[string]bool{}
		for _, l := range s {
			m[l] = true
		}
		return m
	}
	w, g := in(want), in(got)
	var out []string
	for _, l := range want {
		if !g[l] {
			out = append(out, "  - "+l)
		}
	}
	for _, l := range got {
		if !w[l] {
			out = append(out, "  + "+l)
		}
	}
	slices.SortStableFunc(out, func(a, b string) int { return strings.Compare(pathOf(a), pathOf(b)) })
	if len(out) == 0 {
		return ""
	}
	return strings.Join(out, "\n") + "\n"
}

func pathOf(l string) string {
	if f := strings.Fields(l); len(f) > 2 {
		return f[2]
	}
	return l
}

// report renders a case and its difference for a person to run by hand.
func report(c *Case, diff string, want, got []Step) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s root=%v disk=%v uid=%d env=%q\n", c.Name, c.Root, c.Disk, c.UID, c.Env)
	for i, args := range c.Cmds {
		fmt.Fprintf(&b, "command %d: %q\n", i+1, args)
	}
	if c.Stdin != "" {
		fmt.Fprintf(&b, "stdin: %q\n", c.Stdin)
	}
	b.WriteString("tree before:\n")
	for _, n := range c.Nodes {
		if strings.Contains(n.Path, "tmpfiles.d/") && n.Type == 'f' {
			fmt.Fprintf(&b, "  -- %s --\n", n.Path)
			for _, l := range strings.Split(strings.TrimSuffix(n.Content, "\n"), "\n") {
				fmt.Fprintf(&b, "    %s\n", l)
			}
			continue
		}
		fmt.Fprintf(&b, "  %s\n", n)
	}
	b.WriteString(diff)
	for i := range want {
		fmt.Fprintf(&b, "stderr of the reference, step %d:\n%sstderr of ours, step %d:\n%s", i+1, indent(want[i].Stderr), i+1, indent(got[i].Stderr))
	}
	return b.String()
}

func indent(s string) string {
	if s == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\n  ") + "\n"
}

func envInt(name string, otherwise int) int {
	if v, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return v
	}
	return otherwise
}

// maxReports bounds how many differences are shrunk and shown.
const maxReports = 25

// runGenerated compares the two sides on n seeds and calls found for every
// difference. It returns how many cases differed.
func runGenerated(t *testing.T, p *pool, n int, disk bool, a, b program, found func(c *Case, diff string, want, got []Step)) int {
	t.Helper()
	first := uint64(envInt("SLASHRUN_DIFF_SEED", 1))
	var differing, shown atomic.Int64
	var mu sync.Mutex
	p.each(n, func(w *worker, i int) {
		c := generate(first + uint64(i))
		c.Disk = disk
		diff, want, got, err := differs(w, c, a, b)
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			return
		}
		if diff == "" || accepted(c, want, got) != "" {
			return
		}
		differing.Add(1)
		if found == nil || shown.Add(1) > maxReports {
			return
		}
		c = shrink(c, func(c *Case) bool {
			d, w2, g2, err := differs(w, c, a, b)
			return err == nil && d != "" && accepted(c, w2, g2) == ""
		})
		if diff, want, got, err = differs(w, c, a, b); err == nil {
			mu.Lock()
			found(c, diff, want, got)
			mu.Unlock()
		}
	})
	return int(differing.Load())
}

func TestGenerated(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Dep(reference))
	fail := t.Errorf
	if !referenceIs262(t) {
		fail = t.Logf
	}
	files := executables(t)
	for _, fs := range []struct {
		name  string
		disk  bool
		cases int
	}{{"tmpfs", false, envInt("SLASHRUN_DIFF_CASES", 4000)}, {"ext4", true, envInt("SLASHRUN_DIFF_CASES", 4000) / 5}} {
		t.Run(fs.name, func(t *testing.T) {
			p := newPool(t, runtime.NumCPU(), fs.disk, files)
			side := ours
			if fs.disk {
				side = oursAsPeer
			}
			n := runGenerated(t, p, fs.cases, fs.disk, theReference, side, func(c *Case, diff string, want, got []Step) {
				fail("%s", report(c, diff, want, got))
			})
			t.Logf("%d cases, %d differ", fs.cases, n)
		})
	}
}

// The comparison is worth something only if it finds nothing between two runs of
// the reference, and finds every kind of damage done to its result.
func TestReferenceEqualsItself(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Dep(reference))
	p := newPool(t, runtime.NumCPU(), false, executables(t))
	n := runGenerated(t, p, 300, false, theReference, theReference, func(c *Case, diff string, want, got []Step) {
		t.Errorf("%s", report(c, diff, want, got))
	})
	if n != 0 {
		t.Errorf("%d cases differ from themselves", n)
	}
}

func TestDamageIsFound(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Dep(reference))
	w := startWorker(t, setup{Start: suiteStart.UnixNano(), Files: executables(t)})
	nodes, err := parseTree(`
d /t/d 0755 0:0 mtime=-3d atime=-3d
f /t/d/f 0644 0:0 content=x x.user.k=v mtime=-3d
h /t/d/h 0644 0:0 target=/t/d/f
l /t/d/l 0777 0:0 target=f
c /t/d/c 0600 0:0 dev=1:3
f /etc/tmpfiles.d/a.conf 0644 0:0 content="d /t/new 0750 alice staff\nf /t/new/f - - - - text\na /t/d - - - - u:alice:rwx\n"
`)
	if err != nil {
		t.Fatal(err)
	}
	c := &Case{Name: "damage", Nodes: nodes, Cmds: [][]string{{"--create", "--clean"}}}
	c.Env = []string{mutantEnv + "=none"}
	if diff, _, _, err := differs(w, c, theReference, program{"/x/mutant", nil}); err != nil || diff != "" {
		t.Fatalf("a mutant that damages nothing differs: %v\n%s", err, diff)
	}
	for name := range mutations {
		m := *c
		m.Env = []string{mutantEnv + "=" + name}
		diff, _, _, err := differs(w, &m, theReference, program{"/x/mutant", nil})
		if err != nil {
			t.Fatal(err)
		}
		if diff == "" {
			t.Errorf("the damage %q is not found", name)
		}
	}
}

const mutantEnv = "SLASHRUN_DIFF_MUTANT"

// mutations are what a wrong implementation could leave behind.
var mutations = map[string]func() error{
	"mode":    func() error { return os.Chmod("/t/new", 0o700) },
	"owner":   func() error { return os.Lchown("/t/new/f", 1, -1) },
	"group":   func() error { return os.Lchown("/t/new", -1, 1) },
	"content": func() error { return os.WriteFile("/t/new/f", []byte("Text"), 0o644) },
	"missing": func() error { return os.Remove("/t/new/f") },
	"extra":   func() error { return os.WriteFile("/t/new/.x", nil, 0o644) },
	"target":  func() error { return errors.Join(os.Remove("/t/d/l"), os.Symlink("g", "/t/d/l")) },
	"unlinked": func() error {
		return errors.Join(os.Remove("/t/d/h"), os.WriteFile("/t/d/h", []byte("x"), 0o644))
	},
	"xattr": func() error { return syscall.Setxattr("/t/d/f", "user.k", []byte("w"), 0) },
	"acl":   func() error { return syscall.Removexattr("/t/d", xattrACL) },
	"mtime": func() error { return os.Chtimes("/t/d/f", time.Time{}, time.Now()) },
	"exit":  func() error { return errMutantExit },
}

var errMutantExit = errors.New("another exit status")

func mutantMain() int {
	cmd := exec.Command("/x/reference", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if f := mutations[os.Getenv(mutantEnv)]; f != nil {
		if err := f(); err != nil {
			return 99
		}
	}
	if cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, err)
		return 98
	}
	return cmd.ProcessState.ExitCode()
}

// shrink drops configuration lines, nodes, arguments and environment while the
// case still fails.
func shrink(c *Case, fails func(*Case) bool) *Case {
	// Half a minute: a case that hangs must not hold the others up.
	budget, until := 250, time.Now().Add(30*time.Second)
	try := func(n *Case) bool {
		if budget--; budget < 0 || time.Now().After(until) || !fails(n) {
			return false
		}
		c = n
		return true
	}
	clone := func() *Case {
		n := *c
		n.Nodes, n.Cmds, n.Env = slices.Clone(c.Nodes), slices.Clone(c.Cmds), slices.Clone(c.Env)
		return &n
	}
	for progress := true; progress && budget > 0; {
		progress = false
		for i := len(c.Nodes) - 1; i >= 0; i-- {
			if n := clone(); i < len(n.Nodes) {
				n.Nodes = slices.Delete(n.Nodes, i, i+1)
				progress = try(n) || progress
			}
		}
		for i := 0; i < len(c.Nodes); i++ {
			if !strings.Contains(c.Nodes[i].Path, "tmpfiles.d/") {
				continue
			}
			for j := strings.Count(c.Nodes[i].Content, "\n") - 1; j >= 0; j-- {
				n := clone()
				l := strings.SplitAfter(n.Nodes[i].Content, "\n")
				if j < len(l) {
					n.Nodes[i].Content = strings.Join(slices.Delete(l, j, j+1), "")
					progress = try(n) || progress
				}
			}
		}
		if len(c.Cmds) > 1 {
			n := clone()
			n.Cmds = n.Cmds[:1]
			progress = try(n) || progress
		}
		for i := len(c.Cmds[0]) - 1; i > 0; i-- {
			n := clone()
			n.Cmds[0] = slices.Delete(slices.Clone(n.Cmds[0]), i, i+1)
			progress = try(n) || progress
		}
		if c.Root {
			n := clone()
			n.Root = false
			progress = try(n) || progress
		}
	}
	return c
}
