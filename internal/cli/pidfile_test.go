package cli

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// Scripts that signal need directories that nobody else can write to, up to "/".
func TestPidfileScripts(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		files, err := filepath.Glob("testdata/pidfile/*.txtar")
		if err != nil || len(files) == 0 {
			t.Fatal("no scripts", err)
		}
		testscript.Run(t, testscript.Params{
			Files: files, RequireExplicitExec: true, RequireUniqueNames: true,
			Condition: func(cond string) (bool, error) {
				if cond != "pidfd" {
					return false, errors.New("there is no such condition")
				}
				fd, err := linux.PidfdOpen(os.Getpid())
				if err == nil {
					linux.Close(fd)
				}
				return err == nil, nil
			},
		})
	})
}
