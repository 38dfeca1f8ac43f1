package quoting

import (
	"errors"
	"strings"
	"testing"
)

// What systemd-tmpfiles 262.1 makes of a field: each of these was given to it
// as the path of an `f` line, and the file that it made was listed.
func TestWordAsTheReferenceSplits(t *testing.T) {
	for _, c := range []struct {
		in, word, rest string
	}{
		{`f /x`, "f", "/x"},
		{" \t\r\n f \t\r\n x y ", "f", "x y "},
		{`/a"b"c`, "/abc", ""},
		{`"/a b"c\x41`, "/a bcA", ""},
		{`/s\'x`, "/s'x", ""},
		{`"/d'q" rest`, "/d'q", "rest"},
		{`'/q\x41 z'`, "/qA z", ""},
		{`/u\u00e4`, "/uä", ""},
		{`/o2\101`, "/o2A", ""},
		{`/m"" 0644""`, "/m", `0644""`},
		{`"" x`, "", "x"},
		{`''`, "", ""},
		{"/vt\vx", "/vt\vx", ""},
		{`/hi\xff`, "/hi\xff", ""},
		{"/hi\xff raw", "/hi\xff", "raw"},
		{`/uu\uffff`, "/uu\uffff", ""},
		{`/uf\ufdd0`, "/uf\ufdd0", ""},
		{`/lit\s1`, "/lit 1", ""},
		{`/K\xfF`, "/K\xff", ""},
		{`/O\377`, "/O\xff", ""},
		{`/U\U0001F600`, "/U\U0001F600", ""},
		{`\a\b\f\n\r\t\v\\\"\'\s`, "\a\b\f\n\r\t\v\\\"' ", ""},
		{`a\ b`, "", "!" + `\ b`},
		{`/sur\ud800`, "", "!" + `\ud800`},
		{`/G\udfff`, "", "!" + `\udfff`},
		{`/U\U0000d800`, "", "!" + `\U0000d800`},
		{`/A\U0000fdd0`, "", "!" + `\U0000fdd0`},
		{`/B\U0000ffff`, "", "!" + `\U0000ffff`},
		{`/C\U0001fffe`, "", "!" + `\U0001fffe`},
		{`/D\U00110000`, "", "!" + `\U00110000`},
		{`/E\U0010ffff`, "", "!" + `\U0010ffff`},
		{`/F\U00000000`, "", "!" + `\U00000000`},
		{`/o\101\401`, "", "!" + `\401`},
		{`/M\777`, "", "!" + `\777`},
		{`/L\08`, "", "!" + `\08`},
		{`/nul\x00`, "", "!" + `\x00`},
		{`/nul\000`, "", "!" + `\000`},
		{`/nul\u0000`, "", "!" + `\u0000`},
		{`/x\x4`, "", "!" + `\x4`},
		{`/J\X41`, "", "!" + `\X41`},
		{`/a\q`, "", "!" + `\q`},
		{`/tr\`, "", "\\"},
		{`"/tr\`, "", "\\"},
		{`"/un`, "", `"`},
		{`/x9"`, "", `"`},
		{`'a"`, "", `"`},
	} {
		word, rest, ok, err := Word(c.in, Fields)
		var want error
		switch {
		case strings.HasPrefix(c.rest, "!"):
			want = ErrEscape
		case c.rest == "\\":
			want = ErrTrailingBackslash
		case c.rest == `"`:
			want = ErrUnbalanced
		}
		if want != nil {
			var e *Error
			if !errors.Is(err, want) || !errors.As(err, &e) || ok {
				t.Errorf("Word(%q) = %q, %q, %v, %v, want %v", c.in, word, rest, ok, err, want)
			} else if want == ErrEscape && c.in[e.Offset:] != c.rest[1:] {
				t.Errorf("Word(%q) blames byte %d, want %q", c.in, e.Offset, c.rest[1:])
			}
			continue
		}
		if word != c.word || rest != c.rest || !ok || err != nil {
			t.Errorf("Word(%q) = %q, %q, %v, %v, want %q, %q", c.in, word, rest, ok, err, c.word, c.rest)
		}
	}
	for _, blank := range []string{"", " ", "\t\r\n "} {
		if word, rest, ok, err := Word(blank, Fields); word != "" || rest != "" || ok || err != nil {
			t.Errorf("Word(%q) = %q, %q, %v, %v, want nothing", blank, word, rest, ok, err)
		}
	}
}

func TestWordFlags(t *testing.T) {
	for _, c := range []struct {
		in    string
		flags Flags
		word  string
		err   error
	}{
		{`"a b"`, 0, `"a`, nil},
		{`a\ b c`, 0, "a b", nil},
		{`a\n`, 0, "an", nil},
		{`a\"b`, Unquote, `a"b`, nil},
		{`a\n`, RetainEscape, `a\n`, nil},
		{`"a\" b`, Unquote | RetainEscape, `a\`, nil},
		{`"a b`, Unquote | Relax, "a b", nil},
		{`a\`, Relax, "a", nil},
		{`a\`, RelaxEscape, `a\`, nil},
		{`"a\`, Unquote | RelaxEscape, "", ErrTrailingBackslash},
		{`"a\`, Unquote | RelaxEscape | Relax, `a\`, nil},
		{`a\q\n`, Fields | RelaxEscape, "a\\q\n", nil},
		{`a\ b`, Fields | RelaxEscape, `a\ b`, nil},
		{`\x00`, Fields | RelaxEscape, `\x00`, nil},
	} {
		word, _, _, err := Word(c.in, c.flags)
		if word != c.word || !errors.Is(err, c.err) {
			t.Errorf("Word(%q, %b) = %q, %v, want %q, %v", c.in, c.flags, word, err, c.word, c.err)
		}
	}
}

func TestUnescape(t *testing.T) {
	for _, c := range []struct {
		in, out string
		err     error
	}{
		{"", "", nil},
		{`plain "quotes" and  space`, `plain "quotes" and  space`, nil},
		{`\x20a\n"b"\\`, " a\n\"b\"\\", nil},
		{`a\qb`, "", ErrEscape},
		{`a\`, "", ErrTrailingBackslash},
		{`a\x00b`, "", ErrEscape},
	} {
		if out, err := Unescape(c.in); out != c.out || !errors.Is(err, c.err) {
			t.Errorf("Unescape(%q) = %q, %v, want %q, %v", c.in, out, err, c.out, c.err)
		}
	}
}

func TestErrorNamesCauseTextAndPlace(t *testing.T) {
	_, err := Unescape(`abc\U0010ffffdef`)
	if want := `invalid escape sequence: "\\U0010ffff" at byte 3`; err == nil || err.Error() != want {
		t.Errorf("error = %v, want %s", err, want)
	}
	_, _, _, err = Word(`  a'b c`, Fields)
	if want := `quote is not closed: "'b c" at byte 3`; err == nil || err.Error() != want {
		t.Errorf("error = %v, want %s", err, want)
	}
}

func TestPlainWordsAreNotCopied(t *testing.T) {
	line := "d /run/some/directory 0755 root root 10d"
	if n := testing.AllocsPerRun(100, func() {
		for rest, ok := line, true; ok; {
			_, rest, ok, _ = Word(rest, Fields)
		}
	}); n != 0 {
		t.Errorf("splitting a plain line allocates %v times, want 0", n)
	}
}

func FuzzWord(f *testing.F) {
	for _, s := range []string{`a"b c"'d' \x41\101\u00e4\U0001F600 x`, `"`, `\`, "a\x00b", `\s\'`, " \t\r\n"} {
		f.Add(s, byte(Fields))
		f.Add(s, byte(Fields|Relax|RelaxEscape))
	}
	f.Fuzz(func(t *testing.T, s string, b byte) {
		flags := Flags(b) & (Unquote | CUnescape | Relax | RelaxEscape | RetainEscape)
		rest := s
		for rest != "" {
			word, next, ok, err := Word(rest, flags)
			if err != nil {
				var e *Error
				if ok || !errors.As(err, &e) || e.Offset < 0 || e.Offset >= len(rest) {
					t.Fatalf("Word(%q, %b): ok %v, error %#v", rest, flags, ok, err)
				}
				return
			}
			if !strings.HasSuffix(rest, next) || len(next) >= len(rest) {
				t.Fatalf("Word(%q, %b) leaves %q", rest, flags, next)
			}
			if strings.IndexByte(word, 0) >= 0 && strings.IndexByte(rest, 0) < 0 {
				t.Fatalf("Word(%q, %b) = %q: a NUL that was not there", rest, flags, word)
			}
			if next != "" && isSpace(next[0]) {
				t.Fatalf("Word(%q, %b) leaves white space before %q", rest, flags, next)
			}
			rest = next
		}
	})
}

// Text whose special bytes are written as \xHH comes back as it was, as an
// argument and as a quoted field.
func FuzzUnescapeRoundTrip(f *testing.F) {
	f.Add("a b\"c\\d\n\xff")
	f.Fuzz(func(t *testing.T, s string) {
		const hex = "0123456789abcdef"
		var esc strings.Builder
		for i := range len(s) {
			if s[i] == 0 {
				return
			}
			esc.WriteString(`\x` + string(hex[s[i]>>4]) + string(hex[s[i]&15]))
		}
		if out, err := Unescape(esc.String()); out != s || err != nil {
			t.Fatalf("Unescape(%q) = %q, %v, want %q", esc.String(), out, err, s)
		}
		if out, rest, ok, err := Word(`"`+esc.String()+`"`, Fields); out != s || rest != "" || !ok || err != nil {
			t.Fatalf("Word = %q, %q, %v, %v, want %q", out, rest, ok, err, s)
		}
	})
}
