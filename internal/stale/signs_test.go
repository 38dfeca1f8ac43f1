package stale

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// Mount tables of containers, and of what looks like one.
func TestSignsOfAMachine(t *testing.T) {
	const (
		docker = `1053 937 0:63 / / rw,relatime master:412 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A:/var/lib/docker/overlay2/l/B,upperdir=/var/lib/docker/overlay2/abc/diff,workdir=/var/lib/docker/overlay2/abc/work
1054 1053 0:66 / /proc rw,nosuid - proc proc rw
1055 1053 0:67 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
1056 1055 0:68 / /dev/pts rw,nosuid - devpts devpts rw,gid=5
1057 1053 0:69 / /sys ro,nosuid - sysfs sysfs ro
1058 1057 0:30 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw
1059 1055 0:65 / /dev/mqueue rw - mqueue mqueue rw
1060 1053 254:1 /var/lib/docker/containers/abc/hosts /etc/hosts rw - ext4 /dev/vda1 rw
1061 1054 0:66 /bus /proc/bus ro - proc proc rw
1062 1054 0:67 /null /proc/kcore rw - tmpfs tmpfs rw,size=65536k,mode=755
1063 1053 254:1 /var/lib/docker/volumes/v/_data /home rw - ext4 /dev/vda1 rw
`
		rootless = `800 700 0:70 / / rw - fuse.fuse-overlayfs fuse-overlayfs rw,user_id=0,group_id=0
801 800 0:71 / /proc rw - proc proc rw
802 800 0:72 / /dev rw - tmpfs tmpfs rw
803 802 0:6 /null /dev/null rw - devtmpfs devtmpfs rw
804 800 0:73 / /sys ro - sysfs sysfs rw
805 800 0:80 / /run rw - tmpfs tmpfs rw
`
		vfs = `900 700 254:1 /var/lib/docker/vfs/dir/0123 / rw - ext4 /dev/vda1 rw
901 900 0:71 / /proc rw - proc proc rw
902 900 254:1 /var/lib/docker/containers/0123/resolv.conf /etc/resolv.conf rw - ext4 /dev/vda1 rw
`
		fedora = `60 1 0:35 /root / rw shared:1 - btrfs /dev/vda4 rw,subvol=/root
61 60 0:35 /home /home rw shared:2 - btrfs /dev/vda4 rw,subvol=/home
62 60 0:66 / /proc rw - proc proc rw
`
		ostree = `60 1 254:4 /ostree/deploy/f/deploy/0123.0 / rw - ext4 /dev/vda4 rw
61 60 254:4 / /var/x rw - ext4 /dev/vda4 rw
62 60 0:66 / /proc rw - proc proc rw
`
		live = `60 1 0:25 / / rw - overlay overlay rw,lowerdir=/run/live/rootfs,upperdir=/run/live/overlay/rw,workdir=/run/live/overlay/work
62 60 0:66 / /proc rw - proc proc rw
`
	)
	with := func(table, line string) string { return table + line + "\n" }
	for name, c := range map[string]struct {
		table string
		paths string // that lead somewhere
		sign  string // a part of what is said; "" for none
	}{
		"docker":                     {docker, "", ""},
		"rootless podman":            {rootless, "", ""},
		"rootless with /run of ours": {rootless, "/run", ""},
		"the vfs driver":             {vfs, "", ""},
		"a machine on ext4":          {"27 1 254:0 / / rw - ext4 /dev/vda rw\n28 27 0:66 / /proc rw - proc proc rw\n", "", "the whole of a file system"},
		"a machine on btrfs":         {fedora, "", "/home shows more"},
		"the same without /home":     {strings.Replace(fedora, "/home /home", "/boot /boot", 1), "", "/boot is a mount"},
		"ostree":                     {ostree, "", "/var/x shows more"},
		"a live system":              {live, "/run/live/overlay/rw", "in sight"},
		"unshare in a container":     {with(docker, "1099 1054 0:99 / /proc rw - proc proc rw"), "", "second /proc"},
		"the machine's /dev":         {with(docker, "1099 1053 0:6 / /dev rw - devtmpfs udev rw"), "", "devtmpfs"},
		"the machine below /host":    {with(docker, "1099 1053 0:7 / /host/sys/kernel/security rw - securityfs securityfs rw"), "", "securityfs"},
		"a service of systemd":       {with(strings.Replace(live, "/run/live/overlay", "/x", 2), "70 60 0:80 / /run rw - tmpfs tmpfs rw"), "/run/systemd/system", "systemd"},
		"a tmpfs as root":            {"27 1 0:40 / / rw - tmpfs none rw\n28 27 0:66 / /proc rw - proc proc rw\n", "", "the whole of"},
	} {
		table, err := mounts.ParseText([]byte(c.table))
		must(t, err)
		e := hostSign(&table[0], table, func(p string) bool { return strings.Contains(" "+c.paths+" ", " "+p+" ") })
		if !strings.Contains(e.Text, c.sign) || (e.Proof == "") != (c.sign == "") {
			t.Errorf("%s: %+v, want %q", name, e, c.sign)
		}
	}
}

