package tmpfiles

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// everyKernel runs f in namespaces of its own, with the newer system calls and
// without.
func everyKernel(t *testing.T, f func(t *testing.T)) {
	for _, p := range seccomptest.All {
		t.Run(string(p), func(t *testing.T) {
			nstest.Run(t, nstest.Options{}, func(t *testing.T) { seccomptest.Run(t, p, f) })
		})
	}
}

func mount(t *testing.T, source, target, fstype string, flags uintptr) {
	t.Helper()
	if err := linux.Mount(source, target, fstype, flags, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { linux.Unmount(target, syscall.MNT_DETACH) })
}

func TestMountPointsStay(t *testing.T) {
	everyKernel(t, func(t *testing.T) {
		root := t.TempDir()
		at := func(p string) string { return filepath.Join(root, p) }
		grow(t, root, "d/", "other/kept")
		mount(t, "t", at("d"), "tmpfs", 0)
		grow(t, root, "d/.journal", "d/aquota.user", "d/aquota.group", "d/.journalx", "d/lost+found/f",
			"d/fs/f", "d/bind/", "d/s/.journal", "d/s/lost+found/g", "d/s/t")
		if !statxDenied() { // a bind mount of a file shows nowhere else
			grow(t, root, "d/file")
			mount(t, at("other/kept"), at("d/file"), "", syscall.MS_BIND)
		}
		mount(t, "t", at("d/fs"), "tmpfs", 0)
		grow(t, root, "d/fs/inner")
		mount(t, at("d/s"), at("d/bind"), "", syscall.MS_BIND)
		// What the bind mount shows may be removed where it is, but not through it.
		lines := []string{"d /d - - - 0", "x /d/s"}
		want := []string{"d/", "d/.journal", "d/aquota.group", "d/aquota.user", "d/bind/", "d/bind/.journal",
			"d/bind/lost+found/", "d/bind/lost+found/g", "d/bind/t", "d/file", "d/fs/", "d/fs/inner", "d/lost+found/",
			"d/lost+found/f", "d/s/", "d/s/.journal", "d/s/lost+found/", "d/s/lost+found/g", "d/s/t", "other/", "other/kept"}
		if statxDenied() {
			want = slices.DeleteFunc(want, func(n string) bool { return n == "d/file" })
		}
		for _, dry := range []bool{true, false} {
			rec, res := apply(t, root, Clean, dry, lines...)
			if res.First != nil || len(rec.changes) != 1 {
				t.Errorf("dry %t: %q, %v", dry, rec.changes, res.First)
			}
		}
		if got := names(t, root); !slices.Equal(got, want) {
			t.Errorf("left is\n%q, want\n%q", got, want)
		}
		// Further down these names mean nothing.
		if _, res := apply(t, root, Clean, false, "d /d/s - - - 0"); res.First != nil {
			t.Error(res.First)
		}
		if got := names(t, at("d/s")); len(got) > 0 {
			t.Errorf("left below the top is %q", got)
		}
		// A mount point is emptied, and is not to be removed.
		for _, dry := range []bool{true, false} {
			_, res := apply(t, root, Remove, dry, "R /d/fs")
			if res.First == nil {
				t.Errorf("dry %t: a mount point was removed", dry)
			}
		}
		if got := names(t, at("d/fs")); len(got) > 0 {
			t.Errorf("left in the mount point is %q", got)
		}
	})
}

// statxDenied says that this process runs without statx(2).
func statxDenied() bool {
	var sx linux.StatxT
	return linux.Statx(linux.AT_FDCWD, "/", 0, linux.STATX_TYPE, &sx) != nil
}

func TestCleaningWithoutNewerCalls(t *testing.T) {
	everyKernel(t, func(t *testing.T) {
		root := t.TempDir()
		grow(t, root, "d/a", "d/b!", "d/s/f", "d/n/f!", "d/x=", "d/l->a")
		if _, res := apply(t, root, Clean, false, cleanAll); res.First != nil {
			t.Error(res.First)
		}
		if got, want := names(t, root), []string{"d/", "d/b", "d/n/", "d/n/f"}; !slices.Equal(got, want) {
			t.Errorf("left is %q, want %q", got, want)
		}
		var st fsat.Stat
		if err := fsat.StatAt(linux.AT_FDCWD, filepath.Join(root, "d"), &st); err != nil || st.Mtime != longAgo.UnixNano() {
			t.Errorf("modified at %d, %v", st.Mtime, err)
		}
	})
}

