// Package bench compares programs of ours with their peers by running both: in
// alternating rounds, from exec to exit, on the machine at hand.
//
// A benchmark is one runnable file, bench/NAME/main.go:
//
//	func main() {
//		bench.Main("tmpfiles", "Creates what tmpfiles.d declares.", func(b *bench.B) {
//			ours := b.Slashrun()
//			b.Compare(bench.Case{
//				Name:   "warm create of 10,000 d lines",
//				Ours:   bench.Side{Name: "slashrun", Cmd: func() *exec.Cmd { return exec.Command(ours, ...) }},
//				Peers:  []bench.Side{{Name: "systemd-tmpfiles 262", Cmd: ...}},
//				Rounds: 21,
//				Want:   8,
//			})
//		})
//	}
//
// and is run as
//
//	go run ./bench/tmpfiles                 prints the table
//	go run ./bench/tmpfiles --record        and puts it into docs/benchmarks.md
//	go run ./bench/tmpfiles --only=warm     runs the cases whose name holds "warm"
//	go run ./bench/tmpfiles --rounds=5      instead of each case's own number
//
// # How it measures
//
// Every round runs each side once; odd rounds run them in order, even rounds the
// other way round, so that neither always runs on the other's warm caches. One
// run of each side before the first round is not counted. Time is the monotonic
// clock from before the fork to after the wait, by one thread that does nothing
// else meanwhile, as in a program without a runtime of its own. The ratio is the peer's median
// divided by ours: above 1 we are faster.
//
// Peak memory is VmHWM (proc_pid_status(5)), of the largest process of the
// command, read as it exits, in a run of its own that is not timed. The ru_maxrss
// of wait4(2) will not do: a program that was started by vfork and exec begins
// with the peak of the one that started it, which is this benchmark.
//
// # When not to use it
//
// For a function, write a Go benchmark. This package is for whole programs,
// whose start-up, page faults and system calls count.
package bench

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Side is one of the programs that are compared.
type Side struct {
	Name string
	// Prepare, unless nil, is called before every run and is not timed: it
	// brings back the state that the run needs.
	Prepare func() error
	// Cmd returns a new command for one run. Its Stdout and Stderr should be
	// left nil: then Stderr is kept for the message of a failure.
	Cmd func() *exec.Cmd
	// Check, unless nil, is called after every run and is not timed: it says
	// whether the work was really done. A fast program that did nothing is not
	// fast.
	Check func() error
	// Until, unless nil, is called after every run, before Check. It returns the
	// moment up to which the run is timed, in place of its end, in nanoseconds of
	// CLOCK_MONOTONIC.
	Until func() (int64, error)
	// Memory, unless nil, measures what stands in the column of the peak memory.
	Memory func() (int64, error)

	started int64 // of a timed run, on CLOCK_MONOTONIC
}

// Case is one comparison.
type Case struct {
	Name  string
	Ours  Side
	Peers []Side
	// Rounds is how often each side runs; 0 is 21.
	Rounds int
	// Want is the least ratio to the first peer that the project promises, 0
	// for no promise. Main exits 1 where it is not met.
	Want float64
	// MaxOver is by how much ours may take longer than the first peer, 0 for no
	// limit.
	MaxOver time.Duration
	// MaxTime is how long ours may take, as the median; 0 for no limit.
	MaxTime time.Duration
	// MaxMemory is the peak memory in bytes that ours may have, 0 for no limit.
	MaxMemory int64
}

// Sample is what was measured of one side.
type Sample struct {
	Name   string
	Times  []time.Duration // sorted
	Memory int64           // bytes; 0 where it could not be measured
}

// Min returns the shortest time.
func (s *Sample) Min() time.Duration { return s.Times[0] }

// Max returns the longest time.
func (s *Sample) Max() time.Duration { return s.Times[len(s.Times)-1] }

// Median returns the time in the middle; of an even number the mean of the two.
func (s *Sample) Median() time.Duration {
	n := len(s.Times)
	return (s.Times[(n-1)/2] + s.Times[n/2]) / 2
}

// Result is what was measured in one Case; the first sample is ours.
type Result struct {
	Case    Case
	Samples []*Sample
}

