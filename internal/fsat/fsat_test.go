package fsat

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
)

func TestMain(m *testing.M) {
	linux.Umask(0)
	seccomptest.Setup()
	nstest.Main(m)
}

func open(t testing.TB, path string) *Dir {
	t.Helper()
	d, err := OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// names are the entries of a directory as package os sees them.
func names(t testing.TB, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

// everyWay runs a test with every system call there, and under each filter.
func everyWay(t *testing.T, f func(t *testing.T)) {
	for _, p := range seccomptest.All {
		t.Run(p.String(), func(t *testing.T) { seccomptest.Run(t, p, f) })
	}
}

func TestMakeEveryKind(t *testing.T) {
	everyWay(t, func(t *testing.T) {
		dir := t.TempDir()
		d := open(t, dir)
		keep := Attr{UID: KeepID, GID: KeepID}
		with := func(mode uint32) Attr { a := keep; a.Mode = mode; return a }
		must(t, d.WriteFile("empty", nil, with(0640)))
		must(t, d.WriteFile("file", []byte("content"), with(0640)))
		must(t, d.WriteFile("setuid", []byte("x"), with(04711)))
		must(t, d.Mkdir("dir", with(01777)))
		must(t, d.MakeSpecial("fifo", Special{Type: syscall.S_IFIFO}, with(0620)))
		must(t, d.MakeSpecial("link", Special{Type: syscall.S_IFLNK, Target: "a/b"}, with(0)))
		for name, want := range map[string]uint32{
			"empty": syscall.S_IFREG | 0640, "file": syscall.S_IFREG | 0640, "setuid": syscall.S_IFREG | 04711,
			"dir": syscall.S_IFDIR | 01777, "fifo": syscall.S_IFIFO | 0620,
		} {
			var st Stat
			must(t, d.Stat(name, &st))
			if st.Mode != want {
				t.Errorf("%s has mode %o, want %o", name, st.Mode, want)
			}
		}
		if data, err := os.ReadFile(dir + "/file"); err != nil || string(data) != "content" {
			t.Errorf("file holds %q, %v", data, err)
		}
		if target, err := d.Readlink("link"); err != nil || target != "a/b" {
			t.Errorf("link leads to %q, %v", target, err)
		}
		before := names(t, dir)
		for _, err := range []error{
			d.WriteFile("file", []byte("y"), with(0600)), d.WriteFile("dir", nil, with(0600)), d.Mkdir("dir", with(0700)),
			d.Mkdir("link", with(0700)), d.MakeSpecial("fifo", Special{Type: syscall.S_IFIFO}, with(0600)),
			d.MakeSpecial("link", Special{Type: syscall.S_IFLNK, Target: "c"}, with(0)),
		} {
			if !errors.Is(err, syscall.EEXIST) {
				t.Errorf("a taken name gave %v, want EEXIST", err)
			}
		}
		must(t, d.ReplaceWith("file", Special{Type: syscall.S_IFLNK, Target: "new"}, with(0)))
		if target, _ := d.Readlink("file"); target != "new" {
			t.Errorf("the replaced node leads to %q", target)
		}
		if err := d.ReplaceWith("dir", Special{Type: syscall.S_IFIFO}, with(0600)); err == nil {
			t.Error("a directory was replaced")
		}
		if after := names(t, dir); after != before {
			t.Errorf("entries became %s, were %s", after, before)
		}
	})
}

// The fallbacks for file systems without O_TMPFILE and RENAME_NOREPLACE.
func TestMakeUnderATemporaryName(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	a := Attr{UID: KeepID, GID: KeepID, Mode: 0604}
	fill := func(n *Node) error { return linux.WriteAll(n.fd, []byte("content")) }
	must(t, d.makeFileNamed("f", a, fill))
	if err := d.makeFileNamed("f", a, fill); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("a taken name gave %v", err)
	}
	full := func(n *Node) error { return syscall.ENOSPC }
	if err := d.makeFileNamed("g", a, full); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a failed write gave %v", err)
	}
	if got := names(t, dir); got != "f" {
		t.Errorf("entries %q, want f alone", got)
	}
	if st, err := os.Stat(dir + "/f"); err != nil || st.Mode().Perm() != 0604 || st.Size() != 7 {
		t.Errorf("%v %v", st, err)
	}
}

