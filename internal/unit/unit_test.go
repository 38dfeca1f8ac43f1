package unit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/specifier"
	"github.com/slashrun/slashrun/internal/testenv"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// root is a directory with these files. A content of "-> x" is a link to x.
func root(t testing.TB, files map[string]string) (*inroot.Root, string) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			must(t, os.Symlink(target, path))
		} else {
			must(t, os.WriteFile(path, []byte(content), 0o644))
		}
	}
	r, err := inroot.Open(dir)
	must(t, err)
	t.Cleanup(func() { r.Close() })
	return r, dir
}

func resolver(*inroot.Root) *specifier.Resolver {
	// systemd-analyze --root takes these from the machine.
	open := func(path string) (io.ReadCloser, error) { return os.Open(path) }
	return &specifier.Resolver{Rooted: true, Open: open, System: open, Getenv: func(string) string { return "" },
		UserName:  func(uint32) (string, error) { return "", errors.New("none") },
		GroupName: func(uint32) (string, error) { return "", errors.New("none") },
		Home:      func(uint32) (string, error) { return "/root", nil }}
}

func TestParse(t *testing.T) {
	text := "\ufeffKey=outside\n[A]\n  a = 1 \nb=\n# comment\n ; comment\nc=one \\\n# between\n  two\\\\\n\\\n d=3\n=x\nno\n[ B ]\n" +
		"e=\xff\nf=a=b\ng=\\\\\\\n[C]\nh=end\\"
	list, problems, err := Parse(strings.NewReader(text), "f")
	must(t, err)
	var got []string
	for _, a := range list {
		got = append(got, fmt.Sprintf("%d [%s] %s=%s", a.Line, a.Section, a.Key, a.Value))
	}
	want := []string{"3 [A] a=1", "4 [A] b=", `9 [A] c=one    two\\`, "11 [A] d=3", "16 [ B ] f=a=b", `18 [ B ] g=\\ [C]`, "20 [ B ] h=end"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if len(problems) != 4 {
		t.Errorf("problems: %v", problems)
	}
	list, _, err = Parse(strings.NewReader("[A]\na=1\n[B\nb=2\n"), "f")
	if err == nil || !strings.Contains(err.Error(), "f:3:") || len(list) != 1 {
		t.Errorf("a broken header: %v %v", list, err)
	}
	if _, _, err = Parse(strings.NewReader("[A]\na="+strings.Repeat("x", 1<<20)), "f"); err == nil {
		t.Error("a line of 1 MiB was read")
	}
	if _, _, err = Parse(strings.NewReader("[A]\na="+strings.Repeat(strings.Repeat("x", 1<<18)+"\\\n", 5)), "f"); err == nil {
		t.Error("continued lines of more than 1 MiB were read")
	}
}

func TestNames(t *testing.T) {
	for in, want := range map[string]string{"nginx": "nginx.service", "a@b.socket": "a@b.socket", "a.b": "a.b.service", "a@.service": "a@.service"} {
		n, err := ParseName(in)
		if err != nil || n.String() != want {
			t.Errorf("%q is %q, %v", in, n, err)
		}
	}
	for _, in := range []string{"", "@x", "a/b", "../x", "..", "a b", "a\x00", ".service", strings.Repeat("x", 250) + ".service"} {
		if n, err := ParseName(in); err == nil {
			t.Errorf("%q is taken for %q", in, n)
		}
	}
	for in, want := range map[string]string{"a-b": "a/b", `a\x2db`: "a-b", `\x2`: `\x2`, `\xzz`: `\xzz`} {
		if got := Unescape(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

const sys = "usr/lib/systemd/system/"

func load(t *testing.T, r *inroot.Root, name string) (*Unit, error) {
	t.Helper()
	n, err := ParseName(name)
	must(t, err)
	return Load(r, n, Dirs())
}

func TestLookup(t *testing.T) {
	r, dir := root(t, map[string]string{
		sys + "a.service":                    "[Service]\nUser=a\n",
		"etc/systemd/system/b.service":       "-> /dev/null",
		sys + "b.service":                    "[Service]\n",
		"run/systemd/system/c.service":       "",
		sys + "c.service":                    "[Service]\n",
		"etc/systemd/system/alias.service":   "-> /usr/lib/systemd/system/a.service",
		"etc/systemd/system/loop.service":    "-> loop2.service",
		"etc/systemd/system/loop2.service":   "-> loop.service",
		"etc/systemd/system/dangles.service": "-> nowhere",
		sys + "dangles.service":              "[Service]\nUser=found\n",
		"opt/app/linked.service":             "[Service]\nUser=linked\n",
		"etc/systemd/system/linked.service":  "-> /opt/app/linked.service",
		"lib":                                "-> usr/lib",
		sys + "t@.service":                   "[Service]\nUser=%i\n",
		sys + "t@own.service":                "[Service]\nUser=own\n",
		"etc/systemd/system/ta@.service":     "-> /usr/lib/systemd/system/t@.service",
		sys + "d.service/x":                  "",
	})
	for name, want := range map[string]string{
		"a": "a", "alias": "a", "dangles": "found", "linked": "linked", "t@x": "x", "t@own": "own", "ta@y": "y",
	} {
		u, err := load(t, r, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := u.Service(resolver(r)).User; got != want {
			t.Errorf("%s: user %q of %s, want %q", name, got, u.File, want)
		}
	}
	for name, want := range map[string]error{"b": ErrMasked, "c": ErrMasked, "none": ErrNotFound} {
		if _, err := load(t, r, name); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	for _, name := range []string{"loop", "t@", "d"} {
		if u, err := load(t, r, name); err == nil {
			t.Errorf("%s: %+v", name, u)
		}
	}
	_ = dir
}

// shared are the files of the comparison with systemd and its golden results.
var shared = map[string]string{
	sys + "foo-bar@.service": "[Service]\nExecStart=/bin/true\nRuntimeDirectory=a:x a:y \"b c\" c\\:d:e:f %i/%I/%n/%N/%p/%P/%j/%J/%t/%u/%U  /abs .. private/x " +
		"x/../y x//y/ a % %% \"unbal\n RuntimeDirectory  = k:l:m k: :z k:/abs k:.. %t %h \\x41 a\\\\b %Q last\nUser=%i\n Group = ab\\x2d \n" +
		"RuntimeDirectoryMode=1777\nRuntimeDirectoryMode=9\nRuntimeDirectoryPreserve=restart\n;comment\n  # c\n" +
		"RuntimeDirectory=q\\\n# comment\n  ;com\nr s\\\\\\\\\n\\\n[Unit]\nRuntimeDirectory=no\n",
	"etc/systemd/system/foo-.service.d/10-x.conf":      "[Service]\nRuntimeDirectoryMode=0711\n",
	"etc/systemd/system/service.d/20-foo.conf":         "[Service]\nRuntimeDirectory=of-etc-service.d\n",
	"etc/systemd/system/service.d/y.conf":              "[Service]\n",
	sys + "foo-bar@i\\x2dj.service.d/10-x.conf":        "[Service]\nRuntimeDirectoryMode=0722\n",
	sys + "foo-bar@i\\x2dj.service.d/30-x.conf":        "[Service]\nRuntimeDirectory=instance\n",
	sys + "foo-.service.d/20-foo.conf":                 "[Service]\nRuntimeDirectory=of-foo-\n",
	sys + "foo-@.service.d/20-foo-@.conf":              "[Service]\nRuntimeDirectory=of-foo-@\n",
	sys + "foo-bar-.service.d/20-no.conf":              "[Service]\nRuntimeDirectory=not-this\n",
	sys + "foo-bar@.service.d/30-x.conf":               "[Service]\nRuntimeDirectory=template\n",
	sys + "foo-bar@.service.d/40-broken.conf":          "[Service]\nRuntimeDirectory=before\n[Service\nRuntimeDirectory=after\n",
	sys + "foo-bar@.service.d/50-masked.conf":          "[Service]\nRuntimeDirectory=masked\n",
	"run/systemd/system/foo-.service.d/50-masked.conf": "-> /dev/null",
	sys + "p.service": "[Service]\nExecStart=/bin/true\nUser=a\\\n# foo\nb\nGroup=\nGroup=g\nGroup=\nRuntimeDirectory=one two\nRuntimeDirectory=\n" +
		"RuntimeDirectory=three\nRuntimeDirectoryMode=\nRuntimeDirectoryPreserve=x\n",
	sys + "q.service": "[Service]\nExecStart=/bin/true\nRuntimeDirectory=b/c b a-x a/x a\nUser=1000\nGroup=2000\nDynamicUser=no\nRuntimeDirectoryPreserve=yes\n" +
		"[X-Ours]\nUser=x\n[Install]\nAlias=r.service\n",
	"etc/systemd/system/r.service":                 "-> /usr/lib/systemd/system/q.service",
	"etc/systemd/system/r.service.d/of-alias.conf": "[Service]\nRuntimeDirectoryMode=0700\n",
	sys + "q.service.d/of-alias.conf":              "[Service]\nRuntimeDirectoryMode=0701\n",
}

// dump writes a unit as the debug output of systemd-analyze verify has it.
func dump(t *testing.T, r *inroot.Root, u *Unit) []string {
	s := u.Service(resolver(r))
	out := []string{"Fragment Path: " + u.File}
	for _, d := range u.DropIns {
		out = append(out, "DropIn Path: "+d)
	}
	out = append(out, "RuntimeDirectoryPreserve: "+s.Preserve, fmt.Sprintf("RuntimeDirectoryMode: %04o", s.Mode))
	for _, d := range s.Directories {
		out = append(out, "RuntimeDirectory: "+d.Name)
		for _, l := range d.Links {
			out = append(out, "RuntimeDirectorySymlink: "+d.Name+":"+l)
		}
	}
	if s.User != "" {
		out = append(out, "User: "+s.User)
	}
	if s.Group != "" {
		out = append(out, "Group: "+s.Group)
	}
	for i := range out { // what is compared with is cut at newlines and trimmed
		out[i], _, _ = strings.Cut(out[i], "\n")
		out[i] = strings.TrimSpace(out[i])
	}
	return out
}

func TestMain(m *testing.M) { nstest.Main(m) }

// withSystemd runs f where systemd-analyze can be run: with a /run of its own, in
// which it leaves a file.
func withSystemd(t *testing.T, f func(t *testing.T)) {
	testenv.Need(t, testenv.Dep("systemd-analyze/run"))
	nstest.Run(t, nstest.Options{Keep: []string{testenv.DepsDir()}, Env: []string{"SLASHRUN_DEPS=" + testenv.DepsDir()}}, f)
}

// The same tree read by systemd, which prints what it understood where its log
// level is debug.
func TestAgreesWithSystemd(t *testing.T) { withSystemd(t, agrees) }

func agrees(t *testing.T) {
	r, dir := root(t, shared)
	for _, name := range []string{`foo-bar@i\x2dj.service`, "p.service", "q.service", "r.service"} {
		cmd := exec.Command(filepath.Join(testenv.DepsDir(), "systemd-analyze/run"), "verify", "--man=no", "--recursive-errors=no", "--root="+dir, name)
		cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=debug")
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		var want []string
		for line := range strings.Lines(string(out)) {
			line = strings.TrimSpace(line)
			for _, p := range []string{"Fragment Path: ", "DropIn Path: ", "RuntimeDirectory", "User: ", "Group: "} {
				if target, _ := os.Readlink(strings.TrimPrefix(line, p)); strings.HasPrefix(line, p) && target != "/dev/null" {
					want = append(want, line)
				}
			}
		}
		if len(want) < 4 {
			t.Fatalf("%s: systemd-analyze told nothing:\n%s%s", name, out, exit.Stderr)
		}
		u, err := load(t, r, name)
		must(t, err)
		if d := cmp.Diff(want, dump(t, r, u)); d != "" {
			t.Errorf("%s (-systemd +ours):\n%s", name, d)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range shared {
		f.Add(s)
	}
	f.Add("[A]\na=\\\n\\\n#\n\\\nb")
	f.Fuzz(func(t *testing.T, text string) {
		list, problems, err := Parse(strings.NewReader(text), "f")
		lines := strings.Count(text, "\n") + strings.Count(text, "\r") + strings.Count(text, "\x00") + 2
		for _, a := range list {
			if a.Key == "" || a.Section == "" || a.Line < 1 || a.Line > lines || strings.ContainsAny(a.Key, "=\n") || strings.ContainsRune(a.Value, '\n') {
				t.Errorf("%+v", a)
			}
		}
		if len(problems) > lines {
			t.Errorf("%d problems in %d lines (%v)", len(problems), lines, err)
		}
		n := Name{Prefix: "a-b", Instance: "i", At: true, Type: "service"}
		u := Unit{Name: n, Assignments: list}
		s := u.Service(&specifier.Resolver{Rooted: true, Getenv: func(string) string { return "" },
			Open:   func(string) (io.ReadCloser, error) { return nil, os.ErrNotExist },
			System: func(string) (io.ReadCloser, error) { return nil, os.ErrNotExist },
			Home:   func(uint32) (string, error) { return "/root", nil }})
		for _, d := range s.Directories {
			for _, p := range append([]string{d.Name}, d.Links...) {
				if !filepath.IsLocal(p) || p == "." || p != filepath.Clean(p) {
					t.Errorf("%q leaves /run", p)
				}
			}
		}
		if s.Mode > 0o7777 {
			t.Errorf("mode %o", s.Mode)
		}
	})
}
