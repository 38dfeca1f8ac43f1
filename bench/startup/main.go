// Startup measures what it costs that slashrun is called at all: slashrun
// --version beside an empty Go program, which is what the Go runtime costs, and
// beside /bin/true, which is what a process costs.
package main

import (
	"os"
	"os/exec"
	"path/filepath"

	"github.com/slashrun/slashrun/internal/bench"
)

func main() {
	bench.Main("startup", "From exec to exit: `slashrun --version`, an empty Go program, and /bin/true.", func(b *bench.B) {
		exe := b.Slashrun()
		b.Compare(bench.Case{
			Name: "start-up",
			Ours: bench.Side{Name: "slashrun --version", Cmd: func() *exec.Cmd { return exec.Command(exe, "--version") }},
			Peers: []bench.Side{
				{Name: "an empty Go program", Cmd: command(empty(b))},
				{Name: "/bin/true", Cmd: command("/bin/true")},
			},
			Rounds: 1001,
		})
	})
}

func command(path string) func() *exec.Cmd {
	return func() *exec.Cmd { return exec.Command(path) }
}

// empty builds a Go program that does nothing.
func empty(b *bench.B) string {
	src := filepath.Join(b.Dir(), "empty.go")
	if err := os.WriteFile(src, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	return b.Build("empty", src)
}
