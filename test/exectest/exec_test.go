package exectest

import (
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/podtest"
)

// The images that the scenes of a test need are built in it once.
func TestRootful(t *testing.T) {
	inWorld(t, false, podtest.Overlay, all, func(t *testing.T, w *world) {
		t.Run("README", func(t *testing.T) { testReadme(t, w) })
		t.Run("without", func(t *testing.T) { testFailures(t, w) })
		t.Run("with", func(t *testing.T) { runScenes(t, w, false) })
		t.Run("stop", func(t *testing.T) { testStop(t, w) })
		t.Run("beside", func(t *testing.T) { testNeighbours(t, w) })
	})
}

func TestRootless(t *testing.T) {
	inWorld(t, true, podtest.Overlay, all, func(t *testing.T, w *world) {
		t.Run("with", func(t *testing.T) { runScenes(t, w, true) })
	})
}

// testStop holds that the services get the signal of podman stop, as PID 1 or below
// slashrun, and end as they do for it: with status 0, and long before podman kills.
func testStop(t *testing.T, w *world) {
	for _, name := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := w.Create(t, containerName(t), "localhost/example-"+name)
			for range 2 { // what a stop leaves is no hindrance either
				r := c.Start(t)
				services[name].ready(t, r)
				if stopped := w.Podman.Podman(t, "stop", "--time=60", c.Name); stopped.Status != 0 {
					t.Fatal(stopped)
				}
				if status := r.Wait(t); status != 0 {
					t.Errorf("status %d:\n%s", status, r.Output())
				}
			}
		})
	}
}

// Where containers are copies of the image (the driver vfs), the root is no overlay; and
// this image has nothing but two programs.
func TestCopiedRoot(t *testing.T) {
	for name, rootless := range map[string]bool{"rootful": false, "rootless": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, rootless, podtest.VFS, []string{"rails"}, func(t *testing.T, w *world) {
				scene{name: "copied root"}.run(t, w, "rails")
			})
		})
	}
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
