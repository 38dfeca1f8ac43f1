package bench

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/testenv"
)

const ms = time.Millisecond

func TestMedianAndRatio(t *testing.T) {
	odd := &Sample{Times: []time.Duration{1 * ms, 2 * ms, 9 * ms}}
	even := &Sample{Times: []time.Duration{1 * ms, 4 * ms, 8 * ms, 9 * ms}}
	if odd.Median() != 2*ms || even.Median() != 6*ms || odd.Min() != 1*ms || odd.Max() != 9*ms {
		t.Errorf("medians %v and %v, want 2ms and 6ms; min %v, max %v", odd.Median(), even.Median(), odd.Min(), odd.Max())
	}
	r := &Result{Case: Case{Name: "c", Want: 3, MaxMemory: 1 << 20}, Samples: []*Sample{odd, even}}
	if r.Ratio(1) != 3 || r.Misses() != nil {
		t.Errorf("ratio %v, misses %v; want 3 and none", r.Ratio(1), r.Misses())
	}
	r.Case.Want, odd.Memory = 3.1, 2<<20
	if len(r.Misses()) != 2 {
		t.Errorf("misses %q, want the ratio and the memory", r.Misses())
	}
	r.Case.MaxTime = 2*ms - 1
	if len(r.Misses()) != 3 {
		t.Errorf("misses %q, want the time, too", r.Misses())
	}
	if r.Case.MaxTime++; len(r.Misses()) != 2 {
		t.Errorf("misses %q", r.Misses())
	}
}

// Both sides run in every round, each prepared before and checked after.
func TestRoundsAlternate(t *testing.T) {
	var log []string
	side := func(name string) Side {
		return Side{
			Name:    name,
			Prepare: func() error { log = append(log, name+" prepare"); return nil },
			Cmd:     func() *exec.Cmd { log = append(log, name); return exec.Command("true") },
			Check:   func() error { log = append(log, name+" check"); return nil },
		}
	}
	r, err := measure(Case{Name: "c", Ours: side("a"), Peers: []Side{side("b")}, Rounds: 2})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, n := range strings.Fields("a b  a b  b a  a b") { // warm-up, two rounds, memory
		want = append(want, n+" prepare", n, n+" check")
	}
	if diff := cmp.Diff(want, log); diff != "" {
		t.Errorf("runs:\n%s", diff)
	}
	if len(r.Samples) != 2 || len(r.Samples[0].Times) != 2 || r.Samples[0].Min() <= 0 {
		t.Errorf("samples %+v", r.Samples)
	}
}

func TestFailuresAreTold(t *testing.T) {
	ok := Side{Name: "ok", Cmd: func() *exec.Cmd { return exec.Command("true") }}
	fails := Side{Name: "fails", Cmd: func() *exec.Cmd { return exec.Command("sh", "-c", "echo because >&2; exit 3") }}
	if _, err := measure(Case{Ours: ok, Peers: []Side{fails}, Rounds: 1}); err == nil || !strings.Contains(err.Error(), "exit status 3\nbecause") {
		t.Errorf("a failing program: %v", err)
	}
	idle := ok
	idle.Check = func() error { return errors.New("no such directory") }
	if _, err := measure(Case{Ours: idle, Rounds: 1}); err == nil || !strings.Contains(err.Error(), "not done: no such directory") {
		t.Errorf("a program that did nothing: %v", err)
	}
	if _, err := peakMemory(exec.Command("sh", "-c", "kill -9 $$")); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("a killed program: %v", err)
	}
	b := &B{}
	if err := b.run(func(b *B) { b.Fatal(errors.New("x")) }); err == nil || err.Error() != "x" {
		t.Errorf("Fatal gave %v", err)
	}
}

// TestPeakMemory compares a small program with one that takes 32 MiB in a child,
// started by a process that is larger than the small one.
func TestPeakMemory(t *testing.T) {
	ballast := make([]byte, 64<<20)
	for i := 0; i < len(ballast); i += 4096 {
		ballast[i] = 1
	}
	small, err := peakMemory(exec.Command("true"))
	if errors.Is(err, errNoTrace) {
		testenv.Need(t, testenv.Requirement{What: "ptrace(2)", Check: func() error { return err }})
	}
	if err != nil {
		t.Fatal(err)
	}
	if small <= 0 || small > 16<<20 {
		t.Errorf("peak of true is %d bytes: it is not its own", small)
	}
	large, err := peakMemory(exec.Command("sh", "-c", "head -c 33554432 /dev/zero | tail -c 33554432 >/dev/null; exit 0"))
	if err != nil {
		t.Fatal(err)
	}
	if large < 32<<20 || large > 128<<20 {
		t.Errorf("peak of a child that holds 32 MiB is %d bytes", large)
	}
	if ballast[0] != 1 {
		t.Error("ballast went")
	}
}

func TestRecordReplacesOneSection(t *testing.T) {
	text := recordText(preamble, "m", "## m\n\nfirst\n")
	text = recordText(text, "z", "## z\n\nlast\n")
	text = recordText(text, "a", "## a\n\nfront\n")
	text = recordText(text, "m", "## m\n\nsecond\n")
	want := preamble + "\n## a\n\nfront\n\n## m\n\nsecond\n\n## z\n\nlast\n"
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	path := filepath.Join(t.TempDir(), "b.md")
	if err := recordFile(path, "m", "## m\n\nx\n"); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); !strings.HasSuffix(string(got), "\n\n## m\n\nx\n") {
		t.Errorf("a new file holds %q", got)
	}
}

func TestSection(t *testing.T) {
	b := &B{results: []*Result{{
		Case: Case{Name: "cold", Want: 3, MaxMemory: 32 << 20},
		Samples: []*Sample{
			{Name: "ours", Times: []time.Duration{1 * ms, 2 * ms, 12 * ms}, Memory: 3 << 20},
			{Name: "peer", Times: []time.Duration{7 * ms, 8 * ms, 1200 * ms}},
		},
	}}}
	got := b.section("x", "About x.")
	for _, want := range []string{
		"## x\n\nAbout x.\n\nMeasured 20",
		"\n| cold | ours | 3 | 1.00 ms | 2.00 ms | 12.0 ms | 3.0 MiB |  | ≤ 32.0 MiB |\n",
		"\n|  | peer | 3 | 7.00 ms | 8.00 ms | 1.20 s | - | 4.00× | ≥ 3× |\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the section lacks %q:\n%s", want, got)
		}
	}
}
