package tmpfiles

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/accounts"
	"github.com/slashrun/slashrun/internal/specifier"
)

// testEnv knows root, alice (1000) and bob (1001), and expands %u alone.
func testEnv() *Env {
	id := func(name string) (uint32, error) {
		if v, err := accounts.ParseID(name); err == nil {
			return v, nil
		}
		switch name {
		case "root":
			return 0, nil
		case "alice":
			return 1000, nil
		case "bob":
			return 1001, nil
		}
		return 0, fmt.Errorf("user %q: %w", name, accounts.ErrUnknown)
	}
	return &Env{
		Expand: func(s string, limit int) (string, error) {
			if strings.Contains(s, "%z") {
				return "", specifier.ErrUnknown
			}
			if strings.Contains(s, "%m") {
				return "", specifier.ErrUnresolvable
			}
			s = strings.ReplaceAll(s, "%u", "root")
			if limit > 0 && len(s) > limit {
				return "", specifier.ErrTooLong
			}
			return s, nil
		},
		User: id, Group: id,
		Credential: func(name string) ([]byte, error) {
			if name == "secret" {
				return []byte("from a credential"), nil
			}
			return nil, fs.ErrNotExist
		},
		SourceExists: func(p string) bool { return p != "/missing" },
	}
}

func parseOne(t testing.TB, line string, env *Env) (*Config, error) {
	t.Helper()
	c := NewConfig()
	c.KeepSkipped = true
	err := c.Read("t.conf", strings.NewReader(line+"\n"), env)
	return c, err
}

// Every verdict was measured on systemd-tmpfiles 262.1.
func TestVerdictOfALine(t *testing.T) {
	const (
		ok      = "ok"
		invalid = "65"
		skipped = "skipped"
		fatal   = "1"
	)
	for _, tt := range []struct{ line, want string }{
		{"d /x", ok},
		{"d", invalid},
		{`"" /x`, invalid},
		{`d ""`, invalid},
		{"Y /x", invalid},
		{"d x", invalid},
		{`d /a\qb`, invalid},
		{`d "/a`, invalid},
		{"d /%z", invalid},
		{"d /%m", skipped},
		{"f /x - - - - %m", skipped},
		{"f /x - - - - %z", invalid},
		{`f /x - - - - \q`, invalid},
		{"f /x - - - - " + strings.Repeat("x", 4096), fatal},
		{"d /" + strings.Repeat("x", 4096), fatal},
		{"d! /x", skipped},
		{"d!! /x", invalid},
		{"d* /x", invalid},
		{"w+++ /x - - - - a", invalid},
		{"z$ /x", invalid},
		{"d$ /x", ok},
		{"f? /x", invalid},
		{"L? /x", ok},
		{"L?+ /x - - - - y", ok},
		{"d+ /x", ok},
		{"d~ /x", ok},
		{"L~ /x - - - - y", invalid},
		{"f~ /x - - - - !!!", fatal},
		{"f~ /x - - - - aGVs bG8=", ok},
		{"d^ /x", fatal},
		{"f^ /x", fatal},
		{"f^ /x - - - - a/b", fatal},
		{"f^ /x - - - - unset", skipped},
		{"f^ /x - - - - secret", ok},
		{"d /x - - - - arg", invalid},
		{"p /x - - - - arg", invalid},
		{"w /x", invalid},
		{"w /x - - - - -", invalid},
		{"c /x - - - - 1", invalid},
		{"c /x - - - - 1:x", invalid},
		{"c /x - - - - 5000:1", invalid},
		{"c /x - - - - 1:3", ok},
		{"t /x - - - - foo", ok},
		{"a /x - - - - foo", ok},
		{"k /x - - - - foo", ok},
		{"h /x - - - - Q", invalid},
		{"h /x - - - - +i", ok},
		{"C /x - - - - rel", invalid},
		{"C /x - - - - /missing", skipped},
		{"d /x 0999", invalid},
		{"d /x 17777", invalid},
		{"d /x 7777", ok},
		{"d /x ~:~0777", ok},
		{"d /x ~", invalid},
		{"d /x 0x1", invalid},
		{"d /x +1", invalid},
		{"d /x - nobodyelse", invalid},
		{"d /x - :", invalid},
		{"d /x - 4294967295", invalid},
		{"d /x - 65536", ok},
		{"d /x - 007", invalid},
		{"d /x - :alice bob", ok},
		{"d /x - - - 5parsec", invalid},
		{"d /x - - - ~5", ok},
		{"d /x - - - ~~5", invalid},
		{"r /x - - - ~5", invalid},
		{"R /x - - - ~5", ok},
		{"f /x - - - x:5", invalid},
		{"d /x - - - :5", invalid},
		{"d /x - - - a:b:5", invalid},
		{"d /x - - - abcmABCM:1h", ok},
		{"d /x - - - infinity", ok},
	} {
		c, err := parseOne(t, tt.line, testEnv())
		got := ok
		switch {
		case err != nil:
			got = fatal
		case len(c.Invalid) > 0:
			got = invalid
		case len(c.plain.order)+len(c.globs.order) == 0:
			got = skipped
		}
		if got != tt.want {
			t.Errorf("%.60q: %s, want %s (%v, %v)", tt.line, got, tt.want, err, c.Invalid)
		}
	}
}

