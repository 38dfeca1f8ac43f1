package origin

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/stale"
	"github.com/slashrun/slashrun/internal/testenv"
)

// rows are those of a tree by their paths.
func rows(t *testing.T, i *Inspector, dir string) map[string]*Report {
	t.Helper()
	tr, err := i.Tree(t.Context(), dir, nil)
	must(t, err)
	m := map[string]*Report{}
	for _, r := range tr.Rows {
		m[r.Path] = r
	}
	return m
}

// A directory that is called "lock" makes nothing in it a lock file, and a number in
// any file but a PID file or lock is no PID.
func TestDirectoryCalledLock(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		tree(t, "/run/app/lock", map[string]string{"port": "31337\n", "settings": "conf=1\n", "format-version": "1\n", "pid": "4194000\n", "lock": "4194000\n"})
		i := inspector(t, Options{Root: system(t, nil)})
		all := rows(t, i, "/run/app")
		for _, n := range []string{"port", "settings", "format-version", "pid", "lock"} {
			p := "/run/app/lock/" + n
			for _, r := range []*Report{all[p], look(t, i, p)} {
				if r.Verdict != stale.CannotTell || r.Kind != "" || r.PID != 0 {
					t.Errorf("%s: %s, %q, PID %d: %s", p, r.Verdict, r.Kind, r.PID, r.Why())
				}
			}
		}
	})
}

// A PID file whose number is free is not stale while somebody has it open: that may be
// a daemon which is about to write its own.
func TestOpenPIDFile(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		tree(t, "/run/app", map[string]string{"x.pid": "4194000\n"})
		start(t, 0, step{"open", "/run/app/x.pid", strconv.Itoa(syscall.O_RDWR)})
		i := inspector(t, Options{Root: system(t, nil)})
		s, err := i.begin(t.Context(), true)
		must(t, err)
		defer s.end()
		r := s.path("/run/app/x.pid", 0)
		must(t, s.kinds())
		must(t, s.verdicts())
		r.Verdict = stale.Stale // as it is where the ground is ours alone
		must(t, s.uses())
		must(t, s.settle())
		want(t, r, File, stale.CannotTell, stale.InodeHeld)
	})
}

// The verdict on a link is that on what it leads to, in whichever order they were made.
func TestLinkOrder(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.MkdirAll("/run/l", 0o755))
		must(t, os.Symlink("b", "/run/l/a"))
		must(t, os.WriteFile("/run/l/b", nil, 0o644))
		must(t, os.Symlink("b", "/run/l/c"))
		must(t, os.Symlink("a", "/run/l/d"))
		start(t, 0, step{"open", "/run/l/b", "0"})
		i := inspector(t, Options{Root: system(t, nil)})
		all := rows(t, i, "/run/l")
		for _, n := range []string{"a", "c", "d"} {
			want(t, all["/run/l/"+n], Symlink, stale.Live, Leads)
			want(t, look(t, i, "/run/l/"+n), Symlink, stale.Live, Leads)
		}
		must(t, os.Symlink("loop", "/run/l/loop"))
		r := look(t, i, "/run/l/loop")
		if r.Link == nil || r.Link.Report == nil || r.Link.Report.Link == nil || r.Link.Report.Link.Report != nil || !strings.Contains(r.Link.Report.Link.Broken, "itself") {
			t.Errorf("%+v", r.Link)
		}
	})
}

