package conffiles

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/testenv"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree makes a root: "path=content" and "path->target".
func tree(t testing.TB, lines ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, line := range lines {
		if name, target, ok := strings.Cut(line, "->"); ok {
			must(t, os.MkdirAll(filepath.Dir(dir+name), 0o755))
			must(t, os.Symlink(target, dir+name))
		} else if name, content, ok := strings.Cut(line, "="); ok {
			must(t, os.MkdirAll(filepath.Dir(dir+name), 0o755))
			must(t, os.WriteFile(dir+name, []byte(content), 0o644))
		} else {
			must(t, os.MkdirAll(dir+line, 0o755))
		}
	}
	return dir
}

func find(t testing.TB, dir string, opts Options) *List {
	t.Helper()
	root, err := inroot.Open(dir)
	must(t, err)
	l, err := Search(root, SystemDirs("tmpfiles.d"), opts)
	must(t, err)
	t.Cleanup(func() {
		must(t, l.Close())
		must(t, root.Close())
	})
	return l
}

func content(f *File) string {
	r, err := f.Open()
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// show writes a list down, for comparison.
func show(l *List, dir string) string {
	var b strings.Builder
	for _, f := range l.Files {
		fmt.Fprintf(&b, "%s from %s", f.Path, f.Dir)
		if f.Target != "" {
			fmt.Fprintf(&b, " -> %s", f.Target)
		}
		if f.Empty {
			b.WriteString(" empty")
		}
		if f.Replacement {
			b.WriteString(" replacement")
		} else {
			fmt.Fprintf(&b, " %q", content(f))
		}
		for _, o := range f.Overrides {
			fmt.Fprintf(&b, " over %s", o)
		}
		b.WriteString("\n")
	}
	for _, m := range l.Masks {
		fmt.Fprintf(&b, "mask %s from %s", m.Path, m.Dir)
		for _, o := range m.Masked {
			fmt.Fprintf(&b, " over %s", o)
		}
		b.WriteString("\n")
	}
	for _, w := range l.Warnings {
		fmt.Fprintf(&b, "warning %v\n", w)
	}
	return strings.ReplaceAll(b.String(), dir, "")
}

var house = []string{
	"/usr/lib/tmpfiles.d/b.conf=vendor", "/run/tmpfiles.d/b.conf=run", "/etc/tmpfiles.d/b.conf=admin",
	"/usr/lib/tmpfiles.d/a.conf=a", "/usr/local/lib/tmpfiles.d/B.conf=B", "/usr/lib/tmpfiles.d/a-b.conf=a-b",
	"/usr/lib/tmpfiles.d/masked.conf=m", "/etc/tmpfiles.d/masked.conf->/dev/null",
	"/usr/lib/tmpfiles.d/empty.conf=e", "/etc/tmpfiles.d/empty.conf=",
	"/usr/lib/tmpfiles.d/dir.conf=dir", "/etc/tmpfiles.d/dir.conf/x=",
	"/usr/lib/tmpfiles.d/dangling.conf=dang", "/etc/tmpfiles.d/dangling.conf->/nowhere",
	"/usr/lib/tmpfiles.d/.hidden.conf=h", "/usr/lib/tmpfiles.d/x.conf~=x", "/usr/lib/tmpfiles.d/README=r", "/usr/lib/tmpfiles.d/x.conf.dpkg-new=x",
	"/data/abs=abs", "/etc/tmpfiles.d/abs.conf->/data/abs", "/etc/tmpfiles.d/out.conf->../../../../../../../../data/abs",
	"/usr/lib/tmpfiles.d/loop.conf=under", "/etc/tmpfiles.d/loop.conf->loop.conf",
	"/etc/tmpfiles.d/todir.conf->/data",
}

const houseList = `/usr/local/lib/tmpfiles.d/B.conf from /usr/local/lib/tmpfiles.d "B"
/usr/lib/tmpfiles.d/a-b.conf from /usr/lib/tmpfiles.d "a-b"
/usr/lib/tmpfiles.d/a.conf from /usr/lib/tmpfiles.d "a"
/etc/tmpfiles.d/abs.conf from /etc/tmpfiles.d -> /data/abs "abs"
/etc/tmpfiles.d/b.conf from /etc/tmpfiles.d "admin" over /run/tmpfiles.d/b.conf over /usr/lib/tmpfiles.d/b.conf
/usr/lib/tmpfiles.d/dangling.conf from /usr/lib/tmpfiles.d "dang"
/usr/lib/tmpfiles.d/dir.conf from /usr/lib/tmpfiles.d "dir"
/etc/tmpfiles.d/empty.conf from /etc/tmpfiles.d empty "" over /usr/lib/tmpfiles.d/empty.conf
/usr/lib/tmpfiles.d/loop.conf from /usr/lib/tmpfiles.d "under"
/etc/tmpfiles.d/out.conf from /etc/tmpfiles.d -> /data/abs "abs"
mask /etc/tmpfiles.d/masked.conf from /etc/tmpfiles.d over /usr/lib/tmpfiles.d/masked.conf
warning configuration file passed over: /etc/tmpfiles.d/dangling.conf: link leads nowhere (/nowhere): file does not exist
warning configuration file passed over: open /etc/tmpfiles.d/loop.conf: too many levels of symbolic links
`

func TestSearch(t *testing.T) {
	dir := tree(t, house...)
	if diff := cmp.Diff(houseList, show(find(t, dir, Options{}), dir)); diff != "" {
		t.Error(diff)
	}
}

func TestSearchPassesOverSpecialFiles(t *testing.T) {
	dir := tree(t, "/etc/tmpfiles.d", "/usr/lib/tmpfiles.d/fifo.conf=f", "/usr/lib/tmpfiles.d/sock.conf=s", "/usr/lib/tmpfiles.d/tofifo.conf=t", "/etc/tmpfiles.d/tofifo.conf->fifo.conf")
	must(t, syscall.Mkfifo(dir+"/etc/tmpfiles.d/fifo.conf", 0o644))
	l, err := net.Listen("unix", dir+"/s")
	must(t, err)
	defer l.Close()
	must(t, os.Rename(dir+"/s", dir+"/etc/tmpfiles.d/sock.conf"))
	want := `/usr/lib/tmpfiles.d/fifo.conf from /usr/lib/tmpfiles.d "f"
/usr/lib/tmpfiles.d/sock.conf from /usr/lib/tmpfiles.d "s"
/usr/lib/tmpfiles.d/tofifo.conf from /usr/lib/tmpfiles.d "t"
`
	if diff := cmp.Diff(want, show(find(t, dir, Options{}), dir)); diff != "" {
		t.Error(diff)
	}
}

func TestSearchThroughLinkedDirectories(t *testing.T) {
	dir := tree(t, "/real/a.conf=a", "/etc/tmpfiles.d->/real", "/usr/lib/tmpfiles.d/b.conf=b", "/usr/local/lib->../lib", "/run/tmpfiles.d=no directory")
	l := find(t, dir, Options{})
	want := `/real/a.conf from /etc/tmpfiles.d "a"
/usr/lib/tmpfiles.d/b.conf from /usr/local/lib/tmpfiles.d "b"
warning configuration directory passed over: open /run/tmpfiles.d: not a directory
`
	if diff := cmp.Diff(want, show(l, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestReplacement(t *testing.T) {
	for path, want := range map[string]string{
		"/usr/lib/tmpfiles.d/a.conf":      "/usr/lib/tmpfiles.d/a.conf from /usr/lib/tmpfiles.d replacement over /usr/lib/tmpfiles.d/a.conf",
		"/etc/tmpfiles.d/a.conf":          "/etc/tmpfiles.d/a.conf from /etc/tmpfiles.d replacement over /usr/lib/tmpfiles.d/a.conf",
		"/usr/lib/tmpfiles.d/b.conf":      "/etc/tmpfiles.d/b.conf from /etc/tmpfiles.d \"admin\" over /run/tmpfiles.d/b.conf over /usr/lib/tmpfiles.d/b.conf over /usr/lib/tmpfiles.d/b.conf",
		"/usr/lib/tmpfiles.d/new.conf":    "/usr/lib/tmpfiles.d/new.conf from /usr/lib/tmpfiles.d replacement",
		"/usr/lib/tmpfiles.d/empty.conf":  "/etc/tmpfiles.d/empty.conf from /etc/tmpfiles.d empty \"\" over /usr/lib/tmpfiles.d/empty.conf over /usr/lib/tmpfiles.d/empty.conf",
		"/usr/lib/tmpfiles.d/masked.conf": "/usr/lib/tmpfiles.d/masked.conf from /usr/lib/tmpfiles.d replacement over /usr/lib/tmpfiles.d/masked.conf",
		"/usr/lib/tmpfiles.d/dir.conf":    "/usr/lib/tmpfiles.d/dir.conf from /usr/lib/tmpfiles.d replacement over /usr/lib/tmpfiles.d/dir.conf",
		"/opt/nowhere/q.conf":             "/opt/nowhere/q.conf from /opt/nowhere replacement",
	} {
		dir := tree(t, house...)
		l := find(t, dir, Options{Replace: path})
		name := filepath.Base(path)
		i := slices.IndexFunc(l.Files, func(f *File) bool { return f.Name == name })
		if i < 0 {
			t.Fatalf("%s: no file of that name", path)
		}
		lines := strings.Split(show(l, dir), "\n")
		if lines[i] != want {
			t.Errorf("%s:\n got %s\nwant %s", path, lines[i], want)
		}
		if placed := l.Replacement != nil; placed != strings.Contains(want, "replacement") || placed && l.Replacement != l.Files[i] {
			t.Errorf("%s: Replacement = %v", path, l.Replacement)
		}
		if l.Replacement != nil {
			if _, err := l.Replacement.Open(); err == nil {
				t.Error("a replacement can be opened")
			}
		}
		if !slices.IsSortedFunc(l.Files, func(a, b *File) int { return strings.Compare(a.Name, b.Name) }) {
			t.Errorf("%s: not sorted", path)
		}
	}
	root, err := inroot.Open(t.TempDir())
	must(t, err)
	defer root.Close()
	for _, path := range []string{"a.conf", "/", "/a/", "/a/.."} {
		if _, err := Search(root, nil, Options{Replace: path}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("Replace: %q: %v", path, err)
		}
	}
}

func TestFilesThatChangeAfterTheSearch(t *testing.T) {
	dir := tree(t, "/etc/tmpfiles.d/gone.conf=x", "/etc/tmpfiles.d/new.conf=old", "/etc/tmpfiles.d/pipe.conf=x", "/etc/tmpfiles.d/link.conf->/data", "/data=1", "/secret=s")
	l := find(t, dir, Options{})
	must(t, os.Remove(dir+"/etc/tmpfiles.d/gone.conf"))
	must(t, os.WriteFile(dir+"/etc/tmpfiles.d/new.conf", []byte("new"), 0o644))
	must(t, os.Remove(dir+"/etc/tmpfiles.d/pipe.conf"))
	must(t, syscall.Mkfifo(dir+"/etc/tmpfiles.d/pipe.conf", 0o644))
	must(t, os.Remove(dir+"/data"))
	_, err := l.Files[0].Open()
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), l.Files[0].Path) {
		t.Errorf("gone file: %v", err)
	}
	if _, err := l.Files[1].Open(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("link whose target went: %v", err)
	}
	if got := content(l.Files[2]); got != "new" {
		t.Errorf("replaced file: %q", got)
	}
	if got := content(l.Files[3]); !strings.Contains(got, "FIFO") {
		t.Errorf("file that became a FIFO: %q", got)
	}
	var out strings.Builder
	if err := Cat(&out, l, Style{}); err == nil || strings.Contains(out.String(), "gone.conf") || !strings.Contains(out.String(), "new\n") {
		t.Errorf("Cat = %v\n%s", err, out.String())
	}
}

func TestUnreadableDirectoryAndFile(t *testing.T) {
	testenv.Need(t, testenv.NonRoot)
	dir := tree(t, "/etc/tmpfiles.d/a.conf=a", "/usr/lib/tmpfiles.d/b.conf=b")
	must(t, os.Chmod(dir+"/etc/tmpfiles.d", 0))
	must(t, os.Chmod(dir+"/usr/lib/tmpfiles.d/b.conf", 0))
	defer os.Chmod(dir+"/etc/tmpfiles.d", 0o755)
	l := find(t, dir, Options{})
	if len(l.Warnings) != 1 || !errors.Is(l.Warnings[0], fs.ErrPermission) || !strings.Contains(l.Warnings[0].Error(), dir+"/etc/tmpfiles.d") {
		t.Errorf("warnings = %v", l.Warnings)
	}
	if _, err := l.Files[0].Open(); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), l.Files[0].Path) {
		t.Errorf("Open = %v", err)
	}
}

