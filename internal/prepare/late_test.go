package prepare

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/runfs"
)

func late(t *testing.T, root string) Options {
	o := options(t, root)
	o.Early, o.Late = false, true
	return o
}

func readlink(t *testing.T, path string) string {
	t.Helper()
	s, err := os.Readlink(path)
	if err != nil {
		t.Error(err)
	}
	return s
}

func TestLegacyLinksAreMade(t *testing.T) {
	everyWay(t, nstest.Options{}, func(t *testing.T, root string) {
		if res := mustRun(t, late(t, root)); res.Kept() {
			t.Errorf("kept: %v", res.Notes)
		}
		if a, b := readlink(t, root+"/var/run"), readlink(t, root+"/var/lock"); a != "/run" || b != "/run/lock" {
			t.Errorf("links to %q and %q", a, b)
		}
		if res := mustRun(t, late(t, root)); len(res.Steps)+len(res.Notes) != 0 {
			t.Errorf("the second time: %v %v", res.Steps, res.Notes)
		}
	})
}

// Other spellings of the same place are right too; other places are somebody's
// decision, and told.
func TestLegacyLinksThatAreThere(t *testing.T) {
	inside(t, func(t *testing.T, root string) {
		must(t, os.Symlink("../run", root+"/var/run"))
		must(t, os.Symlink("/srv/lock", root+"/var/lock"))
		res := mustRun(t, late(t, root))
		if len(res.Steps) != 0 || len(res.Notes) != 1 || !res.Kept() || !strings.Contains(notes(res), "/srv/lock") {
			t.Errorf("%v %v", res.Steps, res.Notes)
		}
	})
}

// An empty directory gives way to the link without a trace; one with content is
// kept beside it, also for the second time.
func TestDirectoriesAreExchanged(t *testing.T) {
	inside(t, func(t *testing.T, root string) {
		for _, d := range []string{"/var/run", "/var/lock", "/var/run.slashrun-old"} {
			must(t, os.Mkdir(root+d, 0o755))
		}
		must(t, os.WriteFile(root+"/var/run/a", nil, 0o600))
		res := mustRun(t, late(t, root))
		if res.Kept() || !strings.Contains(notes(res), "run.slashrun-old.1") {
			t.Errorf("%v", res.Notes)
		}
		if readlink(t, root+"/var/run") != "/run" || readlink(t, root+"/var/lock") != "/run/lock" {
			t.Error("not the links")
		}
		if _, err := os.Stat(root + "/var/run.slashrun-old.1/a"); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(root + "/var/lock.slashrun-old"); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("the empty directory is still there: %v", err)
		}
	})
}

