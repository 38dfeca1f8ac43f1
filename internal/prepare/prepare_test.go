package prepare

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/runfs"
	"github.com/slashrun/slashrun/internal/seccomptest"
)

func TestMain(m *testing.M) {
	if root := os.Getenv(childEnv); root != "" {
		os.Exit(child(root)) // a victim of kill_test.go
	}
	seccomptest.Setup()
	nstest.Main(m)
}

// everyWay runs f in namespaces of its own, with the newer system calls and
// without.
func everyWay(t *testing.T, o nstest.Options, f func(t *testing.T, root string)) {
	for _, p := range seccomptest.All {
		t.Run(string(p), func(t *testing.T) {
			nstest.Run(t, o, func(t *testing.T) {
				seccomptest.Run(t, p, func(t *testing.T) { f(t, newRoot(t)) })
			})
		})
	}
}

func inside(t *testing.T, f func(t *testing.T, root string)) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) { f(t, newRoot(t)) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newRoot is a root directory with an empty run and var.
func newRoot(t *testing.T) string {
	t.Helper()
	syscall.Umask(0)
	root, err := os.MkdirTemp("/tmp", "root")
	must(t, err)
	must(t, os.Chmod(root, 0o755))
	for _, d := range []string{"run", "var"} {
		must(t, os.Mkdir(filepath.Join(root, d), 0o755))
	}
	return root
}

func options(t *testing.T, root string) Options {
	t.Helper()
	d, err := fsat.OpenDir(root)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return Options{Root: d, RootPath: root, Name: "run", Profile: runfs.Debian, Early: true}
}

func mustRun(t *testing.T, o Options) *Result {
	t.Helper()
	res, err := Run(context.Background(), o)
	if err != nil {
		t.Fatalf("%v\nsteps %v\nnotes %v", err, res.Steps, res.Notes)
	}
	return res
}

// checkRun holds what every finished /run has.
func checkRun(t *testing.T, run string) {
	t.Helper()
	var fs syscall.Statfs_t
	for _, c := range []struct {
		name        string
		size, files uint64
		mode        os.FileMode
	}{
		{"", 0, runfs.DefaultInodes, 0o755 | os.ModeDir},
		{"lock", runfs.DefaultLockSize, 4096, 0o777 | os.ModeSticky | os.ModeDir},
		{"slashrun", 8 << 20, 8192, 0o755 | os.ModeDir},
	} {
		path := filepath.Join(run, c.name)
		must(t, syscall.Statfs(path, &fs))
		if fs.Type != 0x01021994 || fs.Files != c.files || c.size != 0 && fs.Blocks*uint64(fs.Bsize) != c.size {
			t.Errorf("%s: type %x, %d inodes, %d bytes", path, fs.Type, fs.Files, fs.Blocks*uint64(fs.Bsize))
		}
		if fs.Flags&6 != 6 { // ST_NOSUID | ST_NODEV
			t.Errorf("%s: flags %x lack nosuid or nodev", path, fs.Flags)
		}
		st, err := os.Stat(path)
		must(t, err)
		if st.Mode() != c.mode {
			t.Errorf("%s: mode %v, want %v", path, st.Mode(), c.mode)
		}
	}
	if st, err := os.Stat(run + "/user"); err != nil || st.Mode() != 0o755|os.ModeDir {
		t.Errorf("user: %v %v", st, err)
	}
	checkStamp(t, run)
}

func checkStamp(t *testing.T, run string) runfs.Stamp {
	t.Helper()
	b, err := os.ReadFile(run + "/slashrun/boot")
	must(t, err)
	s, err := runfs.ReadStamp(bytes.NewReader(b))
	must(t, err)
	p, err := process.Open()
	must(t, err)
	defer p.Close()
	id, err := p.Identity()
	must(t, err)
	if !s.SameRun(id) {
		t.Errorf("the stamp %+v is not of this run %+v", s, id)
	}
	return s
}

func countMounts(t *testing.T) int {
	t.Helper()
	f, err := os.Open("/proc/self/mountinfo")
	must(t, err)
	defer f.Close()
	list, err := mounts.Parse(f)
	must(t, err)
	return len(list)
}

func TestFreshRunIsCompleteAndRunningAgainDoesNothing(t *testing.T) {
	everyWay(t, nstest.Options{}, func(t *testing.T, root string) {
		before := countMounts(t)
		res := mustRun(t, options(t, root))
		if res.Kept() {
			t.Errorf("kept: %v", res.Notes)
		}
		checkRun(t, root+"/run")
		if n := countMounts(t) - before; n != 3 {
			t.Errorf("%d mounts more, want 3", n)
		}
		res = mustRun(t, options(t, root))
		if len(res.Steps) != 0 || len(res.Notes) != 0 {
			t.Errorf("the second time: %v %v", res.Steps, res.Notes)
		}
	})
}

func TestDryRunSaysTheSameAndDoesNothing(t *testing.T) {
	inside(t, func(t *testing.T, root string) {
		o := options(t, root)
		o.DryRun = true
		before := countMounts(t)
		dry := mustRun(t, o)
		if n := countMounts(t); n != before {
			t.Errorf("%d mounts, were %d", n, before)
		}
		if list, _ := os.ReadDir(root + "/run"); len(list) != 0 {
			t.Errorf("it made %v", list)
		}
		wet := mustRun(t, options(t, root))
		if len(dry.Steps) != 1 || len(wet.Steps) != 1 || dry.Steps[0].String() != wet.Steps[0].String() {
			t.Errorf("dry %v\nwet %v", dry.Steps, wet.Steps)
		}
	})
}

// A tmpfs with content, as docker mounts it, keeps its content and loses its
// mode 1777 and its missing limits.
func TestAdoptsATmpfs(t *testing.T) {
	everyWay(t, nstest.Options{}, func(t *testing.T, root string) {
		run := root + "/run"
		must(t, syscall.Mount("none", run, "tmpfs", 0, "mode=1777"))
		must(t, os.Mkdir(run+"/lock", 0o700))
		must(t, os.WriteFile(run+"/keep", []byte("x"), 0o600))
		var before, after syscall.Stat_t
		must(t, syscall.Stat(run, &before))
		res := mustRun(t, options(t, root))
		if res.Kept() {
			t.Errorf("kept: %v", res.Notes)
		}
		checkRun(t, run)
		must(t, syscall.Stat(run, &after))
		if before.Dev != after.Dev {
			t.Error("it is another file system")
		}
		if b, err := os.ReadFile(run + "/keep"); string(b) != "x" {
			t.Errorf("its content: %q, %v", b, err)
		}
	})
}

// What somebody made tighter stays; what was asked for is set exactly; what the
// kernel refuses (a size below the use) is told and the rest is done.
func TestAdoptOnlyRestricts(t *testing.T) {
	inside(t, func(t *testing.T, root string) {
		run := root + "/run"
		must(t, syscall.Mount("none", run, "tmpfs", syscall.MS_NOEXEC, "size=4m,nr_inodes=100,mode=755"))
		must(t, os.WriteFile(run+"/full", make([]byte, 3<<20), 0o600))
		mustRun(t, options(t, root))
		var fs syscall.Statfs_t
		must(t, syscall.Statfs(run, &fs))
		if size := fs.Blocks * uint64(fs.Bsize); size != 4<<20 || fs.Files != 100 || fs.Flags&14 != 14 {
			t.Errorf("size %d, %d inodes, flags %x", size, fs.Files, fs.Flags)
		}
		o := options(t, root)
		o.Size, o.Inodes = &Size{Bytes: 1 << 20}, ptr(uint64(200))
		res := mustRun(t, o)
		must(t, syscall.Statfs(run, &fs))
		if size := fs.Blocks * uint64(fs.Bsize); size != 4<<20 || fs.Files != 200 || !res.Kept() {
			t.Errorf("size %d, %d inodes, notes %v", size, fs.Files, res.Notes)
		}
		o.Size.Bytes = 8 << 20
		if res := mustRun(t, o); res.Kept() {
			t.Errorf("growing: %v", res.Notes)
		}
	})
}

func ptr[T any](v T) *T { return &v }

// A directory inside of somebody's tmpfs (a volume) keeps that file system's
// limits: they are not ours.
func TestABoundDirectoryKeepsItsLimits(t *testing.T) {
	inside(t, func(t *testing.T, root string) {
		must(t, os.Mkdir(root+"/vol", 0o755))
		must(t, syscall.Mount("none", root+"/vol", "tmpfs", 0, "size=1g"))
		must(t, os.Mkdir(root+"/vol/sub", 0o755))
		must(t, syscall.Mount(root+"/vol/sub", root+"/run", "", syscall.MS_BIND, ""))
		o := options(t, root)
		o.Size = &Size{Bytes: 1 << 20}
		res := mustRun(t, o)
		var fs syscall.Statfs_t
		must(t, syscall.Statfs(root+"/vol", &fs))
		if size := fs.Blocks * uint64(fs.Bsize); size != 1<<30 || !res.Kept() {
			t.Errorf("the volume's size is %d; notes %v", size, res.Notes)
		}
	})
}

// Leftovers on disk are hidden when nobody else is alive, and come back when the
// mount goes.
func TestLeftoversAreHiddenAndKept(t *testing.T) {
	everyWay(t, nstest.Options{}, func(t *testing.T, root string) {
		run := root + "/run"
		must(t, os.MkdirAll(run+"/slashrun", 0o755))
		must(t, os.WriteFile(run+"/slashrun/boot", []byte("boot_id=11111111-2222-3333-4444-555555555555\ninit_start_ticks=1\nrealtime_minus_boottime_ns=5\n"), 0o644))
		must(t, os.WriteFile(run+"/old.pid", []byte("1"), 0o644))
		l, err := net.Listen("unix", run+"/dead")
		must(t, err)
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
		res := mustRun(t, options(t, root))
		checkRun(t, run)
		if _, err := os.Stat(run + "/old.pid"); err == nil {
			t.Error("a leftover is seen in the new /run")
		}
		text := notes(res)
		if !strings.Contains(text, "another boot") || !strings.Contains(text, "not trusted") || !strings.Contains(text, "old.pid") {
			t.Errorf("not said: %s", text)
		}
		if s := checkStamp(t, run); s.Survived != "" {
			t.Errorf("nothing is in the new /run, and it says that %q survived", s.Survived)
		}
		must(t, syscall.Unmount(run, syscall.MNT_DETACH))
		if b, err := os.ReadFile(run + "/old.pid"); string(b) != "1" {
			t.Errorf("the leftover below: %q %v", b, err)
		}
	})
}

func notes(r *Result) string {
	var s []string
	for _, n := range r.Notes {
		s = append(s, n.String())
	}
	return strings.Join(s, "\n")
}

// An adopted tmpfs with another run's stamp: a volume that outlived its container.
func TestAStampOfAnotherRunIsSaidAndReplaced(t *testing.T) {
	inside(t, func(t *testing.T, root string) {
		run := root + "/run"
		mustRun(t, options(t, root))
		p, err := process.Open()
		must(t, err)
		defer p.Close()
		id, err := p.Identity()
		must(t, err)
		id.InitStart++
		must(t, os.WriteFile(run+"/slashrun/boot", []byte(runfs.Stamp{Identity: id}.Text()), 0o644))
		if text := notes(mustRun(t, options(t, root))); !strings.Contains(text, "an earlier run of this container") {
			t.Errorf("not said: %s", text)
		}
		if s := checkStamp(t, run); !strings.HasPrefix(s.Survived, id.BootID) {
			t.Errorf("survived = %q", s.Survived)
		}
		must(t, os.WriteFile(run+"/slashrun/boot", []byte("boot_id\x00garbage"), 0o644))
		if text := notes(mustRun(t, options(t, root))); !strings.Contains(text, "cannot be read") {
			t.Errorf("garbage not said: %s", text)
		}
		checkStamp(t, run)
	})
}

// Mounts below an older /run come along, with their content and what is mounted
// in them, also where single files are mounted as container runtimes do it.
func TestCarriesMountsAlong(t *testing.T) {
	everyWay(t, nstest.Options{}, func(t *testing.T, root string) {
		run := root + "/run"
		must(t, os.MkdirAll(run+"/secrets/kube", 0o711))
		must(t, syscall.Mount("none", run+"/secrets/kube", "tmpfs", 0, ""))
		must(t, os.WriteFile(run+"/secrets/kube/token", []byte("t"), 0o600))
		must(t, os.WriteFile(run+"/.containerenv", nil, 0o600))
		must(t, syscall.Mount(run+"/secrets/kube/token", run+"/.containerenv", "", syscall.MS_BIND, ""))
		res := mustRun(t, options(t, root))
		if res.Kept() {
			t.Errorf("kept: %v", res.Notes)
		}
		checkRun(t, run)
		for _, f := range []string{"/secrets/kube/token", "/.containerenv"} {
			if b, err := os.ReadFile(run + f); string(b) != "t" {
				t.Errorf("%s: %q %v", f, b, err)
			}
		}
		if st, err := os.Stat(run + "/secrets"); err != nil || st.Mode().Perm() != 0o711 {
			t.Errorf("the directory on the way: %v %v", st, err)
		}
	})
}

// In a child user namespace the mounts of before are locked: a plain bind or
// move is EINVAL there.
func TestCarriesLockedMountsInAChildUserNamespace(t *testing.T) {
	inside(t, func(t *testing.T, root string) {
		run := root + "/run"
		must(t, os.Mkdir(run+"/secrets", 0o755))
		must(t, syscall.Mount("none", run+"/secrets", "tmpfs", 0, ""))
		must(t, os.Mkdir(run+"/secrets/in", 0o755))
		must(t, syscall.Mount("none", run+"/secrets/in", "tmpfs", 0, ""))
		must(t, os.WriteFile(run+"/secrets/in/token", nil, 0o644))
		t.Setenv("PREPARE_TEST_ROOT", root)
		nstest.Run(t, nstest.Options{Keep: []string{root}, SingleUser: true}, func(t *testing.T) {
			root := os.Getenv("PREPARE_TEST_ROOT")
			if _, err := os.Stat(root + "/run/secrets/in/token"); err != nil {
				t.Fatalf("the mounts did not come into the inner namespace: %v", err)
			}
			mustRun(t, options(t, root))
			if _, err := os.Stat(root + "/run/secrets/in/token"); err != nil {
				t.Error(err)
			}
		})
	})
}

func TestInPlaceMountsNothing(t *testing.T) {
	everyWay(t, nstest.Options{}, func(t *testing.T, root string) {
		before := countMounts(t)
		must(t, os.WriteFile(root+"/run/keep", nil, 0o600))
		o := options(t, root)
		o.InPlace = true
		if res := mustRun(t, o); res.Kept() {
			t.Errorf("kept: %v", res.Notes)
		}
		checkStamp(t, root+"/run")
		if n := countMounts(t); n != before {
			t.Errorf("%d mounts, were %d", n, before)
		}
		if st, err := os.Stat(root + "/run/lock"); err != nil || st.Mode().Perm() != 0o777 || st.Mode()&os.ModeSticky == 0 {
			t.Errorf("lock: %v %v", st, err)
		}
		if res := mustRun(t, o); len(res.Steps) != 0 {
			t.Errorf("the second time: %v", res.Steps)
		}
	})
}

func TestMissingAndUnusableTargets(t *testing.T) {
	inside(t, func(t *testing.T, root string) {
		run := root + "/run"
		must(t, os.Remove(run))
		mustRun(t, options(t, root))
		checkRun(t, run)

		root = newRoot(t)
		must(t, os.Remove(root+"/run"))
		must(t, os.Symlink("var", root+"/run"))
		if _, err := Run(context.Background(), options(t, root)); err == nil || !strings.Contains(err.Error(), "no link") {
			t.Errorf("a link: %v", err)
		}
		if list, _ := os.ReadDir(root + "/var"); len(list) != 0 {
			t.Errorf("it followed the link: %v", list)
		}

		root = newRoot(t)
		must(t, os.Remove(root+"/run"))
		must(t, syscall.Mount(root, root, "", syscall.MS_BIND, ""))
		must(t, syscall.Mount("", root, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		if _, err := Run(context.Background(), options(t, root)); !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), "image") {
			t.Errorf("missing on a read-only root: %v", err)
		}
	})
}

// A read-only root is what every boot without an initramfs begins with.
func TestReadOnlyRoot(t *testing.T) {
	everyWay(t, nstest.Options{}, func(t *testing.T, root string) {
		must(t, syscall.Mount(root, root, "", syscall.MS_BIND, ""))
		must(t, syscall.Mount("", root, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		if seccomptest.Current() != seccomptest.None {
			// The legacy way stages in the root's /dev then.
			must(t, syscall.Unmount(root, 0))
			must(t, os.Mkdir(root+"/dev", 0o755))
			must(t, syscall.Mount(root, root, "", syscall.MS_BIND, ""))
			must(t, syscall.Mount("none", root+"/dev", "tmpfs", 0, ""))
			must(t, syscall.Mount("", root, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		}
		mustRun(t, options(t, root))
		checkRun(t, root+"/run")
		if list, _ := os.ReadDir(root + "/dev"); len(list) != 0 {
			t.Errorf("left in dev: %v", list)
		}
	})
}
