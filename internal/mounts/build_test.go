package mounts

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
)

func TestMain(m *testing.M) {
	seccomptest.Setup()
	nstest.Main(m)
}

// everyWay runs f inside, with the newer calls there and without.
func everyWay(t *testing.T, f func(t *testing.T)) {
	for _, p := range seccomptest.All {
		t.Run(string(p), func(t *testing.T) {
			nstest.Run(t, nstest.Options{}, func(t *testing.T) {
				seccomptest.Run(t, p, f)
			})
		})
	}
}

func openDir(t *testing.T, path string) int {
	t.Helper()
	fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_RDONLY|linux.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { linux.Close(fd) })
	return fd
}

func readTable(t *testing.T) []Mount {
	t.Helper()
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A tree with a tmpfs of its own inside and a carried mount, which itself has a
// mount below it, arrives whole, and nothing else is left.
func TestBuildArrivesWhole(t *testing.T) {
	everyWay(t, func(t *testing.T) {
		must(t, os.MkdirAll("/run/secrets/inner", 0o755))
		must(t, syscall.Mount("old", "/run/secrets", "tmpfs", 0, ""))
		must(t, os.WriteFile("/run/secrets/token", []byte("s"), 0o600))
		must(t, os.Mkdir("/run/secrets/inner", 0o755))
		must(t, syscall.Mount("old2", "/run/secrets/inner", "tmpfs", 0, ""))
		must(t, os.WriteFile("/run/secrets/inner/deep", nil, 0o600))
		must(t, os.WriteFile("/run/env", nil, 0o600)) // a file as a mount point
		must(t, syscall.Mount("/run/secrets/token", "/run/env", "", syscall.MS_BIND, ""))
		before := len(readTable(t))
		root, run := openDir(t, "/"), openDir(t, "/run")

		spec := Tmpfs{Source: "ours", Attr: linux.MountAttrNoSUID | linux.MountAttrNoDev,
			Options: []Option{{Key: "size", Value: "1048576"}, {Key: "mode", Value: "0755"}, {Key: "nonsense", Value: "1", Optional: true}}}
		b, err := Build(spec, []Staging{{run, "/run"}})
		must(t, err)
		defer b.Close()
		for _, d := range []string{"lock", "secrets"} {
			must(t, linux.Mkdirat(b.Fd(), d, 0o755))
		}
		fd, err := linux.Openat(b.Fd(), "env", linux.O_CREAT|linux.O_WRONLY, 0o600)
		must(t, err)
		linux.Close(fd)
		must(t, b.AttachTmpfs("lock", Tmpfs{Source: "ours", Options: []Option{{Key: "mode", Value: "1777"}}}, func(fd int) error {
			return linux.Mkdirat(fd, "filled", 0o755)
		}))
		must(t, b.AttachClone("secrets", run, "secrets"))
		must(t, b.AttachClone("env", run, "env"))
		if _, err := os.Stat("/run/lock"); err == nil {
			t.Error("seen before it was moved in")
		}
		must(t, b.MoveTo(root, "run"))
		b.Close()
		for _, f := range []string{"/run/lock/filled", "/run/secrets/token", "/run/secrets/inner/deep"} {
			if _, err := os.Stat(f); err != nil {
				t.Error(err)
			}
		}
		if got, err := os.ReadFile("/run/env"); err != nil || string(got) != "s" {
			t.Errorf("/run/env: %q, %v", got, err)
		}
		if d := b.Dropped(); len(d) != 1 || d[0].Option.Key != "nonsense" || d[0].Err == nil {
			t.Errorf("dropped %v", d)
		}
		if got := len(readTable(t)) - before; got != 5 {
			t.Errorf("%d mounts more, want 5: run, lock, secrets, inner, env", got)
		}
		st, err := linux.StatfsOf(openDir(t, "/run"))
		must(t, err)
		if st.Bytes != 1<<20 || Attr(st.Flags) != spec.Attr {
			t.Errorf("%+v", st)
		}
		names, err := os.Open("/run")
		must(t, err)
		defer names.Close()
		list, _ := names.Readdirnames(-1)
		if len(list) != 3 || strings.Contains(strings.Join(list, " "), StagingName) {
			t.Errorf("/run holds %q", list)
		}
	})
}

// What was built and not moved in is gone, in every way of building.
func TestCloseLeavesNothing(t *testing.T) {
	everyWay(t, func(t *testing.T) {
		run := openDir(t, "/run")
		before := len(readTable(t))
		b, err := Build(Tmpfs{Source: "ours"}, []Staging{{run, "/run"}})
		must(t, err)
		must(t, linux.Mkdirat(b.Fd(), "lock", 0o755))
		must(t, b.AttachTmpfs("lock", Tmpfs{Source: "ours"}, nil))
		b.Close()
		if got := len(readTable(t)); got != before {
			t.Errorf("%d mounts, were %d", got, before)
		}
		if list, _ := os.ReadDir("/run"); len(list) != 0 {
			t.Errorf("/run holds %v", list)
		}
	})
}

// A killed run's staging is taken away by the next, and a stranger's directory
// of that name is left alone.
func TestStagingOfAKilledRun(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		seccomptest.Run(t, seccomptest.EPERM, func(t *testing.T) {
			run := openDir(t, "/run")
			before := len(readTable(t))
			b, err := Build(Tmpfs{Source: "ours"}, []Staging{{run, "/run"}})
			must(t, err)
			_ = b // killed here: not closed
			b2, err := Build(Tmpfs{Source: "ours"}, []Staging{{run, "/run"}})
			must(t, err)
			b2.Close()
			if got := len(readTable(t)); got != before {
				t.Errorf("%d mounts, were %d", got, before)
			}
			must(t, os.MkdirAll("/run/"+StagingName+"/theirs", 0o755))
			if _, err := Build(Tmpfs{Source: "ours"}, []Staging{{run, "/run"}}); err == nil || !strings.Contains(err.Error(), "/run") {
				t.Errorf("with a stranger's directory: %v", err)
			}
			if _, err := os.Stat("/run/" + StagingName + "/theirs"); err != nil {
				t.Error(err)
			}
		})
	})
}

