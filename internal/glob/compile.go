package glob

import "strings"

type op uint8

const (
	opLit    op = iota // the byte b
	opSlash            // an unquoted slash: the next byte may be a leading period
	opAny              // ?
	opStar             // * and the wildcards right behind it; min counts the ?
	opSet              // a bracket expression
	opBranch           // a bracket expression whose end depends on the byte it matches
	opNever            // nothing matches from here on
)

// end is the value of token.next behind the last token.
const end int32 = -1

// token is one step of a compiled pattern. The text it stands for is
// pattern[pos:past].
type token struct {
	op        op
	b         byte
	min       int32
	next      int32
	pos, past int32
	set       *byteSet
	branch    *[256]int32 // the next token by byte; noMatch where the byte is not in the set
}

const noMatch int32 = -2

// Pattern is a compiled pattern of fnmatch(3).
type Pattern struct {
	text    string
	toks    []token
	entry   int32
	regular bool // no opBranch: the tokens are one chain and can be cut at slashes
	never   bool // a regular pattern that can match nothing
}

// Compile compiles pattern. Every string is a pattern; one that is malformed
// in a way that the C library refuses at match time matches nothing. A NUL byte
// ends the pattern, as it does in C.
func Compile(pattern string) *Pattern {
	if i := strings.IndexByte(pattern, 0); i >= 0 {
		pattern = pattern[:i]
	}
	c := compiler{s: pattern, toks: make([]token, 0, len(pattern))}
	p := &Pattern{text: pattern, regular: true}
	p.entry = c.from(0)
	p.toks = c.toks
	for i := range p.toks {
		switch p.toks[i].op {
		case opBranch:
			p.regular = false
		case opNever:
			p.never = true
		}
	}
	p.never = p.never && p.regular
	return p
}

// String returns the text of the pattern.
func (p *Pattern) String() string { return p.text }

// Match reports whether the whole of name matches.
func (p *Pattern) Match(name string) bool {
	return !p.never && run(p.toks, p.entry, name, true)
}

// Match reports whether name matches pattern as fnmatch(3) with
// FNM_PATHNAME|FNM_PERIOD would have it. It compiles the pattern each time: use
// Compile or NewSet where one pattern meets many names.
func Match(pattern, name string) bool { return Compile(pattern).Match(name) }

// compiler turns text into tokens. From the first opBranch on, positions are
// mapped to tokens: its ends may lead into the same text.
type compiler struct {
	s    string
	toks []token
	at   map[int]int32

	skip    []int32 // by position, see skipBracket
	visited []int
}

func (c *compiler) byteAt(i int) byte {
	if i < len(c.s) {
		return c.s[i]
	}
	return 0
}

// from compiles the text from pos on, and returns its first token. It recurses
// for the ends of an opBranch alone.
func (c *compiler) from(pos int) int32 {
	first, prev := end, end
	link := func(t int32) {
		if prev == end {
			first = t
		} else {
			c.toks[prev].next = t
		}
	}
	for pos < len(c.s) {
		if t, ok := c.at[pos]; ok {
			link(t)
			return first
		}
		t := int32(len(c.toks))
		if c.at != nil {
			c.at[pos] = t
		}
		c.toks = append(c.toks, token{next: end, pos: int32(pos)})
		next := c.one(t, pos)
		c.toks[t].past = int32(next)
		link(t)
		if op := c.toks[t].op; op == opNever || op == opBranch {
			return first
		}
		prev, pos = t, next
	}
	return first
}

// one fills token t from the text at pos and returns the position behind it.
func (c *compiler) one(t int32, pos int) int {
	tok := &c.toks[t]
	switch b := c.s[pos]; b {
	case '?':
		tok.op = opAny
		return pos + 1
	case '*':
		tok.op = opStar
		for pos++; c.byteAt(pos) == '*' || c.byteAt(pos) == '?'; pos++ {
			if c.s[pos] == '?' {
				tok.min++
			}
		}
		return pos
	case '\\':
		if pos+1 == len(c.s) {
			tok.op = opNever
			return pos + 1
		}
		tok.op, tok.b = opLit, c.s[pos+1]
		return pos + 2
	case '/':
		tok.op, tok.b = opSlash, '/'
		return pos + 1
	case '[':
		return c.bracket(t, pos)
	default:
		tok.op, tok.b = opLit, b
		return pos + 1
	}
}

// run matches name against the chain of tokens that starts at ti. period says
// whether a period at the start of name is a leading one.
//
// Only the last star is ever tried again: as soon as the tokens behind it reach
// another star, the bytes between are settled, and an earlier match of them
// can only leave more to the later star.
func run(toks []token, ti int32, name string, period bool) bool {
	n := 0
	retry, retryAt, retryEnd := end, 0, 0 // the token behind the last star, and where to try it
	for {
		ok := false
		if ti == end {
			if n == len(name) {
				return true
			}
		} else {
			t := &toks[ti]
			if t.op == opStar {
				if n < len(name) && name[n] == '.' && period {
					return false
				}
				stop := len(name)
				if i := strings.IndexByte(name[n:], '/'); i >= 0 {
					stop = n + i
				}
				if n += int(t.min); n > stop {
					return false
				}
				ti = t.next
				if ti == end {
					return stop == len(name)
				}
				if toks[ti].op == opSlash {
					// The star takes the rest of the component, whatever it is.
					n, retry = stop, end
				} else {
					if n >= stop {
						return false
					}
					// The period flag stays for the first try, as in glibc: that
					// is why *?[.] does not match "a.".
					retry, retryAt, retryEnd = ti, n, stop
				}
				continue
			}
			if n < len(name) {
				b := name[n]
				next := t.next
				switch t.op {
				case opLit, opSlash:
					ok = b == t.b
				case opAny:
					ok = b != '/' && (b != '.' || !period)
				case opSet:
					ok = t.set.has(b) && b != '/' && (b != '.' || !period)
				case opBranch:
					next = t.branch[b]
					ok = next != noMatch && b != '/' && (b != '.' || !period)
				}
				if ok {
					period = t.op == opSlash
					ti = next
					n++
				}
			}
		}
		if ok {
			continue
		}
		if retry == end {
			return false
		}
		if retryAt++; retryAt >= retryEnd {
			return false
		}
		ti, n, period = retry, retryAt, false
	}
}