func TestReadOnlyFileSystem(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		root := t.TempDir()
		at := filepath.Join(root, "d")
		grow(t, root, "d/a", "d/s/f")
		mount(t, at, at, "", syscall.MS_BIND)
		if err := linux.Mount("", at, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY|syscall.MS_NOSUID|syscall.MS_NODEV, ""); err != nil {
			t.Fatal(err)
		}
		for _, dry := range []bool{true, false} {
			rec, res := apply(t, root, Clean, dry, cleanAll)
			if !errors.Is(res.First, syscall.EROFS) || res.Resource() || res.Failures != 1 {
				t.Errorf("dry %v: failed with %v, %d lines", dry, res.First, res.Failures)
			}
			if len(rec.changes) != 0 || len(rec.problems) != 3 {
				t.Errorf("dry %v: told are %q and %q, want no change and a, s/f and s", dry, rec.changes, rec.problems)
			}
			const lines = "d /d/new\nf /d/a 0600\nw /d/s/f - - - - x\n"
			if rec, res := apply(t, root, Create, dry, lines); !errors.Is(res.First, syscall.EROFS) || res.Failures != 3 || len(rec.changes) != 0 {
				t.Errorf("dry %v: %d lines failed, with %v; changes %q", dry, res.Failures, res.First, rec.changes)
			}
		}
	})
}

func TestOutOfDescriptors(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		root := t.TempDir()
		lock := filepath.Join(root, "d", strings.Repeat("s/", 10)) + "/locked"
		grow(t, root, strings.TrimPrefix(lock, root+"/"))
		f, err := os.Open(lock)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("needs /proc to count open descriptors: ", err)
		}
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		told := false
		for free := 1; free < 40; free++ {
			set := syscall.Rlimit{Cur: uint64(len(open) + free), Max: limit.Max}
			if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &set); err != nil {
				t.Fatal(err)
			}
			d, err := fsat.OpenDir(root)
			if err != nil {
				continue
			}
			d.Close()
			_, res := apply(t, root, Clean, false, cleanAll)
			told = told || res.First != nil && res.Resource()
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		if !told {
			t.Error("no run told that descriptors ran out")
		}
		// Whom it could not ask, it left alone.
		if _, err := os.Stat(lock); err != nil {
			t.Error(err)
		}
		if _, res := apply(t, root, Clean, false, cleanAll); res.First != nil {
			t.Error(res.First)
		}
	})
}

// What an ordinary user may not do is told, and the rest is done.
func TestNoPermission(t *testing.T) {
	testenv.Need(t, testenv.NonRoot)
	root := t.TempDir()
	grow(t, root, "d/closed/f", "d/fixed/g", "d/unseen/h", "d/z")
	for n, mode := range map[string]os.FileMode{"closed": 0, "fixed": 0o555, "unseen": 0o444} {
		p := filepath.Join(root, "d", n)
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		defer os.Chmod(p, 0o755)
	}
	rec, res := apply(t, root, Clean, false, cleanAll)
	if !errors.Is(res.First, syscall.EACCES) || res.Failures != 1 {
		t.Errorf("failed with %v", res.First)
	}
	// Not to be allowed to look is no failure, as for the reference.
	if want := []string{"/d/closed", "/d/fixed/g"}; len(rec.problems) != 2 ||
		!strings.Contains(fmt.Sprint(rec.problems), want[0]) || !strings.Contains(fmt.Sprint(rec.problems), want[1]) {
		t.Errorf("told are %q", rec.problems)
	}
	if want := []string{`remove "/d/z"`}; !slices.Equal(rec.changes, want) {
		t.Errorf("done is %q, want %q", rec.changes, want)
	}
}
