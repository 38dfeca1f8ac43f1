package origin

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/stale"
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
