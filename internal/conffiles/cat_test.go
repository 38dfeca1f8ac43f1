package conffiles

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/testenv"
)

func cat(t *testing.T, l *List, style Style) string {
	t.Helper()
	var b bytes.Buffer
	must(t, Cat(&b, l, style))
	return b.String()
}

func TestCat(t *testing.T) {
	dir := tree(t, "/etc/tmpfiles.d/a.conf=# c\n\n d /a \\\n\\\n;s\nd /b", "/etc/tmpfiles.d/b.conf=", "/etc/tmpfiles.d/c.conf->a.conf")
	l := find(t, dir, Options{})
	for name, tt := range map[string]struct {
		style Style
		want  string
	}{
		"plain": {Style{}, "# R/etc/tmpfiles.d/a.conf\n# c\n\n d /a \\\n\\\n;s\nd /b\n\n# R/etc/tmpfiles.d/b.conf is a mask.\n\n# R/etc/tmpfiles.d/c.conf -> R/etc/tmpfiles.d/a.conf\n# c\n\n d /a \\\n\\\n;s\nd /b\n"},
		"brief": {Style{Brief: true}, "# R/etc/tmpfiles.d/a.conf\n d /a \\\nd /b\n\n# R/etc/tmpfiles.d/b.conf is a mask.\n\n# R/etc/tmpfiles.d/c.conf -> R/etc/tmpfiles.d/a.conf\n d /a \\\nd /b\n"},
		"color": {Style{Brief: true, Color: true}, "\x1b[0;1;34m# R/etc/tmpfiles.d/a.conf\x1b[0m\n d /a \x1b[0;1;31m\\\x1b[0m\nd /b\n\n\x1b[0;1;35m# R/etc/tmpfiles.d/b.conf is a mask.\x1b[0m\n\n\x1b[0;1;34m# R/etc/tmpfiles.d/c.conf -> R/etc/tmpfiles.d/a.conf\x1b[0m\n d /a \x1b[0;1;31m\\\x1b[0m\nd /b\n"},
	} {
		if diff := cmp.Diff(tt.want, strings.ReplaceAll(cat(t, l, tt.style), dir, "R")); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if got := cat(t, find(t, t.TempDir(), Options{}), Style{}); got != "" {
		t.Errorf("no files: %q", got)
	}
}

type fullDisk struct{}

var errFull = errors.New("no space left on device")

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }

func TestCatTellsThatWritingFailed(t *testing.T) {
	dir := tree(t, "/etc/tmpfiles.d/a.conf=a")
	if err := Cat(fullDisk{}, find(t, dir, Options{}), Style{}); !errors.Is(err, errFull) {
		t.Errorf("Cat = %v", err)
	}
}

// reference is systemd-tmpfiles 262.
func reference(t *testing.T) string {
	const name = "systemd-tmpfiles/usr/bin/systemd-tmpfiles"
	testenv.Need(t, testenv.Dep(name))
	exe := filepath.Join(testenv.DepsDir(), name)
	if err := exec.CommandContext(t.Context(), exe, "--version").Run(); err != nil {
		t.Fatalf("%s does not run: %v", exe, err)
	}
	return exe
}

// Random trees, printed by us and by the reference. Links whose target is an
// absolute path inside the root are left out: the reference then looks for the
// target on the host.
func TestCatPrintsWhatTheReferencePrints(t *testing.T) {
	exe := reference(t)
	r := rand.New(rand.NewPCG(7, 8))
	dirs := SystemDirs("tmpfiles.d")
	contents := []string{"", "d /a\n", "# c\n\nd /b", " \t# x\n;y\n  z  \n", "a\\\nb\\\\\n\\\n", "crlf\r\n\r\nx\r", "nul\x00x\x00\x00\n", "\n", " ", "#", "[s]\na=b\n", "\xff\xfe\n"}
	targets := []string{"/dev/null", "a.conf", "b.conf", "../../etc/tmpfiles.d/c.conf", "nowhere", "../tmpfiles.d", "loop.conf"}
	for round := range 60 {
		lines := []string{"/etc", "/run"}
		used := map[string]bool{}
		for range r.IntN(14) {
			p := dirs[r.IntN(4)] + "/" + []string{"a.conf", "b.conf", "c.conf", "B.conf", "a-1.conf", ".h.conf", "x", "d.conf.bak", "loop.conf"}[r.IntN(9)]
			if used[p] {
				continue
			}
			used[p] = true
			switch r.IntN(6) {
			case 0:
				lines = append(lines, p+"->"+targets[r.IntN(len(targets))])
			case 1:
				lines = append(lines, p) // a directory
			default:
				lines = append(lines, p+"="+contents[r.IntN(len(contents))])
			}
		}
		dir := tree(t, lines...)
		l := find(t, dir, Options{})
		for flag, style := range map[string]Style{"--cat-config": {}, "--tldr": {Brief: true}} {
			cmd := exec.CommandContext(t.Context(), exe, "--root="+dir, flag)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			cmd.Env = []string{"LC_ALL=C"}
			want, err := cmd.Output()
			if err != nil {
				t.Fatalf("round %d: reference: %v\n%s", round, err, stderr.String())
			}
			if diff := cmp.Diff(string(want), cat(t, l, style)); diff != "" {
				t.Errorf("round %d %s: %s\n%s\n%s", round, flag, diff, fmt.Sprintf("%q", lines), stderr.String())
			}
		}
	}
}
