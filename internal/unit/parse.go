package unit

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/slashrun/slashrun/internal/conffiles"
)

// Assignment is one KEY=VALUE. Continuation lines are joined; nothing is unquoted
// or expanded yet.
type Assignment struct {
	Section, Key, Value string
	File                string
	Line                int // where it ends, as systemd counts
}

// Problem is something wrong that does not keep the rest from counting.
type Problem struct {
	File string
	Line int // 0 for the whole file
	Text string
}

func (p *Problem) Error() string {
	if p.Line == 0 {
		return p.File + ": " + p.Text
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Text)
}

const whitespace = " \t\n\r"

// Parse reads a unit file; file is its name for messages. An error says that the
// file cannot be understood from some line on: what is before it is returned, and
// is not the whole.
func Parse(r io.Reader, file string) ([]Assignment, []*Problem, error) {
	p := parser{file: file}
	lines := conffiles.NewLines(r)
	var joined strings.Builder // of continued lines
	continued := false
	for {
		raw, err := lines.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return p.list, p.problems, fmt.Errorf("%s: %w", file, err)
		}
		line := string(raw)
		if lines.Number() == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		// A comment between continued lines is left out (systemd.syntax(7)).
		if text := strings.TrimLeft(line, whitespace); text != "" && (text[0] == '#' || text[0] == ';') {
			continue
		}
		if joined.Len()+len(line) >= conffiles.MaxLine {
			return p.list, p.problems, fmt.Errorf("%s:%d: %w", file, lines.Number(), conffiles.ErrLineTooLong)
		}
		if open(line) {
			joined.WriteString(line[:len(line)-1] + " ")
			continued = true
			continue
		}
		if continued {
			joined.WriteString(line)
			line = joined.String()
			joined.Reset()
			continued = false
		}
		if err := p.line(line, lines.Number()); err != nil {
			return p.list, p.problems, err
		}
	}
	if continued {
		if err := p.line(joined.String(), lines.Number()+1); err != nil {
			return p.list, p.problems, err
		}
	}
	return p.list, p.problems, nil
}

// open says that a line goes on in the next: it ends in a backslash that no
// backslash escapes.
func open(line string) bool {
	n := len(line) - len(strings.TrimRight(line, `\`))
	return n%2 == 1
}

type parser struct {
	file     string
	section  string
	list     []Assignment
	problems []*Problem
}

func (p *parser) problem(line int, format string, args ...any) {
	p.problems = append(p.problems, &Problem{p.file, line, fmt.Sprintf(format, args...)})
}

func (p *parser) line(text string, number int) error {
	text = strings.Trim(text, whitespace)
	if text == "" {
		return nil
	}
	if !utf8.ValidString(text) {
		p.problem(number, "not UTF-8; the line does not count")
		return nil
	}
	if text[0] == '[' {
		name, ok := strings.CutSuffix(text[1:], "]")
		if !ok {
			return fmt.Errorf("%s:%d: the section header %q has no ]", p.file, number, text)
		}
		p.section = name
		return nil
	}
	if p.section == "" {
		p.problem(number, "an assignment outside of a section does not count")
		return nil
	}
	key, value, ok := strings.Cut(text, "=")
	key = strings.TrimRight(key, whitespace)
	if !ok || key == "" {
		p.problem(number, "%q is no KEY=VALUE and does not count", text)
		return nil
	}
	p.list = append(p.list, Assignment{p.section, key, strings.TrimLeft(value, whitespace), p.file, number})
	return nil
}
