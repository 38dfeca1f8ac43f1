package pkgdb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/testenv"
)

// tree makes files below a new root: a path with its content, "dir/" or
// "link->target".
func tree(t *testing.T, entries map[string]string) *inroot.Root {
	t.Helper()
	dir := t.TempDir()
	for name, content := range entries {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if target, ok := strings.CutPrefix(content, "->"); ok {
			must(t, os.Symlink(target, path))
			continue
		}
		must(t, os.WriteFile(path, []byte(content), 0o644))
	}
	return open(t, dir)
}

func open(t *testing.T, dir string) *inroot.Root {
	t.Helper()
	r, err := inroot.Open(dir)
	must(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func look(t *testing.T, root *inroot.Root, paths ...string) *Answer {
	t.Helper()
	a, err := Open(root).Look(t.Context(), paths)
	must(t, err)
	return a
}

const status = `Package: nginx-common
Status: install ok installed
Architecture: all
Version: 1.22.1-9
Description: small
 Package: not-this
 Version: 0

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9

Package: libc6
Status: install ok installed
Architecture: i386
Version: 2.35-1

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 3`

func dpkgTree() map[string]string {
	return map[string]string{
		"usr/lib/x":                         "",
		"usr/bin/x":                         "",
		"lib":                               "->usr/lib",
		"bin":                               "->/usr/bin",
		"run/x":                             "",
		"var/run":                           "->../run",
		"var/lib/dpkg/status":               status,
		"var/lib/dpkg/info/format":          "1\n",
		"var/lib/dpkg/info/gone.list":       "/.\n/etc\n/etc/gone.conf\n",
		"var/lib/dpkg/info/gone.conffiles":  "/etc/gone.conf\n",
		"var/lib/dpkg/info/libc6:i386.list": "/.\n/lib\n/lib/ld-linux.so.2\n/usr/share/doc/libc6",
		"var/lib/dpkg/info/libc6:amd64.list": "/.\n/lib\n/lib/ld.so\n/usr/share/doc/libc6\n" +
			strings.Repeat("x", 100_000) + "\n/after/the/long/line\n\x00\xff\n\n",
		"var/lib/dpkg/info/nginx-common.list": "/.\n/lib/systemd/system/nginx.service\n/etc/nginx\n/var/run/nginx\n/usr/bin/pg\n/bin/sh\n",
		"var/lib/dpkg/info/wrap.list":         "/usr/bin/pg\n",
		"var/lib/dpkg/diversions":             "/usr/bin/pg\n/usr/bin/pg.real\nwrap\n/bin/sh\n/bin/sh.distrib\n:\n/half\n/entry\n",
	}
}

func TestDpkg(t *testing.T) {
	root := tree(t, dpkgTree())
	nginx := Owner{Manager: "dpkg", Package: "nginx-common", Version: "1.22.1-9", Arch: "all"}
	libc := func(arch, version, as string) Owner {
		return Owner{Manager: "dpkg", Package: "libc6", Arch: arch, Version: version, As: as}
	}
	as := func(o Owner, path, by string) Owner { o.As, o.DivertedBy = path, by; return o }
	gone := Owner{Manager: "dpkg", Package: "gone", Version: "3", Arch: "amd64", Removed: true}
	want := map[string][]Owner{
		"/etc/gone.conf": {gone},
		"/etc":           {gone},
		"/":              {gone, libc("amd64", "2.36-9", "")},
		"/etc/nginx":     {nginx},
		// The merged /usr, both ways, and /var/run.
		"/usr/lib/systemd/system/nginx.service": {as(nginx, "/lib/systemd/system/nginx.service", "")},
		"/lib/systemd/system/nginx.service":     {nginx},
		"/run/nginx":                            {as(nginx, "/var/run/nginx", "")},
		"/usr/lib/ld-linux.so.2":                {libc("i386", "2.35-1", "/lib/ld-linux.so.2")},
		"/lib/ld.so":                            {libc("amd64", "2.36-9", "")},
		"/usr/share/doc/libc6":                  {libc("amd64", "2.36-9", ""), libc("i386", "2.35-1", "")},
		"/after/the/long/line":                  {libc("amd64", "2.36-9", "")},
		// Diverted: nginx's file was moved away by wrap, which put its own there.
		"/usr/bin/pg":      {{Manager: "dpkg", Package: "wrap"}},
		"/usr/bin/pg.real": {as(nginx, "/usr/bin/pg", "wrap")},
		"/bin/sh.distrib":  {as(nginx, "/bin/sh", "local")},
		"/usr/bin/sh":      nil, // a person put it there
		"/nobodys":         nil,
		"relative":         nil,
		"":                 nil,
		"/\x00\xff":        nil,
	}
	var paths []string
	for p := range want {
		paths = append(paths, p)
	}
	all := look(t, root, paths...)
	for p, owners := range want {
		for how, a := range map[string]*Answer{"at once": all, "alone": look(t, root, p)} {
			got := a.Owners[p]
			slices.SortFunc(got, func(a, b Owner) int { return strings.Compare(a.Package+a.Arch, b.Package+b.Arch) })
			if p == "/" { // of everybody who lists it
				got = slices.DeleteFunc(slices.Clone(got), func(o Owner) bool { return o.Arch == "i386" || o.Arch == "all" })
			}
			if d := cmp.Diff(owners, got); d != "" && len(owners)+len(got) > 0 {
				t.Errorf("%s, %s: -want +got\n%s", p, how, d)
			}
		}
	}
	if d := cmp.Diff([]string{"dpkg"}, all.Databases); d != "" || len(all.Incomplete) > 0 {
		t.Errorf("databases %v, incomplete %v", all.Databases, all.Incomplete)
	}
}

// Everything below a directory is what one finds path by path.
func TestBelow(t *testing.T) {
	root := tree(t, dpkgTree())
	for dir, want := range map[string][]string{
		"/run":     {"/run/nginx"},
		"/usr/lib": {"/usr/lib", "/usr/lib/ld-linux.so.2", "/usr/lib/ld.so", "/usr/lib/systemd/system/nginx.service"},
		"/usr/bin": {"/usr/bin/pg", "/usr/bin/pg.real", "/usr/bin/sh.distrib"},
		"/etc/ngi": nil,
		"/etc":     {"/etc", "/etc/gone.conf", "/etc/nginx"},
		"relative": nil,
	} {
		a, err := Open(root).Below(t.Context(), dir)
		must(t, err)
		var got []string
		for p, owners := range a.Owners {
			got = append(got, p)
			if d := cmp.Diff(look(t, root, p).Owners[p], owners, cmpopts.SortSlices(func(a, b Owner) bool { return a.Arch < b.Arch })); d != "" {
				t.Errorf("%s: -alone +below\n%s", p, d)
			}
		}
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", dir, d)
		}
	}
	a, err := Open(root).Below(t.Context(), "/")
	must(t, err)
	if len(a.Owners["/"]) == 0 || len(a.Owners["/etc/nginx"]) != 1 {
		t.Errorf("/: %v", a.Owners)
	}
}

// An image that was made without dpkg has its stanzas in single files.
func TestStatusD(t *testing.T) {
	root := tree(t, map[string]string{
		"var/lib/dpkg/status.d/tzdata":           "Package: tzdata\nVersion: 2024a-0\nArchitecture: all\n",
		"var/lib/dpkg/status.d/tzdata.md5sums":   strings.Repeat("a", 32) + "  usr/share/zoneinfo/UTC\nnonsense\n" + strings.Repeat("b", 32) + "  ./etc/localtime\n",
		"var/lib/dpkg/status.d/base.md5sums":     strings.Repeat("c", 32) + "  etc/os-release\n",
		"var/lib/dpkg/status.d/tzdata.preserve":  "",
		"var/lib/dpkg/status.d/directory/x.list": "",
	})
	a := look(t, root, "/usr/share/zoneinfo/UTC", "/etc/localtime", "/etc/os-release")
	tz := Owner{Manager: "dpkg", Package: "tzdata", Version: "2024a-0", Arch: "all"}
	want := map[string][]Owner{"/usr/share/zoneinfo/UTC": {tz}, "/etc/localtime": {tz}, "/etc/os-release": {{Manager: "dpkg", Package: "base"}}}
	if d := cmp.Diff(want, a.Owners); d != "" {
		t.Error(d)
	}
}

const installed = `C:Q1abc=
P:alpine-baselayout
V:3.6.5-r0
A:x86_64
F:
R:.hidden
F:run
M:0:0:755
F:var/run
F:etc
R:motd
a:0:0:644
Z:Q1xyz=

P:nginx
F:usr/sbin
R:nginx
F:run/nginx
M:100:101:755
V:1.26.2-r0
A:x86_64

F:of/nobody
R:file

C:Q1
P:cut
V:1
F:usr/li`

func TestApk(t *testing.T) {
	base := Owner{Manager: "apk", Package: "alpine-baselayout", Version: "3.6.5-r0", Arch: "x86_64"}
	nginx := Owner{Manager: "apk", Package: "nginx", Version: "1.26.2-r0", Arch: "x86_64"}
	for _, place := range []string{"lib/apk/db/installed", "usr/lib/apk/db/installed"} {
		files := map[string]string{place: installed}
		if strings.HasPrefix(place, "usr") {
			files["lib"] = "->usr/lib" // then both names are one file
		}
		root := tree(t, files)
		a := look(t, root, "/run", "/etc/motd", "/.hidden", "/", "/usr/sbin/nginx", "/run/nginx", "/of/nobody/file", "/of/nobody", "/usr/li", "/usr/lib", "/motd")
		want := map[string][]Owner{
			"/": {base}, "/run": {base}, "/etc/motd": {base}, "/.hidden": {base}, "/usr/sbin/nginx": {nginx}, "/run/nginx": {nginx},
			"/usr/li": {{Manager: "apk", Package: "cut", Version: "1"}},
		}
		if d := cmp.Diff(want, a.Owners); d != "" {
			t.Errorf("%s: %s", place, d)
		}
		if d := cmp.Diff([]string{"apk"}, a.Databases); d != "" || len(a.Incomplete) > 0 {
			t.Errorf("databases %v, incomplete %v", a.Databases, a.Incomplete)
		}
	}
}

func TestNoDatabase(t *testing.T) {
	a := look(t, tree(t, map[string]string{"etc/x": ""}), "/etc/x")
	if len(a.Owners)+len(a.Databases)+len(a.Incomplete) != 0 {
		t.Errorf("%+v", a)
	}
}

// What cannot be read is told, and does not hide the rest; nothing blocks.
func TestBadLuck(t *testing.T) {
	files := dpkgTree()
	files["var/lib/dpkg/info/link.list"] = "->/etc/passwd"
	files["var/lib/dpkg/info/dir.list/x"] = ""
	files["lib/apk/db/installed/x"] = "a directory"
	delete(files, "lib")
	delete(files, "var/lib/dpkg/status")
	root := tree(t, files)
	must(t, exec.Command("mkfifo", filepath.Join(root.Prefix(), "var/lib/dpkg/info/fifo.list")).Run())
	want := 4 // the link, the directory, the FIFO, apk's directory
	if os.Geteuid() != 0 {
		must(t, os.Chmod(filepath.Join(root.Prefix(), "var/lib/dpkg/info/wrap.list"), 0))
		want++
	}
	a := look(t, root, "/etc/nginx")
	if got := a.Owners["/etc/nginx"]; len(got) != 1 || got[0] != (Owner{Manager: "dpkg", Package: "nginx-common"}) {
		t.Errorf("owners %v", got)
	}
	if len(a.Incomplete) != want {
		t.Errorf("incomplete: %q", a.Incomplete)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(root).Look(ctx, []string{"/etc/nginx"}); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that ended: %v", err)
	}
}

// A hundred thousand paths are one pass, and a huge database is read in pieces.
func TestHuge(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: writes 10 MB")
	}
	var list strings.Builder
	var paths []string
	for i := range 100_000 {
		fmt.Fprintf(&list, "/usr/share/huge/directory/with/a/long/name/%06d/file.of.some.length\n", i)
		paths = append(paths, fmt.Sprintf("/usr/share/huge/directory/with/a/long/name/%06d/file.of.some.length", i))
	}
	root := tree(t, map[string]string{
		"var/lib/dpkg/info/huge.list": list.String(),
		"var/lib/dpkg/status":         "Package: huge\nVersion: 1\n\n" + strings.Repeat("y", 4<<20),
	})
	if a := look(t, root, paths...); len(a.Owners) != len(paths) || a.Owners[paths[7]][0].Version != "1" {
		t.Errorf("found %d of %d", len(a.Owners), len(paths))
	}
}

