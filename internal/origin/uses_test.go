package origin

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/stale"
	"github.com/slashrun/slashrun/internal/testenv"
)

// users are the users of a report: "PID how,how".
func users(r *Report) []string {
	var list []string
	for _, u := range r.UsedBy {
		list = append(list, fmt.Sprintf("%d %s", u.PID, strings.Join(u.How, ",")))
	}
	slices.Sort(list)
	return list
}

func wantUsers(t *testing.T, r *Report, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := users(r); !slices.Equal(got, want) {
		t.Errorf("%s: users %q, want %q; unseen %q", r.Path, got, want, r.Unseen)
	}
}

// Who uses what, in every way, alone and in a tree.
func TestUsers(t *testing.T) {
	nstest.Run(t, nstest.Options{Net: true}, func(t *testing.T) {
		must(t, os.MkdirAll("/run/d/sub", 0o755))
		for _, n := range []string{"open", "x.lock", "map", "link1", "none"} {
			must(t, os.WriteFile("/run/d/"+n, make([]byte, 4096), 0o644))
		}
		must(t, os.Link("/run/d/link1", "/run/d/link2"))
		must(t, syscall.Mkfifo("/run/d/fifo", 0o644))
		pid := start(t, 0, step{"open", "/run/d/open", strconv.Itoa(syscall.O_RDWR)}, step{"flock", "/run/d/x.lock"}, step{"map", "/run/d/map"}, step{"open", "/run/d/link1", "0"},
			step{"open", "/run/d/fifo", strconv.Itoa(syscall.O_RDWR)}, step{"cwd", "/run/d/sub"}, step{"listen", "unix", "/run/d/s"}, step{"listen", "unixgram", "/run/d/g"})
		client := start(t, 0, step{"connect", "unix", "/run/d/s"})
		// In a network namespace of its own, where sock_diag of ours shows nothing.
		far := start(t, syscall.CLONE_NEWNET, step{"listen", "unixpacket", "/run/d/far"})
		must(t, os.Rename("/run/d/far", "/run/d/moved"))

		i := inspector(t, Options{Root: system(t, nil)})
		tr, err := i.Tree(t.Context(), "/run", nil)
		must(t, err)
		rows := map[string]*Report{}
		for _, r := range tr.Rows {
			rows[r.Path] = r
		}
		me := strconv.Itoa(pid) + " "
		for name, c := range map[string]struct {
			users []string
			v     stale.Verdict
			p     stale.Proof
		}{
			"open":   {[]string{me + "open"}, stale.Live, stale.InodeHeld},
			"x.lock": {[]string{me + "locked,open"}, stale.Live, stale.LockHeld},
			"map":    {[]string{me + "mapped"}, stale.Live, stale.InodeHeld},
			"link1":  {[]string{me + "open"}, stale.Live, stale.InodeHeld},
			"link2":  {[]string{me + "open"}, stale.Live, stale.InodeHeld},
			"fifo":   {[]string{me + "open"}, stale.Live, stale.InodeHeld},
			"sub":    {[]string{me + "cwd"}, stale.Live, stale.InodeHeld},
			"s":      {[]string{me + "listening", strconv.Itoa(client) + " connecting"}, stale.Live, stale.SocketBound},
			"g":      {[]string{me + "bound"}, stale.Live, stale.SocketBound},
			"moved":  {[]string{strconv.Itoa(far) + " listening"}, stale.Live, stale.SocketBound},
			"none":   {nil, stale.CannotTell, stale.WrongType},
		} {
			alone := look(t, i, "/run/d/"+name)
			for how, r := range map[string]*Report{"alone": alone, "tree": rows["/run/d/"+name]} {
				got := users(r)
				want := slices.Sorted(slices.Values(c.users))
				if !slices.Equal(got, want) || r.Verdict != c.v || name != "none" && r.Evidence[len(r.Evidence)-1].Proof != c.p {
					t.Errorf("%s, %s: %q, %s (%s); want %q, %s", name, how, got, r.Verdict, r.Why(), want, c.v)
				}
			}
			if name == "open" {
				u := alone.UsedBy[0]
				if u.Since.IsZero() || u.Comm == "" || !strings.Contains(u.Detail, " rw") || maker(alone) == "" || alone.MadeBy[0].By != ByProcess || alone.MadeBy[0].PID != pid {
					t.Errorf("%+v, made by %+v", u, alone.MadeBy)
				}
			}
		}
	})
}

