package stale

import (
	"os"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
)

// inside runs f where containers can be made: root, in namespaces of its own.
func inside(t *testing.T, f func(t *testing.T)) {
	nstest.Run(t, nstest.Options{Real: true}, f)
}

// What a container left on its own root is stale for the next one on the same
// root, also where a number means one of us now: the boot id is the same, the
// start of init is another.
func TestRestartOnTheSameRoot(t *testing.T) {
	inside(t, func(t *testing.T) {
		dir := layers(t)
		b := box{Root: "overlay", Dir: dir}
		first := contain(t, b, 0)
		first.must(order{Do: "mkdir", Path: "/srv/x"})
		first.must(order{Do: "spawn"})
		for name, text := range map[string]string{
			"self.pid": "{pid}\n", "child.pid": "{child}\n", "own.pid": "{record}", "own-child.pid": "{record-child}",
			"empty.pid": "", "garbage.pid": "yes\n", "LCK..ttyS0": "{pid}\n", "app.lock": "",
		} {
			first.must(order{Do: "write", Path: "/srv/x/" + name, Text: text})
		}
		first.must(order{Do: "mkfifo", Path: "/srv/x/fifo"})
		first.must(order{Do: "mkdir", Path: "/srv/x/dir"})
		first.must(order{Do: "bind", Path: "/srv/x/socket", Type: syscall.SOCK_STREAM, Backlog: 5})
		all := map[string]Proof{
			"self.pid": LeftBehind, "child.pid": ProcessGone, "own.pid": OtherRun, "own-child.pid": OtherRun, "empty.pid": LeftBehind,
			"garbage.pid": LeftBehind, "LCK..ttyS0": LeftBehind, "app.lock": LeftBehind, "fifo": LeftBehind, "socket": ConnectRefused, "dir": LeftBehind,
		}
		kind := func(name string) Kind {
			if name == "dir" {
				return Directory
			}
			return Guess
		}
		for name := range all {
			if f := first.look("/srv/x/"+name, kind(name)); f.Verdict == Stale {
				t.Errorf("by the run that made it: %s", f)
			}
		}
		first.kill()
		settle()
		second := contain(t, b, 0)
		second.must(order{Do: "write", Path: "/srv/x/new.pid", Text: "{pid}\n"})
		second.must(order{Do: "mkfifo", Path: "/srv/x/newfifo"})
		for name, p := range all {
			f := second.look("/srv/x/"+name, kind(name))
			want(t, f, Stale, p)
			if err := second.remove("/srv/x/" + name); err != nil {
				t.Error(err)
			}
			if exists(dir + "/upper/srv/x/" + name) {
				t.Errorf("%s is still there", name)
			}
		}
		want(t, second.look("/srv/x/new.pid", Guess), CannotTell, OfThisRun)
		want(t, second.look("/srv/x/newfifo", Guess), CannotTell, OfThisRun)
		if list, err := os.ReadDir(dir + "/upper/srv/x"); err != nil || len(list) != 2 {
			t.Errorf("left: %v, %v", list, err)
		}
	})
}
