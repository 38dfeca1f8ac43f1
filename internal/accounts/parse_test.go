package accounts

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/testenv"
)

func TestParseID(t *testing.T) {
	for s, want := range map[string]uint32{"0": 0, "7": 7, "1000": 1000, "65534": 65534, "65536": 65536, "4294967294": 4294967294} {
		if got, err := ParseID(s); err != nil || got != want {
			t.Errorf("ParseID(%q) = %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "00", "01", "+1", "-1", "-0", " 5", "5 ", "0x10", "65535", "4294967295", "4294967296", "99999999999999999999", "1_0", "x", "1\x00"} {
		if got, err := ParseID(s); !errors.Is(err, ErrInvalidID) {
			t.Errorf("ParseID(%q) = %d, %v", s, got, err)
		}
	}
}

func users(t testing.TB, s string) (out []User) {
	t.Helper()
	must(t, ParseUsers(strings.NewReader(s), func(u User) bool { out = append(out, u); return true }))
	return out
}

func groups(t testing.TB, s string) (out []Group) {
	t.Helper()
	must(t, ParseGroups(strings.NewReader(s), func(g Group) bool { out = append(out, g); return true }))
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestParseUsers(t *testing.T) {
	for line, want := range map[string]*User{
		"a:x:1:2:gecos:/h:/s":        {"a", 1, 2, "/h", "/s"},
		"  a:x:1:2::/h:/s":           {"a", 1, 2, "/h", "/s"},
		"a:x:1:2":                    {"a", 1, 2, "", ""},
		"a:x:1:2:":                   {"a", 1, 2, "", ""},
		"a:x:1:2:g:/h:/s:more:x":     {"a", 1, 2, "/h", "/s:more:x"},
		"a:x: 1:\t+2::":              {"a", 1, 2, "", ""},
		"a:x:0011:-0::":              {"a", 11, 0, "", ""},
		"a:x:4294967295:65535::":     {"a", NoID, 65535, "", ""},
		"we ird\xff:x:1:2::":         {"we ird\xff", 1, 2, "", ""},
		"+":                          {Name: "+"},
		"+:::::/h:/s":                {Name: "+", Home: "/h", Shell: "/s"},
		"-a:x:1:2::":                 {Name: "-a", UID: 1, GID: 2},
		"a:x:1:2::/h:/s\r":           {"a", 1, 2, "/h", "/s\r"},
		"a:x:1:2::/h\x00:/s":         {"a", 1, 2, "/h", ""},
		"a\x00:x:1:2::":              nil,
		"":                           nil,
		"#a:x:1:2::":                 nil,
		"  # a:x:1:2::":              nil,
		"a":                          nil,
		"a:x:1":                      nil,
		"a:x:1:":                     nil,
		"a:x::2::":                   nil,
		"a:x:-1:2::":                 nil,
		"a:x:4294967296:2::":         nil,
		"a:x:99999999999999999999:2": nil,
		"a:x:1 :2::":                 nil,
		"a:x:0x1:2::":                nil,
		":x:1:2::":                   nil,
	} {
		got := users(t, line)
		if want == nil && len(got) != 0 || want != nil && (len(got) != 1 || got[0] != *want) {
			t.Errorf("%q = %+v, want %+v", line, got, want)
		}
	}
	if got := users(t, "a:x:1:1::\n\n#\nbad\nb:x:2:2::\r\n  c:x:3:3"); len(got) != 3 || got[2].Name != "c" {
		t.Errorf("three users = %+v", got)
	}
}

func TestParseGroups(t *testing.T) {
	got := groups(t, "a:x:1:m,n\n#c\nb:x:2\n  c:x:+3:\nd:x\ne:x::\n+:::\nf:x:65536:"+strings.Repeat("member,", 100_000)+"\ng:x:7:")
	want := []Group{{"a", 1}, {"b", 2}, {"c", 3}, {"+", 0}, {"f", 65536}, {"g", 7}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLongLinesArePassedOver(t *testing.T) {
	long := strings.Repeat("x", 3*maxLine)
	if got := users(t, "a:x:1:1::\n"+long+":x:2:2::\nl:x:3:3:"+long+":/h:/s\nb:x:4:4::\n"+long); len(got) != 2 || got[1].Name != "b" {
		t.Errorf("users around long lines = %d", len(got))
	}
	// The number itself may be where the line is cut.
	for n := maxLine - 12; n < maxLine+4; n++ {
		for _, g := range groups(t, strings.Repeat("g", n)+":x:123:\n") {
			if g.GID != 123 {
				t.Fatalf("name of %d bytes: number %d", n, g.GID)
			}
		}
	}
}

func TestParseTellsReadErrors(t *testing.T) {
	bad := errors.New("bad sector")
	if err := ParseUsers(iotest.ErrReader(bad), nil); !errors.Is(err, bad) {
		t.Errorf("users: %v", err)
	}
	if err := ParseGroups(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("ab"))), nil); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("groups: %v", err)
	}
}

func TestParseStops(t *testing.T) {
	n := 0
	must(t, ParseUsers(strings.NewReader("a:x:1:1::\nb:x:2:2::\n"), func(User) bool { n++; return false }))
	if n != 1 {
		t.Errorf("yield called %d times after it returned false", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\n+nis:::\n")
	f.Add("a:x:1:\n#\n  b: :+2:3")
	f.Fuzz(func(t *testing.T, s string) {
		for _, u := range users(t, s) {
			if u.Name == "" || strings.ContainsAny(u.Name+u.Home, ":\n\x00") || strings.ContainsAny(u.Shell, "\n\x00") {
				t.Errorf("%+v of %q", u, s)
			}
			// What was read reads the same when written.
			again := users(t, fmt.Sprintf("%s:x:%d:%d::%s:%s\n", u.Name, u.UID, u.GID, u.Home, u.Shell))
			if len(again) != 1 || again[0] != u {
				t.Errorf("%+v became %+v", u, again)
			}
		}
		for _, g := range groups(t, s) {
			again := groups(t, fmt.Sprintf("%s:x:%d:\n", g.Name, g.GID))
			if len(again) != 1 || again[0] != g {
				t.Errorf("%+v became %+v", g, again)
			}
		}
	})
}

func TestParseAgreesWithGlibc(t *testing.T) {
	testenv.Need(t, testenv.Tool("cc"))
	exe := filepath.Join(t.TempDir(), "oracle")
	if out, err := exec.CommandContext(t.Context(), "cc", "-w", "-o", exe, "testdata/oracle.c").CombinedOutput(); err != nil {
		t.Fatalf("cc (the headers are in Debian's libc6-dev): %v\n%s", err, out)
	}
	testenv.Need(t, testenv.Requirement{What: "glibc, whose reading is the model", Check: func() error {
		b, err := os.ReadFile(exe)
		if err == nil && !bytes.Contains(b, []byte("GLIBC_2.")) {
			err = errors.New("the compiler links programs with another C library")
		}
		return err
	}})
	r := rand.New(rand.NewPCG(9, 10))
	atoms := []string{"a", "b", ":", ":", ":", "x", "1", "23", " ", "\t", "+", "-", "#", "0", "4294967295", "4294967296", "99999999999999999999", "/h", "\r", "\xff", ",", "\v"}
	var file strings.Builder
	for range 60_000 {
		if r.IntN(3) == 0 {
			for range r.IntN(12) {
				file.WriteString(atoms[r.IntN(len(atoms))])
			}
		} else { // nearly right
			for i, f := range []string{"n", "x", "1", "2", "g", "/h", "/s"}[:1+r.IntN(7)] {
				if i > 0 {
					file.WriteString(":")
				}
				if r.IntN(4) == 0 {
					file.WriteString(atoms[r.IntN(len(atoms))])
				}
				if r.IntN(6) != 0 {
					file.WriteString(f)
				}
			}
		}
		file.WriteString("\n")
	}
	path := filepath.Join(t.TempDir(), "file") // fgetpwent wants to seek
	must(t, os.WriteFile(path, []byte(file.String()), 0o644))
	answers := func(mode string, width int) []string {
		stdin, err := os.Open(path)
		must(t, err)
		defer stdin.Close()
		cmd := exec.CommandContext(t.Context(), exe, mode)
		cmd.Stdin = stdin
		out, err := cmd.Output()
		must(t, err)
		list := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		var named []string // an empty name is one for glibc, but no account
		for i := 0; i+width <= len(list); i += width {
			if list[i] != "" {
				named = append(named, list[i:i+width]...)
			}
		}
		return named
	}
	var got []string
	for _, u := range users(t, file.String()) {
		got = append(got, u.Name, fmt.Sprintf("%d:%d", u.UID, u.GID), u.Home, u.Shell)
	}
	compare(t, "passwd", got, answers("passwd", 4), 4)
	got = nil
	for _, g := range groups(t, file.String()) {
		got = append(got, g.Name, fmt.Sprint(g.GID))
	}
	compare(t, "group", got, answers("group", 2), 2)
}

func compare(t *testing.T, what string, got, want []string, width int) {
	t.Helper()
	if len(want) < 1000*width {
		t.Errorf("%s: only %d lines are well-formed: the generator is no good", what, len(want)/width)
	}
	for i := 0; i < max(len(got), len(want)); i += width {
		g, w := got[min(i, len(got)):min(i+width, len(got))], want[min(i, len(want)):min(i+width, len(want))]
		if !cmp.Equal(g, w) {
			t.Fatalf("%s: line %d is %q, glibc says %q", what, i/width, g, w)
		}
	}
}