func only(t *testing.T, line string) *Item {
	t.Helper()
	c, err := parseOne(t, line, testEnv())
	if err != nil || len(c.Invalid) > 0 {
		t.Fatalf("%q: %v %v", line, err, c.Invalid)
	}
	for _, tab := range []*table{&c.plain, &c.globs} {
		for _, g := range tab.order {
			return g.items[0]
		}
	}
	t.Fatalf("%q gives no item", line)
	return nil
}

func TestFieldsOfALine(t *testing.T) {
	it := only(t, `f+=- "/a b/./c//d/" ~:4755 :alice bob ab:1h hello\n%u   `)
	if it.Path != "/a b/c/d" || it.Type != 'f' || !it.Mod.Plus || !it.Mod.Replace || !it.Mod.MayFail || it.Mod.Boot {
		t.Errorf("type, modifiers or path: %+v", it)
	}
	if want := (Mode{Set: true, NewOnly: true, Masked: true, Value: 04755}); it.Mode != want {
		t.Errorf("mode %+v, want %+v", it.Mode, want)
	}
	if it.UID != (ID{true, true, 1000}) || it.GID != (ID{true, false, 1001}) {
		t.Errorf("owners %+v %+v", it.UID, it.GID)
	}
	if want := (Age{Set: true, Usec: 3600e6, File: ByAtime | ByBtime, Dir: AgeByDir}); it.Age != want {
		t.Errorf("age %+v, want %+v", it.Age, want)
	}
	if string(it.Content) != "hello\nroot" {
		t.Errorf("content %q", it.Content)
	}
	if it := only(t, "d /var/run/x"); it.Path != "/run/x" {
		t.Errorf("/var/run/x became %s", it.Path)
	}
	if it := only(t, "d /var/run"); it.Path != "/var/run" {
		t.Errorf("/var/run became %s", it.Path)
	}
	if it := only(t, "L /etc/x"); it.Argument != "/usr/share/factory/etc/x" {
		t.Errorf("L without argument points to %s", it.Argument)
	}
	if it := only(t, "f~ /x - - - - aGVs\tbG8="); string(it.Content) != "hello" {
		t.Errorf("base64 gave %q", it.Content)
	}
	if it := only(t, "f^ /x - - - - secret"); string(it.Content) != "from a credential" {
		t.Errorf("credential gave %q", it.Content)
	}
	if d, f := only(t, "d /x"), only(t, "f /x"); d.Mode.Value != 0755 || f.Mode.Value != 0644 || d.Mode.Set {
		t.Errorf("default modes %o and %o", d.Mode.Value, f.Mode.Value)
	}
}

