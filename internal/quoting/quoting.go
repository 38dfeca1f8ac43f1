package quoting

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Flags choose what Word resolves. The zero value only splits at white space:
// quotes are ordinary characters, and a backslash makes the next character
// ordinary and is dropped.
type Flags uint8

const (
	// Unquote removes quotes, and keeps white space inside of them in the word.
	Unquote Flags = 1 << iota
	// CUnescape resolves the escapes of the package documentation. Without
	// it, a backslash stands for the character after it, whatever that is.
	CUnescape
	// Relax takes the end of the text for the missing closing quote, and drops
	// a lone backslash at the end.
	Relax
	// RelaxEscape, with CUnescape, keeps an unknown escape as it is written,
	// backslash included, and so does it with a lone backslash at the end
	// (outside of quotes, unless Relax is there too).
	RelaxEscape
	// RetainEscape leaves backslashes alone; they escape nothing.
	RetainEscape
)

// Fields is the set for the first six fields of a tmpfiles.d(5) line and for
// the words of a `t` argument.
const Fields = Unquote | CUnescape

// The causes of an *Error.
var (
	ErrEscape            = errors.New("invalid escape sequence")
	ErrTrailingBackslash = errors.New("backslash at the end of the text")
	ErrUnbalanced        = errors.New("quote is not closed")
)

// Error tells where in its input Word or Unescape stopped.
type Error struct {
	Offset int    // byte offset in the input of the backslash or quote at fault
	Text   string // the input from there, shortened
	Err    error  // ErrEscape, ErrTrailingBackslash or ErrUnbalanced
}

func (e *Error) Error() string {
	return fmt.Sprintf("%v: %q at byte %d", e.Err, e.Text, e.Offset)
}

func (e *Error) Unwrap() error { return e.Err }

