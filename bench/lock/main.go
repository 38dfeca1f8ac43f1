// Lock measures package lockfile beside github.com/gofrs/flock: an exclusive
// flock that nobody else wants, taken and released many times by a program of
// each side:
//
//	kept open    Lock, Unlock of one value, as a daemon does
//	opened anew  Open (New), Lock, Close each time, as a tool does
//
// gofrs/flock opens and closes the file in both. It takes no look at the path
// after it has the lock, so it does less: what it locks may have been removed.
//
// And "slashrun lock FILE true" beside "flock FILE true" of util-linux. Its third
// side is a Go program that starts true and waits for it, and does nothing else:
// what a program with Go's runtime takes at least.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/slashrun/slashrun/internal/bench"
)

// turns is how often a program takes and releases the lock.
const turns = 100_000

func main() {
	bench.Main("lock", fmt.Sprintf("An exclusive flock(2) that nobody else wants, taken and released %d times: "+
		"`lockfile` beside gofrs/flock 0.13.1, which does not check that the file is still the one at the path. "+
		"With each program stands what one turn of the median takes, and what it allocates.", turns), run)
}

func run(b *bench.B) {
	ours, peer := b.Build("ours", "./bench/lock/ours"), buildPeer(b)
	compare := func(name, mode string, want float64) {
		side := func(program, exe string) (bench.Side, *allocated) {
			said := new(allocated)
			var out *os.File
			return bench.Side{
				Name: program,
				Prepare: func() (err error) {
					out, err = os.Create(filepath.Join(b.Dir(), "output"))
					return err
				},
				Cmd: func() *exec.Cmd {
					cmd := exec.Command(exe, mode, strconv.Itoa(turns), filepath.Join(b.Dir(), "lock"))
					cmd.Stdout = out
					return cmd
				},
				Check: func() error {
					defer out.Close()
					text, err := os.ReadFile(out.Name())
					if err != nil {
						return err
					}
					var ns int // by its own clock
					if _, err := fmt.Sscan(string(text), &ns, &said.times, &said.bytes); err != nil {
						return fmt.Errorf("it printed %q: %w", text, err)
					}
					return nil
				},
			}, said
		}
		one, oneSaid := side("lockfile", ours)
		other, otherSaid := side("gofrs-flock", peer)
		r := b.Compare(bench.Case{Name: name, Ours: one, Peers: []bench.Side{other}, Rounds: 21, Want: want})
		if r == nil {
			return
		}
		for i, a := range []*allocated{oneSaid, otherSaid} {
			r.Samples[i].Name += fmt.Sprintf(": %d ns, %d allocations, %d bytes", r.Samples[i].Median().Nanoseconds()/turns, a.times, a.bytes)
		}
	}
	command(b)
	compare("kept open: Lock, Unlock", "keep", 1)
	compare("opened anew: Open, Lock, Close", "new", 0)
}

// command compares the commands.
func command(b *bench.B) {
	slashrun, bare := b.Slashrun(), b.Build("bare", "./bench/lock/bare")
	file := filepath.Join(b.Dir(), "file")
	run := func(argv ...string) func() *exec.Cmd {
		return func() *exec.Cmd { return exec.Command(argv[0], argv[1:]...) }
	}
	b.Compare(bench.Case{
		Name:   "a command under a lock: true",
		Ours:   bench.Side{Name: "slashrun lock", Cmd: run(slashrun, "lock", file, "true")},
		Peers:  []bench.Side{{Name: "flock of util-linux", Cmd: run("flock", file, "true")}, {Name: "a Go program that only starts true", Cmd: run(bare)}},
		Rounds: 501,
		Want:   0.77, // at most 1.3 times its time
	})
}

// allocated is what one turn allocates.
type allocated struct{ times, bytes int }

// buildPeer builds the program in the module of its own.
func buildPeer(b *bench.B) string {
	exe := filepath.Join(b.Dir(), "peer")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", exe, ".")
	cmd.Dir = filepath.Join(b.Root(), "bench", "lock", "peer")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatal(fmt.Errorf("go build of bench/lock/peer: %w\n%s", err, out))
	}
	return exe
}
