package glob

import "strings"

// Set is many patterns compiled into one matcher. The question it answers is
// "which of these patterns, if any, matches this path", for hundreds of
// patterns and hundreds of thousands of paths: the patterns are merged into a
// tree by component, names without wildcards are found by hashing, and those
// with wildcards by hashing the literal bytes at their two ends, so the cost of
// a name hardly depends on the number of patterns. Only patterns that are
// literal at neither end ("*cache*") are tried one by one.
//
// A Set never changes, so any number of goroutines may use it.
type Set struct {
	top *node
	// odd are the patterns that cannot be cut at slashes (see opBranch), in
	// order. They need the whole path and are tried one by one. No sane
	// configuration has one.
	odd []oddPattern
}

type oddPattern struct {
	index int
	p     *Pattern
}

const none = int(^uint(0) >> 1) // no index: larger than all of them

// node is a position between two slashes that some patterns have reached.
type node struct {
	index int // the lowest index of a pattern that ends here, or none
	lits  map[string]*node
	globs []edge
	byKey map[string]*node // the children of globs, while the set is built
	find  *finder
}

// edge leads to child for every name that m matches.
type edge struct {
	m     *matcher
	child *node
}

// NewSet compiles patterns as Compile does, into one matcher.
func NewSet(patterns []string) *Set {
	s := &Set{top: newNode()}
	for i, text := range patterns {
		p := Compile(text)
		switch {
		case p.never:
		case !p.regular:
			s.odd = append(s.odd, oddPattern{i, p})
		default:
			s.top.insert(p, i)
		}
	}
	s.top.seal()
	return s
}

func newNode() *node { return &node{index: none} }

// insert adds a regular pattern.
func (n *node) insert(p *Pattern, index int) {
	period := true
	for from := 0; ; {
		to := from
		for to < len(p.toks) && !isSlash(&p.toks[to]) {
			to++
		}
		if to < len(p.toks) && p.toks[to].op == opLit && to > from && p.toks[to-1].op == opStar {
			return // "*\/" matches nothing, in this package as in glibc
		}
		start, stop := len(p.text), len(p.text)
		if from < len(p.toks) {
			start = int(p.toks[from].pos)
		}
		if to < len(p.toks) {
			stop = int(p.toks[to].pos)
		}
		n = n.child(p.text[start:stop], p.toks[from:to], period)
		if to == len(p.toks) {
			n.index = min(n.index, index)
			return
		}
		period = p.toks[to].op == opSlash
		from = to + 1
	}
}

// isSlash reports whether t matches a slash: one as such, or a quoted one, after
// which a period is an ordinary byte.
func isSlash(t *token) bool { return t.op == opSlash || t.op == opLit && t.b == '/' }

func (n *node) child(text string, chain []token, period bool) *node {
	m := chainMatcher(text, chain, period)
	if m.kind == kindLiteral {
		c := n.lits[m.prefix]
		if c == nil {
			if n.lits == nil {
				n.lits = make(map[string]*node)
			}
			c = newNode()
			n.lits[m.prefix] = c
		}
		return c
	}
	key := "." + text
	if !period {
		key = text
	}
	c := n.byKey[key]
	if c == nil {
		if n.byKey == nil {
			n.byKey = make(map[string]*node)
		}
		c = newNode()
		n.byKey[key] = c
		n.globs = append(n.globs, edge{m, c})
	}
	return c
}

// seal builds the finders, from the leaves up.
func (n *node) seal() {
	n.byKey = nil
	for _, c := range n.lits {
		c.seal()
	}
	for _, e := range n.globs {
		e.child.seal()
	}
	if n.leaf() {
		n.find = &nothing
		return
	}
	n.find = newFinder(n.lits, n.globs)
}

// nothing is the finder of a node without children.
var nothing finder

func (n *node) leaf() bool { return len(n.lits) == 0 && len(n.globs) == 0 }

// Match returns the lowest index of a pattern that matches path.
func (s *Set) Match(path string) (index int, ok bool) {
	c := s.start()
	for {
		i := strings.IndexByte(path, '/')
		if i < 0 {
			return c.Match(path)
		}
		if c = c.Descend(path[:i]); c.Dead() {
			return 0, false
		}
		path = path[i+1:]
	}
}

// start is the cursor before the first component.
func (s *Set) start() Cursor {
	c := Cursor{set: s}
	if !s.top.leaf() {
		c.one = s.top
	}
	return c
}

// Root returns the cursor of the directory "/". Patterns that do not start with
// a slash do not match below it.
func (s *Set) Root() Cursor { return s.start().Descend("") }

// Cursor is a directory of a walk together with what is left of the patterns
// there, so that a walk matches each name once, not each path from the start.
//
// A Cursor is a small value that never changes: keep one per directory, and hand
// it to other goroutines as you like. The zero Cursor matches nothing.
type Cursor struct {
	set  *Set
	one  *node
	more []*node
	// path is the directory with a slash behind it; kept for odd patterns only.
	path string
}

// Dead reports whether no pattern can match anything below the directory.
func (c Cursor) Dead() bool { return c.one == nil && !c.odd() }

func (c Cursor) odd() bool { return c.set != nil && len(c.set.odd) > 0 }

// Match returns the lowest index of a pattern that matches the entry name of
// the directory. It does not allocate.
func (c Cursor) Match(name string) (index int, ok bool) {
	best := none
	if c.one != nil {
		best = c.one.find.lowest(name, best)
		for _, n := range c.more {
			best = n.find.lowest(name, best)
		}
	}
	if c.odd() {
		best = c.lowestOdd(name, best)
	}
	if best == none {
		return 0, false
	}
	return best, true
}

func (c Cursor) lowestOdd(name string, best int) int {
	for _, o := range c.set.odd {
		if o.index >= best {
			break
		}
		if o.p.Match(c.path + name) {
			return o.index
		}
	}
	return best
}

// Descend returns the cursor of the subdirectory name. It allocates where
// patterns of different text go on below it.
func (c Cursor) Descend(name string) Cursor {
	down := Cursor{set: c.set}
	if c.odd() {
		down.path = c.path + name + "/"
	}
	if c.one != nil {
		c.one.find.below(name, &down)
		for _, n := range c.more {
			n.find.below(name, &down)
		}
	}
	return down
}

func (c *Cursor) add(n *node) {
	switch {
	case n.leaf():
	case c.one == nil:
		c.one = n
	default:
		c.more = append(c.more, n)
	}
}
