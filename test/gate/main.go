// Gate reads the output of "go test -json" and says what matters: each package,
// the output of what failed, and every test that was skipped, with its reason.
// It exits 1 where a test failed and, in CI, where one was skipped that should
// have run (see package testenv for which may be).
//
//	go test -json ./... | go run ./test/gate -pass=privileged
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slashrun/slashrun/internal/testenv"
)

const module = "github.com/slashrun/slashrun/"

func main() {
	pass := flag.String("pass", "", "privileged or unprivileged")
	flag.Parse()
	if *pass != "privileged" && *pass != "unprivileged" {
		fmt.Fprintln(os.Stderr, "gate: -pass is privileged or unprivileged")
		os.Exit(2)
	}
	g := &gate{pass: *pass, ci: testenv.InCI(), out: os.Stdout}
	root, err := testenv.ModuleRoot()
	if err == nil {
		g.exceptions, err = testenv.ReadExceptions(filepath.Join(root, "test", "ci-exceptions.txt"))
	}
	if err == nil {
		err = g.read(os.Stdin)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "gate: %v\n", err)
		os.Exit(2)
	}
	if !g.summary() {
		os.Exit(1)
	}
}

// event is a line of "go test -json" (go doc test2json) and of "go build -json".
type event struct {
	Action, Package, Test, Output string
	ImportPath                    string // of a build-output event
	Elapsed                       float64
}

// key names a test, or with an empty test a package.
type key struct{ pkg, test string }

type gate struct {
	pass       string
	ci         bool
	exceptions []testenv.Exception
	out        io.Writer

	output  map[key][]string
	passed  int
	failed  []key
	skipped map[string][]string // reason: tests
	refused []string            // skips that CI does not accept
	slow    []timing
	pkgs    int
}

type timing struct {
	name    string
	seconds float64
}

// read takes in all events.
func (g *gate) read(r io.Reader) error {
	g.output = map[key][]string{}
	g.skipped = map[string][]string{}
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil || e.Action == "" {
				fmt.Fprintf(g.out, "%s\n", strings.TrimRight(string(line), "\n")) // not an event: a message of the go command
			} else {
				g.event(e)
			}
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (g *gate) event(e event) {
	k := key{strings.TrimPrefix(e.Package, module), e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(g.out, e.Output)
	case "output":
		g.output[k] = append(g.output[k], e.Output)
	case "pass":
		if e.Test == "" {
			g.pkgs++
			fmt.Fprintf(g.out, "ok    %s  %.1fs\n", k.pkg, e.Elapsed)
		} else {
			g.passed++
		}
		g.done(k, e.Elapsed)
	case "fail":
		g.failed = append(g.failed, k)
		if e.Test == "" {
			g.pkgs++
			fmt.Fprintf(g.out, "FAIL  %s  %.1fs\n", k.pkg, e.Elapsed)
			g.printAll(k.pkg)
		}
		g.slow = append(g.slow, timing{k.pkg + " " + k.test, e.Elapsed})
	case "skip":
		if e.Test != "" {
			g.skip(k)
		}
		g.done(k, e.Elapsed)
	}
}

// done forgets the output of a test that needs no telling.
func (g *gate) done(k key, elapsed float64) {
	delete(g.output, k)
	if k.test != "" && !strings.Contains(k.test, "/") {
		g.slow = append(g.slow, timing{k.pkg + " " + k.test, elapsed})
	}
}

// printAll prints what is left of a package's output: that of tests that failed
// or never ended.
func (g *gate) printAll(pkg string) {
	var keys []key
	for k := range g.output {
		if k.pkg == pkg {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b key) int { return strings.Compare(a.test, b.test) })
	for _, k := range keys {
		for _, line := range g.output[k] {
			if !strings.HasPrefix(line, "=== ") {
				fmt.Fprint(g.out, "      ", line)
			}
		}
		delete(g.output, k)
	}
}

// skip notes a skipped test, and judges it.
func (g *gate) skip(k key) {
	reason := reason(g.output[k])
	name := k.pkg + " " + k.test
	g.skipped[reason] = append(g.skipped[reason], name)
	if !g.ci {
		return
	}
	for _, e := range g.exceptions {
		if e.Match(k.pkg, k.test) {
			return
		}
	}
	other := testenv.Root.What
	if g.pass == "privileged" {
		other = testenv.NonRoot.What
	}
	// A test that ran in another process skips with that one's words at the end.
	if !strings.Contains(reason, testenv.SkipMark+"needs "+other+":") {
		g.refused = append(g.refused, name+": "+reason)
	}
}

// reason finds the message of t.Skip in a test's output: the last line that
// gives a place ("    file_test.go:12: message").
func reason(output []string) string {
	for _, line := range slices.Backward(output) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "--- ") || strings.HasPrefix(line, "=== ") {
			continue
		}
		if place, text, ok := strings.Cut(line, ": "); ok && strings.Contains(place, ".go:") {
			return text
		}
	}
	return "no reason given"
}

// summary prints the end of the report and says whether all is well.
func (g *gate) summary() bool {
	reasons := make([]string, 0, len(g.skipped))
	n := 0
	for r, tests := range g.skipped {
		reasons = append(reasons, r)
		n += len(tests)
	}
	slices.Sort(reasons)
	if n > 0 {
		fmt.Fprintf(g.out, "left out in the %s pass:\n", g.pass)
	}
	for _, r := range reasons {
		tests := g.skipped[r]
		fmt.Fprintf(g.out, "  %s\n", r)
		for _, t := range tests[:min(len(tests), 5)] {
			fmt.Fprintf(g.out, "    %s\n", t)
		}
		if len(tests) > 5 {
			fmt.Fprintf(g.out, "    and %d more\n", len(tests)-5)
		}
	}
	slices.SortFunc(g.slow, func(a, b timing) int {
		switch {
		case a.seconds > b.seconds:
			return -1
		case a.seconds < b.seconds:
			return 1
		}
		return strings.Compare(a.name, b.name)
	})
	for _, s := range g.slow[:min(len(g.slow), 5)] {
		if s.seconds >= 5 {
			fmt.Fprintf(g.out, "slow: %s %s\n", s.name, time.Duration(s.seconds*float64(time.Second)).Round(time.Second/10))
		}
	}
	fmt.Fprintf(g.out, "%s pass: %d packages, %d tests passed, %d skipped, %d failed\n", g.pass, g.pkgs, g.passed, n, len(g.failed))
	for _, k := range g.failed {
		fmt.Fprintf(g.out, "failed: %s %s\n", k.pkg, k.test)
	}
	for _, r := range g.refused {
		fmt.Fprintf(g.out, "skipped, and in CI it must run: %s\n", r)
	}
	if g.passed == 0 {
		fmt.Fprintln(g.out, "no test was run")
	}
	return len(g.failed) == 0 && len(g.refused) == 0 && g.passed > 0
}