// Where it can be reached in another mount namespace, and what a bind mount here says.
func TestReached(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.MkdirAll("/run/d", 0o755))
		must(t, os.MkdirAll("/run/other", 0o755))
		must(t, os.WriteFile("/run/d/file", nil, 0o644))
		listen(t, "unix", "/run/d/s")
		pid := start(t, syscall.CLONE_NEWNS, step{"private"}, step{"bind", "/run/d", "/run/other"}, step{"read-only", "/run/other"})
		i := inspector(t, Options{Root: system(t, nil)})
		for _, name := range []string{"file", "s"} {
			r := look(t, i, "/run/d/"+name)
			found := map[string]bool{}
			for _, p := range r.Reached {
				for _, n := range p.Namespaces {
					if len(n.Processes) > 0 && n.Processes[0].PID == pid && p.Confirmed && p.HiddenBy == "" {
						found[fmt.Sprintf("%s %v", p.Path, p.ReadOnly)] = true
					}
				}
			}
			if len(found) != 2 || !found["/run/d/"+name+" false"] || !found["/run/other/"+name+" true"] {
				t.Errorf("%s: %v, %+v", name, found, r.Reached)
			}
		}
	})
}

// hung mounts a FUSE file system whose daemon takes every request and answers none:
// whoever asks cannot even be killed. The count is of what was asked.
func hung(t *testing.T, at string) *atomic.Int64 {
	t.Helper()
	testenv.Need(t, testenv.Requirement{What: "FUSE in the kernel", Check: func() error {
		text, err := os.ReadFile("/proc/filesystems")
		if err == nil && !strings.Contains(string(text), "\tfuse\n") {
			err = errors.New("/proc/filesystems does not have it")
		}
		return err
	}})
	if err := syscall.Mknod("/dev/fuse", syscall.S_IFCHR|0o600, int(linux.Makedev(10, 229))); !errors.Is(err, os.ErrExist) {
		must(t, err)
	}
	dev, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	must(t, err)
	mode := 0o40000
	if st, err := os.Stat(at); err == nil && st.Mode().IsRegular() {
		mode = 0o100000
	}
	if mode == 0o40000 {
		must(t, os.MkdirAll(at, 0o755))
	}
	must(t, syscall.Mount("hung", at, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=%o,user_id=0,group_id=0", dev, mode)))
	asked := new(atomic.Int64)
	ready := make(chan struct{})
	go func() {
		buf := make([]byte, 1<<17)
		for {
			n, err := syscall.Read(dev, buf)
			if err == syscall.EINTR {
				continue
			}
			if err != nil || n < 40 {
				return // unmounted
			}
			if opcode := binary.NativeEndian.Uint32(buf[4:]); opcode != 26 { // FUSE_INIT
				asked.Add(1)
				continue
			}
			out := make([]byte, 16+64) // fuse_out_header, fuse_init_out of linux/fuse.h
			binary.NativeEndian.PutUint32(out, uint32(len(out)))
			copy(out[8:16], buf[8:16])
			binary.NativeEndian.PutUint32(out[16:], 7)
			binary.NativeEndian.PutUint32(out[20:], 31)
			binary.NativeEndian.PutUint32(out[36:], 4096)
			syscall.Write(dev, out)
			close(ready)
		}
	}()
	<-ready
	t.Cleanup(func() {
		syscall.Unmount(at, syscall.MNT_FORCE|syscall.MNT_DETACH) // lets go of whoever waits
		syscall.Close(dev)
	})
	return asked
}

// A FUSE file system that does not answer is not even asked, whatever leads there.
func TestHungFUSE(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		for _, profile := range seccomptest.All {
			t.Run(profile.String(), func(t *testing.T) {
				seccomptest.Run(t, profile, func(t *testing.T) {
					dir := "/run/" + filepath.Base(t.TempDir()) + strings.ReplaceAll(profile.String(), "/", "")
					must(t, os.MkdirAll(dir, 0o755))
					asked := hung(t, dir+"/hung")
					must(t, os.Symlink(dir+"/hung/file", dir+"/link"))
					must(t, os.Symlink(dir+"/hung", dir+"/to-mount"))
					must(t, os.WriteFile(dir+"/x", nil, 0o644))
					i := inspector(t, Options{Root: system(t, nil)})
					r := look(t, i, dir+"/hung")
					want(t, r, Directory, stale.Live, Mounted)
					if r.Mount == nil || r.Mount.Type != "fuse" || len(r.Unseen) == 0 {
						t.Errorf("%+v", r)
					}
					for _, p := range []string{"hung/file", "hung/a/b/", "to-mount/x"} {
						if r := look(t, i, dir+"/"+p); r.Err() == nil || !strings.Contains(r.Error, "it was not asked") {
							t.Errorf("%s: %q", p, r.Error)
						}
					}
					if r := look(t, i, dir+"/link"); r.Link == nil || !strings.Contains(r.Link.Broken, "not asked") {
						t.Errorf("%+v", r.Link)
					}
					tr, err := i.Tree(t.Context(), dir, nil)
					must(t, err)
					if len(tr.Rows) != 4 || len(tr.NotEntered) != 1 || tr.NotEntered[0].Path != dir+"/hung" {
						t.Errorf("%d rows, %+v", len(tr.Rows), tr.NotEntered)
					}
					if _, err := i.Tree(t.Context(), dir+"/hung", nil); err == nil {
						t.Error("listed")
					}
					if i.IsDirectory(dir + "/hung") {
						t.Error("a directory to be listed")
					}
					if n := asked.Load(); n != 0 {
						t.Errorf("the daemon was asked %d times", n)
					}
				})
			})
		}
	})
}