func TestClosedListDoesNotRead(t *testing.T) {
	dir := tree(t, "/etc/tmpfiles.d/a.conf=a")
	root, err := inroot.Open(dir)
	must(t, err)
	defer root.Close()
	l, err := Search(root, SystemDirs("tmpfiles.d"), Options{})
	must(t, err)
	must(t, l.Close())
	if _, err := l.Files[0].Open(); err == nil {
		t.Error("a file of a closed list can be opened")
	}
}

func TestNamed(t *testing.T) {
	dir := tree(t, "/etc/tmpfiles.d/x=etc", "/usr/lib/tmpfiles.d/x=lib", "/usr/lib/tmpfiles.d/y.conf=y", "/etc/tmpfiles.d/y.conf->/nowhere",
		"/etc/tmpfiles.d/null->/dev/null", "/usr/lib/tmpfiles.d/null=n", "/etc/tmpfiles.d/d/f=", "/etc/tmpfiles.d/abs->/data", "/data=data", "/direct=direct")
	t.Chdir(dir)
	cwd, err := os.Getwd()
	must(t, err)
	root, err := inroot.Open(dir)
	must(t, err)
	defer root.Close()
	for _, tt := range []struct{ arg, path, content string }{
		{"x", dir + "/etc/tmpfiles.d/x", "etc"},
		{"y.conf", dir + "/usr/lib/tmpfiles.d/y.conf", "y"},
		{"null", dir + "/etc/tmpfiles.d/null", ""},
		{"abs", dir + "/etc/tmpfiles.d/abs", "data"},
		{"./direct", cwd + "/./direct", "direct"},
		{dir + "/direct", dir + "/direct", "direct"},
		{"/dev/null", "/dev/null", ""},
		{"-", "<stdin>", "in"},
	} {
		f, err := Named(root, SystemDirs("tmpfiles.d"), tt.arg, strings.NewReader("in"))
		if err != nil {
			t.Errorf("%s: %v", tt.arg, err)
			continue
		}
		if f.Path != tt.path {
			t.Errorf("%s: path %s, want %s", tt.arg, f.Path, tt.path)
		}
		if got := content(f); got != tt.content {
			t.Errorf("%s: %q, want %q", tt.arg, got, tt.content)
		}
		if _, err := f.Open(); err == nil {
			t.Errorf("%s can be read twice", tt.arg)
		}
	}
	for arg, want := range map[string]string{
		"direct":     "file does not exist in " + dir + "/etc/tmpfiles.d, ",
		"./nope":     cwd + "/./nope: no such file",
		"d":          dir + "/etc/tmpfiles.d/d: is a directory",
		"..":         "is a directory",
		dir:          dir + ": is a directory",
		"./direct/x": "not a directory",
	} {
		if _, err := Named(root, SystemDirs("tmpfiles.d"), arg, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", arg, err, want)
		}
	}
}

