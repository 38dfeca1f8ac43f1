package process

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
)

func open(t *testing.T) *Proc {
	t.Helper()
	p, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestParseStatWithAHostileName(t *testing.T) {
	const tail = " S 7 1 1 0 -1 2097152 0 0 0 0 0 0 0 0 20 0 1 0 1234 0 0"
	for _, name := range []string{"sh", "a b", ") R 1 (", "x\ny", ""} {
		s, err := ParseStat([]byte("42 (" + name + ")" + tail))
		if err != nil || s.PID != 42 || s.Comm != name || s.State != 'S' || s.Parent != 7 || s.Start != 1234 || !s.Kernel() || s.Dead() {
			t.Errorf("%q: %+v, %v", name, s, err)
		}
	}
	for _, bad := range []string{"", "(", ")(", "x (a)" + tail, "1 (a) S 1", "1 (a) S x 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0"} {
		if _, err := ParseStat([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	b, _ := os.ReadFile("/proc/self/stat")
	f.Add(b)
	f.Add([]byte("1 (()) Z 1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseStat(b); err != nil && s != (Stat{}) && s.State != 0 {
			t.Errorf("%+v with %v", s, err)
		}
	})
}

func TestIdentityIsOfThisRun(t *testing.T) {
	p := open(t)
	a, err := p.Identity()
	if err != nil {
		t.Fatal(err)
	}
	b, _ := p.Identity()
	if !a.SameRun(b) || a.InitStart == 0 && a.BootID == "" {
		t.Errorf("%+v and %+v", a, b)
	}
	if d := a.Offset - b.Offset; d > 1e9 || d < -1e9 {
		t.Errorf("the offset moved by %d ns between two reads", d)
	}
	if p.Self() != os.Getpid() {
		t.Errorf("self = %d, want %d", p.Self(), os.Getpid())
	}
}

// A child that has a directory as its working directory, and one that has a file
// of it open, are both found; without them nobody is.
//
// In a PID namespace, because Users ends early where it may not look at many.
func TestUsersFindsHolders(t *testing.T) { nstest.Run(t, nstest.Options{}, findsHolders) }

func findsHolders(t *testing.T) {
	p := open(t)
	dir := t.TempDir()
	mine := func() (list []string) {
		for _, h := range p.Users(context.Background(), dir, 0, false, false).Holders {
			list = append(list, strings.Fields(h.How)[0])
		}
		return list
	}
	if got := mine(); len(got) != 0 {
		t.Errorf("before: %q", got)
	}
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ script, how string }{
		{"cd " + dir + "; echo ready; read x", "cwd"},
		{"exec 9<" + dir + "/file; echo ready; read x", "fd"},
	} {
		cmd := exec.Command("sh", "-c", c.script)
		in, _ := cmd.StdinPipe()
		out, _ := cmd.StdoutPipe()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		bufio.NewReader(out).ReadString('\n')
		if got := mine(); len(got) != 1 || got[0] != c.how {
			t.Errorf("%s: %q, want one %s", c.script, got, c.how)
		}
		in.Close()
		cmd.Wait()
	}
	if got := mine(); len(got) != 0 {
		t.Errorf("after: %q", got)
	}
}

func TestMemoryLimitOfACgroup(t *testing.T) {
	table := "1 0 0:1 /docker/a /cg2 rw - cgroup2 cgroup2 rw\n2 0 0:2 / /cg1/memory rw - cgroup cgroup rw,memory\n3 0 0:3 / /cg1/cpu rw - cgroup cgroup rw,cpu\n"
	hs := hierarchies(table)
	if len(hs) != 2 || !hs[0].v2 || hs[1].v2 {
		t.Fatalf("%+v", hs)
	}
	for _, c := range []struct {
		h    int
		in   string
		want string
		ok   bool
	}{
		{0, "0::/docker/a/b\n", "/b", true},
		{0, "0::/docker/a\n", "/", true},
		{0, "0::/docker/ab\n", "/", true},
		{0, "0::/../x\n", "/", true},
		{0, "4:memory:/x\n", "", false},
		{1, "4:memory:/x/y\n0::/\n", "/x/y", true},
	} {
		if got, ok := hs[c.h].relative(c.in); got != c.want || ok != c.ok {
			t.Errorf("%d %q: %q %v", c.h, c.in, got, ok)
		}
	}
	// The smallest of a group and its ancestors counts.
	root := t.TempDir()
	os.MkdirAll(root+"/a/b", 0o755)
	os.WriteFile(root+"/a/memory.max", []byte("67108864\n"), 0o644)
	os.WriteFile(root+"/a/b/memory.max", []byte("max\n"), 0o644)
	m := Memory{RAM: 1 << 30}
	if err := (hierarchy{true, "/", root}).limit("/a/b", &m); err != nil || m.Smaller() != 64<<20 || m.From != root+"/a/memory.max" {
		t.Errorf("v2: %+v, %v", m, err)
	}
	os.WriteFile(root+"/a/memory.stat", []byte("cache 5\nhierarchical_memory_limit 33554432\n"), 0o644)
	m = Memory{RAM: 1 << 30}
	if err := (hierarchy{false, "/", root}).limit("/a", &m); err != nil || m.Smaller() != 32<<20 {
		t.Errorf("v1: %+v, %v", m, err)
	}
	// v1 without a limit is a huge number, not a word.
	os.WriteFile(root+"/a/memory.stat", []byte("hierarchical_memory_limit 9223372036854771712\n"), 0o644)
	m = Memory{RAM: 1 << 30}
	if err := (hierarchy{false, "/", root}).limit("/a", &m); err != nil || m.Limit != 0 {
		t.Errorf("v1 without a limit: %+v, %v", m, err)
	}
}

func TestMemoryHere(t *testing.T) {
	m, err := open(t).Memory()
	if err != nil || m.RAM == 0 || m.Smaller() > m.RAM {
		t.Errorf("%+v, %v", m, err)
	}
}
