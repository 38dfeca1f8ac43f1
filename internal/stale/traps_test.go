package stale

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
)

// A volume that a second, living container uses: its PIDs are no numbers of ours,
// its sockets answer, also from another network namespace, stopped, with a full
// backlog, in a queue. Nothing of it is stale, and nothing is removed.
func TestSharedVolumeWithALiveContainer(t *testing.T) {
	inside(t, func(t *testing.T) {
		vol := t.TempDir()
		binds := map[string]string{"/vol": vol}
		them := contain(t, box{Root: "overlay", Dir: layers(t), Binds: binds}, syscall.CLONE_NEWNET)
		us := contain(t, box{Root: "overlay", Dir: layers(t), Binds: binds}, 0)
		them.must(order{Do: "spawn"})
		for name, text := range map[string]string{"a.pid": "{pid}", "b.pid": "{child}\n", "c.pid": "{record}", "d.pid": "{record-child}", "e.pid": "", "f.pid": "4194000\n"} {
			them.must(order{Do: "write", Path: "/vol/" + name, Text: text})
			if f := us.look("/vol/"+name, Guess); f.Verdict != CannotTell {
				t.Error(f)
			}
			if err := us.remove("/vol/" + name); err == nil || !strings.Contains(err.Error(), ErrNotStale.Error()) {
				t.Errorf("%s: %v", name, err)
			}
		}
		them.must(order{Do: "flock", Path: "/vol/g.pid"})
		if f := us.look("/vol/g.pid", Guess); f.Verdict == Stale {
			t.Error(f)
		}
		them.must(order{Do: "ofd", Path: "/vol/h.pid"})
		want(t, us.look("/vol/h.pid", Guess), Live, LockHeld)
		them.must(order{Do: "bind", Path: "/vol/full", Type: syscall.SOCK_STREAM, Backlog: 1})
		for range 3 {
			them.ask(order{Do: "connect", Path: "/vol/full"})
		}
		them.must(order{Do: "bind", Path: "/vol/bound", Type: syscall.SOCK_SEQPACKET})
		them.must(order{Do: "bind", Path: "/vol/passed", Type: syscall.SOCK_DGRAM})
		them.must(order{Do: "pass", Path: "/vol/passed"})
		must(t, them.cmd.Process.Signal(syscall.SIGSTOP))
		for _, name := range []string{"full", "bound", "passed"} {
			want(t, us.look("/vol/"+name, Guess), Live, SocketBound)
		}
		must(t, them.cmd.Process.Signal(syscall.SIGCONT))
		// What it left when it is gone is proven where the kernel knows.
		them.kill()
		for _, name := range []string{"full", "bound", "passed"} {
			waitOld(t, vol+"/"+name)
			want(t, us.look("/vol/"+name, Guess), Stale, ConnectRefused)
			must(t, us.remove("/vol/"+name))
		}
		want(t, us.look("/vol/a.pid", Guess), CannotTell, ForeignNamespace)
		settle()
		next := contain(t, box{Root: "overlay", Dir: layers(t), Binds: binds}, 0)
		want(t, next.look("/vol/a.pid", Guess, "/vol"), Stale, LeftBehind) // the user vouches
		want(t, next.look("/vol/c.pid", Guess, "/vol"), Stale, OtherRun)
		want(t, next.look("/vol/f.pid", Guess, "/vol"), Stale, ProcessGone)
		want(t, next.look("/vol/e.pid", Guess, "/vol"), Stale, LeftBehind)
	})
}

// A new PID namespace with a procfs of its own is no container: the root is the
// machine's, or another container's.
func TestCopiedMountNamespaceIsNoContainer(t *testing.T) {
	inside(t, func(t *testing.T) {
		vol := t.TempDir()
		must(t, os.WriteFile(vol+"/gone.pid", []byte("4194000\n"), 0o644))
		settle()
		for name, c := range map[string]struct {
			b     box
			proof Proof
		}{
			"unshare -mpf --mount-proc":      {box{}, NotContainerRoot},
			"the same with /proc as was":     {box{NoProc: true}, Hidden},
			"an overlay over a second /proc": {box{Root: "overlay", Dir: layers(t), Under: true}, NotContainerRoot},
		} {
			t.Run(name, func(t *testing.T) {
				if c.b.Root == "" { // a path on the mount of "/", which is read-only here
					a := contain(t, c.b, 0)
					f, err := a.ask(order{Do: "look", Path: "/etc/hostname", Kind: PIDFile})
					if err == nil {
						want(t, f.Finding, CannotTell, UsedByName)
						has(t, f.Finding, c.proof)
					} else if c.proof != Hidden { // a foreign /proc/self is nobody
						t.Error(err)
					}
					return
				}
				a := contain(t, c.b, 0)
				f := a.look("/etc/hostname", PIDFile)
				has(t, f, c.proof)
				if f.Verdict == Stale {
					t.Error(f)
				}
			})
		}
	})
}