func TestUserDirs(t *testing.T) {
	for _, tt := range []struct{ env, want string }{
		{"", "/etc/N /usr/local/share/N /usr/share/N"},
		{"HOME=/h", "/h/.config/N /etc/N /h/.local/share/N /usr/local/share/N /usr/share/N"},
		{"HOME=/h XDG_CONFIG_HOME=/ch XDG_RUNTIME_DIR=/r XDG_DATA_HOME=/dh XDG_CONFIG_DIRS=/c1:/c2 XDG_DATA_DIRS=/d1:/d2", "/ch/N /c1/N /c2/N /r/N /dh/N /d1/N /d2/N"},
		{"HOME=/h XDG_CONFIG_HOME=rel XDG_RUNTIME_DIR=rel XDG_DATA_HOME=rel XDG_CONFIG_DIRS= XDG_DATA_DIRS=", "/h/.config/N /h/.local/share/N"},
		{"HOME=rel XDG_CONFIG_DIRS=rel:/a//b/:: XDG_DATA_DIRS=/d", "/cwd/rel/N /a/b/N /d/N"},
		{"HOME= XDG_CONFIG_HOME=/a:/b XDG_CONFIG_DIRS=: XDG_DATA_DIRS=/", "/a:/b/N /N"},
		{"HOME=/h//x/../y/ XDG_RUNTIME_DIR=/r/ XDG_CONFIG_DIRS=/x:/x XDG_DATA_DIRS=/x", "/h/x/../y/.config/N /x/N /r/N /h/x/../y/.local/share/N"},
	} {
		env := func(key string) (string, bool) {
			for _, kv := range strings.Fields(tt.env) {
				if v, ok := strings.CutPrefix(kv, key+"="); ok {
					return v, true
				}
			}
			return "", false
		}
		if got := strings.Join(UserDirs("N", env, "/cwd"), " "); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.env, got, tt.want)
		}
	}
}
