package glob

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"/tmp/.X[0-9]*-lock", "/tmp/.X0-lock", true},
		{"/tmp/.X[0-9]*-lock", "/tmp/.Xa-lock", false},
		{"/tmp/*", "/tmp/a", true},
		{"/tmp/*", "/tmp/.a", false},
		{"/tmp/.*", "/tmp/.a", true},
		{"/tmp/*", "/tmp/a/b", false},
		{"/tmp/*", "/tmp", false},
		{"/*/a", "//a", true},
		{"/a?b", "/a/b", false},
		{"/a[/]b", "/a/b", false},
		{"/a[!x]b", "/a/b", false},
		{"/?a", "/.a", false},
		{"/[.]a", "/.a", false},
		{"/a[.]", "/a.", true},
		{"{a,b}", "{a,b}", true},
		{"{a,b}", "a", false},
		{"[a", "[a", true},
		{"[a", "a", false},
		{`\[a]`, "[a]", true},
		{`a\`, "a", false},
		{`a\`, `a\`, false},
		{"[]]", "]", true},
		{"[[:alpha:][:digit:]]", "7", true},
		{"a*b*c", "aXbYbZc", true},
		{"a*b*c", "aXbYbZ", false},
		{"*", "", true},
		{"", "", true},
		{"a\x00b", "a", true},
		{"[\x80-\xff]", "\xc3", true},
		{"?", "\u00e9", false}, // bytes, not characters
	} {
		if got := Match(tt.pattern, tt.name); got != tt.want {
			t.Errorf("Match(%q, %q) = %v", tt.pattern, tt.name, got)
		}
	}
}

// A matcher that backtracks over every star needs years for these.
func TestStarsDoNotMultiply(t *testing.T) {
	stars := strings.Repeat("*a", 200) + "b"
	name := strings.Repeat("a", 2000)
	if Match("/"+stars, "/"+name) {
		t.Error("matches without a b")
	}
	if !Match("/"+stars, "/"+name+"b") {
		t.Error("does not match with a b")
	}
	if _, ok := NewSet([]string{"/" + stars}).Match("/" + name); ok {
		t.Error("set matches without a b")
	}
	if Match(strings.Repeat("*/", 500)+"x", strings.Repeat("a/", 500)+"y") {
		t.Error("x matches y")
	}
	// Brackets that are never closed, at the length of PATH_MAX.
	for _, unit := range []string{"[", "[a", "[!", "[[:", "[[=", "[[.", "[[:alpha:]", `[\`, "[a-"} {
		p := strings.Repeat(unit, 4096/len(unit))
		Match(p, p)
		Match(p+`\]`, p+"]")
	}
}

func TestHasMeta(t *testing.T) {
	for s, want := range map[string]bool{"/a*": true, "/a?": true, "/a[": true, "/{a,b}": false, `/a\*`: true, `/a\b`: false, "": false} {
		if HasMeta(s) != want {
			t.Errorf("HasMeta(%q) = %v", s, !want)
		}
	}
}

func TestExpandBraces(t *testing.T) {
	for pattern, want := range map[string][]string{
		"/a":                  {"/a"},
		"":                    {""},
		"/{a,b}/{c,d}":        {"/a/c", "/a/d", "/b/c", "/b/d"},
		"{a,{b,c}d}e":         {"ae", "bde", "cde"},
		"{a}":                 {"a"},
		"x{}y":                {"xy"},
		"{,a}":                {"", "a"},
		"{a,b":                {"{a,b"},
		"a,b}":                {"a,b}"},
		"{a{b,c}":             {"{a{b,c}"}, // the leftmost brace is open: nothing is expanded
		"{{a,b}":              {"{{a,b}"},
		`\{a,b\}{c,d}`:        {`\{a,b\}c`, `\{a,b\}d`},
		`{a\,b,c}`:            {`a\,b`, "c"},
		"{[a,b]}":             {"[a", "b]"},
		`{a,b}\`:              {`a\`, `b\`},
		"/run/{user,.x}/*":    {"/run/user/*", "/run/.x/*"},
		"{a,b}{c,d}{e,f}":     {"ace", "acf", "ade", "adf", "bce", "bcf", "bde", "bdf"},
		"{a/b,c}/d":           {"a/b/d", "c/d"},
		"{a,a}":               {"a", "a"},
		"{{,}}":               {"", ""},
		"pre{1,2{3,4},5}post": {"pre1post", "pre23post", "pre24post", "pre5post"},
	} {
		got, err := ExpandBraces(pattern)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("ExpandBraces(%q) = %q, %v, want %q", pattern, got, err, want)
		}
	}
}

func TestExpandBracesIsBounded(t *testing.T) {
	words, err := ExpandBraces(strings.Repeat("{a,b}", 16))
	if err != nil || len(words) != MaxBraceWords {
		t.Errorf("2^16 words: %d, %v", len(words), err)
	}
	for _, p := range []string{
		strings.Repeat("{a,b}", 17),
		strings.Repeat("{a,b}", 500),
		strings.Repeat("{,}", 15) + strings.Repeat("{a}", 1300),
		"{" + strings.Repeat("a,", 70_000) + "}",
	} {
		words, err := ExpandBraces(p)
		if !errors.Is(err, ErrTooManyBraces) || words != nil {
			t.Errorf("%d bytes of braces: %d words, %v", len(p), len(words), err)
		} else if len(err.Error()) > 200 {
			t.Errorf("message of %d bytes", len(err.Error()))
		}
	}
	deep := strings.Repeat("{", 2000) + "a" + strings.Repeat("}", 2000)
	if words, err := ExpandBraces(deep); err != nil || !slices.Equal(words, []string{"a"}) {
		t.Errorf("nested 2000 deep: %q, %v", words, err)
	}
}

func TestComponents(t *testing.T) {
	names, rest := SplitLiteral(Components(`/tmp/a\ b//c[/x*/[.]y/z`))
	if want := []string{"tmp", "a b", "c["}; !slices.Equal(names, want) {
		t.Errorf("literal part = %q, want %q", names, want)
	}
	if len(rest) != 3 || rest[0].String() != "x*" {
		t.Fatalf("rest = %v", rest)
	}
	if name, ok := rest[0].Literal(); ok {
		t.Errorf("x* is the literal %q", name)
	}
	if !rest[0].Match("xy") || rest[0].Match("y") || rest[1].Match(".y") {
		t.Error("wildcard components match wrongly")
	}
	if name, ok := rest[2].Literal(); !ok || name != "z" {
		t.Errorf("z.Literal() = %q, %v", name, ok)
	}
	if c := Components("/"); len(c) != 0 {
		t.Errorf("components of / = %v", c)
	}
	if c := Components(`a\`); len(c) != 1 || c[0].Match("a") || c[0].Match(`a\`) {
		t.Errorf("a backslash at the end matches something")
	}
	if c := Components("[xa-[:alpha:]]"); !c[0].Match("x") || !c[0].Match("l]") || c[0].Match("l") {
		t.Error("a bracket with two ends is not matched as glibc does")
	}
	names, rest = SplitLiteral(Components("/a/b"))
	if len(names) != 2 || rest != nil {
		t.Errorf("SplitLiteral(/a/b) = %q, %v", names, rest)
	}
}

func TestSetReturnsTheLowestIndex(t *testing.T) {
	s := NewSet([]string{"/tmp/b*", "/tmp/*", "/tmp/abc", "/tmp/a*", "/tmp/abc", "relative/*", "/"})
	for path, want := range map[string]int{"/tmp/abc": 1, "/tmp/bcd": 0, "relative/x": 5, "/": 6, "/tmp": -1, "/tmp/.x": -1, "tmp/a": -1, "": -1, "/tmp/a/b": -1} {
		i, ok := s.Match(path)
		if !ok {
			i = -1
		}
		if i != want {
			t.Errorf("Match(%q) = %d, want %d", path, i, want)
		}
	}
}

func TestCursor(t *testing.T) {
	s := NewSet([]string{"/tmp/*/x", "/tmp/a/*", "/var/tmp", "/tmp/a"})
	tmp := s.Root().Descend("tmp")
	if i, ok := s.Root().Descend("var").Match("tmp"); !ok || i != 2 {
		t.Errorf("/var/tmp = %d, %v", i, ok)
	}
	if i, ok := tmp.Match("a"); !ok || i != 3 {
		t.Errorf("/tmp/a = %d, %v", i, ok)
	}
	a := tmp.Descend("a")
	if i, ok := a.Match("x"); !ok || i != 0 {
		t.Errorf("/tmp/a/x = %d, %v", i, ok)
	}
	if i, ok := a.Match("y"); !ok || i != 1 {
		t.Errorf("/tmp/a/y = %d, %v", i, ok)
	}
	if a.Dead() || !a.Descend("x").Dead() || !s.Root().Descend("usr").Dead() || !tmp.Descend(".hidden").Dead() {
		t.Error("Dead is wrong")
	}
	var zero Cursor
	if _, ok := zero.Match("a"); ok || !zero.Dead() || !zero.Descend("a").Dead() {
		t.Error("the zero cursor matches")
	}
	if c := NewSet(nil).Root(); !c.Dead() {
		t.Error("the cursor of no patterns is alive")
	}
	// A pattern that cannot be cut at slashes keeps every cursor alive.
	odd := NewSet([]string{"/a/[xa-[:alpha:]]", "/a/b"}).Root().Descend("a")
	if i, ok := odd.Match("l]"); !ok || i != 0 {
		t.Errorf("/a/l] = %d, %v", i, ok)
	}
	if i, ok := odd.Match("b"); !ok || i != 1 {
		t.Errorf("/a/b = %d, %v", i, ok)
	}
}

// Many patterns against many paths, by the set, by its cursors and one by one.
func TestSetAgreesWithOneByOne(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for round := range 300 {
		var patterns []string
		for range 1 + r.IntN(60) {
			switch r.IntN(3) {
			case 0: // many lengths at both ends
				patterns = append(patterns, fmt.Sprintf("/a/%.*s*%.*s", r.IntN(30), strings.Repeat("ab", 15), r.IntN(30), strings.Repeat("ba", 15)))
			default:
				patterns = append(patterns, pick(r, atoms, 7))
			}
		}
		s := NewSet(patterns)
		var compiled []*Pattern
		for _, p := range patterns {
			compiled = append(compiled, Compile(p))
		}
		for range 200 {
			path := nameLike(r, patterns[r.IntN(len(patterns))])
			want, wantOK := slices.IndexFunc(compiled, func(p *Pattern) bool { return p.Match(path) }), true
			if want < 0 {
				want, wantOK = 0, false
			}
			if i, ok := s.Match(path); i != want || ok != wantOK {
				t.Fatalf("round %d: Match(%q) = %d, %v, one by one %d, %v\n%q", round, path, i, ok, want, wantOK, patterns)
			}
			rel, abs := strings.CutPrefix(path, "/")
			if !abs {
				continue
			}
			parts := strings.Split(rel, "/")
			c := s.Root()
			for _, dir := range parts[:len(parts)-1] {
				c = c.Descend(dir)
			}
			if i, ok := c.Match(parts[len(parts)-1]); i != want || ok != wantOK {
				t.Fatalf("round %d: cursor at %q = %d, %v, one by one %d, %v\n%q", round, path, i, ok, want, wantOK, patterns)
			}
			if wantOK && c.Dead() {
				t.Fatalf("round %d: cursor of %q is dead", round, path)
			}
		}
	}
}

func TestSetIsSafeForConcurrentUse(t *testing.T) {
	s := NewSet(keepPatterns(50))
	tmp := s.Root().Descend("tmp")
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				name := fmt.Sprintf("keep-%d-%d", g, i%100)
				if _, ok := tmp.Descend(name).Match(name); ok {
					t.Errorf("something below /tmp/%s matches", name)
				}
				if j, ok := tmp.Match(name); ok != (i%100 < 50) || ok && j != i%100 {
					t.Errorf("Match(%s) = %d, %v", name, j, ok)
				}
			}
		})
	}
	wg.Wait()
}

func TestMatchingDoesNotAllocate(t *testing.T) {
	s := NewSet(append(keepPatterns(100), "/tmp/[a-c]*x?", "/tmp/literal"))
	tmp := s.Root().Descend("tmp")
	p := Compile("/tmp/[a-c]*x?")
	if n := testing.AllocsPerRun(100, func() {
		tmp.Match("keep-foo-17")
		tmp.Match("axxx")
		tmp.Match("literal")
		tmp.Match("other")
		s.Match("/tmp/keep-foo-17")
		p.Match("/tmp/axxx")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func keepPatterns(n int) (patterns []string) {
	for i := range n {
		patterns = append(patterns, fmt.Sprintf("/tmp/keep-*-%d", i))
	}
	return patterns
}
