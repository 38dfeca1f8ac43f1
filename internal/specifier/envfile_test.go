package specifier

import (
	"errors"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/testenv"
)

// Each value was measured on systemd-tmpfiles 262.1, as os-release below --root.
func TestEnvFile(t *testing.T) {
	for _, c := range []struct{ text, key, want string }{
		{"ID=a b\n", "ID", "a b"},
		{"ID=one\nID=two", "ID", "two"},
		{"# ID=x\n;ID=y\nID=z\n", "ID", "z"},
		{"#ID=x\n", "ID", ""},
		{"garbage\nID=ok\n", "ID", "ok"},
		{"=x\nID=ok\n", "ID", "ok"},
		{"export ID=7\n", "ID", ""},
		{" ID = z \n", "ID", "z"},
		{"id=x\nID=y", "ID", "y"},
		{"ID=\n\nX=1\n", "ID", ""},
		{"ID=\"x\"\r\nX=1", "ID", "x"},
		{`ID="x\"y\\z\$w\q"`, "ID", `x"y\z$w\q`},
		{`ID='a\\b'`, "ID", `a\\b`},
		{`ID=a\\`, "ID", `a\`},
		{`ID='s\q'  # no`, "ID", `s\q# no`},
		{"ID=unq # comment", "ID", "unq # comment"},
		{"ID=\"multi\nline\"\nX=1", "ID", "multi\nline"},
		{"ID=\"unclosed\n", "ID", "unclosed\n"},
		{`ID="a" b`, "ID", "ab"},
		{`ID="a"b "c"`, "ID", `ab "c"`},
		{`ID=a'b'`, "ID", "a'b'"},
		{"A-B=1\nID=y\n1X=2\n", "ID", "y"},
	} {
		m, err := parseEnv(c.text)
		if err != nil || m[c.key] != c.want {
			t.Errorf("parseEnv(%q)[%s] = %q, %v, want %q", c.text, c.key, m[c.key], err, c.want)
		}
	}
	if _, err := parseEnv("ID=a\x00b\n"); !errors.Is(err, errNUL) {
		t.Errorf("a NUL byte: %v", err)
	}
	if _, err := parseEnv("BUILD_ID=\xff\nID=x"); !errors.Is(err, ErrBadText) {
		t.Errorf("a value that is not UTF-8: %v", err)
	}
}

func TestMachineIDMayBeFollowedByOneNewline(t *testing.T) {
	id := "0123456789abcdef0123456789abcdef"
	for text, good := range map[string]bool{
		id: true, id + "\n": true, id + "\nx": false, id + " ": false, id + "\n\n": false, "\n": false, id[1:]: false,
	} {
		got, err := resolver(nil, map[string]string{"/etc/machine-id": text}).Expand("%m", 0)
		if good && (got != id || err != nil) || !good && !errors.Is(err, errMachineID) {
			t.Errorf("machine-id %q: %q, %v", text, got, err)
		}
	}
}

func TestTemporaryAndHomePaths(t *testing.T) {
	dir := t.TempDir()
	for value, want := range map[string]string{
		dir: dir, dir + "/": dir + "/", "/": "/", "/" + dir: "/tmp", dir + "//": "/tmp", dir + "/.": "/tmp", dir + "/../x": "/tmp",
	} {
		if got, err := resolver(map[string]string{"TMPDIR": value}, nil).Expand("%T", 0); got != want || err != nil {
			t.Errorf("%%T with TMPDIR=%s = %s, %v, want %s", value, got, err, want)
		}
	}
	for value, want := range map[string]string{"/a//b/": "/a/b", "/h/./x": "/h/x", "/h/../h": "/h/../h", "//": "/"} {
		if got, err := resolver(map[string]string{"HOME": value}, nil).Expand("%h", 0); got != want || err != nil {
			t.Errorf("%%h with HOME=%s = %s, %v, want %s", value, got, err, want)
		}
	}
}

func TestACallerWithoutANameIsANumber(t *testing.T) {
	testenv.Need(t, testenv.NonRoot) // root has its name without a lookup
	r := resolver(nil, nil)
	r.User = true
	r.UserName = func(uint32) (string, error) { return "", errors.New("unknown") }
	if got, err := r.Expand("%u=%U", 0); err != nil || got == "=" || strings.Split(got, "=")[0] != strings.Split(got, "=")[1] {
		t.Errorf("%%u=%%U = %q, %v, want the number twice", got, err)
	}
}

func FuzzParseEnv(f *testing.F) {
	for _, s := range []string{"ID=a\nX=\"b\\\"\n\"c d", "A='", "=\\\n", ";\n#", "A=\\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseEnv(s)
		if err != nil {
			return
		}
		n := 0
		for k, v := range m {
			if n += len(k) + len(v); k == "" || strings.IndexByte(k, '=') >= 0 || strings.IndexByte(k, '\n') >= 0 {
				t.Fatalf("%q: name %q", s, k)
			}
		}
		if n > len(s) {
			t.Fatalf("%q: more than there was: %q", s, m)
		}
	})
}
