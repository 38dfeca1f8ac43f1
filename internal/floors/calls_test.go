package floors

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// banned are calls that production code does not make, with the reason. They
// name a path a second time, which is where the holes of this field came from.
var banned = map[string]string{
	"os.Chown":              "follows a symbolic link that was swapped in, and takes any hard link (CVE-2018-6954, CVE-2017-18078); use fsat",
	"os.Lchown":             "walks the path again, and a directory above may have been swapped (CVE-2018-6954); use fsat",
	"os.Chmod":              "follows a link that was swapped in (CVE-2013-4392); use fsat",
	"os.Chtimes":            "follows links and walks the path again; use fsat",
	"os.RemoveAll":          "starts from a path, crosses mount points and recurses without a plan (CVE-2021-3997 is the recursion); use fsat's walk",
	"os.MkdirAll":           "accepts links in the middle of the path and gives no owner; use fsat",
	"os.Rename":             "names two paths, neither checked; use fsat",
	"os.Chdir":              "changes the whole process; hold a descriptor",
	"os.Setenv":             "changes the whole process; pass the value",
	"os.Exit":               "a library does not end the process; return the exit code (cmd/ may)",
	"filepath.Walk":         "names every path again (CVE-2018-15664 is that race); use fsat's walk",
	"filepath.WalkDir":      "names every path again (CVE-2018-15664 is that race); use fsat's walk",
	"filepath.EvalSymlinks": "what it returns may be untrue by the time it is used (CVE-2018-15664); use openat2 through fsat",
	"exec.Command":          "cannot be cancelled; use exec.CommandContext",
}

// allowed are the places that make a banned call all the same: file and call,
// with the reason.
var allowed = map[[2]string]string{
	{"cmd/slashrun/main.go", "os.Exit"}:      "main is where the exit code goes",
	{"internal/sandbox/enter.go", "os.Exit"}: "PID 1 of a sandbox whose outside is gone: its end is what ends all processes inside",
}

// rawCalls are functions of package syscall that make system calls without a
// wrapper. Its constants, types and errno values are free everywhere.
func rawCall(name string) bool {
	return strings.HasPrefix(name, "Syscall") || strings.HasPrefix(name, "RawSyscall") || strings.HasPrefix(name, "AllThreadsSyscall")
}

// syscallFuncs are the functions of package syscall that code above
// internal/linux may call, with the reason. Conversions to a type do not count.
var syscallFuncs = map[string]string{
	"Exec":           "replaces the process: nothing to wrap, and it holds the runtime's fork lock",
	"Kill":           "a child's pid alone; anything else goes by pidfd",
	"Errno":          "a type",
	"Signal":         "a type",
	"WaitStatus":     "a type",
	"NsecToTimespec": "arithmetic",
	"NsecToTimeval":  "arithmetic",
	"Getpid":         "cannot fail",
	"Getppid":        "cannot fail",
}

func TestBannedCalls(t *testing.T) {
	pic := readPicture(t)
	used := map[[2]string]bool{}
	for _, p := range list(t) {
		if pic.floor[p.path()] >= testFloor {
			continue
		}
		for _, name := range p.production() {
			file := p.path() + "/" + name
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			report := func(at ast.Node, format string, args ...any) {
				t.Helper()
				t.Errorf(file+":"+strconv.Itoa(fset.Position(at.Pos()).Line)+": "+format, args...)
			}
			checkDecls(f, p.path(), report)
			names := importNames(f)
			ast.Inspect(f, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				x, ok := sel.X.(*ast.Ident)
				if !ok || names[x.Name] == "" || x.Obj != nil {
					return true
				}
				pkg := names[x.Name]
				call := pkg[strings.LastIndexByte(pkg, '/')+1:] + "." + sel.Sel.Name
				if why := banned[call]; why != "" {
					if key := [2]string{file, call}; allowed[key] != "" {
						used[key] = true
					} else {
						report(n, "%s: %s", call, why)
					}
				}
				if p.path() != "internal/linux" && pkg == "syscall" && rawCall(sel.Sel.Name) {
					report(n, "%s: raw system calls are made in internal/linux alone", call)
				}
				return true
			})
			if p.path() == "internal/linux" {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				c, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				if sel, ok := c.Fun.(*ast.SelectorExpr); ok {
					if x, ok := sel.X.(*ast.Ident); ok && names[x.Name] == "syscall" && x.Obj == nil && syscallFuncs[sel.Sel.Name] == "" {
						report(n, "syscall.%s: add a wrapper to internal/linux, which retries EINTR and names the call in its error", sel.Sel.Name)
					}
				}
				return true
			})
		}
	}
	for key := range allowed {
		if !used[key] {
			t.Errorf("%v is allowed and not used: take it off the list", key)
		}
	}
}

// checkDecls holds what a file may declare.
func checkDecls(f *ast.File, pkg string, report func(ast.Node, string, ...any)) {
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			report(d, "func init: it runs before main in every program that links the package; register explicitly")
		}
	}
	for _, imp := range f.Imports {
		switch path, _ := strconv.Unquote(imp.Path.Value); {
		case path == "unsafe" && pkg != "internal/linux":
			report(imp, "unsafe belongs in internal/linux")
		case path == "log":
			report(imp, "log: the manager and the commands log, with slog; a library returns errors")
		}
	}
	for _, g := range f.Comments {
		for _, c := range g.List {
			if strings.HasPrefix(c.Text, "//go:linkname") {
				report(c, "go:linkname: reach into no other package")
			}
		}
	}
}

// importNames maps the names by which f knows its imports to their paths.
func importNames(f *ast.File) map[string]string {
	names := map[string]string{}
	for _, imp := range f.Imports {
		path, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			continue
		}
		name := path[strings.LastIndexByte(path, '/')+1:]
		if imp.Name != nil {
			name = imp.Name.Name
		}
		names[name] = path
	}
	return names
}

// The scan itself must find what it looks for.
func TestTheScanFinds(t *testing.T) {
	const src = `package p
import ("os"; sc "syscall"; "unsafe")
func init() { os.Chmod("x", 0); sc.RawSyscall(0, 0, 0, 0) }
`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	checkDecls(f, "p", func(ast.Node, string, ...any) { n++ })
	if n != 2 {
		t.Errorf("checkDecls found %d of init and unsafe", n)
	}
	if names := importNames(f); names["sc"] != "syscall" || names["os"] != "os" {
		t.Errorf("importNames = %v", names)
	}
	if !rawCall("RawSyscall6") || !rawCall("Syscall") || rawCall("Stat") {
		t.Error("rawCall does not tell raw calls from others")
	}
	if banned["os.Chmod"] == "" {
		t.Error("os.Chmod is not banned")
	}
}