// has asks for a piece of evidence anywhere.
func has(t testing.TB, f *Finding, p Proof) {
	t.Helper()
	for _, e := range f.Evidence {
		if e.Proof == p {
			return
		}
	}
	t.Errorf("no evidence %q in %s\n%+v", p, f, f.Evidence)
}

// Runtimes with other storage than overlayfs mount a directory as "/".
func TestTreeAsRoot(t *testing.T) {
	inside(t, func(t *testing.T) {
		tree := t.TempDir()
		must(t, os.Mkdir(tree+"/srv", 0o755))
		b := box{Root: "tree", Dir: tree}
		first := contain(t, b, 0)
		first.must(order{Do: "write", Path: "/srv/a.pid", Text: "{pid}\n"})
		first.kill()
		settle()
		second := contain(t, b, 0)
		f := second.look("/srv/a.pid", Guess)
		want(t, f, Stale, LeftBehind)
		has(t, f, ContainerRoot)
	})
}

// PID reuse for real: the number of a dead child is given to another process.
func TestReusedNumber(t *testing.T) {
	inside(t, func(t *testing.T) {
		a := contain(t, box{Root: "overlay", Dir: layers(t)}, 0)
		a.must(order{Do: "spawn"})
		for name, text := range map[string]string{"bare.pid": "{child}\n", "own.pid": "{record-child}"} {
			a.must(order{Do: "write", Path: "/srv/" + name, Text: text})
			want(t, a.look("/srv/"+name, Guess), Live, ProcessAlive)
		}
		a.must(order{Do: "reap"})
		for _, name := range []string{"bare.pid", "own.pid"} {
			want(t, a.look("/srv/"+name, Guess), Stale, ProcessGone)
		}
		root := fmt.Sprintf("/proc/%d/root", a.cmd.Process.Pid)
		waitOld(t, root+"/srv/own.pid")
		time.Sleep(time.Duration(startMargin)) // the time that a process must be younger
		a.must(order{Do: "respawn"})
		want(t, a.look("/srv/own.pid", Guess), Stale, StartTime)
		// A bare number needs the clock to be vouched for.
		want(t, a.look("/srv/bare.pid", Guess), CannotTell, ClockUnproven)
		stamp := a.must(order{Do: "stamp"}).Stamp
		ask := func(s testStamp) *Finding {
			return a.must(order{Do: "look", Path: "/srv/bare.pid", Stamp: &s.Stamp}).Finding
		}
		want(t, ask(*stamp), Stale, StartTime)
		stepped := *stamp
		stepped.Offset -= 3e9
		want(t, ask(stepped), CannotTell, ClockUnproven) // the clock was set since
		late := *stamp
		late.Made = stamp.Now
		want(t, ask(late), CannotTell, ClockUnproven) // made when the process was there
		other := *stamp
		other.InitStart++
		want(t, ask(other), CannotTell, ClockUnproven) // of another run
	})
}

// Whoever has inherited a lock holds it, though who took it has ended and
// /proc/locks does not show it in a PID namespace.
func TestInheritedLock(t *testing.T) {
	inside(t, func(t *testing.T) {
		dir := t.TempDir()
		must(t, os.WriteFile(dir+"/x.pid", []byte("4194000\n"), 0o644))
		cmd := exec.Command("sh", "-c", "exec 9<x.pid; flock 9 && echo locked && read x")
		cmd.Dir = dir
		in, err := cmd.StdinPipe()
		must(t, err)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		if n, err := out.Read(make([]byte, 16)); n == 0 {
			t.Fatal(err)
		}
		j := newJudge(t, Options{Exclusive: []string{dir}})
		want(t, look(t, j, dir+"/x.pid", Guess), Live, LockHeld)
		in.Close()
		cmd.Wait()
		f := look(t, j, dir+"/x.pid", Guess)
		want(t, f, Stale, ProcessGone)
		// A lock that comes after the look is seen in the act.
		fd, err := syscall.Open(dir+"/x.pid", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		must(t, err)
		must(t, linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB))
		if err := f.Remove(context.Background()); !errors.Is(err, ErrChanged) || !exists(dir+"/x.pid") {
			t.Errorf("a locked one: %v", err)
		}
		syscall.Close(fd)
		must(t, f.Remove(context.Background()))
	})
}

