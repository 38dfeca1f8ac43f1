package cli

import (
	"errors"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
)

// The test binary is slashrun when a script calls it by that name, so the
// scripts in testdata run the real command line in a process of its own.
func TestMain(m *testing.M) {
	if root := os.Getenv(containerEnv); root != "" {
		enterContainer(root)
	}
	seccomptest.Setup()
	nstest.Setup()
	testscript.Main(m, map[string]func(){
		"slashrun": func() { os.Exit(Main()) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, errors.New("there is no such condition")
		},
	})
}
