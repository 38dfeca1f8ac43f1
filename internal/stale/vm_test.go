package stale

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/testenv"
	"github.com/slashrun/slashrun/internal/vmtest"
)

// step sets the clock.
func step(t testing.TB, d time.Duration) {
	t.Helper()
	tv := syscall.NsecToTimeval(time.Now().Add(d).UnixNano())
	must(t, syscall.Settimeofday(&tv))
}

// The clock of a machine is set, forward as by NTP on a board without a clock of
// its own, and back: what is alive never looks stale by its times. This takes the
// initial namespaces and a clock of one's own.
func TestClockIsSet(t *testing.T) {
	if !vmtest.Inside() {
		testenv.Need(t, testenv.Root) // it needs none: one pass of the two is enough for a boot
	}
	vmtest.Run(t, vmtest.Options{Kernel: vmtest.Trixie}, func(t *testing.T) {
		t.Run("early daemon", func(t *testing.T) {
			a := start(t, 0)
			must(t, os.WriteFile("/run/early.pid", fmt.Appendf(nil, "%d\n", a.cmd.Process.Pid), 0o644))
			want(t, look(t, newJudge(t, Options{}), "/run/early.pid", Guess), Live, ProcessAlive)
			step(t, 24*time.Hour)
			want(t, look(t, newJudge(t, Options{}), "/run/early.pid", Guess), CannotTell, ClockUnproven)
			// A stamp that is made now knows nothing of before.
			want(t, look(t, newJudge(t, Options{Stamp: stampOfNow(t)}), "/run/early.pid", Guess), CannotTell, ClockUnproven)
			step(t, -48*time.Hour)
			want(t, look(t, newJudge(t, Options{}), "/run/early.pid", Guess), CannotTell, ClockUnproven)
			step(t, 24*time.Hour)
			want(t, look(t, newJudge(t, Options{}), "/run/early.pid", Guess), Live, ProcessAlive)
			a.kill()
			want(t, look(t, newJudge(t, Options{}), "/run/early.pid", Guess), Stale, ProcessGone)
		})
		t.Run("reused number", func(t *testing.T) {
			a := start(t, 0)
			stamp := stampOfNow(t)
			time.Sleep(2 * time.Duration(startMargin)) // so that what comes is younger than the stamp
			a.must(order{Do: "spawn"})
			a.must(order{Do: "write", Path: "/run/reused.pid", Text: "{child}\n"})
			a.must(order{Do: "reap"})
			time.Sleep(2 * time.Duration(startMargin))
			a.must(order{Do: "respawn"})
			want(t, look(t, newJudge(t, Options{}), "/run/reused.pid", Guess), CannotTell, ClockUnproven)
			want(t, look(t, newJudge(t, Options{Stamp: stamp}), "/run/reused.pid", Guess), Stale, StartTime)
			step(t, 10*time.Second)
			want(t, look(t, newJudge(t, Options{Stamp: stamp}), "/run/reused.pid", Guess), CannotTell, ClockUnproven)
			step(t, -10*time.Second)
		})
		t.Run("container", func(t *testing.T) {
			must(t, os.MkdirAll("/run/tree/srv", 0o755))
			b := box{Root: "tree", Dir: "/run/tree", Chroot: true}
			first := contain(t, b, 0)
			first.must(order{Do: "mkfifo", Path: "/srv/old"})
			first.kill()
			settle()
			second := contain(t, b, 0)
			second.must(order{Do: "mkfifo", Path: "/srv/new"})
			second.must(order{Do: "write", Path: "/srv/new.pid", Text: "{pid}\n"})
			want(t, second.look("/srv/old", Guess), Stale, LeftBehind)
			for _, d := range []time.Duration{time.Hour, -2 * time.Hour} {
				step(t, d)
				for _, name := range []string{"new", "new.pid", "old"} {
					want(t, second.look("/srv/"+name, Guess), CannotTell, OfThisRun)
				}
			}
		})
	})
}

// stampOfNow is a boot stamp as it would be made now.
func stampOfNow(t testing.TB) *Stamp {
	t.Helper()
	p, err := process.Open()
	must(t, err)
	defer p.Close()
	id, err := p.Identity()
	must(t, err)
	return &Stamp{Identity: id, Made: time.Now().UnixNano()}
}
