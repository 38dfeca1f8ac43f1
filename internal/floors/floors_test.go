// Package floors has tests alone: they hold the picture of docs/architecture.md
// against the code. Which package may import which, who may make a raw system
// call, which calls are banned and why, how long a file may be. A rule that is
// broken here is either broken by mistake or has to be changed in the document
// first.
package floors

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/slashrun/slashrun"

// pkg is what "go list -json" says of a package.
type pkg struct {
	ImportPath, Dir, Name, Doc                            string
	GoFiles, IgnoredGoFiles, TestGoFiles, XTestGoFiles    []string
	Imports, TestImports, XTestImports                    []string
	CgoFiles, CFiles, CXXFiles, SFiles, HFiles, SysoFiles []string
}

// path is the import path inside the module.
func (p *pkg) path() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

func (p *pkg) production() []string { return slices.Concat(p.GoFiles, p.IgnoredGoFiles) }
func (p *pkg) tests() []string      { return slices.Concat(p.TestGoFiles, p.XTestGoFiles) }

// packages lists the packages of the module, once.
var packages = sync.OnceValues(func() ([]*pkg, error) {
	cmd := exec.Command("go", "list", "-json", "./...")
	cmd.Dir = filepath.Join("..", "..")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.New("go list: " + err.Error() + "\n" + stderr.String())
	}
	var list []*pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := new(pkg)
		if err := dec.Decode(p); err == io.EOF {
			return list, nil
		} else if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
})

func list(t *testing.T) []*pkg {
	t.Helper()
	l, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	if len(l) < 3 {
		t.Fatalf("go list found %d packages: the tests here would hold nothing", len(l))
	}
	return l
}

// Floors that are not numbers.
const (
	testFloor = 100 // for tests alone
	toolFloor = 200 // programs for developers: bench/..., test/...
)

// picture is the table of packages in docs/architecture.md.
type picture struct {
	floor   map[string]int
	planned map[string]bool
}

// row matches "| 2 | internal/fsat | what it is |".
var row = regexp.MustCompile("^\\| *([0-9]+|test|tool) *\\| *`([a-z0-9/_-]+)` *\\| *(.*?) *\\|$")

func readPicture(t *testing.T) *picture {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	pic := &picture{floor: map[string]int{}, planned: map[string]bool{}}
	for _, line := range strings.Split(string(text), "\n") {
		m := row.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		floor := toolFloor
		switch m[1] {
		case "test":
			floor = testFloor
		case "tool":
		default:
			floor, _ = strconv.Atoi(m[1])
		}
		if _, ok := pic.floor[m[2]]; ok {
			t.Errorf("docs/architecture.md: %s stands in the table twice", m[2])
		}
		pic.floor[m[2]] = floor
		pic.planned[m[2]] = strings.HasPrefix(m[3], "planned:")
	}
	if len(pic.floor) < 3 {
		t.Fatalf("docs/architecture.md: found %d rows of packages, the table's form has changed", len(pic.floor))
	}
	return pic
}

// The document lists every package, and no package that is not there, except
// with the word "planned:".
func TestArchitectureListsThePackages(t *testing.T) {
	pic := readPicture(t)
	there := map[string]bool{}
	for _, p := range list(t) {
		there[p.path()] = true
		if _, ok := pic.floor[p.path()]; !ok {
			t.Errorf("%s is not in the table of docs/architecture.md: give it a floor and a row", p.path())
		} else if pic.planned[p.path()] {
			t.Errorf("%s is there, and docs/architecture.md still calls it planned", p.path())
		}
	}
	for name := range pic.floor {
		if !there[name] && !pic.planned[name] {
			t.Errorf("docs/architecture.md lists %s, which does not exist", name)
		}
	}
}

// pairs are the imports within a floor that are allowed, with their reason.
var pairs = map[[2]string]string{
	{"pidfile", "internal/stale"}:  "pidfile is the public face of what stale proves about PID files",
	{"pidfile", "internal/runfs"}:  "the boot stamp tells whether the clock was set",
	{"lockfile", "internal/locks"}: "names the holders of a lock that was refused; locks knows nothing of how one is taken",
}

func TestImportsGoStrictlyDown(t *testing.T) {
	pic := readPicture(t)
	used := map[[2]string]bool{}
	for _, p := range list(t) {
		from, ok := pic.floor[p.path()]
		if !ok {
			continue // TestArchitectureListsThePackages tells
		}
		for _, imp := range p.Imports {
			name, ours := strings.CutPrefix(imp, module+"/")
			if !ours {
				continue
			}
			to, ok := pic.floor[name]
			if !ok {
				continue
			}
			pair := [2]string{p.path(), name}
			switch {
			case to == testFloor && from < testFloor:
				t.Errorf("%s imports %s: production code must not import test code", p.path(), name)
			case to == toolFloor && from < testFloor:
				t.Errorf("%s imports %s: production code must not import a developer's tool", p.path(), name)
			case to < from:
			case from >= testFloor: // tests and tools may share among themselves
			case pairs[pair] != "":
				used[pair] = true
			default:
				t.Errorf("%s (floor %d) imports %s (floor %d): imports go strictly down", p.path(), from, name, to)
			}
		}
	}
	for pair := range pairs {
		if !used[pair] {
			t.Errorf("the pair %v is allowed and not used: take it off the list", pair)
		}
	}
}

// unixImporters may import golang.org/x/sys/unix, with the reason.
var unixImporters = map[string]string{
	"internal/linux": "it is the floor for that",
}

func TestOnlyLinuxImportsUnix(t *testing.T) {
	for _, p := range list(t) {
		for _, imp := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if strings.HasPrefix(imp, "golang.org/x/sys/") && unixImporters[p.path()] == "" {
				t.Errorf("%s imports %s: add a wrapper to internal/linux", p.path(), imp)
			}
		}
	}
}

func TestNoCgoNoAssembly(t *testing.T) {
	for _, p := range list(t) {
		if f := slices.Concat(p.CgoFiles, p.CFiles, p.CXXFiles, p.SFiles, p.HFiles, p.SysoFiles); len(f) > 0 {
			t.Errorf("%s: %v: the executables are static Go", p.path(), f)
		}
	}
}

// Long files hide things. The limits are alarms: split the file by topic.
const (
	maxLines     = 500
	maxTestLines = 700
)

func TestFileLength(t *testing.T) {
	for _, p := range list(t) {
		for _, f := range slices.Concat(p.production(), p.tests()) {
			text, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			limit := maxLines
			if strings.HasSuffix(f, "_test.go") {
				limit = maxTestLines
			}
			if n := bytes.Count(text, []byte("\n")); n > limit {
				t.Errorf("%s/%s has %d lines, more than %d: split it by topic", p.path(), f, n, limit)
			}
		}
	}
}

func TestEveryPackageHasADoc(t *testing.T) {
	for _, p := range list(t) {
		if p.Doc != "" {
			continue
		}
		if len(p.GoFiles) == 0 && len(p.TestGoFiles) > 0 {
			continue // go list gives no doc of test files; this package is one
		}
		t.Errorf("%s has no package comment", p.path())
	}
}

func TestNoJunkDrawers(t *testing.T) {
	for _, p := range list(t) {
		switch p.Name {
		case "util", "utils", "common", "helpers", "misc", "base", "shared":
			t.Errorf("%s: a package is named for what it is about, not %q", p.path(), p.Name)
		}
	}
}
