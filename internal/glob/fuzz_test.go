package glob

import (
	"strings"
	"testing"
)

// naive is fnmatch(3) written down as the manual has it, with unlimited
// backtracking: nothing in common with run but the answer. It knows sane
// patterns alone.
func naive(p, s string, start bool) bool {
	if p == "" {
		return s == ""
	}
	leading := s != "" && s[0] == '.' && start
	switch p[0] {
	case '*':
		if leading {
			return false
		}
		for i := 0; ; i++ {
			if naive(p[1:], s[i:], start && i == 0) {
				return true
			}
			if i == len(s) || s[i] == '/' {
				return false
			}
		}
	case '?':
		return s != "" && s[0] != '/' && !leading && naive(p[1:], s[1:], false)
	case '[':
		i := strings.IndexByte(p[2:], ']') + 2
		set, not := p[1:i], false
		if set[0] == '!' {
			set, not = set[1:], true
		}
		in := s != "" && strings.IndexByte(set, s[0]) >= 0
		return s != "" && s[0] != '/' && !leading && in != not && naive(p[i+1:], s[1:], false)
	default:
		return s != "" && s[0] == p[0] && naive(p[1:], s[1:], p[0] == '/')
	}
}

// sane makes a well-formed pattern of any bytes.
func sane(b string) string {
	var out strings.Builder
	tokens := []string{"a", "b", ".", "/", "*", "?", "[ab]", "[!a]", "[.]", "c"}
	wild := 0
	for i := range min(len(b), 16) {
		t := tokens[int(b[i])%len(tokens)]
		if t == "*" {
			wild++
		}
		run := strings.TrimLeft(out.String()[len(strings.TrimRight(out.String(), "*?")):], "?")
		if wild > 5 || t[0] == '[' && strings.Contains(run, "?") {
			continue // a period in a bracket behind *? is where glibc leaves the manual
		}
		out.WriteString(t)
	}
	return out.String()
}

func FuzzMatchAgainstNaive(f *testing.F) {
	f.Add("\x03\x04\x00", "/xa")
	f.Add("\x04\x05\x06\x03\x04", "aab/c")
	f.Fuzz(func(t *testing.T, raw, name string) {
		p := sane(raw)
		name = strings.ReplaceAll(name[:min(len(name), 24)], "\x00", "")
		want := naive(p, name, true)
		if got := Match(p, name); got != want {
			t.Errorf("Match(%q, %q) = %v, naive says %v", p, name, got, want)
		}
		if _, got := NewSet([]string{p, p}).Match(name); got != want {
			t.Errorf("NewSet(%q).Match(%q) = %v, naive says %v", p, name, got, want)
		}
	})
}

// FuzzSet holds any patterns, malformed ones too: the set says what the patterns
// say one by one, and nothing panics or hangs.
func FuzzSet(f *testing.F) {
	for _, a := range atoms {
		f.Add(a, "/tmp/*"+a, "/tmp/"+a)
	}
	f.Fuzz(func(t *testing.T, p, q, name string) {
		if len(p)+len(q)+len(name) > 2000 {
			return
		}
		want, wantOK := 0, true
		switch {
		case Match(p, name):
		case Match(q, name):
			want = 1
		default:
			wantOK = false
		}
		if i, ok := NewSet([]string{p, q}).Match(name); i != want || ok != wantOK {
			t.Errorf("NewSet(%q, %q).Match(%q) = %d, %v, one by one %d, %v", p, q, name, i, ok, want, wantOK)
		}
		for _, c := range Components(p) {
			if lit, ok := c.Literal(); ok && !c.Match(lit) {
				t.Errorf("component %q does not match its literal %q", c, lit)
			}
			c.Match(name)
		}
		words, err := ExpandBraces(p)
		if err == nil && len(words) == 0 {
			t.Errorf("ExpandBraces(%q) is nothing", p)
		}
	})
}
