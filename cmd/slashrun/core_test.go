package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// maxSize is what the stripped executable may have: images carry it, and an
// initramfs unpacks it at every boot.
const maxSize = 6 << 20

// forbidden are packages that the core must not link, each with its reason.
// Whoever needs one needs a program of its own beside slashrun.
var forbidden = map[string]string{
	"net":           "name resolution and the poller's tables; the core talks to local sockets by descriptor",
	"net/http":      "4 MiB and an attack surface; the core listens on nothing and fetches nothing",
	"crypto/tls":    "the core has no peer to encrypt for",
	"encoding/gob":  "registers types at start-up, and nobody else speaks it",
	"html/template": "reflection keeps every method alive, so the linker can drop nothing",
	"text/template": "reflection keeps every method alive, so the linker can drop nothing",
	"testing":       "test code in production",
	"plugin":        "needs cgo and a dynamic loader; the executable is static",
	"os/user":       "reads /etc/passwd of the wrong root and knows no other; use internal/accounts",
	"log":           "the core prints through internal/cli, and libraries return errors",
	"expvar":        "opens an HTTP handler",
	"net/rpc":       "opens a listener",

	"github.com/spf13/cobra":              "50,000 lines to parse options that getopt_long parses, and work at start-up",
	"github.com/urfave/cli":               "reflection, and it does not parse options as getopt_long does",
	"github.com/godbus/dbus":              "D-Bus is the manager's",
	"github.com/prometheus/client_golang": "metrics are the manager's; it brings net/http and protobuf",
	"github.com/charmbracelet/bubbletea":  "the terminal UI is slashrun-top's",
	"charm.land/bubbletea":                "the terminal UI is slashrun-top's",
	"github.com/rogpeppe/go-internal":     "test code in production",
	"github.com/google/go-cmp":            "test code in production",
}

func TestCoreDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if .Standard}}std{{else}}mod{{end}} {{.ImportPath}}", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		kind, path, _ := strings.Cut(line, " ")
		seen[path] = true
		for name, why := range forbidden {
			if path == name || strings.HasPrefix(path, name+"/") && strings.Contains(name, ".") {
				t.Errorf("the core links %s: %s", path, why)
			}
		}
		if kind == "std" || strings.HasPrefix(path, "github.com/slashrun/slashrun/") || strings.HasPrefix(path, "golang.org/x/sys/") {
			continue
		}
		t.Errorf("the core links %s: it is the standard library, this module and golang.org/x/sys alone", path)
	}
	if !seen["github.com/slashrun/slashrun/internal/cli"] || !seen["runtime"] {
		t.Fatal("go list -deps did not list what the core surely links: this test would hold nothing")
	}
}

// "make dist" holds the size of the other architecture.
func TestCoreSize(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "slashrun")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", exe, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	info, err := os.Stat(exe)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", info.Size())
	if info.Size() > maxSize {
		t.Errorf("the executable has %d bytes, more than %d", info.Size(), maxSize)
	}
}
