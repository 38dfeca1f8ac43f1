package exectest

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/podtest"
)

// A thing of the neighbour, with what makes it that very thing.
type thing struct {
	path string
	ino  uint64
	text string // of a file
}

// look finds the thing called path, which has to be there.
func look(t testing.TB, path string) thing {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	th := thing{path: path, ino: st.Ino}
	if st.Mode&syscall.S_IFMT == syscall.S_IFREG {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		th.text = string(text)
	}
	return th
}

// testNeighbours has two containers on one volume. What the living one has there is
// not touched by the starts of the other, which are killed as in the other scenes.
func testNeighbours(t *testing.T, w *world) {
	t.Run("volume", func(t *testing.T) {
		t.Parallel()
		dir := w.emptyDir(t)
		nginx := startNginx(t, w, "--volume="+dir+":/run/nginx")
		things := nginxThings(t, dir)
		lock, err := os.OpenFile(dir+"/lock", os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		things = append(things, look(t, dir+"/lock"))

		// Each start is told to look at everything there.
		c := w.Create(t, containerName(t), "--volume="+dir+":/run/nginx", "--env=SLASHRUN_EXEC_STALE=/run/nginx/*", "localhost/example-redis")
		for range restarts + 1 {
			beside(t, c, services["redis"], nginx, things)
		}
	})

	// podman exec, with the entry point again: everything here belongs to a living
	// process, though the root is the container's own.
	t.Run("in the container", func(t *testing.T) {
		t.Parallel()
		nginx := startNginx(t, w)
		things := nginxThings(t, fmt.Sprintf("/proc/%d/root/run/nginx", nginx.PID))
		for range 3 {
			r := w.Podman.Podman(t, "exec", "--env=SLASHRUN_EXEC_STALE=/run/nginx/*", containerName(t)+"-nginx",
				"/slashrun", "exec", "--verbose", "--", "nginx", "-v")
			if r.Status != 0 || !strings.Contains(r.Stderr, "nginx version") {
				t.Error(r)
			}
			untouched(t, services["nginx"], nginx, things)
			if t.Failed() {
				t.Fatal(r.Stderr)
			}
		}
	})

	// A second application on the volume of the first: its PID file says 1, which is the
	// second itself, and it has to stay all the same. So rails refuses to start.
	t.Run("same PID file", func(t *testing.T) {
		t.Parallel()
		dir := w.emptyDir(t)
		first := w.Create(t, containerName(t)+"-first", "--volume="+dir+":/app/tmp/pids", "localhost/example-rails").Start(t)
		services["rails"].ready(t, first)
		things := []thing{look(t, dir+"/server.pid")}
		second := w.Create(t, containerName(t), "--volume="+dir+":/app/tmp/pids", "localhost/example-rails")
		for range 3 {
			r := second.Start(t)
			r.Wait(t)
			if !strings.Contains(r.Output(), "A server is already running") {
				t.Errorf("the second one did not refuse:\n%s", r.Output())
			}
			// Nobody should have to guess what slashrun saw.
			if hint := "--exclusive /app/tmp/pids"; !strings.Contains(r.Output(), hint) {
				t.Errorf("the output does not have %q:\n%s", hint, r.Output())
			}
			untouched(t, services["rails"], first, things)
		}
		first.Kill(t)
	})
}

func startNginx(t *testing.T, w *world, options ...string) *podtest.Running {
	t.Helper()
	r := w.Create(t, containerName(t)+"-nginx", append(options, "localhost/example-nginx")...).Start(t)
	services["nginx"].ready(t, r)
	t.Cleanup(func() { r.Kill(t) })
	return r
}

// nginxThings are what nginx has in dir.
func nginxThings(t testing.TB, dir string) (things []thing) {
	t.Helper()
	for _, name := range []string{"nginx.pid", "http.sock", "body", "proxy"} {
		things = append(things, look(t, dir+"/"+name))
	}
	return things
}

// beside starts c once, plants its leftovers and kills it, and looks at what the
// neighbour has in between.
func beside(t *testing.T, c *podtest.Container, s service, neighbour *podtest.Running, things []thing) {
	t.Helper()
	r := c.Start(t)
	s.ready(t, r)
	untouched(t, services["nginx"], neighbour, things)
	v := newVandal(r)
	s.plant(v)
	v.check(t)
	r.Kill(t)
	if t.Failed() {
		t.Fatal(r.Output())
	}
}

// untouched holds that the neighbour answers and has its things.
func untouched(t testing.TB, s service, neighbour *podtest.Running, things []thing) {
	t.Helper()
	if err := s.ask(t.Context(), neighbour); err != nil {
		t.Errorf("the neighbour does not answer: %v", err)
	}
	for _, before := range things {
		if now := look(t, before.path); now != before {
			t.Errorf("%s was %v, and is %v", before.path, fmt.Sprint(before), fmt.Sprint(now))
		}
	}
}
