package glob

import (
	"errors"
	"fmt"
)

// Bounds of ExpandBraces. A line of a configuration file has a handful of
// alternatives; these keep "{a,b}{a,b}..." from eating the machine.
const (
	MaxBraceWords = 1 << 16
	// maxBraceBytes bounds the bytes that all steps of one expansion copy.
	maxBraceBytes = 64 << 20
)

// ErrTooManyBraces is in the error of ExpandBraces when a pattern expands to
// more than MaxBraceWords words, or nests so deeply that the work for them is
// out of proportion.
var ErrTooManyBraces = errors.New("too many brace alternatives")

// ExpandBraces returns the patterns that glob(3) with GLOB_BRACE would look
// for, in its order: the alternatives of the leftmost braces outermost. Braces
// nest, an alternative may be empty, "{a}" is "a" and "{}" is nothing at all. A
// backslash quotes a brace or a comma and stays for the matcher. Bracket
// expressions do not protect what is in them.
//
// A pattern without braces is returned as it is. So is one whose leftmost brace
// is never closed, and then later braces are not expanded either.
//
// The error is ErrTooManyBraces, with the pattern's beginning in the message.
func ExpandBraces(pattern string) ([]string, error) {
	e := expander{}
	if !e.expand(pattern) {
		shown := pattern
		if len(shown) > 64 {
			shown = shown[:64] + "..."
		}
		return nil, fmt.Errorf("pattern %q: %w (at most %d words)", shown, ErrTooManyBraces, MaxBraceWords)
	}
	return e.words, nil
}

type expander struct {
	words  []string
	copied int
}

func (e *expander) expand(pattern string) bool {
	open := openBrace(pattern)
	if open < 0 {
		return e.word(pattern)
	}
	first := braceEnd(pattern, open+1)
	close := first
	for close >= 0 && pattern[close] != '}' {
		close = braceEnd(pattern, close+1)
	}
	if close < 0 {
		return e.word(pattern)
	}
	rest := pattern[close+1:]
	for from, to := open+1, first; ; from, to = to+1, braceEnd(pattern, to+1) {
		one := pattern[:open] + pattern[from:to] + rest
		if e.copied += len(one); e.copied > maxBraceBytes || !e.expand(one) {
			return false
		}
		if to == close {
			return true
		}
	}
}

func (e *expander) word(w string) bool {
	if len(e.words) == MaxBraceWords {
		return false
	}
	e.words = append(e.words, w)
	return true
}

// openBrace returns where the first brace is that no backslash quotes, or -1.
func openBrace(s string) int {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '{':
			return i
		}
	}
	return -1
}

// braceEnd returns where the alternative that starts at i ends: the comma or
// the closing brace of its own level, or -1.
func braceEnd(s string, i int) int {
	for depth := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '{':
			depth++
		case '}':
			if depth == 0 {
				return i
			}
			depth--
		case ',':
			if depth == 0 {
				return i
			}
		}
	}
	return -1
}
