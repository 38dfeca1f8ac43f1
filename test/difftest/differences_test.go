package difftest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/slashrun/slashrun/internal/testenv"
)

// differences are the accepted ones, by the id under which
// docs/tmpfiles-differences.md says why. A predicate looks at the case and both
// results and is as narrow as it can be; what it does not know is a bug of ours.
var differences = map[string]func(c *Case, want, got []Step) bool{}

// accepted returns the id of the accepted difference that explains the case.
func accepted(c *Case, want, got []Step) string {
	for id, is := range differences {
		if is(c, want, got) {
			return id
		}
	}
	return ""
}

func TestEveryDifferenceHasItsReason(t *testing.T) {
	root, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", "tmpfiles-differences.md"))
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^## ([a-z0-9-]+)$`).FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, m[1])
		if differences[m[1]] == nil {
			t.Errorf("%s is in docs/tmpfiles-differences.md and has no predicate here", m[1])
		}
	}
	for id := range differences {
		if !slices.Contains(documented, id) {
			t.Errorf("%s has a predicate and no section in docs/tmpfiles-differences.md", id)
		}
	}
}

// differingCases are the named cases in which ours differs, by the id of the
// difference: where the reference is not there, no predicate can look at it.
var differingCases = map[string]string{}

func acceptedAlone(name string) string { return differingCases[name] }
