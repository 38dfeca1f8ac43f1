package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/testenv"
)

// events builds the JSON of a package with the given test results: name, action
// and the message of a skip.
func events(tests ...[3]string) string {
	var s strings.Builder
	end := "pass"
	for _, e := range tests {
		if e[2] != "" {
			fmt.Fprintf(&s, `{"Action":"output","Package":"%sp","Test":"%s","Output":"    p_test.go:7: %s\n"}`+"\n", module, e[0], e[2])
		}
		fmt.Fprintf(&s, `{"Action":"%s","Package":"%sp","Test":"%s","Elapsed":0.1}`+"\n", e[1], module, e[0])
		if e[1] == "fail" {
			end = "fail"
		}
	}
	fmt.Fprintf(&s, `{"Action":"%s","Package":"%sp","Elapsed":1}`+"\n", end, module)
	return s.String()
}

func TestGate(t *testing.T) {
	needsRoot := testenv.SkipMark + "needs " + testenv.Root.What + ": uid"
	needsUser := testenv.SkipMark + "needs " + testenv.NonRoot.What + ": uid"
	ok := [3]string{"TestOK", "pass", ""}
	for _, c := range []struct {
		name, pass string
		ci         bool
		in         string
		want       bool
		says       string
	}{
		{"all pass", "privileged", true, events(ok), true, "1 tests passed"},
		{"a failure", "privileged", false, events(ok, [3]string{"TestBad", "fail", "broken here"}), false, "broken here"},
		{"a skip at home", "privileged", false, events(ok, [3]string{"TestX", "skip", "needs the tool x"}), true, "needs the tool x\n    p TestX"},
		{"a skip in CI", "privileged", true, events(ok, [3]string{"TestX", "skip", "no reason of mine"}), false, "must run: p TestX: no reason of mine"},
		{"a listed skip in CI", "privileged", true, events(ok, [3]string{"TestListed/a", "skip", "x"}), true, "left out"},
		{"root in the other pass", "unprivileged", true, events(ok, [3]string{"TestX", "skip", needsRoot}), true, needsRoot},
		{"root in its own pass", "privileged", true, events(ok, [3]string{"TestX", "skip", needsRoot}), false, "must run"},
		{"a user in the other pass", "privileged", true, events(ok, [3]string{"TestX", "skip", needsUser}), true, needsUser},
		{"a user in its own pass", "unprivileged", true, events(ok, [3]string{"TestX", "skip", needsUser}), false, "must run"},
		{"nothing ran", "privileged", false, events(), false, "no test was run"},
		{"a build failure", "privileged", false, `{"ImportPath":"p","Action":"build-output","Output":"p.go:1: undefined: x\n"}` + "\n" +
			`{"Action":"fail","Package":"` + module + `p","Elapsed":0,"FailedBuild":"p"}` + "\n", false, "undefined: x"},
		{"not JSON", "privileged", false, events(ok) + "go: cannot find main module\n", true, "go: cannot find main module"},
		{"a crash that ends no test", "privileged", false,
			`{"Action":"output","Package":"` + module + `p","Test":"TestX","Output":"panic: boom\n"}` + "\n" +
				`{"Action":"fail","Package":"` + module + `p","Elapsed":1}` + "\n", false, "panic: boom"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			g := &gate{pass: c.pass, ci: c.ci, out: &out, exceptions: []testenv.Exception{{Package: "p", Test: "TestListed", Reason: "so"}}}
			if err := g.read(strings.NewReader(c.in)); err != nil {
				t.Fatal(err)
			}
			if got := g.summary(); got != c.want || !strings.Contains(out.String(), c.says) {
				t.Errorf("well = %v, want %v; want %q in:\n%s", got, c.want, c.says, &out)
			}
		})
	}
}