// Ratio is how many times longer than ours sample i takes.
func (r *Result) Ratio(i int) float64 {
	return float64(r.Samples[i].Median()) / float64(r.Samples[0].Median())
}

// over is by how much ours takes longer than the first peer.
func (r *Result) over() time.Duration { return r.Samples[0].Median() - r.Samples[1].Median() }

// Misses tells which promises the result does not keep.
func (r *Result) Misses() []string {
	var m []string
	if r.Case.Want > 0 && r.Ratio(1) < r.Case.Want {
		m = append(m, fmt.Sprintf("%s: ratio %.2f, promised is %g", r.Case.Name, r.Ratio(1), r.Case.Want))
	}
	if over := r.over(); r.Case.MaxOver > 0 && over > r.Case.MaxOver {
		m = append(m, fmt.Sprintf("%s: %s longer than %s, promised is %s", r.Case.Name, formatTime(over), r.Samples[1].Name, formatTime(r.Case.MaxOver)))
	}
	if took := r.Samples[0].Median(); r.Case.MaxTime > 0 && took > r.Case.MaxTime {
		m = append(m, fmt.Sprintf("%s: %s, promised is %s", r.Case.Name, formatTime(took), formatTime(r.Case.MaxTime)))
	}
	if mem := r.Samples[0].Memory; r.Case.MaxMemory > 0 && mem > r.Case.MaxMemory {
		m = append(m, fmt.Sprintf("%s: peak memory %s, promised is %s", r.Case.Name, formatBytes(mem), formatBytes(r.Case.MaxMemory)))
	}
	return m
}

// B is a running benchmark. It is not safe for concurrent use.
type B struct {
	root    string // of the module
	dir     string
	rounds  int
	only    string
	results []*Result
}

// failure carries an error out of a benchmark's function to Main.
type failure struct{ err error }

// Fatal ends the benchmark with err. It must be called from the goroutine that
// Main called.
func (b *B) Fatal(err error) { panic(failure{err}) }

// Dir returns a directory of this run, which Main removes. It is on the file
// system of $TMPDIR.
func (b *B) Dir() string { return b.dir }

// Root returns the root directory of the module.
func (b *B) Root() string { return b.root }

// Slashrun builds the core as "make dist" does and returns its path.
func (b *B) Slashrun() string { return b.Build("slashrun", "./cmd/slashrun") }

// Build builds the Go package pkg (a path below the root of the module) as "make
// dist" does and returns the path of the executable.
func (b *B) Build(name, pkg string) string {
	exe := filepath.Join(b.dir, name)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -X github.com/slashrun/slashrun/internal/cli.version=bench", "-o", exe, pkg)
	cmd.Dir = b.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatal(fmt.Errorf("go build %s: %w\n%s", pkg, err, out))
	}
	return exe
}

// Compare measures c, unless the command line leaves it out, and returns what
// it found (nil where it was left out).
func (b *B) Compare(c Case) *Result {
	if !strings.Contains(c.Name, b.only) {
		return nil
	}
	if b.rounds > 0 {
		c.Rounds = b.rounds
	} else if c.Rounds == 0 {
		c.Rounds = 21
	}
	fmt.Fprintf(os.Stderr, "%s: %d rounds\n", c.Name, c.Rounds)
	r, err := measure(c)
	if err != nil {
		b.Fatal(fmt.Errorf("%s: %w", c.Name, err))
	}
	b.results = append(b.results, r)
	return r
}

// measure runs the rounds of c.
func measure(c Case) (*Result, error) {
	sides := append([]Side{c.Ours}, c.Peers...)
	r := &Result{Case: c}
	for i := range sides {
		r.Samples = append(r.Samples, &Sample{Name: sides[i].Name})
		if _, err := sides[i].once(sides[i].timed); err != nil { // not counted: fills the caches
			return nil, err
		}
	}
	for round := range c.Rounds {
		for k := range sides {
			if round%2 == 1 {
				k = len(sides) - 1 - k
			}
			d, err := sides[k].once(sides[k].timed)
			if err != nil {
				return nil, err
			}
			r.Samples[k].Times = append(r.Samples[k].Times, time.Duration(d))
		}
	}
	for i := range sides {
		slices.Sort(r.Samples[i].Times)
		measure := sides[i].Memory
		if measure == nil {
			measure = func() (int64, error) { return sides[i].once(peakMemory) }
		}
		m, err := measure()
		if errors.Is(err, errNoTrace) {
			fmt.Fprintf(os.Stderr, "peak memory is not measured: %v\n", err)
		} else if err != nil {
			return nil, err
		}
		r.Samples[i].Memory = m
	}
	return r, nil
}

