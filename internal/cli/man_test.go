package cli

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/testenv"
)

// Each command has a page; options, their arguments, and exit codes are those of
// its tables, no more and no less.
func TestManPagesHoldTheTables(t *testing.T) {
	pages := manPages(t)
	for _, c := range allCommands() {
		p := pageOf(pages, c)
		var codes []int
		for _, x := range c.Exits {
			codes = append(codes, x.Code)
		}
		got := p.exitCodes(c.Name)
		slices.Sort(codes)
		if slices.Sort(got); !slices.Equal(got, codes) {
			t.Errorf("man/%s: the exit codes of %s are %v, in its table %v", p.file, c.Name, got, codes)
		}
		listed := p.options()
		for _, f := range c.flags() {
			want := Flag{Long: f.Long, Short: f.Short, Arg: f.Arg, Optional: f.Optional}
			if !slices.ContainsFunc(listed, func(have Flag) bool { return have.usage() == want.usage() }) {
				t.Errorf("man/%s: the option %q of %s is not listed, or otherwise", p.file, strings.TrimSpace(want.usage()), c.Name)
			}
		}
		if p.name == "slashrun" && c.Flags != nil {
			t.Errorf("%s has options and no page of its own", c.Name)
		}
		for _, name := range c.CalledAs {
			if !slices.ContainsFunc(append(p.after("Nm"), p.after("Pa")...), func(w []string) bool { return slices.Contains(w, name) }) {
				t.Errorf("man/%s: that it can be called %s is not said", p.file, name)
			}
		}
	}
}

// A page names no option that there is not, wherever in its text.
func TestManPagesNameNoOtherOptions(t *testing.T) {
	for name, p := range manPages(t) {
		known := []string{"--", "--help"}
		for _, c := range allCommands() {
			if first, _, _ := strings.Cut(c.Name, " "); name != "slashrun" && name != "slashrun-"+first {
				continue
			}
			for _, f := range c.flags() {
				known = append(known, "--"+f.Long, "-"+string(rune(f.Short)))
			}
		}
		if name == "slashrun" {
			known = append(known, "--version")
		}
		for _, o := range p.mentioned() {
			if !slices.Contains(known, o) {
				t.Errorf("man/%s: there is no option %s", p.file, o)
			}
		}
		for _, o := range p.options() {
			if o.Long == "" && o.Short == 0 {
				t.Errorf("man/%s: an option without a name", p.file)
			}
		}
		for _, line := range p.commandLines() {
			checkCommandLine(t, "man/"+p.file, line)
		}
	}
}

// commandLines are the command lines that a page shows, examples and others.
func (p *manPage) commandLines() []string {
	list := p.examples()
	for _, macro := range []string{"Ql", "Li"} {
		for _, words := range p.after(macro) {
			list = append(list, manText(strings.Join(words, " ")))
		}
	}
	return list
}

// checkCommandLine holds the command and the long options of a call of slashrun to
// the tables.
func checkCommandLine(t *testing.T, where, line string) {
	t.Helper()
	line, _, _ = strings.Cut(line, "     #") // a remark
	line, _, _ = strings.Cut(line, "; ")     // another command
	words := strings.Fields(line)
	i := slices.Index(words, "slashrun")
	if i < 0 || i+1 == len(words) {
		return
	}
	c := find(words[i+1])
	if c != nil && i+2 < len(words) {
		for _, sub := range c.sub() {
			if sub.word() == words[i+2] {
				c, i = sub, i+1
				break
			}
		}
	}
	if c == nil {
		if !strings.HasPrefix(words[i+1], "-") {
			t.Errorf("%s: %q: there is no command %s", where, line, words[i+1])
		}
		return
	}
	runs := c.Name == "exec" || c.Name == "try" || c.Name == "lock" // with a command, which has options of its own
	for k, w := range words[i+2:] {
		if w == "--" || runs && !strings.HasPrefix(w, "-") && !takesNext(c, words[i+1+k]) {
			return
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(w, "--"), "=")
		if strings.HasPrefix(w, "--") && name != "help" && !slices.ContainsFunc(c.flags(), func(f Flag) bool { return f.Long == name }) {
			t.Errorf("%s: %q: there is no option --%s", where, line, name)
		}
	}
}

// What help and the documents show has the commands and options that there are.
func TestShownCommandLines(t *testing.T) {
	n := 0
	check := func(where, text, indent string) {
		for line := range strings.Lines(text) {
			code, ok := strings.CutPrefix(line, indent)
			if code = strings.TrimPrefix(code, "$ "); ok && strings.HasPrefix(code, "slashrun ") {
				n++
				checkCommandLine(t, where, strings.TrimSpace(code))
			}
		}
	}
	for _, c := range allCommands() {
		check("help "+c.Name, c.Doc, "  ")
	}
	files, err := filepath.Glob("../../docs/*.md")
	mustDo(t, err)
	for _, f := range append(files, "../../README.md", "../../examples/README.md") {
		text, err := os.ReadFile(f)
		mustDo(t, err)
		check(filepath.Base(f), string(text), "    ")
	}
	if n < 30 {
		t.Errorf("only %d command lines were found", n)
	}
}

