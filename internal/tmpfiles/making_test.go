package tmpfiles

import (
	"strings"
	"testing"
)

func TestMaking(t *testing.T) {
	c := NewConfig()
	text := `d /run/a 0755
z /run/a 0700
w /run/a/f - - - - x
f /run/a/f 0644
C /run/tree - - - - /src
d /run/tree/own
L /run/link - - - - target
e /run/e 0755
R /run/a
`
	env := &Env{
		Expand: func(s string, _ int) (string, error) { return s, nil },
		User:   func(string) (uint32, error) { return 0, nil }, Group: func(string) (uint32, error) { return 0, nil },
		SourceExists: func(string) bool { return true },
	}
	if err := c.Read("x.conf", strings.NewReader(text), env); err != nil || len(c.Invalid) > 0 {
		t.Fatal(err, c.Invalid)
	}
	for p, want := range map[string]string{
		"/run/a": "x.conf:1", "/run/a/f": "x.conf:4", "/run/a/g": "", "/run/tree": "x.conf:5", "/run/tree/b/c": "x.conf:5",
		"/run/tree/own": "x.conf:6", "/run/link": "x.conf:7", "/run/e": "", "/": "", "/run": "", "relative": "",
	} {
		var got []string
		for _, it := range c.Making(p) {
			got = append(got, it.Source.String())
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %q, want %q", p, s, want)
		}
	}
}
