package glob

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/testenv"
)

// glibc is a C library that is the model, told from musl by what programs are
// linked with.
func glibc(exe string) testenv.Requirement {
	return testenv.Requirement{What: "glibc, whose fnmatch and glob are the model", Check: func() error {
		b, err := os.ReadFile(exe)
		if err == nil && !bytes.Contains(b, []byte("GLIBC_2.")) {
			err = errors.New("the compiler links programs with another C library")
		}
		return err
	}}
}

// headers is what a compiler alone lacks.
var headers = testenv.Requirement{What: "the headers of the C library", Check: func() error {
	if _, err := os.Stat("/usr/include/fnmatch.h"); err != nil {
		return fmt.Errorf("%w; on Debian they are in libc6-dev", err)
	}
	return nil
}}

// oracle compiles testdata/oracle.c and returns the program.
func oracle(t *testing.T) string {
	t.Helper()
	testenv.Need(t, testenv.Tool("cc"), headers)
	exe := filepath.Join(t.TempDir(), "oracle")
	if out, err := exec.CommandContext(t.Context(), "cc", "-w", "-o", exe, "testdata/oracle.c").CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	testenv.Need(t, glibc(exe))
	return exe
}

func ask(t *testing.T, exe, mode, dir string, fields []string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), exe, mode)
	cmd.Dir = dir
	cmd.Env = []string{"LC_ALL=C"}
	cmd.Stdin = strings.NewReader(strings.Join(fields, "\x00") + "\x00")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v", exe, mode, err)
	}
	return out
}

