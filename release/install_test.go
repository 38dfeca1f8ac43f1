package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/testenv"
)

// makeInstall runs make in the sources; args are variables and the target.
func makeInstall(t *testing.T, args ...string) (output string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "make", append([]string{"-C", ".."}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// installed are the files below dir with mode and content, pages unpacked.
func installed(t *testing.T, dir string) map[string]string {
	t.Helper()
	list := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.Type() == fs.ModeSymlink {
			to, err := os.Readlink(path)
			list[name] = "-> " + to
			return err
		}
		data, err := os.ReadFile(path)
		list[name] = info.Mode().String() + " " + string(unpacked(t, name, data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// unpacked is the content of a file, without compression.
func unpacked(t *testing.T, name string, data []byte) []byte {
	t.Helper()
	if !strings.HasSuffix(name, ".gz") {
		return data
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(name, err)
	}
	if !z.ModTime.IsZero() || z.Name != "" {
		t.Errorf("%s holds a time or a name: %v %q", name, z.ModTime, z.Name)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(name, err)
	}
	return text
}

// "make install" and the archive of "make dist" are the same tree, and what one
// puts there the other takes away.
func TestInstall(t *testing.T) {
	testenv.Need(t, testenv.Tool("make"), testenv.Tool("gzip"))
	dir := t.TempDir()
	dest := filepath.Join(dir, "with a space")
	exe := filepath.Join(dir, "slashrun")
	data, err := build("..", exe, runtime.GOARCH, "1.2", nil)
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := completions("..", dir, data)
	if err != nil {
		t.Fatal(err)
	}
	files, err := prefixFiles("..", data, scripts)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, f := range files {
		want["usr/"+f.name] = fs.FileMode(f.mode).String() + " " + string(unpacked(t, f.name, f.data))
	}
	want["usr/bin/flock"] = "-> slashrun"
	for range 2 { // again, over itself
		if out, err := makeInstall(t, "install", "PREFIX=/usr", "DESTDIR="+dest, "SLASHRUN="+exe, "LINKS=flock"); err != nil || out != "" && !strings.HasPrefix(out, "make") {
			t.Fatalf("%v\n%s", err, out)
		}
		if diff := cmp.Diff(want, installed(t, dest)); diff != "" {
			t.Fatalf("the archive has -, make install has +\n%s", diff)
		}
	}
	if out, err := makeInstall(t, "uninstall", "PREFIX=/usr", "DESTDIR="+dest); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if left := installed(t, dest); len(left) > 0 {
		t.Errorf("make uninstall leaves %v", left)
	}
}

// Without SLASHRUN it builds, with the version that it is told; with other
// directories everything goes there.
func TestInstallBuilds(t *testing.T) {
	testenv.Need(t, testenv.Tool("make"), testenv.Tool("gzip"))
	dir := t.TempDir()
	if out, err := makeInstall(t, "install", "DESTDIR="+dir, "PREFIX=/opt", "BINDIR=/b", "MANDIR=/m", "VERSION=3.4", "LINKS=systemd-tmpfiles"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), dir+"/b/slashrun", "--version").Output()
	if err != nil || !strings.HasPrefix(string(out), "slashrun 3.4 ") {
		t.Errorf("%q, %v", out, err)
	}
	out, err = exec.CommandContext(t.Context(), dir+"/b/systemd-tmpfiles", "--version").Output()
	if err != nil || !strings.Contains(string(out), "(slashrun 3.4)") {
		t.Errorf("the link: %q, %v", out, err)
	}
	for _, name := range []string{"/m/man1/slashrun.1.gz", "/m/man8/slashrun-boot.8.gz", "/opt/share/doc/slashrun/LICENSE"} {
		if _, err := os.Stat(dir + name); err != nil {
			t.Error(err)
		}
	}
}

// A program that is there is not replaced by a link.
func TestInstallReplacesNoProgram(t *testing.T) {
	testenv.Need(t, testenv.Tool("make"), testenv.Tool("gzip"))
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/usr/bin", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/usr/bin/flock", []byte("util-linux"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, links := range []string{"flock", "nologin"} {
		out, err := makeInstall(t, "install", "DESTDIR="+dir, "PREFIX=/usr", "SLASHRUN=/bin/true", "LINKS="+links)
		if err == nil || !strings.Contains(out, "make install: ") {
			t.Errorf("LINKS=%s: %v\n%s", links, err, out)
		}
	}
	if got := installed(t, dir); len(got) != 1 || !strings.HasSuffix(got["usr/bin/flock"], " util-linux") {
		t.Errorf("something has changed: %v", got)
	}
}

// The directories stand before what is in them, each once.
func TestPrefixArchiveHasItsDirectories(t *testing.T) {
	var names []string
	for _, f := range withDirectories([]file{{name: "bin/a"}, {name: "share/man/man1/b"}, {name: "share/man/man8/c"}}) {
		names = append(names, f.name)
	}
	want := []string{"bin/", "bin/a", "share/", "share/man/", "share/man/man1/", "share/man/man1/b", "share/man/man8/", "share/man/man8/c"}
	if !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}
