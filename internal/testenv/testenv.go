// Package testenv is how a test says what it needs: root, a tool, a fetched
// file. It is the one convention for tests that cannot run everywhere.
//
//	func TestRefusesOccupied(t *testing.T) {
//		testenv.Need(t, testenv.Root, testenv.Tool("strace"))
//		...
//	}
//
// # Two passes
//
// "make test" runs every test twice, once as an unprivileged user and once as
// root, so that a test which needs one of the two runs in one of the passes:
//
//	             on a developer's machine    in CI (CI=true)
//	a tool, a    skipped, with the name of   failed
//	fetched file what is missing
//	Root,        skipped                     skipped: it runs in the other pass
//	NonRoot
//
// A test that the kernel of the CI machine cannot run at all stands in
// test/ci-exceptions.txt, by package, name and reason, and is skipped with that
// reason. test/gate reads the results of each pass and fails in CI on any other
// skip, a bare t.Skip and a root test in root's own pass among them.
//
// # When not to use it
//
// A test that wants to know whether the kernel has a feature asks package
// feature, and tests the fallback where the feature is absent: that is not a
// reason to skip. Production code must not import this package (a test holds
// that).
package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A Requirement is something that a test needs.
type Requirement struct {
	// What names it, for the message: "root", "the tool strace".
	What string
	// Check returns nil where it is there, else why not and how to get it.
	Check func() error
	// OtherPass says that the requirement is about who runs the test, so a test
	// without it runs in the other of the two passes.
	OtherPass bool
}

// Root is effective user id 0.
var Root = Requirement{What: "root", OtherPass: true, Check: func() error {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("the effective user id is %d; \"make test\" as root runs it", uid)
	}
	return nil
}}

// NonRoot is an effective user id other than 0, for tests of what an ordinary
// user sees.
var NonRoot = Requirement{What: "an unprivileged user", OtherPass: true, Check: func() error {
	if os.Geteuid() == 0 {
		return errors.New("the effective user id is 0; \"go test\" as another user runs it")
	}
	return nil
}}

// Tool is a program on PATH or in the system's directories for programs, which
// an ordinary user's PATH leaves out.
func Tool(name string) Requirement {
	return Requirement{What: "the tool " + name, Check: func() error {
		_, err := LookTool(name)
		return err
	}}
}

// LookTool returns the path of the program name, from PATH, /usr/sbin or /sbin.
func LookTool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed; \"make test-deps\" as root on Debian installs it", name)
}

// Dep is a file that a script in test/deps.d fetches, named below the directory
// DepsDir returns: Dep("systemd-262/usr/bin/systemd-tmpfiles").
func Dep(name string) Requirement {
	return Requirement{What: "the fetched file " + name, Check: func() error {
		if _, err := os.Stat(filepath.Join(DepsDir(), name)); err != nil {
			return fmt.Errorf("%v; \"make test-deps\" fetches it", err)
		}
		return nil
	}}
}

// DepsDir is where the scripts in test/deps.d put what they fetch:
// $SLASHRUN_DEPS, else .build/deps in the root of the module.
func DepsDir() string {
	if dir := os.Getenv("SLASHRUN_DEPS"); dir != "" {
		return dir
	}
	root, err := ModuleRoot()
	if err != nil {
		return "/nonexistent"
	}
	return filepath.Join(root, ".build", "deps")
}

// ModuleRoot returns the directory of go.mod at or above the working directory,
// which for a test is the directory of its package.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("no go.mod at or above %s", dir)
		}
	}
}

// Need lets the test go on where every requirement is there. Otherwise it skips
// the test, or fails it where nothing may be missing; see the package doc.
func Need(t testing.TB, needs ...Requirement) {
	t.Helper()
	for _, n := range needs {
		err := n.Check()
		if err == nil {
			continue
		}
		decide(t, n, err, InCI())
		return
	}
}

// SkipMark begins the message of a skip that Need made because the test belongs
// to the other pass. test/gate looks for it.
const SkipMark = "other pass: "

// decide ends the test t, which lacks n because of err.
func decide(t testing.TB, n Requirement, err error, ci bool) {
	t.Helper()
	switch {
	case n.OtherPass:
		t.Skipf("%sneeds %s: %v", SkipMark, n.What, err)
	case ci:
		if reason, ok := exception(t.Name()); ok {
			t.Skipf("needs %s: %v (test/ci-exceptions.txt: %s)", n.What, err, reason)
		}
		t.Fatalf("needs %s: %v (in CI nothing may be missing; a test that its kernel cannot run stands in test/ci-exceptions.txt)", n.What, err)
	default:
		t.Skipf("needs %s: %v", n.What, err)
	}
}

// InCI reports whether a missing tool is a failure.
func InCI() bool {
	switch os.Getenv("CI") {
	case "", "0", "false":
		return false
	}
	return true
}

// exception looks up the running test in test/ci-exceptions.txt.
func exception(test string) (reason string, ok bool) {
	root, err := ModuleRoot()
	if err != nil {
		return "", false
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", false
	}
	pkg, err := filepath.Rel(root, dir)
	if err != nil {
		return "", false
	}
	list, err := ReadExceptions(filepath.Join(root, "test", "ci-exceptions.txt"))
	if err != nil {
		return "", false
	}
	for _, e := range list {
		if e.Match(pkg, test) {
			return e.Reason, true
		}
	}
	return "", false
}

// Exception is a line of test/ci-exceptions.txt.
type Exception struct {
	Package string // relative to the module: "internal/linux"
	Test    string // as testing.T.Name has it; subtests are included
	Reason  string
}

// Match reports whether e is about the test called name in pkg, or about a test
// that it is a part of.
func (e Exception) Match(pkg, name string) bool {
	return e.Package == pkg && (e.Test == name || strings.HasPrefix(name, e.Test+"/"))
}

// ReadExceptions reads the list of tests that the CI machine cannot run. Each
// line is a package, a test and a reason; "#" begins a comment line. A file that
// does not exist is an empty list.
func ReadExceptions(path string) ([]Exception, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var list []Exception
	for i, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 5 { // a reason of one or two words is none
			return nil, fmt.Errorf("%s:%d: want a package, a test and a reason in a few words, got %q", path, i+1, line)
		}
		list = append(list, Exception{Package: f[0], Test: f[1], Reason: strings.Join(f[2:], " ")})
	}
	return list, nil
}
