package difftest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/slashrun/slashrun/internal/testenv"
)

var update = flag.Bool("update", false, "write the exit status and the tree that the reference leaves into testdata/corpus")

// A corpus file is a txtar archive. Its comment is the rule in words (# lines)
// and directives:
//
//	cmd ARGS...    a command line, in Go-quoted words where needed; may repeat
//	env K=V        a variable of the environment
//	uid N          run as this user
//	only root|ns   with --root=/r, or in a root of its own without; else both
//	disk           on ext4, else on a tmpfs
//	output         compare standard output too
//	exit N...      what the reference exits with, one for each cmd
//
// The sections are "tree" (nodes in text form), "stdin", files by their absolute
// path, and "after" (and "after root" where it is another): what is in the tree
// afterwards that was not in it before, as measured on the reference, and
// "gone PATH" for what was. Where ours differs, "ours" (and "ours root") says so:
// the id of the accepted difference, the exit of each cmd, and what ours leaves.
type corpusCase struct {
	file  string
	arc   *txtar.Archive
	base  Case
	only  string
	exits []int
	after map[string]string
}

func readCorpus(file string) (*corpusCase, error) {
	arc, err := txtar.ParseFile(file)
	if err != nil {
		return nil, err
	}
	c := &corpusCase{file: file, arc: arc, after: map[string]string{}}
	c.base.Name = strings.TrimSuffix(filepath.Base(file), ".txtar")
	for _, line := range strings.Split(string(arc.Comment), "\n") {
		key, rest, _ := strings.Cut(line, " ")
		switch key {
		case "", "#":
		case "cmd":
			var args []string
			for rest != "" {
				var w string
				if w, rest, err = nextWord(rest); err != nil {
					return nil, err
				}
				args = append(args, w)
			}
			c.base.Cmds = append(c.base.Cmds, args)
		case "env":
			c.base.Env = append(c.base.Env, rest)
		case "uid":
			c.base.UID, err = strconv.Atoi(rest)
		case "only":
			c.only = rest
		case "disk":
			c.base.Disk = true
		case "output":
			c.base.Output = true
		case "exit":
			for _, f := range strings.Fields(rest) {
				n, err := strconv.Atoi(f)
				if err != nil {
					return nil, err
				}
				c.exits = append(c.exits, n)
			}
		default:
			err = fmt.Errorf("unknown directive %q", line)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, f := range arc.Files {
		switch {
		case f.Name == "tree":
			nodes, err := parseTree(string(f.Data))
			if err != nil {
				return nil, err
			}
			c.base.Nodes = append(c.base.Nodes, nodes...)
		case f.Name == "stdin":
			c.base.Stdin = string(f.Data)
		case strings.HasPrefix(f.Name, "after"), strings.HasPrefix(f.Name, "ours"):
			c.after[f.Name] = string(f.Data)
		case strings.HasPrefix(f.Name, "/"):
			c.base.Nodes = append(c.base.Nodes, Node{Type: 'f', Path: f.Name, Mode: 0o644, Content: string(f.Data)})
		default:
			return nil, fmt.Errorf("unknown section %q", f.Name)
		}
	}
	if len(c.base.Cmds) == 0 {
		return nil, fmt.Errorf("no cmd")
	}
	return c, nil
}

// variant is the case with or without --root.
func (c *corpusCase) variant(root bool) *Case {
	v := c.base
	v.Root = root
	if root {
		v.Name += " --root"
	}
	return &v
}

// summary is the change that the steps made, as the "after" section has it.
func summary(w *worker, c *Case, steps []Step) (string, error) {
	before, err := w.run(&Case{Root: c.Root, Nodes: c.Nodes, Cmds: [][]string{nil}}, "/x/nothing")
	if err != nil {
		return "", err
	}
	was, now := lines(before[0].Tree, c.timesMatter()), lines(steps[len(steps)-1].Tree, c.timesMatter())
	var b strings.Builder
	paths := map[string]bool{}
	for _, l := range now {
		if p := nodePath(l); !slices.Contains(was, l) {
			fmt.Fprintf(&b, "%s\n", l)
			paths[p] = true
		} else {
			paths[p] = true
		}
	}
	for _, l := range was {
		if p := nodePath(l); !paths[p] {
			fmt.Fprintf(&b, "gone %s\n", word(p))
		}
	}
	return b.String(), nil
}

func nodePath(line string) string {
	p, _, err := nextWord(line[2:])
	if err != nil {
		return line
	}
	return p
}

// want is what the reference leaves.
func (c *corpusCase) want(root bool) string {
	if v, ok := c.after["after root"]; ok && root {
		return v
	}
	if root && c.only != "root" {
		// The same tree one level down.
		return rooted(c.after["after"])
	}
	return c.after["after"]
}

// wantOurs is the outcome of ours: the reference's, or the one of "ours".
func (c *corpusCase) wantOurs(root bool) string {
	v, own := c.after["ours"]
	if r, ok := c.after["ours root"]; ok && root {
		return r
	}
	if own && root && c.only != "root" {
		return rooted(v)
	}
	if own {
		return v
	}
	return outcome("", c.exits, c.want(root))
}

// outcome is the text of a section "ours". The id is empty where ours does what
// the reference does.
func outcome(id string, exits []int, tree string) string {
	var b strings.Builder
	if id != "" {
		fmt.Fprintf(&b, "differs %s\n", id)
	}
	b.WriteString("exit")
	for _, e := range exits {
		fmt.Fprintf(&b, " %d", e)
	}
	return b.String() + "\n" + tree
}

// differs returns the ids that the sections "ours" name.
func (c *corpusCase) differs() (ids []string) {
	for _, name := range []string{"ours", "ours root"} {
		first, _, _ := strings.Cut(c.after[name], "\n")
		if id, ok := strings.CutPrefix(first, "differs "); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

func exitsOf(steps []Step) (exits []int) {
	for _, s := range steps {
		exits = append(exits, s.Exit)
	}
	return exits
}

func rooted(text string) string {
	var b strings.Builder
	for _, l := range strings.SplitAfter(text, "\n") {
		if l == "" {
			continue
		}
		if strings.HasPrefix(l, "differs ") || strings.HasPrefix(l, "exit ") {
			b.WriteString(l)
			continue
		}
		typ, rest, _ := strings.Cut(l, " ")
		if strings.HasPrefix(rest, `"`) {
			fmt.Fprintf(&b, `%s "%s%s`, typ, altRoot, rest[1:])
		} else {
			fmt.Fprintf(&b, "%s %s%s", typ, altRoot, rest)
		}
		if typ == "h" {
			s := b.String()
			b.Reset()
			b.WriteString(strings.Replace(s, " target=/", " target="+altRoot+"/", 1))
		}
	}
	return b.String()
}

func (c *corpusCase) modes() []bool {
	switch c.only {
	case "root":
		return []bool{true}
	case "ns":
		return []bool{false}
	}
	return []bool{false, true}
}

func TestCorpus(t *testing.T) {
	testenv.Need(t, testenv.Root)
	files, err := filepath.Glob("testdata/corpus/*.txtar")
	if err != nil || len(files) < 150 {
		t.Fatalf("%d corpus files, %v; want at least 150", len(files), err)
	}
	haveReference := true
	exes := map[string]string{"slashrun": slashrun(t)}
	if _, err := os.Stat(referencePath()); err != nil {
		haveReference = false
		t.Log("without the reference: against what it left when the corpus was written")
	} else {
		exes["reference"] = referencePath()
	}
	if exes["nothing"], err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	pools := map[bool]*pool{false: newPool(t, runtime.NumCPU(), false, exes), true: newPool(t, 1, true, exes)}
	var cases []*corpusCase
	for _, f := range files {
		c, err := readCorpus(f)
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		cases = append(cases, c)
	}
	for _, disk := range []bool{false, true} {
		var these []*corpusCase
		for _, c := range cases {
			if c.base.Disk == disk {
				these = append(these, c)
			}
		}
		pools[disk].each(len(these), func(w *worker, i int) {
			if err := runCorpusCase(t, w, these[i], haveReference); err != nil {
				t.Errorf("%s: %v", these[i].base.Name, err)
			}
		})
	}
}

func runCorpusCase(t *testing.T, w *worker, c *corpusCase, haveReference bool) error {
	refs := map[bool][]Step{}
	if haveReference {
		if err := runReference(t, w, c, refs); err != nil {
			return err
		}
	}
	for _, root := range c.modes() {
		v := c.variant(root)
		got, err := w.run(v, ours.exe, ours.argv...)
		if err != nil {
			return err
		}
		s, err := summary(w, v, got)
		if err != nil {
			return err
		}
		id := ""
		if want := refs[root]; haveReference {
			if diff := compare(v, want, got); diff != "" {
				if id = accepted(v, want, got); id == "" {
					t.Errorf("%s", report(v, diff, want, got))
					continue
				}
			}
		}
		is := outcome(id, exitsOf(got), s)
		if !haveReference { // nothing to differ from: the file knows
			if first, _, _ := strings.Cut(c.wantOurs(root), "\n"); strings.HasPrefix(first, "differs ") {
				is = first + "\n" + is
			}
		}
		switch want := c.wantOurs(root); {
		case is == want:
		case *update && root && c.only != "root":
			c.after["ours root"] = is
		case *update:
			c.after["ours"] = is
		case haveReference && !referenceIs262(t):
			t.Logf("%s: ours beside this reference (- the file, + now):\n%s", v.Name, treeDiff(strings.Split(want, "\n"), strings.Split(is, "\n")))
		default:
			t.Errorf("%s: ours (- the file, + now):\n%s", v.Name, treeDiff(strings.Split(want, "\n"), strings.Split(is, "\n")))
		}
	}
	if *update && haveReference {
		return c.write()
	}
	return nil
}

// runReference holds the file against the reference, or takes the outcome over
// for -update.
func runReference(t *testing.T, w *worker, c *corpusCase, refs map[bool][]Step) error {
	var exits []int
	after := map[string]string{}
	for _, root := range c.modes() {
		v := c.variant(root)
		steps, err := w.run(v, theReference.exe)
		if err != nil {
			return err
		}
		refs[root] = steps
		s, err := summary(w, v, steps)
		if err != nil {
			return err
		}
		switch {
		case !root || c.only == "root":
			after["after"] = s
		case s != rooted(after["after"]):
			after["after root"] = s
		}
		if exits == nil {
			exits = exitsOf(steps)
		}
	}
	if *update {
		c.exits, c.after = exits, after
		return nil
	}
	if !slices.Equal(exits, c.exits) || after["after"] != c.after["after"] || after["after root"] != c.after["after root"] {
		say := t.Errorf
		if !referenceIs262(t) {
			say = t.Logf
		}
		say("%s: the reference exits %v and not %v, and leaves\n%s%s", c.base.Name, exits, c.exits, after["after"], after["after root"])
	}
	return nil
}

// write puts what the reference did into the file, and where ours differs.
func (c *corpusCase) write() error {
	var comment []string
	for _, l := range strings.Split(strings.TrimRight(string(c.arc.Comment), "\n"), "\n") {
		if !strings.HasPrefix(l, "exit ") {
			comment = append(comment, l)
		}
	}
	text := make([]string, len(c.exits))
	for i, e := range c.exits {
		text[i] = strconv.Itoa(e)
	}
	comment = append(comment, "exit "+strings.Join(text, " "))
	arc := &txtar.Archive{Comment: []byte(strings.Join(comment, "\n") + "\n")}
	for _, f := range c.arc.Files {
		if !strings.HasPrefix(f.Name, "after") && !strings.HasPrefix(f.Name, "ours") {
			arc.Files = append(arc.Files, f)
		}
	}
	for _, name := range []string{"after", "after root", "ours", "ours root"} {
		if text, ok := c.after[name]; ok {
			arc.Files = append(arc.Files, txtar.File{Name: name, Data: []byte(text)})
		}
	}
	return os.WriteFile(c.file, txtar.Format(arc), 0o644)
}
