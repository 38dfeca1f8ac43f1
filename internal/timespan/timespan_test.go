package timespan

import (
	"errors"
	"math"
	"testing"
	"time"
)

func TestParseTakesWhatTheReferenceTakes(t *testing.T) {
	for _, s := range accepted {
		if _, err := Parse(s); err != nil {
			t.Errorf("Parse(%q): %v; the reference takes it", s, err)
		}
	}
	for _, s := range refused {
		got, err := Parse(s)
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, ErrSyntax) && !errors.Is(err, ErrRange) {
			t.Errorf("Parse(%q) = %v, %v; the reference refuses it", s, got, err)
		} else if e.Offset < 0 || e.Offset > len(s) || e.Reason == "" {
			t.Errorf("Parse(%q): %#v", s, e)
		}
	}
}

func TestParseValues(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Span
	}{
		{"0", 0},
		{"5", 5 * Second},
		{"+5s", 5 * Second},
		{"10d12h", 10*Day + 12*Hour},
		{"2min 200ms", 2*Minute + 200*Millisecond},
		{"1.5h", 90 * Minute},
		{".5", 500 * Millisecond},
		{"5m5M", 5*Minute + 5*Month},
		{"1y1month1w1d1hr1min1sec1msec1usec", Year + Month + Week + Day + Hour + Minute + Second + Millisecond + 1},
		{"3µs 4μs", 7},
		{"1.9999999us", 1},
		{"1.0000009s", Second},
		{"0.33w", 3*(Week/10) + 3*(Week/100)},
		{"1 .5s", 1500 * Millisecond},
		{" infinity\n", Infinity},
		{"9223372036854775807us", math.MaxInt64},
		{"9223372036854775807us 9223372036854775807us", Infinity - 1},
	} {
		if got, err := Parse(c.in); got != c.want || err != nil {
			t.Errorf("Parse(%q) = %d, %v, want %d", c.in, got, err, c.want)
		}
	}
	if got, err := ParseUnit("5 1s", Microsecond); got != Second+5 || err != nil {
		t.Errorf("ParseUnit = %d, %v", got, err)
	}
}

func TestErrorSaysWhatAndWhere(t *testing.T) {
	for in, want := range map[string]string{
		"":                      `not a time span: "": no number at byte 0`,
		"1h 5x":                 `not a time span: "1h 5x": unknown unit at byte 4`,
		"1h -5s":                `time span out of range: "1h -5s": below zero at byte 3`,
		"5.s":                   `not a time span: "5.s": no digit after the point at byte 2`,
		"600000y":               `time span out of range: "600000y": too long at byte 0`,
		"99999999999999999999s": `time span out of range: "99999999999999999999s": number too large at byte 0`,
		"infinity x":            `not a time span: "infinity x": text after infinity at byte 8`,
	} {
		if _, err := Parse(in); err == nil || err.Error() != want {
			t.Errorf("Parse(%q): %v\nwant %s", in, err, want)
		}
	}
}

func TestString(t *testing.T) {
	for want, s := range map[string]Span{
		"0":                                  0,
		"infinity":                           Infinity,
		"1us":                                1,
		"1w 3d 500ms":                        10*Day + 500*Millisecond,
		"1y 1month 1w 1d 1h 1min 1s 1ms 1us": Year + Month + Week + Day + Hour + Minute + Second + Millisecond + 1,
	} {
		if got := s.String(); got != want {
			t.Errorf("%d = %q, want %q", uint64(s), got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	if d, ok := (90 * Second).Duration(); d != 90*time.Second || !ok {
		t.Errorf("90s = %v, %v", d, ok)
	}
	if d, ok := (292 * Year).Duration(); d <= 0 || !ok {
		t.Errorf("292y = %v, %v", d, ok)
	}
	for _, s := range []Span{293 * Year, Infinity} {
		if d, ok := s.Duration(); ok {
			t.Errorf("%v = %v, want that it does not fit", s, d)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, list := range [][]string{accepted, refused} {
		for _, s := range list {
			f.Add(s)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		span, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(span.String()); again != span || err != nil {
			t.Fatalf("%q = %d, written %q, read again %d, %v", s, span, span, again, err)
		}
	})
}