func TestGracefulForgivesUnknownOwnersAndDropsSpecialBits(t *testing.T) {
	env := testEnv()
	env.Graceful = true
	c, err := parseOne(t, "d /x 6755 nobodyelse alice", env)
	if err != nil || len(c.Invalid) > 0 {
		t.Fatal(err, c.Invalid)
	}
	it := c.plain.order[0].items[0]
	if it.UID.Set || !it.GID.Set || it.Mode.Value != 0755 {
		t.Errorf("%+v %+v mode %o", it.UID, it.GID, it.Mode.Value)
	}
}

func TestErrorNamesFileLineAndField(t *testing.T) {
	c := NewConfig()
	if err := c.Read("/etc/tmpfiles.d/a.conf", strings.NewReader("# x\n\nd /x 09\n"), testEnv()); err != nil {
		t.Fatal(err)
	}
	want := `/etc/tmpfiles.d/a.conf:3: mode "09": not an octal mode up to 07777`
	if len(c.Invalid) != 1 || c.Invalid[0].Error() != want {
		t.Errorf("got %v, want %s", c.Invalid, want)
	}
}

func TestTooLongLineStopsTheFile(t *testing.T) {
	c := NewConfig()
	err := c.Read("x", strings.NewReader("d /a\nd /"+strings.Repeat("x", 1<<20)+"\nd /b\n"), testEnv())
	var bad *ReadError
	if !errors.As(err, &bad) || bad.Line != 2 {
		t.Errorf("error %v, want a ReadError in line 2", err)
	}
	if len(c.plain.order) != 1 {
		t.Errorf("%d lines count, want the one before", len(c.plain.order))
	}
}

func TestConflicts(t *testing.T) {
	for _, tt := range []struct {
		lines string
		count int // lines that count
	}{
		{"d /x 0755\nd /x 0755", 2},
		{"d /x 0755\nD /x 0755", 2}, // the type letter is not compared
		{"d /x 0755\nd /x 0700", 1},
		{"d /x - alice\nd /x - :alice", 1},
		{"d /x - - - 1d\nd /x - - - 2d", 1},
		{"f /x - - - - a\nf /x - - - - b", 1},
		{"f /x\nf /x 0644", 1}, // set and default differ
		{"w+ /x - - - - a\nw+ /x - - - - b", 2},
		{"w /x - - - - a\nw+ /x - - - - b", 1},
		{"t /x - - - - user.a=1\nt /x - - - - user.b=1", 2},
		{"z /x 0700\nz /x 0600", 2},
		{"c /x - - - - 1:3\nc /x - - - - 1:5", 1},
		{"d /x\ne /x 0700", 2}, // two tables
	} {
		c, err := parseOne(t, tt.lines, testEnv())
		if err != nil || len(c.Invalid) > 0 {
			t.Fatal(err, c.Invalid)
		}
		n := 0
		for _, tab := range []*table{&c.plain, &c.globs} {
			for _, g := range tab.order {
				n += len(g.items)
			}
		}
		if n != tt.count {
			t.Errorf("%q: %d lines count, want %d", tt.lines, n, tt.count)
		}
		if ignored := len(c.Notices); (n < 2) != (ignored > 0) {
			t.Errorf("%q: %d notices", tt.lines, ignored)
		}
	}
}

func TestOrderWithinAPath(t *testing.T) {
	c, _ := parseOne(t, "z /x 0600\nt /x - - - - user.a=1\ne /x\na /x - - - - u:alice:r\nz /x 0700", testEnv())
	var got string
	for _, it := range c.globs.order[0].items {
		got += string(it.Type)
	}
	if got != "eatzz" {
		t.Errorf("order %q, want what owns the path first, then by letter", got)
	}
	if first := c.globs.order[0].items[3].Mode.Value; first != 0600 {
		t.Errorf("equal letters changed places: %o first", first)
	}
}