// A /run of 100,000 entries, each with the right verdict.
func TestHundredThousand(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: makes 100,000 files")
	}
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		const dirs, files = 980, 100
		must(t, os.MkdirAll("/run/sock", 0o755))
		made := 1
		for n := range 1000 {
			if n%2 == 0 {
				orphan(t, "unix", fmt.Sprintf("/run/sock/%d", n))
			} else {
				listen(t, "unix", fmt.Sprintf("/run/sock/%d", n))
			}
			made++
		}
		aged(t, "/run/sock/998")
		for d := range dirs {
			dir := fmt.Sprintf("/run/d%d", d)
			must(t, os.Mkdir(dir, 0o755))
			for f := range files {
				must(t, os.WriteFile(fmt.Sprintf("%s/f%d", dir, f), nil, 0o644))
			}
			made += 1 + files
		}
		pid := start(t, 0, step{"open", "/run/d77/f77", "0"})
		i := inspector(t, Options{Root: system(t, nil)})
		ticks := 0
		tr, err := i.Tree(t.Context(), "/run", func(int) { ticks++ })
		must(t, err)
		if len(tr.Rows) != made || tr.Stale != 500 || tr.Live != 501 || ticks == 0 {
			t.Errorf("%d rows of %d, %d stale, %d live", len(tr.Rows), made, tr.Stale, tr.Live)
		}
		for _, r := range tr.Rows {
			if r.Path == "/run/d77/f77" {
				wantUsers(t, r, fmt.Sprint(pid, " open"))
			}
		}
	})
}

// What is mounted while we look is found out before it is asked anything.
func TestHungFUSEMeanwhile(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		for _, profile := range []seccomptest.Profile{seccomptest.None, seccomptest.EPERM} {
			t.Run(profile.String(), func(t *testing.T) {
				seccomptest.Run(t, profile, func(t *testing.T) {
					dir := "/run/late" + profile.String()
					must(t, os.MkdirAll(dir+"/a/b", 0o755))
					i := inspector(t, Options{Root: system(t, nil)})
					var asked *atomic.Int64
					tr, err := i.Tree(t.Context(), dir, func(n int) {
						if asked == nil {
							asked = hung(t, dir+"/a")
						}
					})
					must(t, err)
					if asked == nil || asked.Load() != 0 || len(tr.NotEntered) != 1 || !strings.Contains(tr.NotEntered[0].Why, "fuse") {
						t.Errorf("%+v", tr)
					}
					s, err := i.begin(t.Context(), true)
					must(t, err)
					late := hung(t, dir+"/late")
					for _, p := range []string{"/late", "/late/x"} {
						if r := s.path(dir+p, 0); r.Mount == nil || r.Mount.Type != "fuse" {
							t.Errorf("%+v", r)
						}
					}
					s.end()
					if late.Load() != 0 {
						t.Errorf("asked %d times", late.Load())
					}
				})
			})
		}
	})
}

