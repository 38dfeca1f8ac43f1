package stale

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/fsat"
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

// A container in a user namespace with a single user, as an ordinary user makes
// one: the same proofs hold, also for whoever is not root in it.
func TestRootless(t *testing.T) {
	nstest.Run(t, nstest.Options{SingleUser: true}, func(t *testing.T) {
		tree := t.TempDir()
		must(t, os.Mkdir(tree+"/srv", 0o755))
		b := box{Root: "tree", Dir: tree}
		first := contain(t, b, 0)
		for name, text := range map[string]string{"self.pid": "{pid}\n", "own.pid": "{record}", "empty.pid": ""} {
			first.must(order{Do: "write", Path: "/srv/" + name, Text: text})
		}
		first.must(order{Do: "bind", Path: "/srv/s", Type: syscall.SOCK_STREAM, Backlog: 1})
		first.kill()
		settle()
		second := contain(t, b, 0)
		for name, p := range map[string]Proof{"self.pid": LeftBehind, "own.pid": OtherRun, "empty.pid": LeftBehind, "s": ConnectRefused} {
			want(t, second.look("/srv/"+name, Guess), Stale, p)
			must(t, second.remove("/srv/"+name))
			if exists(tree + "/srv/" + name) {
				t.Errorf("%s is still there", name)
			}
		}
		if left, err := os.ReadDir(tree + "/srv"); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
}

// Names that are none, what is not there, and kinds that do not fit.
func TestLookRefuses(t *testing.T) {
	dir := t.TempDir()
	j := newJudge(t, Options{})
	must(t, os.WriteFile(dir+"/file", nil, 0o644))
	must(t, os.Symlink("file", dir+"/link.pid"))
	for _, kind := range []Kind{Socket, FIFO, Directory} {
		want(t, look(t, j, dir+"/file", kind), CannotTell, WrongType)
	}
	want(t, look(t, j, dir+"/link.pid", PIDFile), CannotTell, WrongType) // never followed
	want(t, look(t, j, dir+"/link.pid", Guess), CannotTell, WrongType)
	want(t, look(t, j, dir+"/file", Guess), CannotTell, WrongType)
	d, err := fsat.OpenDir(dir)
	must(t, err)
	defer d.Close()
	for _, name := range []string{"", ".", "..", "a/b", "a\x00b"} {
		if f, err := j.Look(t.Context(), d, name, name, Guess); err == nil {
			t.Errorf("%q was looked at: %v", name, f)
		}
	}
	if _, err := j.Look(t.Context(), d, "gone", "gone", Guess); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
	if err := look(t, j, dir+"/file", Guess).Remove(t.Context()); !errors.Is(err, ErrNotStale) {
		t.Errorf("removing what is not stale: %v", err)
	}
	if err := new(Finding).Remove(t.Context()); !errors.Is(err, ErrNotStale) {
		t.Errorf("an empty finding: %v", err)
	}
	p := j.proc
	if _, err := New(t.Context(), Options{Proc: p, Exclusive: []string{dir + "/none"}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an exclusive directory that is not there: %v", err)
	}
	if _, err := New(t.Context(), Options{}); err == nil {
		t.Error("no procfs")
	}
}

// Two containers with one PID namespace: PIDs are common, roots are not, and
// nobody is alone.
func TestSharedPIDNamespace(t *testing.T) {
	inside(t, func(t *testing.T) {
		dir := layers(t)
		first := contain(t, box{Root: "overlay", Dir: layers(t)}, 0)
		first.must(order{Do: "spawn"})
		before := join(t, first, box{Root: "overlay", Dir: dir})
		before.must(order{Do: "write", Path: "/srv/self.pid", Text: "{pid}\n"})
		before.must(order{Do: "write", Path: "/srv/other.pid", Text: "1\n"})
		before.must(order{Do: "mkfifo", Path: "/srv/fifo"})
		want(t, before.look("/srv/self.pid", Guess), Live, ProcessAlive)
		before.kill()
		settle()
		second := join(t, first, box{Root: "overlay", Dir: dir})
		f := second.look("/srv/self.pid", Guess)
		want(t, f, Stale, ProcessGone)
		has(t, f, NotAlone)
		want(t, second.look("/srv/other.pid", Guess), Live, ProcessAlive)
		want(t, second.look("/srv/fifo", Guess), CannotTell, UsedByName)
	})
}

// After a restore from a checkpoint every process is younger than its files.
func TestRestoredFromACheckpoint(t *testing.T) {
	inside(t, func(t *testing.T) {
		dir := layers(t)
		first := contain(t, box{Root: "overlay", Dir: dir}, 0)
		first.must(order{Do: "write", Path: "/srv/self.pid", Text: "{pid}\n"})
		first.must(order{Do: "write", Path: "/srv/own.pid", Text: "{record}"})
		first.must(order{Do: "write", Path: "/srv/gone.pid", Text: "4194000\n"})
		first.must(order{Do: "mkfifo", Path: "/srv/fifo"})
		first.kill()
		settle()
		second := contain(t, box{Root: "overlay", Dir: dir}, 0)
		ask := func(name string) *Finding {
			return second.must(order{Do: "look", Path: "/srv/" + name, Restored: true}).Finding
		}
		want(t, ask("self.pid"), CannotTell, OfThisRun)
		want(t, ask("own.pid"), CannotTell, ClockUnproven)
		want(t, ask("fifo"), CannotTell, OfThisRun)
		want(t, ask("gone.pid"), Stale, ProcessGone)
	})
}