// Remove refuses what is not any more what was found.
func TestRemoveLooksAgain(t *testing.T) {
	inside(t, func(t *testing.T) {
		dir := t.TempDir()
		j := newJudge(t, Options{Exclusive: []string{dir}})
		for name, change := range map[string]func(path string){
			"gone":         func(p string) { must(t, os.Remove(p)) },
			"another":      func(p string) { must(t, os.Remove(p)); must(t, os.WriteFile(p, []byte("4194000\n"), 0o644)) },
			"a directory":  func(p string) { must(t, os.Remove(p)); must(t, os.Mkdir(p, 0o755)) },
			"a link":       func(p string) { must(t, os.Remove(p)); must(t, os.Symlink("other", p)) },
			"alive":        func(p string) { must(t, os.WriteFile(p, fmt.Appendf(nil, "%d", os.Getpid()), 0o644)) },
			"being filled": func(p string) { must(t, os.WriteFile(p, nil, 0o644)) },
		} {
			path := dir + "/" + strings.ReplaceAll(name, " ", "-") + ".pid"
			must(t, os.WriteFile(path, []byte("4194000\n"), 0o644))
			f := look(t, j, path, Guess)
			want(t, f, Stale, ProcessGone)
			change(path)
			before, _ := os.Lstat(path)
			if err := f.Remove(context.Background()); !errors.Is(err, ErrChanged) {
				t.Errorf("%s: %v, want ErrChanged", name, err)
			}
			if after, _ := os.Lstat(path); before != nil && (after == nil || !os.SameFile(before, after)) {
				t.Errorf("%s: removed", name)
			}
		}
		if left, _ := os.ReadDir(dir); len(left) != 5 {
			t.Errorf("left: %v", left)
		}
	})
}

// A full file system, open to others and not, and a read-only one.
func TestRemoveInBadPlaces(t *testing.T) {
	inside(t, func(t *testing.T) {
		dir := t.TempDir()
		must(t, linux.Mount("x", dir, "tmpfs", 0, "nr_inodes=3,mode=755"))
		for _, n := range []string{"/a.pid", "/b.pid"} {
			must(t, os.WriteFile(dir+n, []byte("4194000\n"), 0o644))
		}
		j := newJudge(t, Options{Exclusive: []string{dir}})
		a := look(t, j, dir+"/a.pid", Guess)
		if err := os.Mkdir(dir+"/more", 0o755); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("not full: %v", err)
		}
		must(t, os.Chmod(dir, 0o777))
		if err := a.Remove(context.Background()); !errors.Is(err, syscall.ENOSPC) || !exists(dir+"/a.pid") {
			t.Errorf("full and open to others: %v, want ENOSPC", err)
		}
		must(t, os.Chmod(dir, 0o755))
		must(t, a.Remove(context.Background()))
		if exists(dir + "/a.pid") {
			t.Error("still there")
		}
		must(t, linux.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		b := look(t, j, dir+"/b.pid", Guess)
		want(t, b, Stale, ProcessGone)
		if err := b.Remove(context.Background()); !errors.Is(err, syscall.EROFS) || !exists(dir+"/b.pid") {
			t.Errorf("read-only: %v, want EROFS", err)
		}
		must(t, linux.Unmount(dir, syscall.MNT_DETACH))
	})
}

// Without write permission a socket cannot be probed; sock_diag proves some alive.
func TestNoPermission(t *testing.T) {
	inside(t, func(t *testing.T) {
		dir := t.TempDir()
		must(t, os.Chmod(dir, 0o755))
		must(t, os.Chmod(dir+"/..", 0o755))
		orphan(t, dir+"/orphan")
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		must(t, err)
		defer syscall.Close(fd)
		must(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: dir + "/live"}))
		must(t, os.WriteFile(dir+"/x.pid", []byte("4194000\n"), 0o600))
		for _, n := range []string{"orphan", "live"} {
			must(t, os.Chmod(dir+"/"+n, 0o755))
		}
		waitOld(t, dir+"/orphan")
		cmd := startAs(t, 65534)
		want(t, cmd.look(dir+"/live", Guess), Live, SocketBound)
		want(t, cmd.look(dir+"/orphan", Guess), CannotTell, NoPermission)
		want(t, cmd.look(dir+"/x.pid", Guess), CannotTell, NoPermission)
	})
}

