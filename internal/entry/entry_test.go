package entry

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
)

func TestMain(m *testing.M) {
	seccomptest.Setup()
	nstest.Main(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inside runs f in namespaces of its own, with an image's root directory.
func inside(t *testing.T, f func(t *testing.T, root string)) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) { f(t, newImage(t)) })
}

// newImage is the root directory of an image with something of every kind in its
// run.
func newImage(t *testing.T) string {
	t.Helper()
	syscall.Umask(0)
	root, err := os.MkdirTemp("/tmp", "image")
	must(t, err)
	must(t, os.Chmod(root, 0o755))
	run := root + "/run"
	for _, d := range []struct {
		path string
		mode uint32
	}{{"etc", 0o755}, {"dev", 0o755}, {"var", 0o755}, {"run", 0o750}, {"run/app", 0o2775}, {"run/app/deep", 0o700}, {"run/lock", 0o1777}} {
		must(t, os.Mkdir(root+"/"+d.path, 0o755))
		must(t, syscall.Chmod(root+"/"+d.path, d.mode))
	}
	must(t, os.WriteFile(run+"/app/state", []byte("of the image\n"), 0o640))
	must(t, os.Symlink("../app/state", run+"/lock/link"))
	must(t, syscall.Mkfifo(run+"/app/fifo", 0o600))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: run + "/app/sock", Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
	if os.Getuid() == 0 && isMapped(t, 33) {
		must(t, os.Chown(run+"/app", 33, 33))
		must(t, syscall.Chmod(run+"/app", 0o2775))
	}
	must(t, syscall.Setxattr(run+"/app/deep", "user.mark", []byte("x"), 0))
	old := time.Unix(1_000_000_000, 5)
	for _, p := range []string{"app/state", "app/deep", "app"} {
		must(t, os.Chtimes(run+"/"+p, old, old))
	}
	return root
}

// isMapped says whether a user can be given files here.
func isMapped(t *testing.T, uid int) bool {
	p := t.TempDir() + "/f"
	must(t, os.WriteFile(p, nil, 0o600))
	return os.Chown(p, uid, uid) == nil
}

func options(t *testing.T, root string) Options {
	t.Helper()
	r, err := inroot.Open(root)
	must(t, err)
	t.Cleanup(func() { r.Close() })
	return Options{Root: r, Mode: Auto}
}

func mustRun(t *testing.T, o Options) *Result {
	t.Helper()
	res, err := Run(context.Background(), o)
	if err != nil {
		t.Fatalf("%v\n%v", err, res.Steps)
	}
	return res
}

func isTmpfs(t *testing.T, path string) bool {
	t.Helper()
	var here, above syscall.Stat_t
	must(t, syscall.Stat(path, &here))
	must(t, syscall.Stat(filepath.Dir(path), &above))
	return here.Dev != above.Dev
}

// tree lists what is below a directory: type, mode, owner, name.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		info, err := d.Info()
		if err != nil {
			return err
		}
		out = append(out, info.Mode().String()+" "+rel)
		return nil
	}))
	return out
}