// A file over which a FUSE file system is mounted after it was found, or while a tree is
// walked, is judged without a question to that; so is a socket where somebody's overlay
// names a path on one.
func TestHungFUSEBeforeTheVerdict(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		for _, profile := range seccomptest.All {
			t.Run(profile.String(), func(t *testing.T) {
				seccomptest.Run(t, profile, func(t *testing.T) {
					dir := "/run/before" + strings.ReplaceAll(profile.String(), "/", "")
					tree(t, dir, map[string]string{"a.pid": "4194000\n", "b.lock": "", "c.pid": "1\n", "low/x": "", "up/x/u/x": "", "up/x/w/x": ""})
					orphan(t, "unix", dir+"/s")
					aged(t, dir+"/s")
					start(t, syscall.CLONE_NEWNS, step{"private"}, step{"overlay", "lowerdir=" + dir + "/low,upperdir=" + dir + "/up/x/u,workdir=" + dir + "/up/x/w", dir + "/low"})
					asked := []*atomic.Int64{hung(t, dir+"/up/x")}
					i := inspector(t, Options{Root: system(t, nil)})
					s, err := i.begin(t.Context(), true)
					must(t, err)
					defer s.end()
					list := []*Report{s.path(dir+"/a.pid", 0), s.path(dir+"/b.lock", 0), s.path(dir+"/s", 0)}
					asked = append(asked, hung(t, dir+"/a.pid"), hung(t, dir+"/b.lock"))
					must(t, s.finish())
					for _, r := range list[:2] {
						want(t, r, File, stale.CannotTell, Vanished)
					}
					want(t, list[2], Socket, stale.Stale, stale.ConnectRefused)

					once := false
					_, err = i.Tree(t.Context(), dir, func(int) {
						if !once {
							once = true
							asked = append(asked, hung(t, dir+"/c.pid"))
						}
					})
					must(t, err)
					// The same when nothing looks at the mount table first.
					d, err := fsat.OpenDir(dir)
					must(t, err)
					defer d.Close()
					for _, name := range []string{"a.pid", "b.lock", "c.pid"} {
						for _, kind := range []stale.Kind{stale.Guess, stale.PIDFile} {
							f, err := s.judge.Look(t.Context(), d, name, name, kind)
							must(t, err)
							if f.Verdict != stale.CannotTell || f.Evidence[len(f.Evidence)-1].Proof != stale.NetworkFS {
								t.Errorf("%s", f)
							}
						}
						n, err := s.judge.LookPID(t.Context(), d, name, name)
						must(t, err)
						n.Close()
					}
					for n, a := range asked {
						if a.Load() != 0 {
							t.Errorf("%d: asked %d times", n, a.Load())
						}
					}
				})
			})
		}
	})
}

// An automount is not triggered, neither by its own path nor by one below it: its
// daemon hears nothing.
func TestAutofs(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		testenv.Need(t, testenv.Requirement{What: "autofs in the kernel", Check: func() error {
			text, err := os.ReadFile("/proc/filesystems")
			if err == nil && !strings.Contains(string(text), "\tautofs\n") {
				err = errors.New("/proc/filesystems does not have it")
			}
			return err
		}})
		daemon := exec.Command("sleep", "600") // whose process group is the daemon's
		daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		must(t, daemon.Start())
		defer daemon.Wait()
		defer daemon.Process.Kill()
		r, w, err := os.Pipe()
		must(t, err)
		defer r.Close()
		for _, kind := range []string{"indirect", "direct"} {
			at := "/run/tree/" + kind
			must(t, os.MkdirAll(at, 0o755))
			must(t, syscall.Mount("auto", at, "autofs", 0, fmt.Sprintf("fd=%d,pgrp=%d,minproto=5,maxproto=5,%s", w.Fd(), daemon.Process.Pid, kind)))
			defer syscall.Unmount(at, syscall.MNT_DETACH)
		}
		must(t, w.Close()) // the kernel has its own
		i := inspector(t, Options{Root: system(t, nil)})
		for _, kind := range []string{"indirect", "direct"} {
			want(t, look(t, i, "/run/tree/"+kind), Directory, stale.Live, Mounted)
			if r := look(t, i, "/run/tree/"+kind+"/some/where"); r.Err() == nil || !strings.Contains(r.Error, "not asked") {
				t.Errorf("%q", r.Error)
			}
		}
		tr, err := i.Tree(t.Context(), "/run/tree", nil)
		must(t, err)
		if len(tr.Rows) != 2 || len(tr.NotEntered) != 2 {
			t.Errorf("%+v", tr)
		}
		must(t, r.SetReadDeadline(time.Now()))
		if n, err := r.Read(make([]byte, 4096)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the daemon was told %d bytes, %v", n, err)
		}
	})
}