func TestReconfigureAndRestrict(t *testing.T) {
	everyWay(t, func(t *testing.T) {
		fd := openDir(t, "/run")
		must(t, os.WriteFile("/run/keep", make([]byte, 1<<20), 0o600))
		must(t, Reconfigure(fd, []Option{{Key: "size", Value: "2097152"}, {Key: "nr_inodes", Value: "100"}}))
		must(t, Restrict(fd, linux.MountAttrNoSUID|linux.MountAttrNoExec))
		st, err := linux.StatfsOf(fd)
		must(t, err)
		if st.Bytes != 2<<20 || st.Files != 100 || Attr(st.Flags)&linux.MountAttrNoExec == 0 || Attr(st.Flags)&linux.MountAttrNoDev == 0 {
			t.Errorf("%+v", st)
		}
		err = Reconfigure(fd, []Option{{Key: "size", Value: "4096"}})
		if err == nil {
			t.Fatal("shrunk below its use")
		}
		if seccomptest.Current() == seccomptest.None && !strings.Contains(err.Error(), "Too small") {
			t.Errorf("the kernel's reason is not told: %v", err)
		}
	})
}

// Before about Linux 6.15 nothing can be attached to a detached mount, and the
// tree is put together in a namespace of one thread. The test leaves the direct
// way out, so that this one runs on every kernel.
func TestAssembleInANamespaceOfItsOwn(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.Mkdir("/run/secrets", 0o755))
		must(t, syscall.Mount("old", "/run/secrets", "tmpfs", 0, ""))
		must(t, os.WriteFile("/run/secrets/token", nil, 0o600))
		must(t, syscall.Mount("", "/", "", syscall.MS_SHARED, "")) // the worst case: what is mounted spreads
		root, run := openDir(t, "/"), openDir(t, "/run")
		before := len(readTable(t))
		b := new(detached)
		var err error
		b.root, err = b.tmpfs(Tmpfs{Source: "ours"})
		must(t, err)
		for _, d := range []string{"lock", "secrets"} {
			must(t, linux.Mkdirat(b.root, d, 0o755))
		}
		lock, err := b.tmpfs(Tmpfs{Source: "ours"})
		must(t, err)
		secrets, err := linux.OpenTree(run, "secrets", linux.OpenTreeClone|linux.AtRecursive)
		must(t, err)
		b.inner = []child{{"lock", lock}, {"secrets", secrets}}
		must(t, b.MoveTo(root, "run"))
		b.Close()
		if got := len(readTable(t)) - before; got != 3 {
			t.Errorf("%d mounts more, want 3", got)
		}
		if _, err := os.Stat("/run/secrets/token"); err != nil {
			t.Error(err)
		}
	})
}
