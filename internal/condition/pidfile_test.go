package condition

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
	"github.com/slashrun/slashrun/pidfile"
)

// sleeper is a process that ends when it is told.
func sleeper(t testing.TB) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// A daemon's life as its PID file shows it, in another PID namespace than the
// machine's too: what is ours to judge there the user says.
func TestPIDFile(t *testing.T) {
	for _, p := range []seccomptest.Profile{seccomptest.None, seccomptest.EPERM, seccomptest.OldENOSYS} {
		t.Run(p.String(), func(t *testing.T) {
			seccomptest.Run(t, p, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "food.pid")
				says(t, "pidfile:"+path, false, "there is no "+path)
				r := begin(t, forever(Options{}), "pidfile:"+path)
				r.idle()
				f, err := os.Create(path) // half-made
				must(t, err)
				r.idle()
				says(t, "pidfile:"+path, false, "empty")
				dead := exec.Command("true")
				must(t, dead.Run())
				f.WriteString(itoa(dead.Process.Pid) + "\n") // it has ended
				r.polls(2)
				says(t, "pidfile:"+path, false, itoa(dead.Process.Pid))
				must(t, f.Close())
				live := sleeper(t)
				must(t, os.Remove(path)) // a bare number of nobody knows which PID namespace
				must(t, pidfile.WriteFor(path, live.Process.Pid))
				if got := r.holds().Conditions[0]; !strings.Contains(got.Why, itoa(live.Process.Pid)) {
					t.Errorf("%+v", got)
				}

				// It holds at first; then the process dies, while something else is
				// waited for.
				other := filepath.Join(filepath.Dir(path), "other")
				r = begin(t, forever(Options{}), "pidfile:"+path, "path:"+other)
				r.idle()
				live.Process.Kill()
				live.Wait()
				if seccomptest.Current() == seccomptest.None { // there are pidfds: it is told
					r.polls(2)
				}
				mkdirs(t, other)
				r.polls(2)
				next := sleeper(t)
				must(t, pidfile.WriteFor(path, next.Process.Pid))
				r.holds()
			})
		})
	}
}

// On a tmpfs in a container a bare number may be of anybody's PID namespace, unless
// the user knows better.
func TestBareNumberInAContainer(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		path := "/run/food.pid"
		live := sleeper(t)
		must(t, os.WriteFile(path, []byte(itoa(live.Process.Pid)+"\n"), 0o644))
		c, err := Parse("pidfile:" + path)
		must(t, err)
		for _, exclusive := range [][]string{nil, {"/run"}} {
			rep, err := Wait(t.Context(), []Condition{c}, Options{Timeout: 0, Exclusive: exclusive})
			if err != nil || rep.Met != (exclusive != nil) {
				t.Errorf("exclusive %q: %+v, %v", exclusive, rep, err)
			}
		}
		live.Process.Kill()
		live.Wait()
		rep, err := Wait(t.Context(), []Condition{c}, Options{Timeout: 0, Exclusive: []string{"/run"}})
		if err != nil || rep.Met || !strings.Contains(rep.Conditions[0].Why, "is gone") {
			t.Errorf("%+v, %v", rep, err)
		}
	})
}

// A number without a newline may be the beginning of another number: it counts once
// it has stayed as it is.
func TestPIDFileHalfWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "food.pid")
	live := &pidfile.Status{Path: path, Verdict: pidfile.Live, Proven: true, Here: os.Getpid()}
	c := &waiting{}
	complete := func(want bool) {
		t.Helper()
		l := &look{c: c, f: finding{pidfd: -1}}
		l.complete(path, live)
		if l.f.holds != want || !want && !strings.Contains(l.f.why, "no newline behind it") {
			t.Errorf("%+v", l.f)
		}
	}
	for _, text := range []string{"1", "12", "1234"} {
		must(t, os.WriteFile(path, []byte(text), 0o644))
		complete(false)
		complete(false)
	}
	c.unfinished.since = c.unfinished.since.Add(-whole) // as if that time had gone by
	complete(true)
	must(t, os.WriteFile(path+".new", []byte("1234"), 0o644))
	must(t, os.Rename(path+".new", path)) // another file
	complete(false)
	must(t, os.WriteFile(path, []byte("1234\n"), 0o644))
	complete(true)

	must(t, os.WriteFile(path, nil, 0o644))
	must(t, os.Symlink("food.pid", path+".link"))
	says(t, "pidfile:"+path+".link", false, "a link is no pidfile")
}

// The directory of a user, made step by step as logind and su make it.
func TestUser(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		const dir = "/run/user/65534"
		for _, name := range []string{"65534", "nobody"} {
			says(t, "user:"+name, false, "no such directory: /run/user")
		}
		r := begin(t, forever(Options{}), "user:nobody", "user:65534")
		r.idle()
		mkdirs(t, dir)
		r.idle()
		says(t, "user:nobody", false, dir+" belongs to user 0, not 65534")
		must(t, os.Chown(dir, 65534, 65534))
		r.idle()
		says(t, "user:nobody", false, dir+" has mode 0755, not 0700")
		must(t, os.Chmod(dir, 0o700))
		r.holds()
		must(t, os.RemoveAll("/run/user"))

		mkdirs(t, dir) // and a tmpfs on it
		must(t, os.Chmod(dir, 0o700))
		r = begin(t, forever(Options{}), "user:nobody")
		r.idle()
		must(t, syscall.Mount("none", dir, "tmpfs", 0, "mode=700,uid=65534"))
		r.holds()
	})
}

// A user who is not known yet is asked for again.
func TestUserUnknown(t *testing.T) {
	nstest.Run(t, nstest.Options{Root: nstest.RootEmpty}, func(t *testing.T) {
		const before = "root:x:0:0::/:\n"
		must(t, os.WriteFile("/etc/passwd", []byte(before), 0o644))
		says(t, "user:app", false, "there is no user of that name")
		r := begin(t, forever(Options{}), "user:app")
		r.polls(3)
		mkdirs(t, "/run/user/0")
		must(t, os.Chmod("/run/user/0", 0o700))
		must(t, os.WriteFile("/etc/passwd.new", []byte(before+"app:x:0:0::/:\n"), 0o644))
		must(t, os.Rename("/etc/passwd.new", "/etc/passwd"))
		r.holds()
	})
}