// What lsof(8) lists for a file are the processes that are told here.
func TestAgainstLsof(t *testing.T) {
	testenv.Need(t, testenv.Tool("lsof"))
	lsof, err := testenv.LookTool("lsof")
	must(t, err)
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.MkdirAll("/run/d/sub", 0o755))
		for _, n := range []string{"open", "map", "two"} {
			must(t, os.WriteFile("/run/d/"+n, make([]byte, 4096), 0o644))
		}
		must(t, syscall.Mkfifo("/run/d/fifo", 0o644))
		start(t, 0, step{"open", "/run/d/open", "0"}, step{"map", "/run/d/map"}, step{"open", "/run/d/two", "1"}, step{"open", "/run/d/fifo", "2"}, step{"cwd", "/run/d/sub"}, step{"listen", "unix", "/run/d/s"})
		start(t, 0, step{"open", "/run/d/two", "0"}, step{"cwd", "/run/d/sub"})
		i := inspector(t, Options{Root: system(t, nil)})
		for _, name := range []string{"open", "map", "two", "fifo", "sub", "s"} {
			out, err := exec.Command(lsof, "-w", "-t", "/run/d/"+name).Output()
			theirs := strings.Fields(string(out))
			if err != nil || len(theirs) == 0 {
				t.Fatalf("lsof %s: %q, %v", name, out, err)
			}
			var ours []string
			for _, u := range look(t, i, "/run/d/"+name).UsedBy {
				ours = append(ours, strconv.Itoa(u.PID))
			}
			slices.Sort(theirs)
			slices.Sort(ours)
			if !slices.Equal(theirs, ours) {
				t.Errorf("%s: lsof %q, ours %q", name, theirs, ours)
			}
		}
	})
}

// On an overlay the numbers that stat(2) gives are not those of sock_diag and
// /proc/locks.
func TestOverlay(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		for _, d := range []string{"lower", "merged", "up"} {
			must(t, os.MkdirAll("/run/"+d, 0o755))
		}
		must(t, os.WriteFile("/run/lower/file", nil, 0o644))
		// The upper layer on another file system: st_dev differs from file to file.
		must(t, syscall.Mount("up", "/run/up", "tmpfs", 0, ""))
		must(t, os.MkdirAll("/run/up/upper", 0o755))
		must(t, os.MkdirAll("/run/up/work", 0o755))
		if err := syscall.Mount("o", "/run/merged", "overlay", 0, "lowerdir=/run/lower,upperdir=/run/up/upper,workdir=/run/up/work"); err != nil {
			testenv.Need(t, testenv.Requirement{What: "overlayfs in a user namespace (Linux 5.11)", Check: func() error { return err }})
		}
		defer syscall.Unmount("/run/merged", syscall.MNT_DETACH)
		must(t, os.WriteFile("/run/merged/new", nil, 0o644))
		pid := start(t, 0, step{"open", "/run/merged/file", "0"}, step{"flock", "/run/merged/new"}, step{"listen", "unix", "/run/merged/s"}, step{"cwd", "/run/merged"})
		orphan(t, "unix", "/run/merged/orphan")
		aged(t, "/run/merged/orphan")
		i := inspector(t, Options{Root: system(t, nil)})
		tr, err := i.Tree(t.Context(), "/run/merged/", nil)
		must(t, err)
		rows := map[string]*Report{}
		for _, r := range tr.Rows {
			rows[r.Path] = r
		}
		me := fmt.Sprint(pid)
		for name, users := range map[string][]string{"file": {me + " open"}, "new": {me + " locked,open"}, "s": {me + " listening"}, "orphan": nil} {
			p := "/run/merged/" + name
			wantUsers(t, look(t, i, p), users...)
			wantUsers(t, rows[p], users...)
		}
		want(t, rows["/run/merged/orphan"], Socket, stale.Stale, stale.ConnectRefused)
		want(t, rows["/run/merged/s"], Socket, stale.Live, stale.SocketBound)
		// The same socket below the overlay is another inode, of which nothing is known.
		if r := look(t, i, "/run/up/upper/s"); r.Verdict != stale.CannotTell {
			t.Errorf("%s: %s", r.Verdict, r.Why())
		}
	})
}