// atoms are what random patterns are made of: mostly sane, some malformed.
var atoms = []string{
	"a", "b", "c", "a", "b", ".", ".", "/", "/", "*", "*", "*", "?", "?",
	"[ab]", "[!ab]", "[^a]", "[a-c]", "[]a]", "[!]a]", "[a-]", "[.]", "[!.]",
	`\a`, `\*`, `\/`, `\\`, `\`, "[", "]", "[a", "-", "!", "^",
	"[[:alpha:]]", "[[:punct:]b]", "[![:alpha:]]", "[[:foo:]]", "[[:alpha:", "[[:a", "[[:z:]]",
	"[[=a=]]", "[[=a", "[[=aa=]]", "[[.a.]]", "[[.-.]-a]", "[[.a.]-c]", "[[.ab.]]", "[[.a", "[a-[.c.]]",
	"[/]", "[a/b]", "[\\]a]", "[a-\\c]", "[c-a]", "[xa-[:alpha:]]", "[a[=b]", "[a[:foo:]]", "[b[.x]",
	"{", "}", ",", "x", ":", "=", "\xff", "[\x80-\xff]", "[a\\", "~",
}

var letters = []string{"a", "b", "c", "a", "b", ".", ".", "/", "/", "[", "]", "-", "\\", "*", "!", ":", "x", "{", "\xff", "aa", "p]", "="}

func pick(r *rand.Rand, from []string, most int) string {
	var b strings.Builder
	for range r.IntN(most + 1) {
		b.WriteString(from[r.IntN(len(from))])
	}
	return b.String()
}

// nameLike makes a name that has a chance: a walk over the pattern.
func nameLike(r *rand.Rand, pattern string) string {
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		switch ch := pattern[i]; {
		case ch == '*':
			b.WriteString(pick(r, letters[:6], 2))
		case ch == '?' || r.IntN(12) == 0:
			b.WriteString(letters[r.IntN(6)])
		case ch == '[' && r.IntN(4) != 0:
			b.WriteString(letters[r.IntN(len(letters))])
			if j := strings.IndexByte(pattern[i:], ']'); j > 0 {
				i += j
				if strings.HasPrefix(pattern[i:], "]]") && r.IntN(3) != 0 {
					i++
				}
			}
		case ch == '\\' && r.IntN(4) != 0:
		default:
			b.WriteByte(ch)
		}
	}
	return b.String()
}

func fnmatchCases(n int) (fields []string) {
	r := rand.New(rand.NewPCG(1, 2))
	for range n {
		p := pick(r, atoms, 7)
		name := nameLike(r, p)
		if r.IntN(4) == 0 {
			name = pick(r, letters, 6)
		}
		fields = append(fields, p, name)
	}
	return fields
}

func TestFnmatchAgreesWithGlibc(t *testing.T) {
	exe := oracle(t)
	fields := fnmatchCases(200_000)
	long := strings.Repeat("a", classNameMax)
	fields = append(fields,
		"[[:"+long+":]", "a", "[[:"+long[1:]+":]", "a", "[x[:"+long+":]]", "x", "[x[:"+long[1:]+":]]", "x", "[x[:"+long[2:]+":]]", "x",
		"*?[.]x", "a.x", `*\/b`, "a/b", `a\/*`, "a/.b", "", "", "*", "", "/*", "/", "/?", "/")
	for b := 1; b < 256; b++ { // every class over every byte
		for _, class := range strings.Fields("alnum alpha blank cntrl digit graph lower print punct space upper xdigit") {
			fields = append(fields, "x[[:"+class+":]]", "x"+string([]byte{byte(b)}))
		}
	}
	got := ask(t, exe, "fnmatch", "", fields)
	if len(got) != len(fields)/2 {
		t.Fatalf("%d answers for %d questions", len(got), len(fields)/2)
	}
	hits, bad := 0, 0
	for i := range got {
		p, name, want := fields[2*i], fields[2*i+1], got[i] == '1'
		if want {
			hits++
		}
		if have := Match(p, name); have != want {
			t.Errorf("Match(%q, %q) = %v, glibc says %v", p, name, have, want)
		}
		if i, have := NewSet([]string{p}).Match(name); have != want || i != 0 {
			t.Errorf("NewSet(%q).Match(%q) = %d, %v, glibc says %v", p, name, i, have, want)
		}
		if t.Failed() {
			if bad++; bad > 20 {
				t.FailNow()
			}
		}
	}
	if hits < len(got)/20 {
		t.Errorf("only %d of %d cases match: the generator is no good", hits, len(got))
	}
}

// tree is what the glob test looks at.
var tree = []string{
	"a/a/a", "a/b/.c", "a/.b/a", "b/a", "b/[a", "b/a]", "b/*", "b/a-b", ".a/a", ".a/.b/c", "ab/ab/ab", "ab/a.b/b",
	"abc", "c/{a", "c/{a,b}", "c/}", "c/,", `c/a\b`, "x/x/x/x", "\xff/a", "x/-", "x/!", "x/[", "x/[a]", "aa", "ba",
}

func makeTree(t *testing.T) string {
	dir := t.TempDir()
	for _, p := range tree {
		p = filepath.Join(dir, p)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// walkGlob is the walk that Components is made for.
func walkGlob(t *testing.T, root, pattern string) []string {
	words, err := ExpandBraces(pattern)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, w := range words {
		comps := Components(w)
		if len(comps) > 0 {
			walkInto(root, "", comps, &out)
		}
	}
	return out
}

func walkInto(root, dir string, comps []Component, out *[]string) {
	var names []string
	if name, ok := comps[0].Literal(); ok {
		if _, err := os.Lstat(filepath.Join(root, dir, name)); err == nil {
			names = []string{name}
		}
	} else if list, err := os.ReadDir(filepath.Join(root, dir)); err == nil {
		for _, e := range list {
			if comps[0].Match(e.Name()) {
				names = append(names, e.Name())
			}
		}
	}
	for _, name := range names {
		p := filepath.Join(dir, name)
		if len(comps) == 1 {
			*out = append(*out, p)
		} else {
			walkInto(root, p, comps[1:], out)
		}
	}
}

func TestWalkAgreesWithGlibcGlob(t *testing.T) {
	exe, dir := oracle(t), makeTree(t)
	r := rand.New(rand.NewPCG(3, 4))
	brace := []string{"{a,b}", "{a,b/a}", "{}", "{a}", "{,a}", "{a,{b,c}}", "{a,.b}", "{", "}", ",", `\{a,b\}`, `{a\,b}`, "{[a,b]}", "{a/{a,b},x}", "{a,b"}
	var fields []string
	for len(fields) < 30_000 {
		var b strings.Builder
		for i := range 1 + r.IntN(6) {
			switch k := r.IntN(10); {
			case k < 2:
				b.WriteString(brace[r.IntN(len(brace))])
			case k < 4 && i > 0:
				b.WriteString("/")
			case k < 6:
				b.WriteString([]string{"a", "b", "x", ".", "*", "?"}[r.IntN(6)])
			default:
				b.WriteString(atoms[r.IntN(len(atoms))])
			}
		}
		p := strings.Trim(b.String(), "/")
		// What the caller does: no "." or "..", no doubled, leading or trailing slash,
		// in none of the words.
		words, err := ExpandBraces(p)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(words, func(w string) bool {
			return w == "" || strings.HasPrefix(w, "/") || strings.HasPrefix(w, `\/`) || strings.HasSuffix(w, "/") || strings.Contains(w, "//") || strings.Contains(w, `/\/`) ||
				slices.ContainsFunc(Components(w), func(c Component) bool { n, _ := c.Literal(); return n == "." || n == ".." })
		}) {
			continue
		}
		fields = append(fields, p)
	}
	out := string(ask(t, exe, "glob", dir, fields))
	hits := 0
	for _, p := range fields {
		var want []string
		for {
			one, rest, ok := strings.Cut(out, "\x00")
			if !ok {
				t.Fatalf("answers end before pattern %q", p)
			}
			if out = rest; one == "" {
				break
			}
			want = append(want, one)
		}
		got := walkGlob(t, dir, p)
		if len(want) > 0 {
			hits++
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			words, _ := ExpandBraces(p)
			t.Errorf("pattern %q (words %q)\n got %q\nwant %q", p, words, got, want)
		}
	}
	if hits < len(fields)/10 {
		t.Errorf("only %d of %d patterns find anything: the generator is no good", hits, len(fields))
	}
}