func TestFullFileSystemLeavesNothing(t *testing.T) {
	for _, what := range []string{"size=16k", "nr_inodes=2"} {
		t.Run(what, func(t *testing.T) {
			nstest.Run(t, nstest.Options{}, func(t *testing.T) {
				const dir = "/run/full"
				must(t, os.Mkdir(dir, 0o755))
				must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, what))
				d := open(t, dir)
				a := Attr{UID: KeepID, GID: KeepID, Mode: 04755}
				must(t, d.WriteFile("last", nil, a))
				got := map[string]error{"file": d.WriteFile("f", make([]byte, 1<<20), a)}
				if what == "nr_inodes=2" {
					got["directory"] = d.Mkdir("d", a)
					got["fifo"] = d.MakeSpecial("p", Special{Type: syscall.S_IFIFO}, a)
					got["replacement"] = d.ReplaceWith("last", Special{Type: syscall.S_IFIFO}, a)
				}
				for what, err := range got {
					if !errors.Is(err, syscall.ENOSPC) {
						t.Errorf("%s in a full file system: %v, want ENOSPC", what, err)
					}
				}
				if after := names(t, dir); after != "last" {
					t.Errorf("entries %q, want what was there before", after)
				}
			})
		})
	}
}

func TestReadOnlyFileSystem(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		const dir = "/run/ro"
		must(t, os.Mkdir(dir, 0o755))
		must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, ""))
		must(t, os.WriteFile(dir+"/f", nil, 0o600))
		must(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		d := open(t, dir)
		a := Attr{UID: KeepID, GID: KeepID, Mode: 0644}
		n, err := d.OpenNode("f")
		must(t, err)
		defer n.Close()
		for what, err := range map[string]error{
			"file": d.WriteFile("g", []byte("x"), a), "directory": d.Mkdir("g", a), "chmod": n.Chmod(0644),
			"link": d.MakeSpecial("g", Special{Type: syscall.S_IFLNK, Target: "x"}, a), "unlink": d.Unlink("f"),
			"xattr": n.Setxattr("user.a", []byte("b")),
		} {
			if !errors.Is(err, syscall.EROFS) {
				t.Errorf("%s: %v, want EROFS", what, err)
			}
		}
	})
}

// A node that was opened stays the one that is changed, whatever its name
// becomes.
func TestHeldInodeIsWhatChanges(t *testing.T) {
	everyWay(t, func(t *testing.T) {
		dir := t.TempDir()
		d := open(t, dir)
		must(t, os.WriteFile(dir+"/victim", nil, 0o600))
		for _, make := range []func(string) error{
			func(p string) error { return os.WriteFile(p, nil, 0o600) },
			func(p string) error { return os.Mkdir(p, 0o700) },
			func(p string) error { return syscall.Mkfifo(p, 0o600) },
		} {
			must(t, make(dir+"/n"))
			n, err := d.OpenNode("n")
			must(t, err)
			must(t, os.Rename(dir+"/n", dir+"/moved"))
			must(t, os.Symlink("victim", dir+"/n"))
			must(t, n.Chmod(0444))
			var st Stat
			must(t, d.Stat("moved", &st))
			if st.Perm() != 0444 {
				t.Errorf("the held inode has mode %o", st.Perm())
			}
			must(t, n.Close())
			must(t, os.Chmod(dir+"/moved", 0o700))
			must(t, os.Remove(dir+"/moved"))
			must(t, os.Remove(dir+"/n"))
		}
		var st Stat
		must(t, d.Stat("victim", &st))
		if st.Perm() != 0600 {
			t.Errorf("the victim has mode %o", st.Perm())
		}
	})
}

func TestXattrs(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	must(t, os.WriteFile(dir+"/f", nil, 0o600))
	n, err := d.OpenNode("f")
	must(t, err)
	defer n.Close()
	if _, err := n.Getxattr("user.big"); errors.Is(err, syscall.EOPNOTSUPP) {
		t.Skip("the file system of the temporary directory has no user.* extended attributes")
	}
	big := strings.Repeat("x", 3000)
	must(t, n.Setxattr("user.big", []byte(big)))
	if v, err := n.Getxattr("user.big"); err != nil || string(v) != big {
		t.Errorf("got %d bytes, %v", len(v), err)
	}
	must(t, n.Removexattr("user.big"))
	if _, err := n.Getxattr("user.big"); !errors.Is(err, syscall.ENODATA) {
		t.Errorf("after removal: %v", err)
	}
}

