package inroot

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// build makes a tree: "dir/", "file=content", "link->target".
func build(t *testing.T, root string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		var err error
		if name, target, ok := strings.Cut(line, "->"); ok {
			must(t, os.MkdirAll(filepath.Dir(root+name), 0o755))
			err = os.Symlink(target, root+name)
		} else if name, content, ok := strings.Cut(line, "="); ok {
			must(t, os.MkdirAll(filepath.Dir(root+name), 0o755))
			err = os.WriteFile(root+name, []byte(content), 0o644)
		} else {
			err = os.MkdirAll(root+line, 0o755)
		}
		must(t, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// both runs a test with openat2 and without.
func both(t *testing.T, dir string, f func(t *testing.T, r *Root)) {
	for name, plain := range map[string]bool{"openat2": false, "walk": true} {
		t.Run(name, func(t *testing.T) {
			r, err := Open(dir)
			must(t, err)
			defer r.Close()
			r.plain = plain
			f(t, r)
		})
	}
}

func TestResolve(t *testing.T) {
	outside := t.TempDir()
	build(t, outside, "/secret=outside")
	dir := t.TempDir()
	build(t, dir, "/etc/a=A", "/etc/abs->/etc/a", "/etc/rel->a", "/etc/up->../../../../etc/a", "/etc/out->"+outside+"/secret",
		"/lib->usr/lib", "/usr/lib/x=X", "/etc/tolib->/lib/x", "/etc/null->/dev/null", "/etc/upnull->../../dev/./null",
		"/etc/loop->loop", "/etc/dirlink->/usr", "/etc/slash->/etc/a/", "/etc/self->.", "/etc/root->/", "/etc/chain->abs", "/etc/gone->/etc/absent/x/../y")
	for path, want := range map[string]string{
		"/etc/a":                "/etc/a",
		"etc/a":                 "/etc/a",
		"/etc/abs":              "/etc/a",
		"/etc/rel":              "/etc/a",
		"/etc/up":               "/etc/a",
		"/etc/chain":            "/etc/a",
		"/etc/tolib":            "/usr/lib/x",
		"/lib/x":                "/usr/lib/x",
		"/lib":                  "/usr/lib",
		"/etc/dirlink/lib/x":    "/usr/lib/x",
		"/etc/self/self/a":      "/etc/a",
		"/etc/root/etc/root":    "/",
		"/../../etc/../etc/./a": "/etc/a",
		"/":                     "/",
		"":                      "/",
		"/..":                   "/",
		"//etc//a":              "/etc/a",
		"/etc/out":              "- " + outside + "/secret",
		"/etc/null":             "- /dev/null",
		"/etc/upnull":           "- /dev/null",
		"/nope":                 "- /nope",
		"/nope/further":         "- /nope/further",
		"/etc/gone":             "- /etc/absent/x/../y",
		"/etc/loop":             "too many levels of symbolic links",
		"/etc/slash":            "not a directory",
		"/etc/a/":               "not a directory",
		"/etc/a/b":              "not a directory",
	} {
		both(t, dir, func(t *testing.T, r *Root) {
			p, err := r.Resolve(path)
			got := p.Path
			if err == nil {
				defer p.Close()
			} else {
				got = err.Error()
				if !strings.Contains(got, r.Path(path)) {
					t.Errorf("error %q does not name %s", got, r.Path(path))
				}
			}
			if err == nil && !p.Exists() {
				got = "- " + got
			}
			if got != want && (err == nil || !strings.HasSuffix(got, want)) {
				t.Errorf("Resolve(%q) = %s, want %s", path, got, want)
			}
		})
	}
}

func TestOpenFile(t *testing.T) {
	dir := t.TempDir()
	build(t, dir, "/etc/passwd=root", "/etc/link->/etc/passwd", "/etc/dangling->/x", "/d/")
	must(t, syscall.Mkfifo(dir+"/fifo", 0o644))
	both(t, dir, func(t *testing.T, r *Root) {
		for _, path := range []string{"/etc/passwd", "/etc/link"} {
			f, err := r.OpenFile(path)
			must(t, err)
			b, err := io.ReadAll(f)
			f.Close()
			if string(b) != "root" || err != nil {
				t.Errorf("%s: %q, %v", path, b, err)
			}
		}
		for path, want := range map[string]string{"/d": "is a directory", "/fifo": "is a FIFO", "/etc/dangling": "no such file", "/x": "no such file"} {
			_, err := r.OpenFile(path)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), r.Path(path)) {
				t.Errorf("OpenFile(%s) = %v, want %q and the path", path, err, want)
			}
			if strings.HasPrefix(want, "no such") && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v is not fs.ErrNotExist", err)
			}
		}
	})
}

