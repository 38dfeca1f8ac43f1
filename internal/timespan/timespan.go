// Package timespan reads and writes time spans in the syntax of
// systemd.time(7), section "Parsing Time Spans": the age of a tmpfiles.d line,
// the time-outs of unit files.
//
// A span is a sum of numbers with units, "2min 200ms" or "10d12h". A number is
// decimal, may have a fraction, and takes the default unit if it has none. The
// word "infinity" alone is the span without an end. Units:
//
//	us usec µs                        1 microsecond, the resolution
//	ms msec                           1,000 us
//	s sec second seconds              1,000,000 us
//	m min minute minutes              60 s
//	h hr hour hours                   60 min
//	d day days                        24 h
//	w week weeks                      7 d
//	M month months                    30.4375 d, 2,629,800 s
//	y year years                      365.25 d, 31,557,600 s
//
// Case matters (m and M), and both µ of Unicode are taken, U+00B5 and U+03BC.
//
// # What fails, and how
//
// Every error is an *Error with the byte offset it is about, and one of two
// causes. ErrSyntax: no number, an unknown unit, a point without a digit behind
// it. ErrRange: below zero, a number beyond 63 bits, a sum that does not fit
// below Infinity.
//
// # When not to use it
//
// For points in time (OnCalendar=), and for Go's own durations: time.ParseDuration
// takes signs, has no days, and calls a minute m only.
package timespan

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Span is a length of time in microseconds.
type Span uint64

// The units. Month and Year are the averages that systemd.time(7) gives.
const (
	Microsecond Span = 1
	Millisecond      = 1000 * Microsecond
	Second           = 1000 * Millisecond
	Minute           = 60 * Second
	Hour             = 60 * Minute
	Day              = 24 * Hour
	Week             = 7 * Day
	Month            = 2629800 * Second
	Year             = 31557600 * Second

	// Infinity has no end. No sum reaches it.
	Infinity Span = math.MaxUint64
)

// The causes of an *Error.
var (
	ErrSyntax = errors.New("not a time span")
	ErrRange  = errors.New("time span out of range")
)

// Error tells what in a text is no time span.
type Error struct {
	Text   string // the whole text
	Offset int    // byte offset of what is at fault
	Reason string // what is wrong there
	Err    error  // ErrSyntax or ErrRange
}

func (e *Error) Error() string {
	return fmt.Sprintf("%v: %q: %s at byte %d", e.Err, e.Text, e.Reason, e.Offset)
}

func (e *Error) Unwrap() error { return e.Err }

// Parse reads a span whose bare numbers are seconds.
func Parse(s string) (Span, error) { return ParseUnit(s, Second) }

// ParseUnit reads a span whose bare numbers are in unit, which is not 0.
func ParseUnit(s string, unit Span) (Span, error) {
	p := parser{text: s}
	p.skip(" \t\n\r")
	if rest, ok := strings.CutPrefix(s[p.at:], "infinity"); ok {
		p.at += len("infinity")
		if strings.Trim(rest, " \t\n\r") != "" {
			return 0, p.fail(ErrSyntax, "text after infinity")
		}
		return Infinity, nil
	}
	if p.at == len(s) {
		return 0, p.fail(ErrSyntax, "no number")
	}
	for p.at < len(s) {
		if err := p.term(unit); err != nil {
			return 0, err
		}
		p.skip(" \t\n\r")
	}
	return p.sum, nil
}

type parser struct {
	text string
	at   int
	sum  Span
}

func (p *parser) fail(cause error, reason string) error {
	return &Error{Text: p.text, Offset: p.at, Reason: reason, Err: cause}
}

func (p *parser) skip(set string) {
	for p.at < len(p.text) && strings.IndexByte(set, p.text[p.at]) >= 0 {
		p.at++
	}
}

func (p *parser) digits() string {
	start := p.at
	for p.at < len(p.text) && p.text[p.at] >= '0' && p.text[p.at] <= '9' {
		p.at++
	}
	return p.text[start:p.at]
}

