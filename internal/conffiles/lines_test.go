package conffiles

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func allLines(r io.Reader) (out []string, err error) {
	l := NewLines(r)
	for {
		line, err := l.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, string(line))
		if l.Number() != len(out) {
			return out, errors.New("wrong line number")
		}
	}
}

func TestLines(t *testing.T) {
	for in, want := range map[string][]string{
		"":                                 nil,
		"a":                                {"a"},
		"a\n":                              {"a"},
		"a\n\nb":                           {"a", "", "b"},
		"a\r\nb":                           {"a", "b"},
		"a\r\n\r\nb":                       {"a", "", "b"},
		"a\n\rb":                           {"a", "b"},
		"a\n\r\nb":                         {"a", "", "b"},
		"a\n\r\n\rb":                       {"a", "", "b"},
		"a\rb":                             {"a", "b"},
		"a\x00b":                           {"a", "b"},
		"a\x00\nb":                         {"a", "", "b"},
		"a\x00\r\nb":                       {"a", "", "b"},
		"a\n\x00b":                         {"a", "b"},
		"a\r\n\x00b":                       {"a", "b"},
		"a\r\x00\nb":                       {"a", "", "b"},
		"a\n\x00\nb":                       {"a", "", "b"},
		"\n":                               {""},
		"\x00\x00":                         {"", ""},
		"a\rb\n\rc\n\n\rd\x00\x00e\n\x00f": {"a", "b", "c", "", "d", "", "e", "f"},
	} {
		for name, r := range map[string]io.Reader{"whole": strings.NewReader(in), "bytes": iotest.OneByteReader(strings.NewReader(in)), "late": iotest.DataErrReader(strings.NewReader(in))} {
			got, err := allLines(r)
			if err != nil || !cmp.Equal(got, want) {
				t.Errorf("%q (%s) = %q, %v, want %q", in, name, got, err, want)
			}
		}
	}
}

func TestLinesAcrossBuffers(t *testing.T) {
	for n := 16<<10 - 4; n < 16<<10+4; n++ {
		for _, end := range []string{"\n", "\r\n", "\r\n\x00", "\n\r", "\x00"} {
			first, second := strings.Repeat("a", n), strings.Repeat("b", n)
			got, err := allLines(strings.NewReader(first + end + second + end + "c"))
			if err != nil || len(got) != 3 || got[0] != first || got[1] != second || got[2] != "c" {
				t.Fatalf("%d bytes and %q: %d lines, %v", n, end, len(got), err)
			}
		}
	}
}

func TestLinesAreBounded(t *testing.T) {
	long := strings.Repeat("x", MaxLine-1)
	for _, in := range []string{long, long + "\n", "a\n" + long + "\r\nb"} {
		if _, err := allLines(strings.NewReader(in)); err != nil {
			t.Errorf("%d bytes: %v", len(in), err)
		}
	}
	for _, in := range []string{"a\n" + long + "x", "a\n" + long + "x\n", "a\n" + long + long} {
		got, err := allLines(strings.NewReader(in))
		if !errors.Is(err, ErrLineTooLong) || len(got) != 1 || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%d bytes: %d lines, %v", len(in), len(got), err)
		}
	}
	// What never ends is not read to the end.
	if _, err := allLines(endless{}); !errors.Is(err, ErrLineTooLong) {
		t.Errorf("endless line: %v", err)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return copy(b, bytes.Repeat([]byte("x"), len(b))), nil }

func TestLinesPassErrorsOn(t *testing.T) {
	bad := errors.New("bad sector")
	got, err := allLines(io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(bad)))
	if !errors.Is(err, bad) || len(got) != 1 {
		t.Errorf("%q, %v", got, err)
	}
}

func TestLinesDoNotAllocate(t *testing.T) {
	in := strings.NewReader("")
	l := NewLines(in)
	if n := testing.AllocsPerRun(100, func() {
		in.Reset("d /run/a\nd /run/b\n\n# c\n")
		l.Reset(in)
		for {
			if _, err := l.Next(); err != nil {
				return
			}
		}
	}); n > 1 {
		t.Errorf("%v allocations a file", n)
	}
}

// FuzzLines compares with the rule written down: cut at every end, then join
// different ends in a row.
func FuzzLines(f *testing.F) {
	f.Add("a\r\n\x00b\n\n")
	f.Fuzz(func(t *testing.T, in string) {
		var want []string
		for i := 0; i < len(in); {
			j := strings.IndexAny(in[i:], "\n\r\x00")
			if j < 0 {
				want = append(want, in[i:])
				break
			}
			want = append(want, in[i:i+j])
			i += j
			seen := ""
			for i < len(in) && strings.IndexByte("\n\r\x00", in[i]) >= 0 && strings.IndexByte(seen, in[i]) < 0 && !strings.Contains(seen, "\x00") {
				seen += in[i : i+1]
				i++
			}
		}
		got, err := allLines(iotest.HalfReader(strings.NewReader(in)))
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%q = %q, %v, want %q", in, got, err, want)
		}
	})
}
