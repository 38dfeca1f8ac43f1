package unit

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/testenv"
)

// pieces are what random unit files are put together from.
var pieces = []string{
	"RuntimeDirectory=", "RuntimeDirectory = ", "\tRuntimeDirectory=", "RuntimeDirectoryMode=", "User=", "Group=", "RuntimeDirectoryPreserve=",
	"a", "b", "foo/bar", " ", "  ", "\t", "\n", "\n", "\n", "\n", "\\\n", "\\\\\n", "\\", ":", "::", "a:b", ":a", "..", "../x", "/abs", ".", "./a", "a/./b", "a//b",
	"\"", "'", "\"a b\"", "'a'b", "%i", "%n", "%%", "%p", "%t/x", "%Q", "% ", "\\x41", "\\x4", "\\n", "\\s", "\\:", "\\t", "\\101", "\\u00e4", "ä", "é",
	"# c\n", "; c\n", "#", ";", "[Service]\n", "[Unit]\n", "[X-A]\n", "=", "0755", "1777", "8", "yes", "no", "restart", "on", "0", "private", "private/x", "app", "root", "\r\n", "\r",
}

func randomUnit(r *rand.Rand) string {
	var b strings.Builder
	b.WriteString("[Service]\nExecStart=/bin/true\n")
	for range 2 + r.IntN(30) {
		b.WriteString(pieces[r.IntN(len(pieces))])
	}
	return b.String()
}

// Random files mean the same to systemd, which reads all of them in one go.
func TestRandomUnitsAgreeWithSystemd(t *testing.T) { withSystemd(t, randomAgree) }

func randomAgree(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, uint64(seed(t))))
	files := map[string]string{}
	var names []string
	for i := range 150 {
		name := fmt.Sprintf("u%d.service", i)
		if i%3 == 0 {
			files[sys+fmt.Sprintf("u%d@.service", i)] = randomUnit(rnd)
			name = fmt.Sprintf("u%d@i-n.service", i)
		} else {
			files[sys+name] = randomUnit(rnd)
		}
		names = append(names, name)
	}
	r, dir := root(t, files)
	cmd := exec.Command(filepath.Join(testenv.DepsDir(), "systemd-analyze/run"), append([]string{"verify", "--man=no", "--recursive-errors=no", "--root=" + dir}, names...)...)
	cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=debug")
	out, _ := cmd.Output() // it fails if any unit is wrong
	told := dumps(string(out))
	compared := 0
	for _, name := range names {
		want, ok := told[name]
		u, err := load(t, r, name)
		if !ok { // systemd does not load it
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		compared++
		if d := cmp.Diff(want, dump(t, r, u)); d != "" {
			t.Errorf("%s (-systemd +ours):\n%s\n%q", name, d, files[sys+strings.ReplaceAll(name, "i-n", "")])
		}
	}
	if compared < len(names)/2 {
		t.Errorf("only %d of %d were compared", compared, len(names))
	}
	t.Logf("%d compared", compared)
}

// seed is fixed; UNIT_TEST_SEED has others tried.
func seed(t *testing.T) (n int) {
	fmt.Sscan(os.Getenv("UNIT_TEST_SEED"), &n)
	return n
}

// dumps cuts the debug output into units.
func dumps(out string) map[string][]string {
	told := map[string][]string{}
	name := ""
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		text := strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(text, "-> Unit "); ok {
			name = strings.TrimSuffix(rest, ":")
			told[name] = nil
			continue
		}
		for _, p := range []string{"Fragment Path: ", "DropIn Path: ", "RuntimeDirectory:", "RuntimeDirectorySymlink:", "RuntimeDirectoryMode:", "RuntimeDirectoryPreserve:", "User: ", "Group: "} {
			if strings.HasPrefix(text, p) && name != "" {
				told[name] = append(told[name], text)
			}
		}
	}
	return told
}