func fail(s string, offset int, cause error) *Error {
	const show = 10 // the longest escape, \UXXXXXXXX
	text := s[offset:]
	if len(text) > show {
		text = text[:show]
	}
	return &Error{Offset: offset, Text: text, Err: cause}
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func skipSpace(s string) string {
	for s != "" && isSpace(s[0]) {
		s = s[1:]
	}
	return s
}

// Word takes the first word off s. rest begins at the word after it: the white
// space between is gone, so rest == "" means that nothing follows. ok is false
// if s holds white space only; an empty word, "" in quotes, is ok.
// A word that needs nothing resolved is a substring of s, without a copy.
func Word(s string, flags Flags) (word, rest string, ok bool, err error) {
	text := skipSpace(s)
	if text == "" {
		return "", "", false, nil
	}
	plain := 0
	for plain < len(text) && !isSpace(text[plain]) && !special(text[plain], flags) {
		plain++
	}
	if plain == len(text) || isSpace(text[plain]) {
		return text[:plain], skipSpace(text[plain:]), true, nil
	}
	sc := scanner{s: s, at: len(s) - len(text) + plain, flags: flags}
	sc.out = append(make([]byte, 0, len(text)), text[:plain]...)
	if err := sc.run(); err != nil {
		return "", "", false, err
	}
	return string(sc.out), skipSpace(s[sc.at:]), true, nil
}

func special(c byte, flags Flags) bool {
	switch c {
	case '\\':
		return flags&RetainEscape == 0
	case '"', '\'':
		return flags&Unquote != 0
	}
	return false
}

// scanner resolves the part of a word from its first quote or backslash on.
type scanner struct {
	s     string
	at    int
	flags Flags
	out   []byte
}

func (sc *scanner) run() error {
	quote, opened := byte(0), 0
	for sc.at < len(sc.s) {
		c := sc.s[sc.at]
		switch {
		case c == '\\' && sc.flags&RetainEscape == 0:
			if err := sc.backslash(quote != 0); err != nil {
				return err
			}
			continue
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			sc.out = append(sc.out, c)
		case special(c, sc.flags):
			quote, opened = c, sc.at
		case isSpace(c):
			return nil
		default:
			sc.out = append(sc.out, c)
		}
		sc.at++
	}
	if quote != 0 && sc.flags&Relax == 0 {
		return fail(sc.s, opened, ErrUnbalanced)
	}
	return nil
}

// backslash resolves the escape at sc.at and moves past it.
func (sc *scanner) backslash(quoted bool) error {
	start := sc.at
	if start+1 == len(sc.s) {
		sc.at++
		switch {
		case sc.flags&RelaxEscape != 0 && (!quoted || sc.flags&Relax != 0):
			sc.out = append(sc.out, '\\')
		case sc.flags&Relax == 0:
			return fail(sc.s, start, ErrTrailingBackslash)
		}
		return nil
	}
	if sc.flags&CUnescape == 0 {
		sc.out = append(sc.out, sc.s[start+1])
		sc.at += 2
		return nil
	}
	if out, n := unescapeOne(sc.out, sc.s[start+1:]); n > 0 {
		sc.out = out
		sc.at += 1 + n
		return nil
	}
	if sc.flags&RelaxEscape == 0 {
		return fail(sc.s, start, ErrEscape)
	}
	sc.out = append(sc.out, '\\', sc.s[start+1])
	sc.at += 2
	return nil
}

// Unescape resolves every escape in s and leaves white space and quotes alone:
// what a tmpfiles.d argument needs, which is the raw rest of its line.
// Without a backslash s itself is returned.
func Unescape(s string) (string, error) {
	at := strings.IndexByte(s, '\\')
	if at < 0 {
		return s, nil
	}
	out := append(make([]byte, 0, len(s)), s[:at]...)
	for at < len(s) {
		if s[at] != '\\' {
			out = append(out, s[at])
			at++
			continue
		}
		if at+1 == len(s) {
			return "", fail(s, at, ErrTrailingBackslash)
		}
		next, n := unescapeOne(out, s[at+1:])
		if n == 0 {
			return "", fail(s, at, ErrEscape)
		}
		out = next
		at += 1 + n
	}
	return string(out), nil
}

// unescapeOne appends what the escape in s, which begins after its backslash,
// stands for. n is the length used of s, 0 if s begins with no valid escape.
func unescapeOne(out []byte, s string) (_ []byte, n int) {
	const simple, stands = `abfnrtv\"'s`, "\a\b\f\n\r\t\v\\\"' "
	if i := strings.IndexByte(simple, s[0]); i >= 0 {
		return append(out, stands[i]), 1
	}
	switch c := s[0]; {
	case c == 'x':
		if v, ok := number(s[1:], 2, 16); ok && v != 0 {
			return append(out, byte(v)), 3
		}
	case c >= '0' && c <= '7':
		if v, ok := number(s, 3, 8); ok && v != 0 && v <= 0xff {
			return append(out, byte(v)), 3
		}
	case c == 'u':
		if v, ok := number(s[1:], 4, 16); ok && v != 0 && !isSurrogate(v) {
			return utf8.AppendRune(out, rune(v)), 5
		}
	case c == 'U':
		if v, ok := number(s[1:], 8, 16); ok && v != 0 && isCharacter(v) {
			return utf8.AppendRune(out, rune(v)), 9
		}
	}
	return out, 0
}

// number reads exactly width digits of the given base.
func number(s string, width int, base uint32) (v uint32, ok bool) {
	if len(s) < width {
		return 0, false
	}
	for i := range width {
		d := uint32(base)
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			d = uint32(c - '0')
		case c >= 'a' && c <= 'f':
			d = uint32(c-'a') + 10
		case c >= 'A' && c <= 'F':
			d = uint32(c-'A') + 10
		}
		if d >= base {
			return 0, false
		}
		v = v*base + d
	}
	return v, true
}

// isCharacter reports whether v is a code point that a text may contain:
// no surrogate and no noncharacter (The Unicode Standard, section 23.7).
func isCharacter(v uint32) bool {
	return v <= 0x10ffff && !isSurrogate(v) && (v < 0xfdd0 || v > 0xfdef) && v&0xfffe != 0xfffe
}

func isSurrogate(v uint32) bool { return v >= 0xd800 && v <= 0xdfff }