func TestOpenOfTheRootFails(t *testing.T) {
	dir := t.TempDir()
	build(t, dir, "/file=")
	for _, path := range []string{dir + "/nope", dir + "/file"} {
		if r, err := Open(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("Open(%s) = %v, %v", path, r, err)
		}
	}
}

func TestPath(t *testing.T) {
	t.Chdir(t.TempDir())
	cwd, err := os.Getwd()
	must(t, err)
	must(t, os.Mkdir("r", 0o755))
	for path, want := range map[string]string{"": "/etc/a", "/": "/etc/a", "r": cwd + "/r/etc/a", "./r//": cwd + "/r/etc/a", cwd + "/r/../r": cwd + "/r/../r/etc/a"} {
		r, err := Open(path)
		must(t, err)
		if got := r.Path("//etc/./a"); got != want {
			t.Errorf("Open(%q).Path = %s, want %s", path, got, want)
		}
		r.Close()
	}
}

// Somebody exchanges a directory for links that lead out, all the time.
func TestNothingLeadsOut(t *testing.T) {
	outside := t.TempDir()
	build(t, outside, "/f=outside", "/d/f=outside")
	dir := t.TempDir()
	build(t, dir, "/a/d/f=inside", "/b/d/f=inside", "/evil->"+outside, "/up->../../../../../../../.."+outside, "/a/l->../b/d")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			other := []string{"/evil", "/up"}[i%2]
			os.Rename(dir+"/a", dir+"/saved")
			os.Rename(dir+other, dir+"/a")
			os.Rename(dir+"/a", dir+other)
			os.Rename(dir+"/saved", dir+"/a")
			os.Rename(dir+"/a/d", dir+"/moved") // what ".." of a walk inside it would mean
			os.Rename(dir+"/moved", dir+"/a/d")
		}
	}()
	both(t, dir, func(t *testing.T, r *Root) {
		read := 0
		for range 20_000 {
			for _, path := range []string{"/a/d/f", "/a/l/f", "/a/d/../../b/d/f", "/evil/d/f"} {
				f, err := r.OpenFile(path)
				if err != nil {
					continue
				}
				b, _ := io.ReadAll(f)
				f.Close()
				if string(b) != "inside" {
					t.Fatalf("%s led to %q", path, b)
				}
				read++
			}
		}
		if read == 0 {
			t.Error("nothing could be read at all")
		}
	})
	close(stop)
	<-done
}

func TestNoDescriptorIsLeft(t *testing.T) {
	dir := t.TempDir()
	build(t, dir, "/a/b/c=x", "/l->/a/b/c", "/loop->loop", "/bad->/a/b/c/d", "/up->/a/b/../../a/b")
	both(t, dir, func(t *testing.T, r *Root) {
		before := countFds(t)
		for range 10 {
			for _, path := range []string{"/a/b/c", "/l", "/loop", "/bad", "/up", "/none/x"} {
				if p, err := r.Resolve(path); err == nil {
					p.Close()
				}
				if f, err := r.OpenFile(path); err == nil {
					f.Close()
				}
			}
		}
		if after := countFds(t); after != before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
}

func countFds(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		list, err = os.ReadDir("/dev/fd")
	}
	must(t, err)
	return len(list)
}