// The machine's own database says what dpkg -S says.
func TestAgainstDpkgS(t *testing.T) {
	testenv.Need(t, testenv.Tool("dpkg-query"))
	root := open(t, "/")
	paths := []string{"/etc", "/bin/sh", "/usr/bin/dpkg", "/usr/share/doc", "/etc/passwd", "/etc/host.conf", "/run", "/nobodys/path"}
	lists, err := filepath.Glob(dpkgDir + "/info/*.list")
	must(t, err)
	for i, name := range lists { // some of every tenth package
		if i%10 == 0 {
			f, err := os.Open(name)
			must(t, err)
			n := 0
			must(t, lines(bufio.NewReader(f), func(line []byte) bool {
				if n++; n%50 == 2 {
					paths = append(paths, string(line))
				}
				return n < 500
			}))
			f.Close()
		}
	}
	slices.Sort(paths)
	paths = slices.Compact(paths)
	a := look(t, root, paths...)
	out, _ := exec.Command("dpkg-query", append([]string{"-S"}, paths...)...).Output() // 1 where one has no owner
	wants := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		if pkgs, p, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": "); ok && !strings.HasPrefix(pkgs, "diversion by") && !strings.HasPrefix(pkgs, "local diversion") {
			for pkg := range strings.SplitSeq(pkgs, ", ") {
				wants[p] = append(wants[p], strings.SplitN(pkg, ":", 2)[0])
			}
		}
	}
	if len(wants) < len(paths)/2 {
		t.Fatalf("dpkg-query knows %d of %d paths", len(wants), len(paths))
	}
	for _, p := range paths {
		want := wants[p]
		var got []string
		for _, o := range a.Owners[p] {
			if o.As == "" { // dpkg-query knows nothing of the merged /usr
				got = append(got, o.Package)
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		want, got = slices.Compact(want), slices.Compact(got)
		if diverted(t, p) {
			continue // dpkg-query lists both, and says so in a line of its own
		}
		if d := cmp.Diff(want, got); d != "" && len(want)+len(got) > 0 {
			t.Errorf("%s: -dpkg +ours\n%s", p, d)
		}
	}
	for _, o := range a.Owners["/usr/bin/dpkg"] {
		out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", o.Package).Output()
		if err != nil || string(out) != o.Version {
			t.Errorf("version %q, dpkg-query says %q, %v", o.Version, out, err)
		}
	}
}

func diverted(t *testing.T, p string) bool {
	f, err := os.Open(dpkgDir + "/diversions")
	if err != nil {
		return false
	}
	defer f.Close()
	list, err := parseDiversions(f)
	must(t, err)
	return slices.ContainsFunc(list, func(d diversion) bool { return d.from == p || d.to == p })
}

// The parsers take anything: no panic, and nobody owns what is not in the text.
func FuzzDatabases(f *testing.F) {
	f.Add("/.\n/etc\n/etc/x\n", status, installed, "/etc/x\n/etc/y\nz\n")
	f.Add("\x00\n\n/etc/x", "Package\nVersion:\nPackage: a\n Package: b", "F:\nR:\nP:\n\nF:etc\nR:x", "/etc/x\n/etc/x\n:\n")
	f.Add(strings.Repeat("/", 5000), ":\n", "R:x\nF:"+strings.Repeat("a/", 4000), "/\n/\n\n\n\n")
	f.Fuzz(func(t *testing.T, list, status, apk, diversions string) {
		l := &pass{wanted: map[string][]want{}, answer: &Answer{Owners: map[string][]Owner{}}, ctx: t.Context()}
		l.want("/etc/x", want{path: "/etc/x"})
		l.want("/etc/y", want{path: "/etc/y"})
		d, err := parseDiversions(strings.NewReader(diversions))
		must(t, err)
		for _, d := range d {
			l.divert(d)
		}
		must(t, l.list(bufio.NewReader(strings.NewReader(list)), Owner{Manager: "dpkg", Package: "p"}))
		must(t, l.sums(bufio.NewReader(strings.NewReader(list)), Owner{Manager: "dpkg", Package: "q"}))
		must(t, parseStatus(strings.NewReader(status), func(s stanza) {
			if s.pkg == "" {
				t.Error("a stanza without a package")
			}
		}))
		n := len(l.found)
		must(t, l.installed(strings.NewReader(apk)))
		for _, f := range l.found[n:] {
			if f.owner.Package == "" {
				t.Errorf("%+v", f)
			}
		}
		l.settle()
		for p, owners := range l.answer.Owners {
			if p != "/etc/x" && p != "/etc/y" || len(owners) == 0 {
				t.Errorf("%q: %v", p, owners)
			}
		}
	})
}
