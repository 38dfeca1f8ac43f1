package origin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/pidfile"
)

func declarations() map[string]string {
	return map[string]string{
		"usr/lib/tmpfiles.d/web.conf": "d /run/web 0755 root root\nf /run/web/motd - - - - hello\nL /run/link - - - - web\nz /run/web/other 0600\n",
		"etc/passwd":                  "root:x:0:0::/root:/bin/sh\n",
		"etc/group":                   "root:x:0:\n",
		"usr/lib/systemd/system/web.service": "[Service]\nRuntimeDirectory=webd webd/sub:alias\nPIDFile=/var/run/webd.pid\n" +
			"StateDirectory=web\nPIDFile=webd2.pid\n",
		"etc/systemd/system/web.service.d/more.conf":       "[Service]\nRuntimeDirectory=from-drop-in\n",
		"etc/systemd/system/alias.service":                 "->/usr/lib/systemd/system/web.service",
		"etc/systemd/system/masked.service":                "->/dev/null",
		"usr/lib/systemd/system/masked.service":            "[Service]\nRuntimeDirectory=masked\n",
		"usr/lib/systemd/system/web.socket":                "[Socket]\nListenStream=/run/old.sock\nListenStream=\nListenStream=%t/web.sock\nListenFIFO=/run/web.fifo\nSymlinks=/run/a.sock /run/b.sock\nListenStream=8080\nListenStream=@abstract\n",
		"usr/lib/systemd/system/tpl@.service":              "[Service]\nRuntimeDirectory=tpl-%i\nPIDFile=/run/tpl/%i.pid\n",
		"usr/lib/systemd/system/data.mount":                "[Mount]\nWhat=tmpfs\nWhere=/run/data\n",
		"usr/lib/systemd/system/user-runtime-dir@.service": "[Service]\nExecStart=/usr/lib/systemd/systemd-user-runtime-dir start %i\n",
		"run/systemd/generator.late/legacy.service":        "[Service]\nPIDFile=/run/legacy.pid\n",
		"usr/lib/systemd/user/bus.socket":                  "[Socket]\nListenStream=%t/bus\n",
		"usr/lib/systemd/system/broken.service":            "[Service\nRuntimeDirectory=broken\n",
		"usr/lib/systemd/system/nothing.target":            "[Unit]\n",
		"var/lib/dpkg/info/web-server.list":                "/.\n/usr/lib/tmpfiles.d/web.conf\n/lib/systemd/system/web.service\n/run/shipped\n",
		"var/lib/dpkg/status":                              "Package: web-server\nStatus: install ok installed\nVersion: 2.0-1\nArchitecture: all\n",
		"lib":                                              "->usr/lib",
		"usr/lib/systemd/system/sub.service.d/alone.conf":  "[Service]\nRuntimeDirectory=nobody\n",
	}
}

