package tmpfiles

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"

	"github.com/slashrun/slashrun/internal/conffiles"
	"github.com/slashrun/slashrun/internal/glob"
)

// Config is a set of parsed lines: plain data, until it is applied.
type Config struct {
	plain, globs table
	files        int
	linked       bool
	own          *ownPath  // paths with lines of their own, once they were asked for
	set          *glob.Set // and patterns with such

	// Invalid are the lines that do not count because they are wrong: the
	// exit status becomes 65.
	Invalid []*LineError
	// Notices are told to a person and change nothing.
	Notices []Notice
	// Ignored are the lines that do not count and are not wrong: duplicates of
	// an earlier one, and those that were skipped. Skipped ones are kept only
	// where KeepSkipped is set.
	Ignored     []Ignored
	KeepSkipped bool
	fileOf      map[*Item]int
	lines       *conffiles.Lines
}

// Ignored is a line that does not count.
type Ignored struct {
	Source Source
	Text   string
	Item   *Item // nil where it was not parsed to the end
	Why    string
	By     *Item // the earlier line, for duplicates
}

// NewConfig makes an empty configuration.
func NewConfig() *Config {
	return &Config{
		plain: table{byPath: make(map[string]*group)},
		globs: table{byPath: make(map[string]*group)},
	}
}

// Empty says that no line counts, so that there is nothing to apply.
func (c *Config) Empty() bool { return len(c.plain.order)+len(c.globs.order) == 0 }

// KeepOwners makes the lines leave owner and group as the kernel gives them: for
// who may not give files away, and has use for them all the same.
func (c *Config) KeepOwners() {
	for _, t := range []*table{&c.plain, &c.globs} {
		for _, g := range t.order {
			for _, it := range g.items {
				it.UID, it.GID = ID{}, ID{}
			}
		}
	}
}

// ReadError says that a file could not be read to its end. What was read before
// that counts.
type ReadError struct {
	File string
	Line int
	Err  error
}

func (e *ReadError) Error() string {
	return fmt.Sprintf("%s:%d: cannot read on: %v", e.File, e.Line, e.Err)
}
func (e *ReadError) Unwrap() error { return e.Err }

// Read adds the lines of one file. Lines that are wrong are collected in
// Invalid; the error is for a file that cannot be read, or for the first line
// with a Fatal error.
//
// A line of the command line (name is [InlineName]) is taken as it is: the spaces
// behind its argument belong to it, and it is no comment.
func (c *Config) Read(name string, rd io.Reader, env *Env) error {
	c.files++
	p := &lineParser{env: env}
	var text string
	p.notice = func(src Source, msg string) { c.Notices = append(c.Notices, Notice{src, msg}) }
	p.skip = func(src Source, why string) {
		if c.KeepSkipped {
			c.Ignored = append(c.Ignored, Ignored{Source: src, Text: text, Why: why})
		}
	}
	if c.lines == nil {
		c.lines = conffiles.NewLines(rd)
	} else {
		c.lines.Reset(rd)
	}
	var fatal error
	for {
		line, err := c.lines.Next()
		if err == io.EOF {
			return fatal
		}
		if err != nil {
			return &ReadError{name, c.lines.Number() + 1, err}
		}
		if name != InlineName {
			line = bytes.Trim(line, " \t\n\r")
			if len(line) == 0 || line[0] == '#' {
				continue
			}
		}
		text = string(line)
		it, err := p.parse(Source{name, c.lines.Number()}, text)
		var bad *LineError
		switch {
		case err == nil:
			if c.KeepSkipped {
				it.Text = text
			}
			c.add(it, text)
		case err == errSkip:
		case errors.As(err, &bad) && !bad.Fatal:
			bad.Line = text
			c.Invalid = append(c.Invalid, bad)
		case fatal == nil:
			fatal = err
		}
	}
}

// add puts a line into its table, unless an earlier one on the same path says
// otherwise.
func (c *Config) add(it *Item, text string) {
	t := &c.plain
	if it.Type.Glob() {
		t = &c.globs
	}
	g := t.byPath[it.Path]
	if g == nil {
		g = &group{path: it.Path, seq: len(t.order)}
		t.byPath[it.Path] = g
		t.order = append(t.order, g)
	} else if by := g.conflicts(it); by != nil {
		c.Notices = append(c.Notices, Notice{it.Source, fmt.Sprintf("duplicate line for path %q, ignoring; the line at %s says otherwise", it.Path, by.Source)})
		c.Ignored = append(c.Ignored, Ignored{Source: it.Source, Text: text, Item: it, Why: "conflicts with an earlier line", By: by})
		return
	}
	g.insert(it)
	if it.Type == 'X' || it.Type.in(dirTypes) {
		if c.fileOf == nil {
			c.fileOf = make(map[*Item]int)
		}
		c.fileOf[it] = c.files
	}
}