// What the kernel refuses, or what is in use, stays as it is and is told.
func TestDirectoriesThatStay(t *testing.T) {
	for _, c := range []struct {
		name, why string
		prepare   func(t *testing.T, root string)
	}{
		{"EXDEV in an overlay's lower layer", "lower layer", func(t *testing.T, root string) {
			for _, d := range []string{"/low", "/low/run", "/up", "/work"} {
				must(t, os.Mkdir(root+d, 0o755))
			}
			must(t, os.WriteFile(root+"/low/run/kept", nil, 0o600))
			must(t, syscall.Mount("none", root+"/var", "overlay", 0, "userxattr,lowerdir="+root+"/low,upperdir="+root+"/up,workdir="+root+"/work"))
		}},
		{"EBUSY below a mount point", "mount point", func(t *testing.T, root string) {
			must(t, os.Mkdir(root+"/var/run", 0o755))
			must(t, syscall.Mount("none", root+"/var/run", "tmpfs", 0, ""))
			must(t, os.WriteFile(root+"/var/run/kept", nil, 0o600))
		}},
		{"EROFS", "read-only file system", func(t *testing.T, root string) {
			must(t, os.Mkdir(root+"/var/run", 0o755))
			must(t, os.WriteFile(root+"/var/run/kept", nil, 0o600))
			must(t, syscall.Mount(root+"/var", root+"/var", "", syscall.MS_BIND, ""))
			must(t, syscall.Mount("", root+"/var", "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		}},
		{"a live socket", "in use", func(t *testing.T, root string) {
			must(t, os.Mkdir(root+"/var/run", 0o755))
			must(t, os.WriteFile(root+"/var/run/kept", nil, 0o600))
			l, err := net.Listen("unix", root+"/var/run/s")
			must(t, err)
			t.Cleanup(func() { l.Close() })
		}},
		{"a file", "neither a directory nor a link", func(t *testing.T, root string) {
			must(t, os.WriteFile(root+"/var/run", nil, 0o600))
		}},
		{"no /var", "links are left out", func(t *testing.T, root string) { must(t, os.Remove(root+"/var")) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			inside(t, func(t *testing.T, root string) {
				c.prepare(t, root)
				before, _ := os.ReadDir(root + "/var/run")
				res := mustRun(t, late(t, root))
				if !res.Kept() || !strings.Contains(notes(res), c.why) {
					t.Errorf("notes %q, want %q", notes(res), c.why)
				}
				after, _ := os.ReadDir(root + "/var/run")
				if len(before) != len(after) {
					t.Errorf("content %v became %v", before, after)
				}
				if list, _ := os.ReadDir(root + "/var"); strings.Contains(strings.Join(dirNames(list), " "), "slashrun") {
					t.Errorf("left in var: %v", list)
				}
			})
		})
	}
}

func dirNames(list []os.DirEntry) (s []string) {
	for _, e := range list {
		s = append(s, e.Name())
	}
	return s
}

func TestTmpfilesRunsLastAndItsFailureIsTold(t *testing.T) {
	inside(t, func(t *testing.T, root string) {
		o := options(t, root)
		o.Late = true
		var ran int
		o.Tmpfiles = func(_ context.Context, dry bool) (bool, error) {
			ran++
			checkRun(t, root+"/run")
			readlink(t, root+"/var/run")
			if dry {
				t.Error("a dry run was not asked for")
			}
			return false, nil
		}
		if res := mustRun(t, o); ran != 1 || !res.Kept() || !res.TmpfilesFailed {
			t.Errorf("ran %d times, %+v", ran, res)
		}
	})
}

// The finished mount goes to the next root with everything in it, and what has
// it open still does; running again finds it there.
func TestHandOver(t *testing.T) {
	everyWay(t, nstest.Options{}, func(t *testing.T, root string) {
		next := newRoot(t)
		must(t, os.WriteFile(next+"/run/leftover", nil, 0o600))
		must(t, syscall.Mount("none", root+"/run", "tmpfs", 0, "size=10%,mode=755")) // as initramfs-tools has it
		must(t, os.WriteFile(root+"/run/udev", []byte("db"), 0o600))
		l, err := net.Listen("unix", root+"/run/sock")
		must(t, err)
		defer l.Close()
		o := options(t, root)
		n := options(t, next)
		o.NewRoot, o.NewRootPath = n.Root, next
		if res := mustRun(t, o); res.Kept() || !strings.Contains(notes(res), "leftover") {
			t.Errorf("notes: %v", res.Notes)
		}
		checkRun(t, next+"/run")
		if b, err := os.ReadFile(next + "/run/udev"); string(b) != "db" {
			t.Errorf("%q %v", b, err)
		}
		c, err := net.Dial("unix", next+"/run/sock")
		must(t, err)
		c.Close()
		if list, _ := os.ReadDir(root + "/run"); len(list) != 0 {
			t.Errorf("the old root's run holds %v", list)
		}
		before := countMounts(t)
		if res := mustRun(t, o); !res.HandedOver || len(res.Steps) != 0 || countMounts(t) != before {
			t.Errorf("the second time: %+v", res)
		}
	})
}

func TestHandOverRefusesAMountThatIsThere(t *testing.T) {
	inside(t, func(t *testing.T, root string) {
		next := newRoot(t)
		must(t, syscall.Mount("none", next+"/run", "tmpfs", 0, ""))
		o := options(t, root)
		o.NewRoot, o.NewRootPath = options(t, next).Root, next
		_, err := Run(context.Background(), o)
		var occupied *runfs.OccupiedError
		if !errors.As(err, &occupied) {
			t.Errorf("error %v", err)
		}
		checkRun(t, root+"/run") // and it can be used
	})
}

// A shared mount cannot be moved: the error says what to do.
func TestHandOverOutOfASharedMount(t *testing.T) {
	inside(t, func(t *testing.T, root string) {
		next := newRoot(t)
		must(t, syscall.Mount(root, root, "", syscall.MS_BIND, ""))
		must(t, syscall.Mount("", root, "", syscall.MS_SHARED, ""))
		o := options(t, root)
		o.NewRoot, o.NewRootPath = options(t, next).Root, next
		if _, err := Run(context.Background(), o); !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "--make-private") {
			t.Errorf("error %v", err)
		}
	})
}

// The stamp is not rewritten while its run lasts: its offset is the first one.
func TestTheStampStays(t *testing.T) {
	inside(t, func(t *testing.T, root string) {
		mustRun(t, options(t, root))
		a, err := os.ReadFile(root + "/run/slashrun/boot")
		must(t, err)
		o := options(t, root)
		o.Size = &Size{Bytes: 1 << 20}
		mustRun(t, o)
		if b, _ := os.ReadFile(root + "/run/slashrun/boot"); !bytes.Equal(a, b) {
			t.Errorf("%s became %s", a, b)
		}
	})
}