// A tree stays on its own file system and on those in memory: what else is mounted below
// /run is told, and not walked.
func TestTreeStaysInMemory(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		tree(t, "/run/t", map[string]string{"low/x": "", "up/x": "", "work/x": "", "mem/x": "", "bind/x": ""})
		must(t, os.MkdirAll("/run/t/root", 0o755))
		must(t, syscall.Mount("overlay", "/run/t/root", "overlay", 0, "lowerdir=/run/t/low,upperdir=/run/t/up,workdir=/run/t/work"))
		must(t, syscall.Mount("none", "/run/t/mem", "tmpfs", 0, ""))
		must(t, os.WriteFile("/run/t/mem/seen", nil, 0o644))
		must(t, syscall.Mount("/run/t/low", "/run/t/bind", "", syscall.MS_BIND, ""))
		i := inspector(t, Options{Root: system(t, nil)})
		tr, err := i.Tree(t.Context(), "/run/t", nil)
		must(t, err)
		seen := map[string]bool{}
		for _, r := range tr.Rows {
			seen[r.Path] = true
			if r.Path == "/run/t/root" {
				want(t, r, Directory, stale.Live, Mounted)
			}
		}
		if !seen["/run/t/mem/seen"] || !seen["/run/t/bind/x"] || !seen["/run/t/root"] || seen["/run/t/root/x"] || tr.Failed {
			t.Errorf("%v, failed %v", seen, tr.Failed)
		}
		if len(tr.NotEntered) != 1 || tr.NotEntered[0].Path != "/run/t/root" || !strings.Contains(tr.NotEntered[0].Why, "name it") {
			t.Errorf("%+v", tr.NotEntered)
		}
		if all := rows(t, i, "/run/t/root"); all["/run/t/root/x"] == nil {
			t.Errorf("%v", all)
		}
	})
}

// A link through thousands of names is not followed to its end in a tree, and the ones
// after it are, until there are too many.
func TestLongLinks(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.MkdirAll("/run/l/d/d", 0o755))
		must(t, os.WriteFile("/run/l/f", nil, 0o644))
		must(t, os.Symlink(strings.Repeat("d/../", 800)+"f", "/run/l/long"))
		must(t, os.Symlink(strings.Repeat("d/../", 100)+"f", "/run/l/short"))
		i := inspector(t, Options{Root: system(t, nil)})
		all := rows(t, i, "/run/l")
		if l := all["/run/l/long"].Link; l.Real != "" || !strings.Contains(l.Broken, "too many") {
			t.Errorf("%+v", l)
		}
		if l := all["/run/l/short"].Link; l.Real != "/run/l/f" {
			t.Errorf("%+v", l)
		}
		if l := look(t, i, "/run/l/long").Link; l.Real != "/run/l/f" { // by its name
			t.Errorf("%+v", l)
		}
	})
}

// What is no UTF-8 comes through JSON.
func TestBytes(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.MkdirAll("/run/\xff", 0o755))
		must(t, os.Symlink("\xff", "/run/l"))
		i := inspector(t, Options{Root: system(t, nil)})
		r := look(t, i, "/run/l")
		text, err := json.Marshal(r)
		must(t, err)
		var back struct {
			Link struct {
				TargetBytes []byte `json:"target_bytes"`
				RealBytes   []byte `json:"real_bytes"`
			}
		}
		must(t, json.Unmarshal(text, &back))
		if string(back.Link.TargetBytes) != "\xff" || string(back.Link.RealBytes) != "/run/\xff" {
			t.Errorf("%s", text)
		}
	})
}

// A directive is quoted from where it stands, and directories of DynamicUser= are found
// where they are.
func TestDirectiveLines(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		i := inspector(t, Options{Root: system(t, map[string]string{
			"usr/lib/systemd/system/foo.service":              "[Service]\nRuntimeDirectory=foo\nRuntimeDirectory=foo-data\n",
			"usr/lib/systemd/system/dyn.service":              "[Service]\nDynamicUser=yes\nRuntimeDirectory=dyn\nRuntimeDirectoryPreserve=yes\nStateDirectory=dyn\n",
			"usr/lib/systemd/system/service.d/x.conf":         "[Service]\nRuntimeDirectory=all-%N\n",
			"run/systemd/system.control/c.service":            "[Service]\nPIDFile=/run/c.pid\n",
			"etc/systemd/system.attached/portable.socket":     "[Socket]\nListenStream=/run/portable\n",
			"usr/lib/systemd/system/tpl@.service":             "[Service]\nRuntimeDirectory=tpl/%i\n",
			"etc/systemd/system/tpl@bad.service":              "->/dev/null",
			"etc/systemd/system/tpl@more.service.d/more.conf": "[Service]\nPIDFile=/run/more.pid\n",
			"etc/passwd": "root:x:0:0::/root:/bin/sh\n",
		})})
		tree(t, "/run", map[string]string{"tpl/bad/x": "", "tpl/good/x": "", "tpl/more/x": "", "more.pid": ""})
		tree(t, "/run", map[string]string{"foo/x": "", "foo-data/x": "", "all-foo/x": "", "private/dyn/x": "", "c.pid": "", "portable": ""})
		for path, want := range map[string]string{
			"/run/foo":         "unit foo.service RuntimeDirectory=foo",
			"/run/foo-data":    "unit foo.service RuntimeDirectory=foo-data",
			"/run/all-foo":     "unit foo.service RuntimeDirectory=all-%N",
			"/run/private/dyn": "unit dyn.service RuntimeDirectory=dyn",
			"/run/tpl/bad":     "",
			"/run/tpl/good":    "unit tpl@good.service RuntimeDirectory=tpl/%i",
			"/run/tpl/more":    "unit tpl@more.service RuntimeDirectory=tpl/%i",
			"/run/more.pid":    "unit tpl@more.service PIDFile=/run/more.pid",
			"/run/c.pid":       "unit c.service PIDFile=/run/c.pid",
			"/run/portable":    "unit portable.socket ListenStream=/run/portable",
		} {
			if got := maker(look(t, i, path)); got != want {
				t.Errorf("%s: %q, want %q", path, got, want)
			}
		}
		u, err := i.unitsOf(t.Context())
		must(t, err)
		if list := u.of("/var/lib/private/dyn"); len(list) != 1 || list[0].key != "StateDirectory" {
			t.Errorf("%+v", list)
		}
	})
}

