package lockfile

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/vmtest"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("LOCKFILE_TEST_ROLE"); role != "" {
		os.Exit(play(role))
	}
	vmtest.Setup()
	seccomptest.Setup()
	nstest.Main(m)
}

// watchdog ends a test that hangs; no test depends on how long it is.
func watchdog(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func open(t *testing.T, path string, opts Options) *Lock {
	t.Helper()
	l, err := Open(path, &opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func temp(t *testing.T) string { return filepath.Join(t.TempDir(), "lock") }

// kinds are all the ways to lock, which most tests hold for.
var kinds = map[string]Options{
	"flock": {}, "ofd": {Kind: OFD}, "flock fair": {Fair: true}, "ofd fair": {Kind: OFD, Fair: true},
}

func eachKind(t *testing.T, f func(t *testing.T, o Options)) {
	for name, o := range kinds {
		t.Run(name, func(t *testing.T) { f(t, o) })
	}
}

func TestExclusiveAndShared(t *testing.T) {
	eachKind(t, func(t *testing.T, o Options) {
		path := temp(t)
		a, b := open(t, path, o), open(t, path, o)
		must(t, a.TryLock())
		wantErr(t, b.TryLock(), ErrHeld)
		wantErr(t, b.TryRLock(), ErrHeld)
		wantErr(t, a.TryLock(), ErrInUse)
		must(t, a.Unlock())
		wantErr(t, a.Unlock(), ErrNotHeld)
		must(t, b.TryRLock())
		must(t, a.RLock(watchdog(t)))
		must(t, b.Unlock())
		wantErr(t, b.TryLock(), ErrHeld)
		must(t, b.TryRLock())
		must(t, a.Close())
		must(t, b.Close())
		wantErr(t, a.TryLock(), fs.ErrClosed)
		wantErr(t, a.Unlock(), fs.ErrClosed)
		c := open(t, path, o)
		must(t, c.Lock(watchdog(t)))
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%v, want %v", err, want)
	}
}

func TestModeIsExact(t *testing.T) {
	dir := t.TempDir()
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	for _, perm := range []fs.FileMode{0, 0o600, 0o640, 0o666, 0o444} {
		path := filepath.Join(dir, "lock")
		l := open(t, path, Options{Perm: perm})
		must(t, l.TryLock())
		if perm == 0 {
			perm = 0o600
		}
		st, err := os.Stat(path)
		must(t, err)
		if st.Mode() != perm || st.Size() != 0 {
			t.Errorf("mode %v, size %d, want %v and 0", st.Mode(), st.Size(), perm)
		}
		must(t, l.Close())
		must(t, os.Remove(path))
		if names, _ := os.ReadDir(dir); len(names) != 0 {
			t.Errorf("left behind: %v", names)
		}
	}
}

func TestWhatIsNoRegularFile(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/dir", 0o755))
	must(t, os.WriteFile(dir+"/file", nil, 0o644))
	must(t, os.Symlink("file", dir+"/link"))
	must(t, os.Symlink("nothing", dir+"/dangling"))
	must(t, syscall.Mkfifo(dir+"/fifo", 0o644))
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	must(t, err)
	defer syscall.Close(fd)
	must(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: dir + "/socket"}))
	for _, name := range []string{dir + "/dir", dir + "/link", dir + "/dangling", dir + "/fifo", dir + "/socket", "/dev/null"} {
		_, err := Open(name, nil)
		wantErr(t, err, ErrNotRegular)
	}
	for name, want := range map[string]error{"": fs.ErrNotExist, "a\x00b": syscall.EINVAL, dir + "/none/lock": fs.ErrNotExist, dir + "/file/lock": syscall.ENOTDIR} {
		_, err := Open(name, nil)
		wantErr(t, err, want)
	}
	if _, err := Open(dir+"/new", &Options{MustExist: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Open(dir+"/new", &Options{Perm: 0o4755}); err == nil {
		t.Error("a setuid bit was taken")
	}
	if _, err := Open(dir+"/new", &Options{Kind: 7}); err == nil {
		t.Error("a kind that there is not was taken")
	}
	if _, err := os.Lstat(dir + "/nothing"); err == nil {
		t.Error("a dangling link was followed")
	}
}

// The path is the one of Open, whatever the working directory is later; with Dir
// it starts there, also after the directory was renamed.
func TestRelativePaths(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	must(t, os.Mkdir("sub", 0o755))
	d, err := os.Open("sub")
	must(t, err)
	l := open(t, "lock", Options{})
	in := open(t, "lock", Options{Dir: d})
	d.Close()
	must(t, os.Rename("sub", "moved"))
	t.Chdir("/")
	must(t, l.TryLock())
	must(t, in.TryLock())
	other := open(t, dir+"/moved/lock", Options{MustExist: true})
	wantErr(t, other.TryLock(), ErrHeld)
}

func TestNoAllocations(t *testing.T) {
	eachKind(t, func(t *testing.T, o Options) {
		l, ctx := open(t, temp(t), o), context.Background()
		if n := testing.AllocsPerRun(200, func() {
			if l.Lock(ctx) != nil || l.Unlock() != nil || l.TryRLock() != nil || l.Check() != nil || l.Unlock() != nil {
				t.Error("failed")
			}
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

// ".." is what the kernel makes of it, behind a link too, not what the text says.
func TestParentOfALink(t *testing.T) {
	for _, perm := range []fs.FileMode{0o600, 0o666} {
		dir := t.TempDir()
		must(t, os.MkdirAll(dir+"/a/b", 0o755))
		must(t, os.Symlink("a/b", dir+"/link"))
		t.Chdir(dir)
		a := open(t, "link/../lock", Options{Perm: perm}) // made there
		if _, err := os.Lstat(dir + "/a/lock"); err != nil {
			t.Error(err)
		}
		b := open(t, dir+"/link/../lock", Options{MustExist: true})
		c := open(t, dir+"/a/lock", Options{MustExist: true})
		must(t, a.TryLock())
		wantErr(t, b.TryLock(), ErrHeld)
		wantErr(t, c.TryLock(), ErrHeld)
		if names, _ := os.ReadDir(dir); len(names) != 2 {
			t.Errorf("%v", names)
		}
	}
}

func TestReplacedFiles(t *testing.T) {
	eachKind(t, func(t *testing.T, o Options) {
		path := temp(t)
		a, b := open(t, path, o), open(t, path, o)
		must(t, os.Remove(path))
		must(t, a.TryLock()) // makes another
		must(t, a.Check())
		wantErr(t, b.TryLock(), ErrHeld)
		must(t, os.Remove(path))
		wantErr(t, a.Check(), ErrReplaced)
		must(t, b.TryLock())
		wantErr(t, a.Check(), ErrReplaced)
		must(t, a.Unlock())
		wantErr(t, a.Check(), ErrNotHeld)
		wantErr(t, a.TryLock(), ErrHeld)
	})
}

func TestRemove(t *testing.T) {
	for _, kind := range []Kind{Flock, OFD} {
		path := temp(t)
		o := Options{Kind: kind, Remove: true}
		a, b := open(t, path, o), open(t, path, o)
		must(t, a.TryRLock())
		must(t, a.Unlock())
		if _, err := os.Lstat(path); err != nil {
			t.Error("removed by a shared holder")
		}
		must(t, a.TryLock())
		must(t, a.Unlock())
		if _, err := os.Lstat(path); err == nil {
			t.Error("not removed")
		}
		must(t, b.TryLock())
		must(t, b.Check())
		// What somebody else put there stays.
		must(t, os.Remove(path))
		must(t, os.WriteFile(path, []byte("theirs"), 0o600))
		must(t, b.Close())
		if text, err := os.ReadFile(path); err != nil || string(text) != "theirs" {
			t.Errorf("%q, %v", text, err)
		}
	}
}
