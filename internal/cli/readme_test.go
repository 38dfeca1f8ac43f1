package cli

import (
	"os"
	"strings"
	"testing"
)

// The recipe that README.md shows is examples/nginx, which test/exectest builds and
// runs.
func TestReadmeShowsAnExample(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	mustDo(t, err)
	example, err := os.ReadFile("../../examples/nginx/Containerfile")
	mustDo(t, err)
	_, section, ok := strings.Cut(string(readme), "## In a container\n")
	if !ok {
		t.Fatal("README.md has no section for containers")
	}
	rest, shown := string(example), 0
	for line := range strings.Lines(section) {
		text, indented := strings.CutPrefix(line, "    ")
		if !indented {
			if shown > 0 {
				break
			}
			continue
		}
		shown++
		if _, rest, ok = strings.Cut(rest, text); !ok {
			t.Errorf("examples/nginx/Containerfile lacks, or has in another order: %s", text)
		}
	}
	if shown < 4 {
		t.Errorf("the recipe has %d lines", shown)
	}
}