// Who merely reads a file has not made it; who writes his own may have.
func TestReaderIsNoMaker(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		tree(t, "/run/m", map[string]string{"read": "", "written": ""})
		start(t, 0, step{"open", "/run/m/read", "0"}, step{"open", "/run/m/written", strconv.Itoa(syscall.O_WRONLY)})
		i := inspector(t, Options{Root: system(t, nil)})
		if r := look(t, i, "/run/m/read"); len(r.MadeBy) != 0 || len(r.UsedBy) != 1 {
			t.Errorf("%+v", r.MadeBy)
		}
		if r := look(t, i, "/run/m/written"); len(r.MadeBy) != 1 || r.MadeBy[0].By != ByProcess {
			t.Errorf("%+v", r.MadeBy)
		}
		if r := look(t, i, "/dev/null"); len(r.MadeBy) != 0 && r.MadeBy[0].By == ByProcess {
			t.Errorf("%+v", r.MadeBy)
		}
	})
}

// A lease is not broken: a file with one is not opened.
func TestLease(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		tree(t, "/run/l", map[string]string{"x.pid": "1\n", "small": "1\n"})
		pid := start(t, 0, step{"lease", "/run/l/x.pid"}, step{"lease", "/run/l/small"})
		i := inspector(t, Options{Root: system(t, nil)})
		for _, r := range []*Report{look(t, i, "/run/l/x.pid"), rows(t, i, "/run/l")["/run/l/x.pid"]} {
			want(t, r, File, stale.Live, stale.LockHeld)
			if len(r.UsedBy) != 1 || r.UsedBy[0].PID != pid {
				t.Errorf("%+v", r.UsedBy)
			}
		}
		look(t, i, "/run/l/small")
		text, err := os.ReadFile("/proc/locks")
		must(t, err)
		if strings.Count(string(text), "LEASE  ACTIVE    WRITE") != 2 || strings.Contains(string(text), "BREAKING") {
			t.Errorf("%s", text)
		}
	})
}

// The mount of a FUSE file system on a file is told to be one, and what cannot be looked
// at has no numbers in JSON.
func TestSilentFile(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		tree(t, "/run/f", map[string]string{"x": ""})
		asked := hung(t, "/run/f/x")
		i := inspector(t, Options{Root: system(t, nil)})
		want(t, look(t, i, "/run/f/x"), File, stale.Live, Mounted)
		want(t, rows(t, i, "/run/f")["/run/f/x"], File, stale.Live, Mounted)
		text, err := json.Marshal(look(t, i, "/run/f/nothing").JSON())
		must(t, err)
		if asked.Load() != 0 || strings.Contains(string(text), "uid") || !strings.Contains(string(text), "/run/f/nothing") {
			t.Errorf("asked %d times, %s", asked.Load(), text)
		}
	})
}