func TestMakers(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		i := inspector(t, Options{Root: system(t, declarations())})
		tree(t, "/run", map[string]string{
			"web/motd": "", "web/other": "", "web/deep/er": "", "webd/x": "", "alias": "->webd/sub", "webd.pid": "", "webd2.pid": "1", "from-drop-in/x": "",
			"masked/x": "", "old.sock": "", "web.sock": "", "web.fifo": "", "a.sock": "->web.sock", "tpl-one/x": "", "tpl/two.pid": "", "tpl/.pid": "",
			"data/x": "", "user/1000/bus": "", "user/1000/x/bus": "", "shipped": "", "slashrun/boot": "", "slashrun/x": "", ".#slashrun.abc": "", "nobody/x": "", "loose": "",
			"link": "->web", "legacy.pid": "",
		})
		for path, want := range map[string]string{
			"/run/web":             "tmpfiles  d /run/web 0755 root root of web-server",
			"/run/web/motd":        "tmpfiles  f /run/web/motd - - - - hello of web-server",
			"/run/web/other":       "tmpfiles  d /run/web 0755 root root above /run/web of web-server",
			"/run/web/deep/er":     "tmpfiles  d /run/web 0755 root root above /run/web of web-server",
			"/run/webd":            "unit web.service RuntimeDirectory=webd webd/sub:alias of web-server",
			"/run/webd/x":          "unit web.service RuntimeDirectory=webd webd/sub:alias above /run/webd of web-server",
			"/run/alias":           "unit web.service RuntimeDirectory=webd webd/sub:alias of web-server",
			"/run/webd.pid":        "", // a later PIDFile= took its place
			"/run/webd2.pid":       "unit web.service PIDFile=webd2.pid of web-server",
			"/run/from-drop-in":    "unit web.service RuntimeDirectory=from-drop-in",
			"/run/masked":          "",
			"/run/old.sock":        "",
			"/run/web.sock":        "unit web.socket ListenStream=%t/web.sock",
			"/run/web.fifo":        "unit web.socket ListenFIFO=/run/web.fifo",
			"/run/a.sock":          "unit web.socket Symlinks=/run/a.sock /run/b.sock",
			"/run/tpl-one":         "unit tpl@one.service RuntimeDirectory=tpl-%i",
			"/run/tpl/two.pid":     "unit tpl@two.service PIDFile=/run/tpl/%i.pid",
			"/run/tpl/.pid":        "",
			"/run/data":            "unit data.mount Where=/run/data",
			"/run/user/1000/bus":   "unit bus.socket ListenStream=%t/bus",
			"/run/user/1000":       "unit user-runtime-dir@1000.service ExecStart=/usr/lib/systemd/systemd-user-runtime-dir start %i",
			"/run/user/1000/x/bus": "unit user-runtime-dir@1000.service ExecStart=/usr/lib/systemd/systemd-user-runtime-dir start %i above /run/user/1000",
			"/run/legacy.pid":      "unit legacy.service PIDFile=/run/legacy.pid",
			"/run/shipped":         "package  a file of the package of web-server",
			"/run/slashrun/boot":   "slashrun  the boot stamp",
			"/run/slashrun/x":      "slashrun  state of slashrun",
			"/run/.#slashrun.abc":  "slashrun  half-made",
			"/run/nobody":          "",
			"/run/loose":           "",
			"/run/link":            "tmpfiles  L /run/link - - - - web of web-server",
		} {
			got := maker(look(t, i, path))
			if got != want && (want == "" || !strings.HasPrefix(got, want) || !strings.HasPrefix(want, "slashrun")) {
				t.Errorf("%s: made by %q, want %q", path, got, want)
			}
		}
		// The same in a tree.
		tr, err := i.Tree(t.Context(), "/run", nil)
		must(t, err)
		for _, r := range tr.Rows {
			if alone := maker(look(t, i, r.Path)); maker(r) != alone {
				t.Errorf("%s: in the tree %q, alone %q", r.Path, maker(r), alone)
			}
		}
		r := look(t, i, "/run/web")
		if m := r.MadeBy[0]; m.File != i.root.Prefix()+"/usr/lib/tmpfiles.d/web.conf" || m.Line != 1 || m.Package.Version != "2.0-1" {
			t.Errorf("%+v", m)
		}
		if r := look(t, i, "/run"); len(r.MadeBy) == 0 || r.MadeBy[0].By != ByMount || !r.Mount.Here || r.Mount.Type != "tmpfs" {
			t.Errorf("/run: %+v %+v", r.MadeBy, r.Mount)
		}
		// What is wrong with a unit file is told, not silently left out.
		if !strings.Contains(strings.Join(r.Unseen, "\n"), "broken.service") {
			t.Errorf("unseen: %q", r.Unseen)
		}
	})
}

// A PID file of our own format is recognized by its content, whatever its name.
func TestOwnPIDFile(t *testing.T) {
	dir := t.TempDir()
	i := inspector(t, Options{Root: system(t, nil)})
	f, err := pidfile.Create(filepath.Join(dir, "any-name"))
	must(t, err)
	r := look(t, i, filepath.Join(dir, "any-name"))
	if r.Kind != "pidfile" || r.PID != os.Getpid() || r.Process == nil || r.Process.PID != os.Getpid() || r.Process.Since.IsZero() || !strings.HasPrefix(maker(r), "slashrun  a PID file") {
		t.Errorf("%+v, made by %s", r, maker(r))
	}
	f.Close()
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct{ pattern, path, text string }{
		{"/run/@", "/run/a", "a"},
		{"/run/@", "/run/", "-"},
		{"/run/@", "/run/a/b", "-"},
		{"/run/@.pid", "/run/a.pid", "a"},
		{"/run/@.pid", "/run/.pid", "-"},
		{"/run/@/x", "/run/a/x", "a"},
		{"/run/@/x", "/run/a/b/x", "-"},
		{"/run/@/x", "/run/a/xy", "-"},
		{"/run/p-@-s/@.sock", "/run/p-a-s/b.sock", "b"},
		{"/run/p-@-s/@.sock", "/run/p--s/b.sock", "-"},
		{"/run/user/@/p-@/x", "/run/user/1/p-2/x", "2"},
		{"/run/user/@/p-@/x", "/run/user/1/q-2/x", "-"},
		{"/run/user/@/p-@/x", "/run/user/1", "-"},
		{"@", "/run", "-"},
	} {
		p := pattern{path: strings.ReplaceAll(c.pattern, "@", anything)}
		text, ok := p.match(c.path)
		if !ok {
			text = "-"
		}
		if text != c.text {
			t.Errorf("%s on %s: %q, want %q", c.pattern, c.path, text, c.text)
		}
	}
}