func TestNewRunHasWhatTheImageHas(t *testing.T) {
	for _, p := range seccomptest.All {
		t.Run(p.String(), func(t *testing.T) {
			inside(t, func(t *testing.T, root string) {
				seccomptest.Run(t, p, func(t *testing.T) {
					// A secret, and a socket's file, as runtimes mount them.
					run := root + "/run"
					must(t, os.MkdirAll(run+"/secrets/kubernetes.io", 0o755))
					must(t, syscall.Mount("none", run+"/secrets/kubernetes.io", "tmpfs", 0, ""))
					must(t, os.WriteFile(run+"/secrets/kubernetes.io/token", []byte("t"), 0o400))
					must(t, os.WriteFile(root+"/containerenv", []byte("e"), 0o444))
					must(t, os.WriteFile(run+"/.containerenv", nil, 0o444))
					must(t, syscall.Mount(root+"/containerenv", run+"/.containerenv", "", syscall.MS_BIND, ""))
					res := mustRun(t, options(t, root))
					if len(res.Without) > 0 || !res.Situation.Fresh || !isTmpfs(t, run) {
						t.Fatalf("without %q, %+v", res.Without, res.Situation)
					}
					want := []string{
						"drwxr-x--- .", "-r--r--r-- .containerenv", "dgrwxrwxr-x app", "drwx------ app/deep", "-rw-r----- app/state",
						"dtrwxrwxrwx lock", "Lrwxrwxrwx lock/link", "drwxr-xr-x secrets", "dtrwxrwxrwx secrets/kubernetes.io",
						"-r-------- secrets/kubernetes.io/token", "drwxr-xr-x slashrun", "-rw-r--r-- slashrun/boot", "drwxr-xr-x user",
					}
					if got := tree(t, run); !slices.Equal(got, want) {
						t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
					}
					if b, _ := os.ReadFile(run + "/app/state"); string(b) != "of the image\n" {
						t.Errorf("state holds %q", b)
					}
					for _, p := range []string{"app", "app/deep", "app/state"} {
						st, err := os.Stat(run + "/" + p)
						must(t, err)
						if st.ModTime().Unix() != 1_000_000_000 {
							t.Errorf("%s is of %v", p, st.ModTime())
						}
					}
					buf := make([]byte, 8)
					if n, err := syscall.Getxattr(run+"/app/deep", "user.mark", buf); err != nil || string(buf[:n]) != "x" {
						t.Errorf("the extended attribute: %q %v", buf[:max(n, 0)], err)
					}
					// And again: nothing is left to do.
					if res := mustRun(t, options(t, root)); len(res.Without) != 0 || slices.ContainsFunc(res.Steps, func(s Step) bool { return !s.Left }) {
						t.Errorf("the second time: %v, without %q", res.Steps, res.Without)
					}
				})
			})
		})
	}
}

func TestInPlaceIsAsItWas(t *testing.T) {
	inside(t, func(t *testing.T, root string) {
		before := tree(t, root+"/run")
		o := options(t, root)
		o.Mode, o.KeepStale = InPlace, true
		res := mustRun(t, o)
		if len(res.Without) > 0 || res.Situation.Fresh || isTmpfs(t, root+"/run") {
			t.Errorf("without %q, %+v", res.Without, res.Situation)
		}
		if got := tree(t, root+"/run"); !slices.Equal(got, before) {
			t.Errorf("got %q, was %q", got, before)
		}
	})
}

func TestNothingIsMountedWhereOthersLive(t *testing.T) {
	inside(t, func(t *testing.T, root string) {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestSleeper$", "-test.v")
		cmd.Env = append(os.Environ(), "ENTRY_TEST_SLEEP=1")
		in, err := cmd.StdinPipe()
		must(t, err)
		must(t, cmd.Start())
		res := mustRun(t, options(t, root))
		if res.Situation.Fresh || isTmpfs(t, root+"/run") {
			t.Error("mounted over a living process")
		}
		o := options(t, root)
		o.Mode = Tmpfs
		if _, err := Run(context.Background(), o); err == nil || !strings.Contains(err.Error(), "asked for") {
			t.Errorf("--run=tmpfs: %v", err)
		}
		in.Close()
		cmd.Wait()
		if res := mustRun(t, options(t, root)); !res.Situation.Fresh {
			t.Errorf("alone: %+v", res.Situation)
		}
	})
}

// TestSleeper is a process that lives until its standard input ends.
func TestSleeper(t *testing.T) {
	if os.Getenv("ENTRY_TEST_SLEEP") != "" {
		os.Stdin.Read(make([]byte, 1))
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	inside(t, func(t *testing.T, root string) {
		before := tree(t, root)
		o := options(t, root)
		o.DryRun = true
		res := mustRun(t, o)
		if got := tree(t, root); !slices.Equal(got, before) || isTmpfs(t, root+"/run") {
			t.Errorf("got %q, was %q", got, before)
		}
		var text strings.Builder
		for _, s := range res.Steps {
			text.WriteString(s.Text + "\n")
		}
		for _, want := range []string{"mount a tmpfs on", "copy the file " + root + "/run/app/state", "do not copy " + root + "/run/app/sock", "copy the link"} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("%q is not in the plan:\n%s", want, &text)
			}
		}
	})
}
