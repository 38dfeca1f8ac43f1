package glob

import "strings"

// HasMeta reports whether s contains one of "*?[". That is the test by which
// tmpfiles.d and its kind tell a pattern from a path: neither a brace nor a
// backslash counts. A line type that takes patterns passes every path through
// glob(3) all the same, so "{a,b}" is expanded there, and "\x" unquoted.
func HasMeta(s string) bool { return strings.ContainsAny(s, "*?[") }

// Component matches one component of a path: what is between two slashes.
type Component struct {
	m *matcher
}

// Components cuts pattern at its slashes, as glob(3) does, and compiles each
// part. Empty parts go: the caller knows whether the pattern was absolute.
//
// A walk that follows the result from directory to directory finds what
// glob(3) with GLOB_NOSORT finds: a component with a Literal is looked up by
// that name, others by reading the directory and asking Match for each entry
// except "." and "..". Expand braces before (ExpandBraces).
//
// Since the cut comes first, a slash ends a bracket expression here, whereas
// Match takes "[a/b]" for one expression.
func Components(pattern string) []Component {
	if i := strings.IndexByte(pattern, 0); i >= 0 {
		pattern = pattern[:i]
	}
	var out []Component
	for part, rest, more := strings.Cut(pattern, "/"); ; part, rest, more = strings.Cut(rest, "/") {
		if more && oddBackslashes(part) {
			part = part[:len(part)-1] // "a\/b" is "a/b" for glob(3)
		}
		if part != "" {
			out = append(out, Component{m: newMatcher(Compile(part))})
		}
		if !more {
			return out
		}
	}
}

// oddBackslashes reports whether s ends in a backslash that is not quoted.
func oddBackslashes(s string) bool {
	n := len(s) - len(strings.TrimRight(s, `\`))
	return n%2 == 1
}

// Literal returns the one name that the component stands for, unquoted, if it
// has no wildcards.
func (c Component) Literal() (string, bool) {
	return c.m.prefix, c.m.kind == kindLiteral
}

// Match reports whether name, which must not contain a slash, matches.
func (c Component) Match(name string) bool { return c.m.match(name) }

// String returns the component as the pattern has it.
func (c Component) String() string { return c.m.text }

// SplitLiteral splits comps into the names in front that have no wildcards, to
// be walked without reading a directory, and the rest.
func SplitLiteral(comps []Component) (names []string, rest []Component) {
	for i, c := range comps {
		name, ok := c.Literal()
		if !ok {
			return names, comps[i:]
		}
		names = append(names, name)
	}
	return names, nil
}

type kind uint8

const (
	kindLiteral kind = iota // the name is prefix
	kindStar                // prefix*suffix
	kindGeneral             // prefix, tokens, suffix
	kindNever
)

// matcher matches one component. prefix and suffix are the literal bytes at its
// ends, without overlap: what a name must have, whatever is between.
type matcher struct {
	kind           kind
	period         bool // a period at the start of the name is a leading one
	minLen         int
	prefix, suffix string
	text           string
	toks           []token
	entry          int32
}

// newMatcher makes a matcher of a pattern that has no slash.
func newMatcher(p *Pattern) *matcher {
	if !p.regular {
		return &matcher{kind: kindGeneral, period: true, text: p.text, toks: p.toks, entry: p.entry}
	}
	return chainMatcher(p.text, p.toks, true)
}

// chainMatcher makes a matcher of consecutive tokens of a regular pattern, none
// of which is a slash.
func chainMatcher(text string, chain []token, period bool) *matcher {
	m := &matcher{text: text, period: period, entry: end}
	var pre, suf []byte
	stars, mins, others := 0, 0, 0
	for i := range chain {
		switch t := &chain[i]; t.op {
		case opNever:
			m.kind = kindNever
			return m
		case opStar:
			stars++
			mins += int(t.min)
			suf = suf[:0]
		case opLit:
			m.minLen++
			if stars+others == 0 {
				pre = append(pre, t.b)
			} else {
				suf = append(suf, t.b)
			}
		default:
			others++
			m.minLen++
			suf = suf[:0]
		}
	}
	m.minLen += mins
	m.prefix, m.suffix = string(pre), string(suf)
	switch {
	case stars+others == 0:
		m.kind = kindLiteral
	case stars == 1 && others == 0 && mins == 0:
		m.kind = kindStar
	default:
		m.kind, m.entry = kindGeneral, 0
		m.toks = append(m.toks, chain...)
		for i := range m.toks {
			m.toks[i].next = int32(i + 1)
		}
		m.toks[len(m.toks)-1].next = end
	}
	return m
}

func (m *matcher) match(name string) bool {
	if m.kind == kindLiteral {
		return name == m.prefix
	}
	if len(name) < m.minLen || !strings.HasPrefix(name, m.prefix) || !strings.HasSuffix(name, m.suffix) {
		return false
	}
	switch m.kind {
	case kindStar:
		return m.prefix != "" || !m.period || name == "" || name[0] != '.'
	case kindGeneral:
		return run(m.toks, m.entry, name, m.period)
	}
	return false
}