// term adds one number and its unit.
func (p *parser) term(unit Span) error {
	start := p.at
	whole, fraction, err := p.number()
	if err != nil {
		return err
	}
	end := p.at
	p.skip(" \t\n\r")
	if n, u := unitAt(p.text[p.at:]); n > 0 {
		unit = u
		p.at += n
	} else if p.at == end && end < len(p.text) {
		return p.fail(ErrSyntax, "unknown unit")
	}
	if whole >= uint64(Infinity/unit) || !p.add(Span(whole)*unit) {
		p.at = start
		return p.fail(ErrRange, "too long")
	}
	// The reference divides step by step, so that the rest of each division is
	// lost: 0.33w is 3*(w/10) + 3*(w/100). A digit below 1 us counts nothing.
	for _, d := range []byte(fraction) {
		if unit /= 10; !p.add(Span(d-'0') * unit) {
			p.at = start
			return p.fail(ErrRange, "too long")
		}
	}
	return nil
}

// number reads what strtoll(3) reads in base 10, and a fraction behind it.
func (p *parser) number() (whole uint64, fraction string, err error) {
	if p.text[p.at] == '-' {
		return 0, "", p.fail(ErrRange, "below zero")
	}
	start := p.at
	p.skip(" \t\n\r\v\f") // strtoll takes more for white space than we do
	sign := p.at
	if p.at < len(p.text) && (p.text[p.at] == '+' || p.text[p.at] == '-') {
		p.at++
	}
	digits := p.digits()
	if digits == "" {
		p.at = start
		if p.text[p.at] != '.' {
			return 0, "", p.fail(ErrSyntax, "no number")
		}
	} else {
		if whole, err = strconv.ParseUint(digits, 10, 63); err != nil {
			p.at = start
			return 0, "", p.fail(ErrRange, "number too large")
		}
		if whole != 0 && p.text[sign] == '-' {
			p.at = start
			return 0, "", p.fail(ErrRange, "below zero")
		}
	}
	if p.at < len(p.text) && p.text[p.at] == '.' {
		p.at++
		if fraction = p.digits(); fraction == "" {
			return 0, "", p.fail(ErrSyntax, "no digit after the point")
		}
	}
	return whole, fraction, nil
}

// add adds s to the sum unless that reaches Infinity.
func (p *parser) add(s Span) bool {
	if s >= Infinity-p.sum {
		return false
	}
	p.sum += s
	return true
}

// units lists each family's longer names first, so that the first match is the
// longest.
var units = [...]struct {
	name string
	span Span
}{
	{"seconds", Second}, {"second", Second}, {"sec", Second}, {"s", Second},
	{"minutes", Minute}, {"minute", Minute}, {"min", Minute},
	{"months", Month}, {"month", Month}, {"M", Month},
	{"msec", Millisecond}, {"ms", Millisecond}, {"m", Minute},
	{"hours", Hour}, {"hour", Hour}, {"hr", Hour}, {"h", Hour},
	{"days", Day}, {"day", Day}, {"d", Day},
	{"weeks", Week}, {"week", Week}, {"w", Week},
	{"years", Year}, {"year", Year}, {"y", Year},
	{"usec", Microsecond}, {"us", Microsecond}, {"\u00b5s", Microsecond}, {"\u03bcs", Microsecond},
}

// unitAt finds the unit that s begins with, and its length, or 0.
func unitAt(s string) (int, Span) {
	for i := range units {
		if strings.HasPrefix(s, units[i].name) {
			return len(units[i].name), units[i].span
		}
	}
	return 0, 0
}

// String writes the span as a sum without fractions, largest unit first:
// "1w 3d 500ms", "0", "infinity". Parse reads it back to the same span.
func (s Span) String() string {
	switch s {
	case 0:
		return "0"
	case Infinity:
		return "infinity"
	}
	var b strings.Builder
	for _, u := range [...]struct {
		name string
		span Span
	}{
		{"y", Year}, {"month", Month}, {"w", Week}, {"d", Day}, {"h", Hour},
		{"min", Minute}, {"s", Second}, {"ms", Millisecond}, {"us", Microsecond},
	} {
		// Parse takes no number of units that fills 64 bits.
		if n := min(s/u.span, Infinity/u.span-1); n > 0 {
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(strconv.FormatUint(uint64(n), 10) + u.name)
			s -= n * u.span
		}
	}
	return b.String()
}

// Duration is the span as a time.Duration, which ends at 292 years. ok is false
// if the span is longer.
func (s Span) Duration() (d time.Duration, ok bool) {
	if s > Span(math.MaxInt64/time.Microsecond) {
		return 0, false
	}
	return time.Duration(s) * time.Microsecond, true
}
