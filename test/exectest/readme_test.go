package exectest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/podtest"
)

// readmeContainerfile is the block of the README's quick start for containers.
func readmeContainerfile(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(moduleRoot(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var block []string
	for line := range strings.Lines(string(text)) {
		line, indented := strings.CutPrefix(line, "    ")
		switch {
		case indented && (len(block) > 0 || strings.HasPrefix(line, "FROM ")):
			block = append(block, line)
		case len(block) > 0:
			return strings.Join(block, "")
		}
	}
	t.Fatal("README.md has no Containerfile: an indented block that begins with FROM")
	return ""
}

// testReadme builds the image of the README as it stands there, where nginx has the
// configuration of Debian's package and whichever page is there.
func testReadme(t *testing.T, w *world) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/Containerfile", []byte(readmeContainerfile(t)), 0o644); err != nil {
		t.Fatal(err)
	}
	w.Build(t, dir, "localhost/readme")
	nginx := service{ask: func(ctx context.Context, r *podtest.Running) error {
		return httpAnswer(ctx, tcpDial(r, "127.0.0.1:80"), "<title>")
	}}
	c := w.Create(t, containerName(t), "localhost/readme")
	for range 3 {
		r := c.Start(t)
		nginx.ready(t, r)
		v := newVandal(r)
		v.older("/run")
		v.check(t)
		r.Kill(t)
	}
	r := c.Start(t)
	nginx.ready(t, r)
	checkOlder(t, r, "/run", true)
	r.Kill(t)

	// The line below it.
	dry := w.Run(t, "-e", "SLASHRUN_EXEC_DRY_RUN=yes", "localhost/readme")
	if dry.Status != 0 || !strings.Contains(dry.Stdout, "would become nginx -g daemon off;") {
		t.Errorf("the dry run: %v", dry)
	}
}
