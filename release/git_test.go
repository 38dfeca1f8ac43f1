package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/testenv"
)

// A source archive has no repository, and one that anybody made above it is not
// asked: git runs programs that its configuration names (CVE-2022-24765).
func TestRepositoryAbove(t *testing.T) {
	testenv.Need(t, testenv.Tool("git"))
	above := t.TempDir()
	tree := filepath.Join(above, "tree")
	ran, program := filepath.Join(above, "ran"), filepath.Join(above, "program")
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	gitIn := func(dir string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.org"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	repository := func(dir string) {
		gitIn(dir, "init", "-q")
		gitIn(dir, "add", "-A")
		gitIn(dir, "commit", "-q", "-m", "all", "--allow-empty")
		gitIn(dir, "tag", "v1.2")
		gitIn(dir, "config", "core.fsmonitor", program)
	}
	script, err := os.ReadFile("install.sh")
	if err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(tree, "release", "install.sh"), string(script))
	// It stands in for Go, says what it was asked for and builds something.
	write(filepath.Join(above, "bin", "go"), "#!/bin/sh\necho \"$*\" >>"+filepath.Join(above, "built")+
		"\nwhile [ \"$1\" != -o ]; do shift; done\nprintf '#!/bin/sh\\n' >$2; chmod +x $2\n")
	write(program, "#!/bin/sh\ntouch "+ran+"\nprintf '\\0'\n")
	install := func() string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sh", filepath.Join(tree, "release", "install.sh"), "install")
		cmd.Env = append(os.Environ(), "PATH="+filepath.Join(above, "bin")+":"+os.Getenv("PATH"), "DESTDIR="+filepath.Join(above, "dest"))
		cmd.CombinedOutput() // it has no pages to install and says so
		text, err := os.ReadFile(filepath.Join(above, "built"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}

	repository(above)
	if _, err := git(above, "describe", "--tags", "--dirty"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(ran); err != nil {
		t.Fatal("this git runs no program of the configuration, so the test shows nothing")
	}
	os.Remove(ran)
	if got := describe(tree); got != "devel" {
		t.Errorf("the version is %q", got)
	}
	if got := install(); !strings.Contains(got, "version=devel") {
		t.Errorf("make install builds %q", got)
	}
	if err := os.Mkdir(filepath.Join(tree, ".git"), 0o755); err != nil { // which is no repository: git goes on upwards
		t.Fatal(err)
	}
	if got := describe(tree); got != "devel" {
		t.Errorf("with an empty .git the version is %q", got)
	}
	if got := install(); strings.Contains(got, "version=1.2") {
		t.Errorf("with an empty .git make install builds %q", got)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("a program of the repository above was run")
	}
	program = ""
	repository(tree)
	if got := describe(tree); !strings.HasPrefix(got, "1.2") {
		t.Errorf("the version of its own repository is %q", got)
	}
	if got := install(); !strings.Contains(got, "version=1.2") {
		t.Errorf("make install builds %q, not the version of its own repository", got)
	}
}
