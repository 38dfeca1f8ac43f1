package exectest

import (
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/podtest"
)

func TestRootful(t *testing.T) {
	inWorld(t, false, podtest.Overlay, []string{"nginx", "redis", "apache2", "postgresql", "rails"}, func(t *testing.T, w *world) {
		t.Run("without", func(t *testing.T) { testFailures(t, w) })
	})
}

// containerName makes a name of t's.
func containerName(t testing.TB) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, t.Name())
	return strings.Trim(name, "-")
}
