package cli

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// testEnv returns an Env over buffers.
func testEnv(args ...string) (env *Env, stdout, stderr *bytes.Buffer) {
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	return &Env{Args: args, Prog: "slashrun", Stdin: strings.NewReader(""), Stdout: stdout, Stderr: stderr}, stdout, stderr
}

// The table is an interface: help, completion and dispatch are made from it.
func TestTableOfCommands(t *testing.T) {
	names := map[string]string{}
	take := func(name, owner string) {
		if other, ok := names[name]; ok {
			t.Errorf("name %q is claimed by %s and %s", name, other, owner)
		}
		names[name] = owner
	}
	for _, c := range commands() {
		take(c.Name, c.Name)
		for _, n := range c.CalledAs {
			take(n, c.Name)
		}
		if !validName(c.Name) {
			t.Errorf("%q is not a name", c.Name)
		}
		if c.Run == nil {
			t.Errorf("%s: no Run", c.Name)
		}
		if len(c.Args) == 0 {
			t.Errorf("%s: no usage line", c.Name)
		}
		if c.Summary == "" || strings.HasSuffix(c.Summary, ".") || strings.Contains(c.Summary, "\n") {
			t.Errorf("%s: summary %q is not one line without a full stop", c.Name, c.Summary)
		}
		codes := map[int]bool{}
		for _, x := range c.Exits {
			if codes[x.Code] {
				t.Errorf("%s: exit code %d twice", c.Name, x.Code)
			}
			codes[x.Code] = true
		}
		// A command that becomes another leaves the low codes to that one.
		if !codes[ExitOK] || !codes[ExitUsage] && !codes[exitExecFailed] {
			t.Errorf("%s: help does not tell exit codes 0 and 1", c.Name)
		}
		flags := map[string]bool{}
		for _, f := range c.flags() {
			if f.Long == "" && f.Short == 0 {
				t.Errorf("%s: an option without a name", c.Name)
			}
			if f.Help == "" {
				t.Errorf("%s: option %s has no help", c.Name, f.usage())
			}
			for _, k := range []string{"--" + f.Long, "-" + string(rune(f.Short))} {
				if k == "--" || k == "-\x00" {
					continue
				}
				if flags[k] {
					t.Errorf("%s: option %s twice", c.Name, k)
				}
				flags[k] = true
			}
		}
		for _, line := range strings.Split(c.Doc, "\n") {
			if len(line) > 80 {
				t.Errorf("%s: a line of the help has %d columns, more than 80: %s", c.Name, len(line), line)
			}
		}
	}
}

func TestEveryCommandAnswersHelp(t *testing.T) {
	for _, c := range commands() {
		var want string
		for _, args := range [][]string{{"help", c.Name}, {c.Name, "--help"}} {
			env, stdout, stderr := testEnv(append([]string{"slashrun"}, args...)...)
			if code := Run(context.Background(), env); code != ExitOK || stderr.Len() > 0 {
				t.Errorf("slashrun %v = %d, stderr %q", args, code, stderr)
			}
			if want == "" {
				want = stdout.String()
			}
			if got := stdout.String(); got != want || !strings.Contains(got, "slashrun "+c.Name) {
				t.Errorf("slashrun %v printed\n%swant\n%s", args, got, want)
			}
		}
	}
}

func TestCalledByAnotherName(t *testing.T) {
	for _, c := range commands() {
		for _, name := range c.CalledAs {
			env, stdout, _ := testEnv("/usr/bin/"+name, "--help")
			if code := Run(context.Background(), env); code != ExitOK || stdout.Len() == 0 || env.Command == nil || env.Command.Name != c.Name {
				t.Errorf("%s --help = %d, ran %v, want help of %s", name, code, env.Command, c.Name)
			}
			if env.Prog != name {
				t.Errorf("called as %s it speaks as %s", name, env.Prog)
			}
		}
	}
}

// execve(2) allows an empty argument vector.
func TestEmptyArgumentVector(t *testing.T) {
	env, _, stderr := testEnv()
	if code := Run(context.Background(), env); code != ExitUsage || stderr.Len() == 0 {
		t.Errorf("no argv at all: exit %d, stderr %q; want 1 and a message", code, stderr)
	}
}

func TestLookupEnv(t *testing.T) {
	env := &Env{Environ: []string{"A=1", "B=", "A=2", "=C=3", "D"}}
	for _, c := range []struct {
		name, value string
		ok          bool
	}{{"A", "1", true}, {"B", "", true}, {"C", "", false}, {"D", "", false}, {"AB", "", false}} {
		if v, ok := env.LookupEnv(c.name); v != c.value || ok != c.ok {
			t.Errorf("LookupEnv(%q) = %q, %v; want %q, %v", c.name, v, ok, c.value, c.ok)
		}
	}
}

func TestQuoteKeepsControlCharactersOffTheTerminal(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"/run/lock", "/run/lock"},
		{"/run/große Straße", "/run/große Straße"},
		{"", `""`},
		{"a\nb", `"a\nb"`},
		{"\x1b[2J", `"\x1b[2J"`},
		{"\xff", `"\xff"`},
		{"\uFFFD", "\uFFFD"}, // a replacement character that is really there
		{"a\u202eb", `"a\u202eb"`},
		{"c1\u009b", `"c1\u009b"`},
	} {
		if got := Quote(c.in); got != c.want {
			t.Errorf("Quote(%q) = %s, want %s", c.in, got, c.want)
		}
	}
}

func TestColourNeedsATerminal(t *testing.T) {
	env, stdout, _ := testEnv()
	env.Environ = []string{"TERM=xterm"}
	if env.Colour(stdout) {
		t.Error("a buffer is not a terminal, and Colour says it is")
	}
}
