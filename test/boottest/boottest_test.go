package boottest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/vmtest"
)

// progEnv carries the path of the program under test into the namespaces.
const progEnv = "BOOTTEST_SLASHRUN"

func TestMain(m *testing.M) {
	nstest.Setup()
	vmtest.Main(m)
}

// program builds slashrun, statically, and returns its path. Inside of a namespace
// it is the one that was built outside.
func program(t *testing.T) string {
	t.Helper()
	if path := os.Getenv(progEnv); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "slashrun")
	cmd := exec.Command("go", "build", "-o", path, "github.com/slashrun/slashrun/cmd/slashrun")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	must(t, err)
	must(t, os.MkdirAll(filepath.Dir(to), 0o755))
	must(t, os.WriteFile(to, b, 0o755))
}
