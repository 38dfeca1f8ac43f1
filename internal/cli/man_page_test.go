package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A manPage is a page of man/: mdoc(7) source, as far as the tests look into it.
type manPage struct {
	file    string // "slashrun-exec.1"
	name    string // "slashrun-exec"
	lines   []string
	literal []bool // for each line: it is in a literal display
	section []string
	sub     []string // the subsection, empty before the first
}

func readManPage(t *testing.T, path string) *manPage {
	t.Helper()
	text, err := os.ReadFile(path)
	mustDo(t, err)
	p := &manPage{file: filepath.Base(path)}
	p.name = strings.TrimSuffix(p.file, filepath.Ext(p.file))
	section, sub, literal := "", "", false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, ".Sh "); ok {
			section, sub = name, ""
		}
		if name, ok := strings.CutPrefix(line, ".Ss "); ok {
			sub = name
		}
		if strings.HasPrefix(line, ".Ed") {
			literal = false
		}
		p.lines = append(p.lines, line)
		p.literal = append(p.literal, literal)
		p.section = append(p.section, section)
		p.sub = append(p.sub, sub)
		if strings.HasPrefix(line, ".Bd -literal") {
			literal = true
		}
	}
	return p
}

// manPages reads all pages, by name.
func manPages(t *testing.T) map[string]*manPage {
	t.Helper()
	files, err := filepath.Glob("../../man/*.[1-9]")
	mustDo(t, err)
	if len(files) == 0 {
		t.Fatal("no pages in man/")
	}
	pages := map[string]*manPage{}
	for _, f := range files {
		p := readManPage(t, f)
		pages[p.name] = p
	}
	return pages
}

// pageOf is the page that documents c: its own, that of the command it is a part
// of, or that of slashrun.
func pageOf(pages map[string]*manPage, c *Command) *manPage {
	first, _, _ := strings.Cut(c.Name, " ")
	if p := pages["slashrun-"+first]; p != nil {
		return p
	}
	return pages["slashrun"]
}

// allCommands are those of the table and what is called by two words.
func allCommands() []*Command {
	list := commands()
	for _, c := range commands() {
		list = append(list, c.sub()...)
	}
	return list
}

// macros calls f with the words of each macro line, without the dot.
func (p *manPage) macros(f func(section string, words []string)) {
	for i, line := range p.lines {
		if text, ok := strings.CutPrefix(line, "."); ok && !strings.HasPrefix(line, `.\"`) {
			if words := manWords(text); len(words) > 0 {
				f(p.section[i], words)
			}
		}
	}
}

// manWords splits the arguments of a macro, which quotes can hold together.
func manWords(text string) []string {
	var words []string
	for text = strings.TrimLeft(text, " "); text != ""; text = strings.TrimLeft(text, " ") {
		if rest, ok := strings.CutPrefix(text, `"`); ok {
			var word string
			word, text, _ = strings.Cut(rest, `"`)
			words = append(words, word)
			continue
		}
		var word string
		word, text, _ = strings.Cut(text, " ")
		words = append(words, word)
	}
	return words
}

// isMacro says whether a word in a macro line is another macro of mdoc(7).
func isMacro(word string) bool {
	return slices.Contains(strings.Fields("Ap Ar Cm Dq Dv Em Er Ev Fa Fl Fn Ic In Li Lk Nm No Ns Op Oo Oc Pa Pf Po Pc Pq Ql Qq So Sc Sq Sx Sy Va Xr"), word)
}

// isDelimiter says whether a word is punctuation to mdoc(7).
func isDelimiter(word string) bool {
	return len(strings.TrimPrefix(word, `\&`)) == 1 && strings.ContainsAny(word, ".,:;()[]?!|")
}

// options are the options that a page lists: the heads of list items.
func (p *manPage) options() []Flag {
	var list []Flag
	p.macros(func(_ string, words []string) {
		if len(words) < 3 || words[0] != "It" || words[1] != "Fl" {
			return
		}
		var f Flag
		for i := 1; i+1 < len(words); i++ {
			switch next := words[i+1]; {
			case words[i] == "Fl" && strings.HasPrefix(next, "-"):
				f.Long = next[1:]
			case words[i] == "Fl":
				f.Short = next[0]
			case words[i] == "Ar":
				f.Arg = next
			case words[i] == "Op" || words[i] == "Oo":
				f.Optional = true
			}
		}
		list = append(list, f)
	})
	return list
}

// mentioned are the names of all options in a page, "-n" and "--dry-run", wherever
// they occur.
func (p *manPage) mentioned() []string {
	var list []string
	p.macros(func(_ string, words []string) {
		flag := false
		for _, w := range words {
			switch {
			case isMacro(w):
				flag = w == "Fl"
			case flag && !isDelimiter(w):
				list = append(list, "-"+w)
			}
		}
	})
	return list
}

// exitCodes are the statuses that a page lists: those of a command with a name of
// two words in a subsection that is called so.
func (p *manPage) exitCodes(command string) []int {
	var list []int
	for i, line := range p.lines {
		head, ok := strings.CutPrefix(line, ".It ")
		if p.section[i] != "EXIT STATUS" || !ok || p.sub[i] != "" && p.sub[i] != command || strings.Contains(command, " ") && p.sub[i] == "" {
			continue
		}
		if n, err := strconv.Atoi(strings.Fields(head)[0]); err == nil {
			list = append(list, n)
		}
	}
	return list
}

// after returns the words that follow each occurrence of a macro.
func (p *manPage) after(macro string) [][]string {
	var list [][]string
	p.macros(func(_ string, words []string) {
		for i, w := range words {
			if w != macro {
				continue
			}
			end := i + 1
			for end < len(words) && !isMacro(words[end]) {
				end++
			}
			list = append(list, words[i+1:end])
		}
	})
	return list
}

// manText is a line of a literal display as it is printed (roff(7)).
func manText(line string) string {
	return strings.NewReplacer(`\-`, "-", `\(aq`, "'", `\(ti`, "~", `\(ha`, "^", `\(ga`, "`", `\&`, "", `\e`, `\`).Replace(line)
}

// examples are the commands of the section EXAMPLES: what stands behind a prompt.
// A display without prompts is one example, a script or a file.
func (p *manPage) examples() []string {
	var list, script []string
	more := false
	end := func() {
		if script != nil {
			list = append(list, strings.Join(script, "\n"))
		}
		script, more = nil, false
	}
	for i, line := range p.lines {
		if p.section[i] != "EXAMPLES" {
			continue
		}
		if !p.literal[i] {
			end()
			continue
		}
		text := manText(line)
		switch prompt := strings.HasPrefix(text, "$ ") || strings.HasPrefix(text, "# "); {
		case more:
			list[len(list)-1] += "\n" + text
			more = strings.HasSuffix(text, `\`)
		case prompt:
			list = append(list, text[2:])
			more = strings.HasSuffix(text, `\`)
		default:
			script = append(script, text)
		}
	}
	end()
	return list
}