// takesNext says whether a word of a command line is an option whose argument is
// the next word.
func takesNext(c *Command, word string) bool {
	return len(word) == 2 && slices.ContainsFunc(c.flags(), func(f Flag) bool { return word[0] == '-' && f.Short == word[1] && f.Arg != "" })
}

// NAME, SYNOPSIS and SEE ALSO agree with the table and with one another.
func TestManPagesAgree(t *testing.T) {
	pages := manPages(t)
	overview := pages["slashrun"]
	var targets []string
	for _, words := range overview.after("Xr") {
		targets = append(targets, words[0])
	}
	for _, c := range commands() {
		p := pages["slashrun-"+c.Name]
		if p == nil {
			if !slices.ContainsFunc(overview.lines, func(l string) bool { return strings.HasPrefix(l, ".It Cm "+c.Name) }) {
				t.Errorf("man/slashrun.1 does not list %s, which has no page", c.Name)
			}
			continue
		}
		if !slices.Contains(targets, p.name) {
			t.Errorf("man/slashrun.1 does not refer to %s", p.name)
		}
		if !slices.Contains(p.lines, ".Nd "+c.Summary) {
			t.Errorf("man/%s: the description is not the summary of the table: %s", p.file, c.Summary)
		}
		forms := 0
		for i, line := range p.lines {
			if p.section[i] == "SYNOPSIS" && line == ".Nm slashrun "+c.Name {
				forms++
			}
		}
		if forms != len(c.Args) {
			t.Errorf("man/%s: %d forms in the synopsis, %d in the table", p.file, forms, len(c.Args))
		}
	}
	readme, err := os.ReadFile("../../README.md")
	mustDo(t, err)
	for name, p := range pages {
		if !strings.Contains(string(readme), "](man/"+p.file+")") {
			t.Errorf("README.md does not refer to man/%s", p.file)
		}
		if name != "slashrun" && find(strings.TrimPrefix(name, "slashrun-")) == nil {
			t.Errorf("man/%s is about no command", p.file)
		}
		for _, words := range p.after("Xr") {
			if strings.HasPrefix(words[0], "slashrun") && (len(words) < 2 || pages[words[0]] == nil || pages[words[0]].file != words[0]+"."+words[1]) {
				t.Errorf("man/%s refers to %v, which there is not", p.file, words)
			}
		}
	}
}

// A variable that a page names is one that the code knows.
func TestManPagesNameKnownVariables(t *testing.T) {
	var code strings.Builder
	for _, dir := range []string{"../../internal", "../../pidfile", "../../lockfile"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			code.Write(text)
			return err
		})
		mustDo(t, err)
	}
	for _, p := range manPages(t) {
		for _, words := range p.after("Ev") {
			for _, w := range words {
				// The names of exec's variables are made from those of its options.
				quoted := `"` + w
				if !strings.HasPrefix(w, execPrefix) {
					quoted += `"`
				} else {
					quoted = `"` + execPrefix
				}
				if !isDelimiter(w) && !strings.Contains(code.String(), quoted) && !strings.Contains(code.String(), `"`+w+`=`) {
					t.Errorf("man/%s: nothing reads or sets the variable %s", p.file, w)
				}
			}
		}
	}
}

// Hyphens and quotes in examples are what a person copies into a shell: in roff
// the plain characters may become typographic ones.
func TestManPagesCanBeCopiedFrom(t *testing.T) {
	for _, p := range manPages(t) {
		for i, line := range p.lines {
			if !p.literal[i] {
				continue
			}
			if strings.ContainsAny(strings.ReplaceAll(line, `\-`, ""), "-'`~^") {
				t.Errorf(`man/%s:%d: write \- \(aq \(ga \(ti \(ha for these characters: %s`, p.file, i+1, line)
			}
		}
	}
}

func TestManPagesPassLint(t *testing.T) {
	testenv.Need(t, testenv.Tool("mandoc"))
	for _, p := range manPages(t) {
		out, _ := exec.CommandContext(t.Context(), "mandoc", "-Tlint", filepath.Join("../../man", p.file)).Output()
		for line := range strings.Lines(string(out)) {
			// Which manuals the machine has is no matter of ours.
			if !strings.Contains(line, "STYLE: referenced manual not found") {
				t.Errorf("mandoc -Tlint: %s", line)
			}
		}
	}
}