// once runs s once by run, between its Prepare and Check, and returns what run
// measured.
func (s *Side) once(run func(*exec.Cmd) (int64, error)) (int64, error) {
	if s.Prepare != nil {
		if err := s.Prepare(); err != nil {
			return 0, fmt.Errorf("%s: prepare: %w", s.Name, err)
		}
	}
	cmd := s.Cmd()
	var stderr *os.File
	if cmd.Stderr == nil {
		f, err := os.CreateTemp("", "bench")
		if err != nil {
			return 0, err
		}
		os.Remove(f.Name())
		defer f.Close()
		cmd.Stderr, stderr = f, f
	}
	s.started = 0
	n, err := run(cmd)
	if err != nil {
		return 0, fmt.Errorf("%s: %w%s", s.Name, err, tail(stderr))
	}
	if s.Until != nil {
		end, err := s.Until()
		if err != nil {
			return 0, fmt.Errorf("%s ran, but nobody knows until when: %w", s.Name, err)
		}
		if s.started != 0 {
			n = end - s.started
		}
	}
	if s.Check != nil {
		if err := s.Check(); err != nil {
			return 0, fmt.Errorf("%s ran, but its work is not done: %w", s.Name, err)
		}
	}
	return n, nil
}

// tail returns the beginning of what a command wrote to f.
func tail(f *os.File) string {
	if f == nil {
		return ""
	}
	buf := make([]byte, 2000)
	n, _ := f.ReadAt(buf, 0)
	if buf = bytes.TrimSpace(buf[:n]); len(buf) == 0 {
		return ""
	}
	return "\n" + string(buf)
}

// Main runs the benchmark called name, which is the name of its directory below
// bench, and ends the process: 0, or 1 where a program failed or a promise was
// not kept. about is one or two sentences for the record.
func Main(name, about string, run func(b *B)) {
	var (
		record = flag.Bool("record", false, "put the results into docs/benchmarks.md")
		rounds = flag.Int("rounds", 0, "rounds of every case (0: each case's own number)")
		only   = flag.String("only", "", "run the cases whose name contains this")
	)
	flag.Parse()
	b, err := start(*rounds, *only)
	if err == nil {
		err = b.run(run)
		os.RemoveAll(b.dir)
	}
	if err == nil && len(b.results) == 0 {
		err = errors.New("no case was run")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench/%s: %v\n", name, err)
		os.Exit(1)
	}
	section := b.section(name, about)
	fmt.Print(section)
	if *record {
		if *only != "" {
			err = errors.New("--record takes the whole benchmark, without --only")
		} else {
			err = recordFile(filepath.Join(b.root, "docs", "benchmarks.md"), name, section)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench/%s: %v\n", name, err)
			os.Exit(1)
		}
	}
	code := 0
	for _, r := range b.results {
		for _, m := range r.Misses() {
			fmt.Fprintf(os.Stderr, "bench/%s: missed: %s\n", name, m)
			code = 1
		}
	}
	os.Exit(code)
}

// start makes a B, with its directory.
func start(rounds int, only string) (*B, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	mod := strings.TrimSpace(string(out))
	if err != nil || mod == "" || mod == os.DevNull {
		return nil, errors.New("run it from the source tree: go run ./bench/NAME")
	}
	dir, err := os.MkdirTemp("", "slashrun-bench-")
	if err != nil {
		return nil, err
	}
	return &B{root: filepath.Dir(mod), dir: dir, rounds: rounds, only: only}, nil
}

// run calls f and returns what Fatal was called with.
func (b *B) run(f func(*B)) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case failure:
			err = p.err
		default:
			panic(p)
		}
	}()
	f(b)
	return nil
}