func TestNamesListsHostileNames(t *testing.T) {
	dir := t.TempDir()
	want := map[string]bool{}
	for _, name := range []string{"a b", "new\nline", "\xff\xfe", "-rf", "..x", strings.Repeat("n", 255), "\x1b[31m"} {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		want[name] = true
	}
	got, err := open(t, dir).Names()
	must(t, err)
	for _, name := range got {
		if !want[name] {
			t.Errorf("unexpected %q", name)
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("missing %v", want)
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]error{
		"a": nil, "...": nil, ".a": nil, "": syscall.EINVAL, ".": syscall.EINVAL, "..": syscall.EINVAL,
		"a/b": syscall.EINVAL, "a\x00": syscall.EINVAL, strings.Repeat("x", 255): nil, strings.Repeat("x", 256): syscall.ENAMETOOLONG,
	} {
		if err := ValidName(name); !errors.Is(err, want) {
			t.Errorf("ValidName(%.20q) = %v, want %v", name, err, want)
		}
	}
}

func TestStatSaysTheSameWithoutStatx(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/f", []byte("abc"), 0o640))
	fd, err := linux.Openat(linux.AT_FDCWD, dir, linux.O_PATH, 0)
	must(t, err)
	defer linux.Close(fd)
	var a, b Stat
	must(t, StatAt(fd, "f", &a))
	must(t, statOld(fd, "f", linux.AT_SYMLINK_NOFOLLOW, &b))
	a.Btime, a.MountRoot, a.MountRootKnown = b.Btime, false, false
	if a != b {
		t.Errorf("statx %+v\nfstatat %+v", a, b)
	}
}

func TestCopyFile(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	big := strings.Repeat("0123456789abcdef", 20000)
	must(t, os.WriteFile(dir+"/src", []byte(big), 0o600))
	src, err := d.OpenWork("src", linux.O_RDONLY)
	must(t, err)
	defer src.Close()
	st := Stat{Atime: 1e18, Mtime: 2e17}
	must(t, d.CopyFile("dst", src, &st, Attr{UID: KeepID, GID: KeepID, Mode: 0604}))
	data, err := os.ReadFile(dir + "/dst")
	if err != nil || string(data) != big {
		t.Errorf("copy has %d bytes, %v", len(data), err)
	}
	var got Stat
	must(t, d.Stat("dst", &got))
	if got.Perm() != 0604 || got.Mtime != 2e17 {
		t.Errorf("mode %o, mtime %d", got.Perm(), got.Mtime)
	}
}

// A file of /proc has no size and cannot be cloned: it is copied by reading.
func TestCopyFileOfProc(t *testing.T) {
	want, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc")
	}
	dir := t.TempDir()
	fd, err := linux.Openat(linux.AT_FDCWD, "/proc/self/status", linux.O_RDONLY, 0)
	must(t, err)
	src := &Node{fd: fd, work: true}
	defer src.Close()
	must(t, open(t, dir).CopyFile("status", src, &Stat{}, Attr{UID: KeepID, GID: KeepID, Mode: 0600}))
	got, err := os.ReadFile(dir + "/status")
	if err != nil || len(got) < len(want)/2 || !strings.HasPrefix(string(got), "Name:") {
		t.Errorf("copied %d of about %d bytes, %v", len(got), len(want), err)
	}
}

func FuzzEntries(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 24, 0, 8, 'a', 0, 0, 0, 0})
	f.Add([]byte{})
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, buf []byte) {
		for e := range Entries(buf) {
			if len(e.Name) == 0 || len(e.NameNul) != len(e.Name)+1 || e.NameNul[len(e.Name)] != 0 {
				t.Errorf("%q %q", e.Name, e.NameNul)
			}
		}
	})
}

// Subvolumes proper are made by test/btrfstest.
func TestMakeSubvolumeElsewhere(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		d := open(t, "/run")
		for _, before := range []func(int) error{nil, func(int) error { t.Error("called"); return nil }} {
			err := d.MakeSubvolume("v", Attr{UID: KeepID, GID: KeepID, Mode: 0o750}, before)
			if !errors.Is(err, syscall.ENOTTY) || names(t, "/run") != "" {
				t.Errorf("%v, and %q are there", err, names(t, "/run"))
			}
		}
		if linux.Umask(0) != 0 {
			t.Error("the umask is another one now")
		}
	})
}

// A copy that is to stop leaves nothing, and one of a file with holes keeps them.
func TestCopySparse(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	must(t, os.WriteFile(dir+"/from", []byte("begin"), 0o600))
	must(t, os.Truncate(dir+"/from", 1<<30))
	src, err := d.OpenWork("from", linux.O_RDONLY)
	must(t, err)
	defer src.Close()
	var st Stat
	must(t, src.Stat(&st))
	a := Attr{UID: KeepID, GID: KeepID, Mode: 0o640}
	stop := errors.New("stop")
	if err := d.CopySparse("to", src, &st, a, func() error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a copy that was to stop: %v", err)
	}
	if got := names(t, dir); got != "from" {
		t.Errorf("left are %q", got)
	}
	must(t, d.CopySparse("to", src, &st, a, nil))
	var to syscall.Stat_t
	must(t, syscall.Stat(dir+"/to", &to))
	if to.Size != 1<<30 || to.Blocks > 2048 || to.Mode&0o7777 != 0o640 {
		t.Errorf("%d bytes in %d blocks, mode %o", to.Size, to.Blocks, to.Mode)
	}
}