// A mount table may hold anything; what decides about removal must not be led
// astray by it: a second procfs or a file system of machines is always a sign.
func FuzzHostSign(f *testing.F) {
	f.Add("60 1 0:25 / / rw - overlay overlay rw,upperdir=/a\n62 60 0:66 / /proc rw - proc proc rw\n", "/srv/x")
	f.Add("1 1 0:1 /a / rw - ext4 x rw\n2 1 0:1 /b /c rw - ext4 x rw\n", "/c")
	f.Fuzz(func(t *testing.T, text, dir string) {
		table, err := mounts.ParseText([]byte(text))
		if err != nil || len(table) == 0 {
			return
		}
		procs, types := 0, false
		for _, m := range table {
			if m.Point == "/proc" && m.FSType == "proc" {
				procs++
			}
			types = types || hostTypes.has(m.FSType) && m.Root == "/"
		}
		e := hostSign(&table[0], table, func(string) bool { return false })
		if e.Proof == "" && (procs > 1 || types) {
			t.Errorf("no sign in %q", text)
		}
		g := &ground{mount: &table[0], dir: dir}
		surround([]foreignTable{{table: table}}, g, nil).reach(&object{name: "x"})
		storage(dir)
		for i := range table {
			if u, ok := upperdir(&table[i]); ok && len(u) > len(table[i].SuperOptions) {
				t.Errorf("%q is longer than %q", u, table[i].SuperOptions)
			}
		}
	})
}

// From the top of the PID namespaces a bare number is judged where no process of
// another one has the place in sight, by whichever mount.
func TestFromTheTop(t *testing.T) {
	inside(t, func(t *testing.T) {
		vol := t.TempDir()
		for _, d := range []string{"/a", "/a/b", "/c"} {
			must(t, os.Mkdir(vol+d, 0o755))
		}
		for _, n := range []string{"/a/x.pid", "/a/b/x.pid", "/c/x.pid", "/c/y.pid"} {
			must(t, os.WriteFile(vol+n, []byte("4194000\n"), 0o644))
		}
		must(t, os.Link(vol+"/c/y.pid", vol+"/c/z.pid"))
		j := newJudge(t, Options{})
		j.initial = true
		check := func(what string, stale ...string) {
			t.Helper()
			for _, n := range []string{"/a/x.pid", "/a/b/x.pid", "/c/x.pid", "/c/y.pid"} {
				f := look(t, j, vol+n, Guess)
				if is := strings.Contains(strings.Join(stale, " "), n); is && f.Verdict != Stale || !is && f.Verdict != CannotTell {
					t.Errorf("%s: %s", what, f)
				}
			}
		}
		check("nobody else", "/a/x.pid", "/a/b/x.pid", "/c/x.pid", "/c/y.pid")
		a := contain(t, box{Root: "overlay", Dir: layers(t), Lower: t.TempDir(), Binds: map[string]string{"/v": vol + "/a/b"}}, 0)
		// The file with a second name may be reached by that.
		check("a directory is bound", "/a/x.pid", "/c/x.pid")
		want(t, look(t, j, vol+"/a/b/x.pid", Guess), CannotTell, ForeignNamespace)
		a.kill()
		check("it is gone", "/a/x.pid", "/a/b/x.pid", "/c/x.pid", "/c/y.pid")
		b := contain(t, box{Root: "overlay", Dir: layers(t), Lower: t.TempDir(), Binds: map[string]string{"/v": vol}}, 0)
		check("all is bound")
		b.kill()
		contain(t, box{}, 0) // a copy of our mounts
		check("a copied mount namespace")
	})
}

// A socket that is bound through an overlay refuses by the path of its upper
// layer: that is another inode. The same holds for every process's overlays.
func TestUpperLayer(t *testing.T) {
	inside(t, func(t *testing.T) {
		dir := layers(t)
		a := contain(t, box{Root: "overlay", Dir: dir}, 0)
		a.must(order{Do: "bind", Path: "/srv/s", Type: syscall.SOCK_STREAM, Backlog: 1})
		waitOld(t, dir+"/upper/srv/s")
		j := newJudge(t, Options{})
		j.initial = true
		want(t, look(t, j, dir+"/upper/srv/s", Guess), CannotTell, Layer)
		for path, is := range map[string]bool{
			"/var/lib/docker/overlay2/0123/diff/run": true, "/home/u/.local/share/containers/storage/overlay/0123/diff": true,
			"/var/lib/containerd/x/snapshots/12/fs/run": true, "/srv/overlay/diff": false, "/run": false, "/": false,
		} {
			if storage(path) != is {
				t.Errorf("%s: %v", path, !is)
			}
		}
	})
}

