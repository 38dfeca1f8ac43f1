package specifier

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxEnvFile is how much of os-release and machine-info is read. They have a
// few hundred bytes.
const maxEnvFile = 4 << 20

var (
	// ErrBadText is a value in os-release(5) that is not UTF-8.
	ErrBadText = errors.New("value is not UTF-8")

	errNUL = errors.New("file has a NUL byte")
)

const blanks = " \t\r\n"

// parseEnv reads the assignments of os-release(5) and machine-info(5) as the
// reference reads them, which is near to a shell and not the same. A line that
// begins with # or ; is a comment, one without = is skipped, and so is one
// without a name. The last assignment to a name counts.
func parseEnv(text string) (map[string]string, error) {
	if strings.IndexByte(text, 0) >= 0 {
		return nil, errNUL
	}
	m := make(map[string]string)
	for text = strings.TrimLeft(text, blanks); text != ""; text = strings.TrimLeft(text, blanks) {
		end := strings.IndexAny(text, "\r\n")
		if end < 0 {
			end = len(text)
		}
		equals := strings.IndexByte(text[:end], '=')
		if equals < 0 || text[0] == '#' || text[0] == ';' {
			text = text[end:]
			continue
		}
		key := strings.TrimRight(text[:equals], blanks)
		value, rest := envValue(text[equals+1:])
		text = rest
		if key == "" {
			continue
		}
		if !utf8.ValidString(value) {
			return nil, fmt.Errorf("%w: %s=%q", ErrBadText, key, value)
		}
		m[key] = value
	}
	return m, nil
}

// envValue reads a value: quoted parts, which may span lines and between which
// blanks do not count, then an unquoted rest to the end of the line, in which
// quotes are ordinary characters. A quote that is not closed ends with the text.
func envValue(s string) (value, rest string) {
	var b strings.Builder
	for {
		s = strings.TrimLeft(s, " \t")
		if s == "" || s[0] != '\'' && s[0] != '"' {
			break
		}
		quote := s[0]
		for s = s[1:]; s != "" && s[0] != quote; s = s[1:] {
			if s[0] == '\\' && quote == '"' && len(s) > 1 {
				s = s[1:]
				switch {
				case s[0] == '\n':
					continue
				case strings.IndexByte("\"\\`$", s[0]) < 0:
					b.WriteByte('\\')
				}
			}
			b.WriteByte(s[0])
		}
		if s == "" {
			return b.String(), ""
		}
		s = s[1:]
	}
	unquoted, rest := envUnquoted(s)
	return b.String() + unquoted, rest
}

// envUnquoted reads to the end of the line. A backslash makes the character
// after it ordinary, and joins two lines; blanks at the end go.
func envUnquoted(s string) (value, rest string) {
	var b strings.Builder
	keep := 0 // length up to the last character that is no plain blank
	for ; s != "" && s[0] != '\n' && s[0] != '\r'; s = s[1:] {
		escaped := s[0] == '\\' && len(s) > 1
		if escaped {
			if s = s[1:]; s[0] == '\n' || s[0] == '\r' {
				continue
			}
		}
		b.WriteByte(s[0])
		if escaped || s[0] != ' ' && s[0] != '\t' {
			keep = b.Len()
		}
	}
	return b.String()[:keep], s
}
