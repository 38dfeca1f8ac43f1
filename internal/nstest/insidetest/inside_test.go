package insidetest

import (
	"flag"
	"os"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
)

func TestMain(m *testing.M) { nstest.MainInside(m, nstest.Options{}) }

func TestEveryTestIsInside(t *testing.T) {
	if !nstest.Inside() {
		t.Fatal("outside")
	}
	if err := os.WriteFile("/run/slashrun-insidetest", nil, 0o644); err != nil {
		t.Error(err)
	}
	ran := false
	nstest.Run(t, nstest.Options{}, func(t *testing.T) { ran = true })
	if !ran {
		t.Error("Run did not call its function in this process")
	}
}

func TestTheTestsOfAPackageShareRun(t *testing.T) {
	if f := flag.Lookup("test.run"); f != nil && f.Value.String() != "" {
		t.Log("the test before this one may not have run")
		return
	}
	if _, err := os.Stat("/run/slashrun-insidetest"); err != nil {
		t.Error(err)
	}
}
