package exectest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A recipe is the part of a Containerfile that says what a container runs.
type recipe struct {
	entrypoint, cmd []string
	from            []string // images, in FROM lines and COPY --from
}

// readRecipe reads the Containerfile of an example. Instructions are one line each.
func readRecipe(name string) (recipe, error) {
	var r recipe
	root, err := os.OpenRoot(filepath.Join("..", "..", "examples", name))
	if err != nil {
		return r, err
	}
	defer root.Close()
	text, err := root.ReadFile("Containerfile")
	if err != nil {
		return r, err
	}
	for i, line := range strings.Split(string(text), "\n") {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "FROM":
			r.from = append(r.from, rest)
		case "COPY":
			if image, ok := strings.CutPrefix(strings.Fields(rest)[0], "--from="); ok {
				r.from = append(r.from, image)
			}
		case "ENTRYPOINT":
			err = json.Unmarshal([]byte(rest), &r.entrypoint)
		case "CMD":
			err = json.Unmarshal([]byte(rest), &r.cmd)
		case "", "#", "RUN", "WORKDIR", "ENV", "STOPSIGNAL":
		default:
			err = fmt.Errorf("an instruction that this test does not know: %s", word)
		}
		if err != nil {
			return r, fmt.Errorf("examples/%s/Containerfile:%d: %w", name, i+1, err)
		}
	}
	return r, nil
}

// command is the CMD of an example, or a shell with the script, in which the CMD takes
// the place of COMMAND.
func command(t testing.TB, name, script string) []string {
	t.Helper()
	r, err := readRecipe(name)
	if err != nil {
		t.Fatal(err)
	}
	if script == "" {
		return r.cmd
	}
	var words []string
	for _, word := range r.cmd {
		words = append(words, "'"+strings.ReplaceAll(word, "'", `'\''`)+"'")
	}
	return []string{"sh", "-c", strings.ReplaceAll(script, "COMMAND", strings.Join(words, " "))}
}

// What the examples' directory has is what the tests run and what its README tells.
func TestExamples(t *testing.T) {
	entries, err := os.ReadDir("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../examples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && e.Name() != "scripts" { // those are test/shelltest's
			names = append(names, e.Name())
		}
	}
	if !slices.Equal(names, all) {
		t.Errorf("the examples are %q, and the tests run %q", names, all)
	}
	for _, name := range names {
		r, err := readRecipe(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if len(r.entrypoint) < 3 || !slices.Equal(r.entrypoint[:2], []string{"/slashrun", "exec"}) || r.entrypoint[len(r.entrypoint)-1] != "--" {
			t.Errorf("%s: the entry point is %q", name, r.entrypoint)
		}
		for _, word := range append(slices.Clone(r.entrypoint), "["+name+"]("+name+")") {
			if strings.HasPrefix(word, "--") && len(word) > 2 || word[0] == '[' {
				if !strings.Contains(string(readme), word) {
					t.Errorf("README.md does not tell of %s, which %s has", word, name)
				}
			}
		}
		if len(r.cmd) == 0 || !slices.Equal(r.from[1:], []string{"localhost/slashrun"}) {
			t.Errorf("%s: CMD is %q, and images are from %q", name, r.cmd, r.from)
		}
	}
	for line := range strings.Lines(string(readme)) {
		if row, ok := strings.CutPrefix(line, "| ["); ok {
			name, _, _ := strings.Cut(row, "]")
			cells := strings.Split(row, "|")
			quote := strings.Split(cells[len(cells)-2], "`")[1]
			if !slices.ContainsFunc(failures, func(f failure) bool { return f.service == name && strings.Contains(f.says, quote) }) {
				t.Errorf("README.md quotes %q of %s, and no test has seen that", quote, name)
			}
		}
	}
}

// checkImage holds that podman understood the Containerfile as readRecipe does.
func (w *world) checkImage(t testing.TB, name string) {
	t.Helper()
	want, err := readRecipe(name)
	if err != nil {
		t.Fatal(err)
	}
	r := w.Podman.Podman(t, "image", "inspect", "--format={{json .Config}}", "localhost/example-"+name)
	var got struct{ Entrypoint, Cmd []string }
	if err := json.Unmarshal([]byte(r.Stdout), &got); err != nil {
		t.Fatalf("%v: %v", err, r)
	}
	if !slices.Equal(got.Entrypoint, want.entrypoint) || !slices.Equal(got.Cmd, want.cmd) {
		t.Errorf("the image of %s runs %q %q, and its Containerfile says %q %q", name, got.Entrypoint, got.Cmd, want.entrypoint, want.cmd)
	}
}
