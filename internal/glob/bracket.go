package glob

type byteSet [4]uint64

func (s *byteSet) has(b byte) bool { return s[b>>6]&(1<<(b&63)) != 0 }
func (s *byteSet) add(b byte)      { s[b>>6] |= 1 << (b & 63) }

// classNameMax is CHARCLASS_NAME_MAX of glibc: a longer class name makes the
// pattern match nothing.
const classNameMax = 2048

// outcome is what a bracket expression does with one byte.
type outcome struct {
	how  uint8
	past int32 // for matched: where the pattern goes on
}

const (
	undecided uint8 = iota
	failed          // the byte does not match, or the expression is refused
	matched
)

// bracket compiles the bracket expression at pos, where the text has a '['.
//
// The C library does not parse the expression ahead of time. It walks along it
// with the byte in hand, and where an element matches, it skips to the closing
// bracket by slightly different rules. So a malformed expression can be fine
// for one byte and refused, or end elsewhere, for another. The walk here is done
// once for all 256 bytes.
func (c *compiler) bracket(t int32, pos int) int {
	w := walk{c: c, open: pos, p: pos + 1}
	w.run()
	tok := &c.toks[t]
	var set byteSet
	past, count := int32(0), 0
	for b := range 256 {
		o := w.out[b]
		if o.how != matched {
			continue
		}
		if count > 0 && o.past != past {
			return c.branches(t, &w)
		}
		past = o.past
		count++
		set.add(byte(b))
	}
	switch {
	case count == 0:
		tok.op = opNever
		return len(c.s)
	case count == 1 && set.has('[') && int(past) == pos+1:
		tok.op, tok.b = opLit, '['
	default:
		tok.op, tok.set = opSet, &set
	}
	return int(past)
}

// branches makes token t an opBranch: each byte with an end of its own.
func (c *compiler) branches(t int32, w *walk) int {
	if c.at == nil {
		c.at = make(map[int]int32)
	}
	var to [256]int32
	for b := range 256 {
		to[b] = noMatch
		if o := w.out[b]; o.how == matched {
			to[b] = c.from(int(o.past))
		}
	}
	c.toks[t].op, c.toks[t].branch = opBranch, &to
	return len(c.s)
}

// walk is the walk along one bracket expression for all bytes at once.
type walk struct {
	c    *compiler
	open int // where the '[' is
	p    int
	not  bool
	out  [256]outcome
}

// settle decides for byte b, if that is still to be done.
func (w *walk) settle(b int, how uint8, past int32) {
	if w.out[b].how == undecided {
		w.out[b] = outcome{how, past}
	}
}

// take settles the bytes lo to hi: an element of the expression matches them,
// and the skip starts at w.p.
func (w *walk) take(lo, hi byte) {
	for b := int(lo); b <= int(hi); b++ {
		if w.out[b].how != undecided {
			continue
		}
		past := w.c.skipBracket(w.p)
		switch {
		case past == skipOpen:
			w.ordinary(b)
		case past == skipRefused || w.not:
			w.settle(b, failed, 0)
		default:
			w.settle(b, matched, past)
		}
	}
}

// ordinary settles byte b for an expression that turned out to be unterminated:
// its '[' is an ordinary byte.
func (w *walk) ordinary(b int) {
	if b == '[' {
		w.settle(b, matched, int32(w.open+1))
	} else {
		w.settle(b, failed, 0)
	}
}

// finish settles what no element has matched.
func (w *walk) finish(f func(b int)) {
	for b := range 256 {
		f(b)
	}
}

func (w *walk) refuse() {
	w.finish(func(b int) { w.settle(b, failed, 0) })
}

// closed is called with the closing bracket behind us.
func (w *walk) closed() {
	w.finish(func(b int) {
		if w.not {
			w.settle(b, matched, int32(w.p))
		} else {
			w.settle(b, failed, 0)
		}
	})
}

func (w *walk) next() byte { b := w.c.byteAt(w.p); w.p++; return b }
func (w *walk) peek(i int) byte {
	return w.c.byteAt(w.p + i)
}

func (w *walk) run() {
	if b := w.peek(0); b == '!' || b == '^' {
		w.not = true
		w.p++
	}
	ch := w.next()
	for {
		var stop bool
		switch {
		case ch == '\\':
			if w.peek(0) == 0 {
				w.refuse()
				return
			}
			ch, stop = w.plain(w.next())
		case ch == '[' && w.peek(0) == ':':
			ch, stop = w.class()
		case ch == '[' && w.peek(0) == '=':
			ch, stop = w.equivalence()
		case ch == '[' && w.peek(0) == '.':
			ch, stop = w.symbol()
		case ch == 0:
			w.finish(w.ordinary)
			return
		default:
			ch, stop = w.plain(ch)
		}
		if stop {
			w.refuse()
			return
		}
		if ch == ']' {
			w.closed()
			return
		}
	}
}

// plain is an ordinary byte, alone or as the start of a range. Like all element
// functions it returns the byte that follows, taken, and whether the pattern is
// refused.
func (w *walk) plain(ch byte) (byte, bool) {
	isRange := w.peek(0) == '-' && w.peek(1) != 0 && w.peek(1) != ']'
	if !isRange {
		w.take(ch, ch)
	}
	return w.rangeFrom(ch, w.next())
}

// rangeFrom reads the rest of a range from lo on if ch starts one.
func (w *walk) rangeFrom(lo, ch byte) (byte, bool) {
	if ch != '-' || w.peek(0) == ']' {
		return ch, false
	}
	hi := w.next()
	if hi == '[' && w.peek(0) == '.' {
		name, ok := w.symbolName()
		if !ok || len(name) != 1 {
			return 0, true
		}
		hi = name[0]
	} else {
		if hi == '\\' {
			hi = w.next()
		}
		if hi == 0 {
			return 0, true
		}
	}
	if lo <= hi {
		w.take(lo, hi)
	}
	return w.next(), false
}

