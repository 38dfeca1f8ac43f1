package testenv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeTB records how a test ends.
type fakeTB struct {
	testing.TB
	name, end string
}

func (f *fakeTB) Helper()      {}
func (f *fakeTB) Name() string { return f.name }
func (f *fakeTB) Skipf(format string, args ...any) {
	f.end = "skip: " + fmt.Sprintf(format, args...)
	runtime.Goexit()
}
func (f *fakeTB) Fatalf(format string, args ...any) {
	f.end = "fail: " + fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestDecide(t *testing.T) {
	missing := errors.New("it is gone")
	tool := Requirement{What: "the tool x"}
	for _, c := range []struct {
		name string
		test string
		need Requirement
		ci   bool
		want string
	}{
		{"at home a tool is skipped", "TestA", tool, false, "skip: needs the tool x"},
		{"in CI a tool fails", "TestA", tool, true, "fail: needs the tool x"},
		{"in CI an exception is skipped with its reason", "TestListed/sub", tool, true, "skip: needs the tool x: it is gone (test/ci-exceptions.txt: the kernel has"},
		{"in CI a name that only begins alike fails", "TestListedToo", tool, true, "fail: "},
		{"in CI what belongs to the other pass is skipped", "TestA", Requirement{What: "root", OtherPass: true}, true, "skip: " + SkipMark + "needs root"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			write(t, filepath.Join(root, "go.mod"), "module m\n")
			write(t, filepath.Join(root, "test", "ci-exceptions.txt"), "# why\n\ninternal/a TestListed the kernel has no such thing\n")
			write(t, filepath.Join(root, "internal", "a", "a.go"), "package a\n")
			t.Chdir(filepath.Join(root, "internal", "a"))
			f := &fakeTB{name: c.test}
			done := make(chan struct{})
			go func() {
				defer close(done)
				decide(f, c.need, missing, c.ci)
			}()
			<-done
			if !strings.HasPrefix(f.end, c.want) {
				t.Errorf("ended with %q, want %q...", f.end, c.want)
			}
		})
	}
}

func TestReadExceptions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	if list, err := ReadExceptions(path); err != nil || list != nil {
		t.Errorf("a missing list = %v, %v; want none", list, err)
	}
	write(t, path, "a/b TestX/y  because of a kernel\n")
	list, err := ReadExceptions(path)
	if diff := cmp.Diff([]Exception{{"a/b", "TestX/y", "because of a kernel"}}, list); diff != "" || err != nil {
		t.Errorf("err %v, diff:\n%s", err, diff)
	}
	write(t, path, "a/b TestX broken\n")
	if _, err := ReadExceptions(path); err == nil || !strings.Contains(err.Error(), path+":1:") {
		t.Errorf("a line without a reason: %v, want an error with file and line", err)
	}
}

// The list of the project itself must be readable, and name tests that exist.
func TestExceptionsOfTheProject(t *testing.T) {
	root, err := ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	list, err := ReadExceptions(filepath.Join(root, "test", "ci-exceptions.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		fn, _, _ := strings.Cut(e.Test, "/")
		files, _ := filepath.Glob(filepath.Join(root, e.Package, "*_test.go"))
		found := false
		for _, f := range files {
			text, err := os.ReadFile(f)
			found = found || err == nil && strings.Contains(string(text), "func "+fn+"(")
		}
		if !found {
			t.Errorf("%s has no test %s, take its line out of test/ci-exceptions.txt", e.Package, fn)
		}
	}
}

func TestToolsAndDeps(t *testing.T) {
	if err := Tool("sh").Check(); err != nil {
		t.Errorf("sh: %v", err)
	}
	if err := Tool("no-such-tool-here").Check(); err == nil || !strings.Contains(err.Error(), "make test-deps") {
		t.Errorf("a tool that is not there: %v, want an error that says what to do", err)
	}
	dir := t.TempDir()
	t.Setenv("SLASHRUN_DEPS", dir)
	if err := Dep("a/b").Check(); err == nil {
		t.Error("a file that was not fetched is there")
	}
	write(t, filepath.Join(dir, "a", "b"), "")
	if err := Dep("a/b").Check(); err != nil {
		t.Errorf("a fetched file: %v", err)
	}
	if (Root.Check() == nil) == (NonRoot.Check() == nil) {
		t.Error("root and not root at the same time, or neither")
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