// From another machine's file system nothing is proven; only the list of local
// types counts as ours.
func TestNetworkFileSystem(t *testing.T) {
	dir := t.TempDir()
	orphan(t, dir+"/s")
	must(t, os.WriteFile(dir+"/x.pid", []byte("4194000\n"), 0o644))
	waitOld(t, dir+"/s")
	j := newJudge(t, Options{})
	d, err := fsat.OpenDir(dir)
	must(t, err)
	defer d.Close()
	for _, name := range []string{"s", "x.pid"} {
		n, err := d.OpenNode(name)
		must(t, err)
		defer n.Close()
		o := &object{node: n, dir: d, name: name}
		must(t, n.Stat(&o.st))
		o.ground, err = j.groundOf(context.Background(), o)
		must(t, err)
		other := *o.ground.mount
		for _, fstype := range []string{"nfs4", "cifs", "9p", "virtiofs", "fuse.sshfs", "fuse", "ceph", "gfs2", "ocfs2", "lustre", "afs", "vboxsf", "something-new"} {
			if mounts.Local(fstype) {
				t.Errorf("%s counts as local", fstype)
			}
			other.FSType = fstype
			o.ground = &ground{mount: &other, table: o.ground.table, dir: dir, notOurs: "it lies on a " + fstype}
			f := &Finding{Path: name, judge: j}
			if name == "s" {
				must(t, j.socket(context.Background(), f, o))
			} else {
				must(t, j.file(context.Background(), f, o))
			}
			want(t, f, CannotTell, NetworkFS)
		}
		// In a chroot the table does not show the mount.
		o.ground = &ground{table: o.ground.table, dir: dir, notOurs: "the mount table does not show it"}
		f := &Finding{Path: name, judge: j}
		if name == "s" {
			must(t, j.socket(context.Background(), f, o))
		} else {
			must(t, j.file(context.Background(), f, o))
		}
		want(t, f, CannotTell, UnknownMount)
	}
}

// Without descriptors nothing can be seen, and what cannot be seen is not stale: a
// FIFO of the run before that this run has opened, a socket, a PID file.
func TestNoDescriptorsLeft(t *testing.T) {
	inside(t, func(t *testing.T) {
		dir := layers(t)
		b := box{Root: "overlay", Dir: dir}
		first := contain(t, b, 0)
		first.must(order{Do: "mkfifo", Path: "/srv/fifo"})
		first.must(order{Do: "write", Path: "/srv/x.pid", Text: "{pid}\n"})
		first.kill()
		settle()
		a := contain(t, b, 0)
		a.must(order{Do: "open", Path: "/srv/fifo", Type: syscall.O_RDWR})
		a.must(order{Do: "bind", Path: "/srv/s", Type: syscall.SOCK_STREAM, Backlog: 1})
		a.must(order{Do: "flock", Path: "/srv/x.pid"})
		used := []string{"fifo", "s", "x.pid"}
		for _, name := range used {
			if f := a.look("/srv/"+name, Guess); f.Verdict != Live {
				t.Errorf("with descriptors: %s", f)
			}
		}
		failed, told := 0, 0
		for more := range 12 {
			for _, name := range used {
				a.must(order{Do: "limit", Backlog: more})
				r, err := a.ask(order{Do: "look", Path: "/srv/" + name, Newborn: true})
				a.must(order{Do: "unlimit"})
				switch {
				case err != nil:
					failed++
				case r.Finding.Verdict == Stale:
					t.Errorf("with %d more: %s", more, r.Finding)
				default:
					told++
				}
			}
		}
		if failed == 0 || told == 0 {
			t.Errorf("%d failed, %d were told: the limit limits nothing, or all", failed, told)
		}
	})
}

// A process may call itself anything; what is told of it can be printed.
func TestHostileNames(t *testing.T) {
	inside(t, func(t *testing.T) {
		a := contain(t, box{Root: "overlay", Dir: layers(t)}, 0)
		a.must(order{Do: "name", Text: ") Z\x1b[2J\n\xff("})
		a.must(order{Do: "write", Path: "/srv/a\nb.pid", Text: "{pid}\n"})
		f := a.look("/srv/a\nb.pid", Guess)
		want(t, f, CannotTell, OfThisRun)
		for _, e := range f.Evidence {
			if !utf8.ValidString(e.Text) || strings.ContainsAny(e.Text, "\x1b\n") {
				t.Errorf("%q", e.Text)
			}
		}
	})
}