// class is [:name:]. A name with other bytes than a to y makes the bracket an
// ordinary byte (glibc leaves out the z, and no class of the C locale has one).
func (w *walk) class() (byte, bool) {
	start := w.p
	for i := start + 1; ; i++ {
		if i-start-1 == classNameMax {
			return 0, true
		}
		b := w.c.byteAt(i)
		if b == ':' && w.c.byteAt(i+1) == ']' {
			test, ok := classes(w.c.s[start+1 : i])
			if !ok {
				return 0, true
			}
			w.p = i + 2
			for b := range 128 {
				if test(byte(b)) {
					w.take(byte(b), byte(b))
				}
			}
			return w.next(), false
		}
		if b < 'a' || b >= 'z' {
			return w.plain('[')
		}
	}
}

// equivalence is [=x=], which in the C locale is x itself.
func (w *walk) equivalence() (byte, bool) {
	x := w.peek(1)
	if x == 0 || w.peek(2) != '=' || w.peek(3) != ']' {
		return w.plain('[')
	}
	w.p += 4
	w.take(x, x)
	return w.next(), false
}

// symbol is [.x.], which may also start a range.
func (w *walk) symbol() (byte, bool) {
	name, ok := w.symbolName()
	if !ok || len(name) != 1 {
		return 0, true
	}
	if w.peek(0) != '-' || w.peek(1) == 0 {
		w.take(name[0], name[0])
	}
	return w.rangeFrom(name[0], w.next())
}

// symbolName reads ".name.]" at w.p.
func (w *walk) symbolName() (string, bool) {
	start := w.p + 1
	for i := start; i < len(w.c.s); i++ {
		if w.c.s[i] == '.' && w.c.byteAt(i+1) == ']' {
			w.p = i + 2
			return w.c.s[start:i], true
		}
	}
	return "", false
}

const (
	skipUnknown int32 = 0
	skipOpen    int32 = -1
	skipRefused int32 = -2
)

// skipBracket returns the position behind the closing bracket of an expression
// of which an element before p has matched, or skipOpen or skipRefused. Results
// are kept: every element of an expression asks.
func (c *compiler) skipBracket(p int) int32 {
	if c.skip == nil {
		c.skip = make([]int32, len(c.s)+2)
	}
	c.visited = c.visited[:0]
	result := skipUnknown
	for result == skipUnknown {
		if p >= len(c.s) {
			result = skipOpen
			break
		}
		if c.skip[p] != skipUnknown {
			result = c.skip[p]
			break
		}
		c.visited = append(c.visited, p)
		ch := c.s[p]
		p++
		switch {
		case ch == ']':
			result = int32(p)
		case ch == '\\':
			if p >= len(c.s) {
				result = skipRefused
			}
			p++
		case ch == '[' && c.byteAt(p) == ':':
			p, result = c.skipClass(p)
		case ch == '[' && c.byteAt(p) == '=':
			if c.byteAt(p+1) == 0 || c.byteAt(p+2) != '=' || c.byteAt(p+3) != ']' {
				result = skipRefused
			}
			p += 4
		case ch == '[' && c.byteAt(p) == '.':
			for p++; c.byteAt(p) != '.' || c.byteAt(p+1) != ']'; p++ {
				if p >= len(c.s) {
					result = skipRefused
					break
				}
			}
			p += 2
		}
	}
	for _, v := range c.visited {
		c.skip[v] = result
	}
	return result
}

// skipClass skips [:name:], p being at the first colon. What is no class name
// is skipped up to the colon alone.
func (c *compiler) skipClass(p int) (int, int32) {
	for i, n := p+1, 1; ; i, n = i+1, n+1 {
		if n == classNameMax {
			return p, skipRefused
		}
		b := c.byteAt(i)
		if b == ':' && c.byteAt(i+1) == ']' {
			return i + 2, skipUnknown
		}
		if b < 'a' || b >= 'z' {
			return p, skipUnknown
		}
	}
}

// classes returns the character classes of the C locale (isalpha(3)): bytes
// from 0x80 up are in none of them.
func classes(name string) (func(byte) bool, bool) {
	in := func(b, lo, hi byte) bool { return lo <= b && b <= hi }
	upper := func(b byte) bool { return in(b, 'A', 'Z') }
	lower := func(b byte) bool { return in(b, 'a', 'z') }
	digit := func(b byte) bool { return in(b, '0', '9') }
	alnum := func(b byte) bool { return upper(b) || lower(b) || digit(b) }
	switch name {
	case "alnum":
		return alnum, true
	case "alpha":
		return func(b byte) bool { return upper(b) || lower(b) }, true
	case "blank":
		return func(b byte) bool { return b == ' ' || b == '\t' }, true
	case "cntrl":
		return func(b byte) bool { return b < ' ' || b == 0x7f }, true
	case "digit":
		return digit, true
	case "graph":
		return func(b byte) bool { return in(b, '!', '~') }, true
	case "lower":
		return lower, true
	case "print":
		return func(b byte) bool { return in(b, ' ', '~') }, true
	case "punct":
		return func(b byte) bool { return in(b, '!', '~') && !alnum(b) }, true
	case "space":
		return func(b byte) bool { return b == ' ' || in(b, '\t', '\r') }, true
	case "upper":
		return upper, true
	case "xdigit":
		return func(b byte) bool { return digit(b) || in(b, 'a', 'f') || in(b, 'A', 'F') }, true
	}
	return nil, false
}
