package cli

import (
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/slashrun/slashrun/internal/nstest"
)

// The scripts of exec run in namespaces of their own, each with an empty tmpfs on
// /run: they start commands for real.
func TestExecScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/exec/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			nstest.Run(t, nstest.Options{}, func(t *testing.T) {
				testscript.Run(t, testscript.Params{Files: []string{f}, RequireExplicitExec: true, RequireUniqueNames: true})
			})
		})
	}
}