// CopiesFrom says whether a line copies something from below dir.
func (c *Config) CopiesFrom(dir string) bool {
	for _, t := range []*table{&c.plain, &c.globs} {
		for _, g := range t.order {
			for _, it := range g.items {
				if it.Type == 'C' && strings.HasPrefix(it.Argument, dir+"/") {
					return true
				}
			}
		}
	}
	return false
}

// Compile does what Apply would do first: it is for a caller that has the time
// before. No line can be read after it.
func (c *Config) Compile() {
	c.link()
	c.governing()
}

// governing compiles what lines say about the paths that are left alone by the
// walk of another line.
func (c *Config) governing() (*ownPath, *glob.Set) {
	if c.set != nil {
		return c.own, c.set
	}
	c.own = &ownPath{}
	for p := range c.plain.byPath {
		at := c.own
		for part := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
			next := at.below[part]
			if next == nil {
				next = &ownPath{}
				if at.below == nil {
					at.below = make(map[string]*ownPath)
				}
				at.below[part] = next
			}
			at = next
		}
		at.own = true
	}
	patterns := make([]string, 0, len(c.globs.order))
	for _, g := range c.globs.order {
		patterns = append(patterns, g.path)
	}
	c.set = glob.NewSet(patterns)
	return c.own, c.set
}

// link finds for every group the nearest ancestor that has lines, and gives X
// lines their age. It is linear in the number of lines.
func (c *Config) link() {
	if c.linked {
		return
	}
	c.linked = true
	for _, t := range []*table{&c.plain, &c.globs} {
		for _, g := range t.order {
			for p := g.path; p != "/"; {
				p = path.Dir(p)
				up := c.plain.byPath[p]
				if up == nil {
					up = c.globs.byPath[p]
				}
				if up != nil {
					g.parent = up
					up.children = append(up.children, g)
					break
				}
			}
		}
	}
	c.inheritAges()
}

// inheritAges gives each X line the age of the directory line that the
// reference picks for it, after every file that was read: the first line that
// governs a directory above, in the order of insertion, then any later one below
// that which the pattern matches; a line on the very path always.
func (c *Config) inheritAges() {
	var below map[string][]*group // directory lines by the directory they lie in
	for _, g := range c.globs.order {
		for _, it := range g.items {
			if it.Type != 'X' {
				continue
			}
			if below == nil {
				below = c.dirLinesByParent()
			}
			c.inheritAge(it, below)
		}
	}
}

func (c *Config) dirLinesByParent() map[string][]*group {
	m := make(map[string][]*group)
	for _, g := range c.plain.order {
		if g.dirLine() != nil {
			d := path.Dir(g.path)
			m[d] = append(m[d], g)
		}
	}
	return m
}

func (g *group) dirLine() *Item {
	for _, it := range g.items {
		if it.Type.in(dirTypes) {
			return it
		}
	}
	return nil
}

func (c *Config) inheritAge(x *Item, below map[string][]*group) {
	var near []*group
	for p := x.Path; ; p = path.Dir(p) {
		if g := c.plain.byPath[p]; g != nil && g.dirLine() != nil {
			near = append(near, g)
		}
		if p == "/" {
			break
		}
	}
	pattern := glob.Compile(x.Path)
	if strings.ContainsAny(x.Path, `*?[\`) {
		dir := path.Dir(x.Path)
		if !strings.ContainsAny(dir, `*?[\`) {
			near = append(near, below[dir]...)
		} else {
			for _, g := range c.plain.order {
				if g.dirLine() != nil && pattern.Match(g.path) {
					near = append(near, g)
				}
			}
		}
	}
	sort.Slice(near, func(i, j int) bool { return near[i].seq < near[j].seq })
	for file := c.fileOf[x]; file <= c.files; file++ {
		var picked *Item
		changed := file == c.fileOf[x]
		for _, g := range near {
			d := g.dirLine()
			if c.fileOf[d] > file {
				continue
			}
			changed = changed || c.fileOf[d] == file
			switch {
			case g.path == x.Path:
				picked = d
			case picked == nil && hasPrefixPath(x.Path, g.path):
				picked = d
			case picked != nil && hasPrefixPath(g.path, picked.Path) && pattern.Match(g.path):
				picked = d
			}
		}
		if changed && picked != nil && picked.Age.Set {
			keep := x.Age.KeepFirst
			x.Age = picked.Age
			x.Age.KeepFirst = keep
		}
		if len(near) == 0 {
			return
		}
	}
}

// InlineName is the name under which the lines of --inline are read.
const InlineName = "<inline>"
