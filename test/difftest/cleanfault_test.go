package difftest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/testenv"
)

// A CleanFaultRequest runs a clean-up under strace, which lets reads of one
// directory fail with EIO.
type CleanFaultRequest struct {
	Argv []string
	Path string // the directory; empty lets none fail
}

const (
	cleanFaultTree = `
d /t/a/bad/sub 0755 0:0
f /t/a/bad/f 0644 0:0
f /t/a/bad/sub/f 0644 0:0
f /t/a/good/f 0644 0:0
f /t/a/f 0644 0:0
f /t/b/f 0644 0:0
`
	cleanFaultLines = "d /t/a - - - 0\nd /t/b - - - 0\n"
)

func cleanFault(r *CleanFaultRequest) (*Step, error) {
	if err := wipe("/", keep); err != nil {
		return nil, err
	}
	nodes, err := parseTree(baseTree + cleanFaultTree)
	if err != nil {
		return nil, err
	}
	nodes = append(nodes, Node{Type: 'f', Path: "/etc/a.conf", Mode: 0o644, Content: cleanFaultLines})
	linux.Umask(0)
	defer linux.Umask(0o022)
	if _, err := build("", nodes, time.Now()); err != nil {
		return nil, err
	}
	argv := []string{"/x/strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=getdents64"}
	if r.Path != "" {
		argv = append(argv, "-P", r.Path, "-e", "inject=getdents64:error=EIO")
	}
	argv = append(append(argv, r.Argv...), "--clean", "/etc/a.conf")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/usr/bin", "HOME=/root", "SYSTEMD_LOG_TARGET=console", "SYSTEMD_LOG_COLOR=0"}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		return nil, fmt.Errorf("%q: %w, %w", argv, err, ctx.Err())
	}
	s := &Step{Exit: cmd.ProcessState.ExitCode(), Stderr: stderr.String()}
	s.Tree, err = digest("/t", nil, suiteStart)
	return s, err
}

// TestCleanOfUnreadable: a directory that cannot be read is named, keeps what was
// not read, and holds nothing else up. The reference leaves the same tree and
// says nothing.
func TestCleanOfUnreadable(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Tool("strace"))
	strace, err := testenv.LookTool("strace")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"slashrun": slashrun(t), "strace": strace}
	_, err = os.Stat(referencePath())
	haveReference := err == nil
	if haveReference {
		files["reference"] = referencePath()
	}
	w := startWorker(t, setup{Start: suiteStart.UnixNano(), Files: files})
	for _, c := range []struct {
		path, says string
		left       []string // below /t, beside /a and /b
	}{
		{path: ""},
		{"/t/a/bad", "/etc/a.conf:1: /t/a/bad: ", []string{"/a/bad", "/a/bad/f", "/a/bad/sub", "/a/bad/sub/f"}},
		{"/t/a", "/etc/a.conf:1: /t/a: ", []string{"/a/bad", "/a/bad/f", "/a/bad/sub", "/a/bad/sub/f", "/a/f", "/a/good", "/a/good/f"}},
		{"/t/b", "/etc/a.conf:2: /t/b: ", []string{"/b/f"}},
	} {
		left := append([]string{"/a", "/b"}, c.left...)
		slices.Sort(left)
		run := func(argv ...string) *Step {
			s := w.inside(t, request{CleanFault: &CleanFaultRequest{Argv: argv, Path: c.path}}).Steps[0]
			var paths []string
			for _, n := range s.Tree {
				paths = append(paths, n.Path)
			}
			slices.Sort(paths)
			if !slices.Equal(paths, left) {
				t.Errorf("no reads of %q: %s leaves %q, want %q", c.path, argv[0], paths, left)
			}
			return &s
		}
		s, exit := run("/x/slashrun", "tmpfiles"), 0
		if c.path != "" {
			exit = 73
		}
		if s.Exit != exit || !strings.Contains(s.Stderr, c.says) || strings.Count(s.Stderr, "\n") != min(exit, 1) {
			t.Errorf("no reads of %q: exit %d, want %d and one line with %q:\n%s", c.path, s.Exit, exit, c.says, s.Stderr)
		}
		if !haveReference {
			continue
		}
		if s := run("/x/reference"); referenceIs262(t) && (s.Exit != 0 || s.Stderr != "") {
			t.Errorf("no reads of %q: the reference exits %d and says %q: docs/tmpfiles-differences.md has it otherwise", c.path, s.Exit, s.Stderr)
		}
	}
}