// The directory of a layer counts, not what it is called: the overlay was given a
// path through a link, and we look through a bind mount of a part of it.
func TestUpperLayerByAnotherName(t *testing.T) {
	inside(t, func(t *testing.T) {
		dir := layers(t)
		links, bind := t.TempDir(), t.TempDir()
		must(t, os.Symlink(dir, links+"/dir"))
		a := contain(t, box{Root: "overlay", Dir: links + "/dir"}, 0)
		a.must(order{Do: "mkdir", Path: "/srv/x"})
		a.must(order{Do: "bind", Path: "/srv/x/s", Type: syscall.SOCK_STREAM, Backlog: 1})
		must(t, linux.Mount(dir+"/upper/srv/x", bind, "", syscall.MS_BIND, ""))
		defer linux.Unmount(bind, syscall.MNT_DETACH)
		j := newJudge(t, Options{})
		j.initial, j.newborn = true, 0
		want(t, look(t, j, dir+"/upper/srv/x/s", Guess), CannotTell, Layer)
		want(t, look(t, j, bind+"/s", Guess), CannotTell, Layer)
		orphan(t, links+"/s")
		want(t, look(t, j, links+"/s", Guess), Stale, ConnectRefused)
	})
}

// The same with an overlay of our own making, on exclusive ground.
func TestUpperLayerOfOurOwn(t *testing.T) {
	inside(t, func(t *testing.T) {
		tree := t.TempDir()
		a := contain(t, box{Root: "tree", Dir: tree}, 0)
		for _, d := range []string{"/low", "/m", "/u, x", "/u, x.work"} {
			a.must(order{Do: "mkdir", Path: d})
		}
		a.must(order{Do: "overlay", Path: "/m", Text: "/low", To: `/u\, x`})
		a.must(order{Do: "bind", Path: "/m/s", Type: syscall.SOCK_STREAM, Backlog: 1})
		if !exists(tree + "/u, x/s") {
			t.Fatal("not there")
		}
		f := a.must(order{Do: "look", Path: "/u, x/s", Newborn: true}).Finding
		want(t, f, CannotTell, Layer)
		has(t, f, Alone)
	})
}

// A process whose first thread has ended lives on in the others, and its own
// directory in /proc says nothing of where it is.
func TestNamespaceWithoutALeader(t *testing.T) {
	inside(t, func(t *testing.T) {
		vol := t.TempDir()
		must(t, os.WriteFile(vol+"/x.pid", []byte("4194000\n"), 0o644))
		j := newJudge(t, Options{})
		j.initial = true
		a := contain(t, box{Root: "overlay", Dir: layers(t), Lower: t.TempDir(), Binds: map[string]string{"/v": vol}}, 0)
		want(t, look(t, j, vol+"/x.pid", Guess), CannotTell, ForeignNamespace)
		a.must(order{Do: "leaderless"})
		for { // until the kernel has done it
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.cmd.Process.Pid))
			must(t, err)
			if st, err := process.ParseStat(text); err == nil && st.State == 'Z' {
				break
			}
		}
		want(t, look(t, j, vol+"/x.pid", Guess), CannotTell, ForeignNamespace)
		a.must(order{Do: "pid"}) // it lives
	})
}

// Options of an overlay as the kernel writes them.
func TestUpperdir(t *testing.T) {
	for options, want := range map[string]string{
		"rw,lowerdir=/l,upperdir=/u,workdir=/w":  "/u",
		`rw,upperdir=/u\134\054\040x,workdir=/w`: "/u, x",
		`rw,upperdir=/a\134\134b`:                `/a\b`,
		"rw,lowerdir=/l":                         "",
		"rw,upperdir=relative":                   "relative",
	} {
		m := mounts.Mount{FSType: "overlay", SuperOptions: options}
		if got, ok := upperdir(&m); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v, want %q", options, got, ok, want)
		}
	}
}

// Times that are cut off to seconds stand for the whole second; some file systems
// have no times that could be compared.
func TestCoarseTimes(t *testing.T) {
	const s = int64(time.Second)
	for in, out := range map[int64]int64{5 * s: 6*s - 1, 5*s + 1: 5*s + 1} {
		if got := latest(in); got != out {
			t.Errorf("%d: %d, want %d", in, got, out)
		}
	}
	for name, ok := range map[string]bool{"ext4": true, "tmpfs": true, "overlay": true, "vfat": false, "exfat": false, "nfs4": false} {
		if err := (&ground{mount: &mounts.Mount{FSType: name}}).timed(); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Where /proc hides processes from us, nobody can be said to be alone.
func TestHidepid(t *testing.T) {
	inside(t, func(t *testing.T) {
		dir := layers(t)
		first := contain(t, box{Root: "overlay", Dir: dir}, 0)
		first.must(order{Do: "mkfifo", Path: "/srv/fifo"})
		first.kill()
		settle()
		a := contain(t, box{Root: "overlay", Dir: dir, Proc: "hidepid=2"}, 0)
		want(t, a.look("/srv/fifo", Guess), Stale, LeftBehind) // root sees all
		b := contain(t, box{Root: "overlay", Dir: dir, Proc: "hidepid=2"}, 0)
		b.must(order{Do: "drop"})
		f := b.look("/srv/fifo", Guess)
		want(t, f, CannotTell, UsedByName)
		has(t, f, Hidden)
	})
}