// The reference takes the first line above in the order of the lines, then any
// later one below that the pattern matches.
func TestXInheritsAnAge(t *testing.T) {
	for _, tt := range []struct {
		lines string
		usec  uint64
		set   bool
	}{
		{"d /a - - - 1d\nX /a/b", 86400e6, true},
		{"X /a/b\nd /a - - - 1d", 86400e6, true},
		{"d /a - - - 1d\nd /a/b - - - 2d\nX /a/b", 2 * 86400e6, true},
		{"d /a - - - 1d\nd /a/b - - - 2d\nX /a/b/c", 86400e6, true},
		{"d /a - - - 1d\nd /a/bb - - - 2d\nX /a/b*", 2 * 86400e6, true},
		{"d /z - - - 1d\nX /a/b", 0, false},
		{"X /a/b - - - 3s", 3e6, true},
	} {
		c, err := parseOne(t, tt.lines, testEnv())
		if err != nil || len(c.Invalid) > 0 {
			t.Fatal(err, c.Invalid)
		}
		c.link()
		x := c.globs.order[0].items[0]
		if x.Age.Set != tt.set || x.Age.Usec != tt.usec {
			t.Errorf("%q: age %d set %t, want %d %t", tt.lines, x.Age.Usec, x.Age.Set, tt.usec, tt.set)
		}
	}
}

func TestPrefixes(t *testing.T) {
	for _, tt := range []struct {
		path             string
		include, exclude []string
		want             bool
	}{
		{"/run/x", nil, nil, true},
		{"/run/x", []string{"/run"}, nil, true},
		{"/run/x", []string{"/run/"}, nil, true},
		{"/runner", []string{"/run"}, nil, false},
		{"/run", []string{"/run"}, nil, true},
		{"/run/x", []string{"/"}, []string{"/run"}, false},
		{"/etc/x", []string{"/run"}, nil, false},
	} {
		if got := included(tt.path, tt.include, tt.exclude); got != tt.want {
			t.Errorf("included(%s, %v, %v) = %t", tt.path, tt.include, tt.exclude, got)
		}
	}
}

func TestExplain(t *testing.T) {
	c, err := parseOne(t, strings.Join([]string{
		"d /run/x 0750 alice",
		"d /run/x 0700 alice",
		"z /run/* 0755",
		"d /run - - - 1d",
		"x /run/x",
		"Z /run 0755",
		"d! /run/x",
		"d /elsewhere",
		"d /run/x 09",
	}, "\n"), testEnv())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, g := range c.Explain("/run/x") {
		got = append(got, fmt.Sprintf("%d %s", g.Source.Line, g.Role))
	}
	want := "1 path|4 clean|3 pattern|5 keep|6 tree|2 no-count|7 no-count|9 no-count"
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
}

func FuzzRead(f *testing.F) {
	for _, s := range []string{
		"d /x 0755 root root 10d -\n", "f+~ /x - - - - aGk=\n", "L? /a - - - - b\r\nz /*\x00",
		`w "/a\x20b" ~:07 :alice - abM:1w2d x` + "\n", "a /x - - - - d:u:alice:rwX\nk /x - - - - all=ep\nh /x - - - - =i",
		"t /x - - - - user.a=\"b c\" d=e\n", "X /a/*/[b\nx {a,b}\nR /a", "c /n - - - - 1:3\nb /m - - - - 8:0", "\\", "\"", "d /\xff\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := NewConfig()
		c.KeepSkipped = true
		_ = c.Read("fuzz", strings.NewReader(s), testEnv())
		c.link()
		for _, tab := range []*table{&c.plain, &c.globs} {
			for _, g := range tab.order {
				for _, it := range g.items {
					if !strings.HasPrefix(it.Path, "/") || it.Mode.Value > 07777 || it.Path != g.path {
						t.Errorf("%q gave %+v", s, it)
					}
				}
			}
		}
		c.Explain("/x")
	})
}
