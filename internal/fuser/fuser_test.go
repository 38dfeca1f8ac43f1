package fuser

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/vmtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(agentEnv) != "" {
		agentMain()
		return
	}
	vmtest.Setup()
	seccomptest.Setup()
	nstest.Main(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openProc(t testing.TB) *process.Proc {
	t.Helper()
	p, err := process.Open()
	must(t, err)
	t.Cleanup(p.Close)
	return p
}

// identify names the object at path without following a link.
func identify(t testing.TB, p *process.Proc, path string) Object {
	t.Helper()
	fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_PATH|linux.O_NOFOLLOW, 0)
	must(t, err)
	defer linux.Close(fd)
	o, err := Identify(p, fd)
	must(t, err)
	return o
}

func scanFor(t testing.TB, p *process.Proc, o Options) *Index {
	t.Helper()
	x, err := Scan(context.Background(), p, o)
	must(t, err)
	return x
}

// users is what the index says of an object, as text without numbers that differ
// from run to run.
func users(x *Index, id ID) (list []string) {
	for _, u := range x.Of(id) {
		s := fmt.Sprintf("%d %s", u.PID, u.How)
		if u.Access != "" {
			s += " " + u.Access
		}
		if u.Lock != nil {
			s += " " + u.Lock.Kind
		}
		if u.More > 0 {
			s += fmt.Sprintf(" +%d", u.More)
		}
		if k := u.Socket; k != nil {
			s += " " + k.Type
			if k.Queue > 0 || k.Backlog > 0 {
				s += fmt.Sprintf(" %d/%d", k.Queue, k.Backlog)
			}
			if os.Geteuid() != 0 && k.UID != nil {
				s += fmt.Sprintf(" uid %d", *k.UID)
			}
		}
		list = append(list, s)
	}
	slices.Sort(list)
	return list
}

func want(t testing.TB, x *Index, o Object, lines ...string) {
	t.Helper()
	got := users(x, o.ID)
	lines = slices.Sorted(slices.Values(lines))
	if !slices.Equal(got, lines) {
		t.Errorf("got\n\t%s\nwant\n\t%s\nincomplete: %q", strings.Join(got, "\n\t"), strings.Join(lines, "\n\t"), x.Incomplete)
	}
}

// Everything that a process can do to a file, found by the inode: the file is
// renamed, linked and deleted meanwhile.
func TestWays(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		for _, p := range seccomptest.All {
			t.Run(p.String(), func(t *testing.T) {
				seccomptest.Run(t, p, testWays)
			})
		}
	})
}

func testWays(t *testing.T) {
	must(t, os.RemoveAll("/run/w"))
	must(t, os.Mkdir("/run/w", 0o755))
	p := openProc(t)
	a := start(t)
	for _, name := range []string{"read", "write", "both", "path", "twice", "map", "mapr", "flock", "ofd", "posix", "idle", "gone"} {
		must(t, os.WriteFile("/run/w/"+name, make([]byte, 8192), 0o644))
	}
	must(t, os.Mkdir("/run/w/dir", 0o755))
	o := map[string]Object{}
	for _, name := range []string{"read", "write", "both", "path", "twice", "map", "mapr", "flock", "ofd", "posix", "idle", "gone", "dir"} {
		o[name] = identify(t, p, "/run/w/"+name)
	}
	a.must(order{Do: "open", Path: "/run/w/read", Flags: os.O_RDONLY})
	a.must(order{Do: "open", Path: "/run/w/write", Flags: os.O_WRONLY})
	a.must(order{Do: "open", Path: "/run/w/both", Flags: os.O_RDWR})
	a.must(order{Do: "open", Path: "/run/w/path", Flags: linux.O_PATH})
	a.must(order{Do: "open", Path: "/run/w/twice"})
	a.must(order{Do: "open", Path: "/run/w/twice"})
	a.must(order{Do: "open", Path: "/run/w/gone"})
	a.must(order{Do: "map", Path: "/run/w/map", Flags: syscall.PROT_READ | syscall.PROT_WRITE})
	a.must(order{Do: "map", Path: "/run/w/mapr", Flags: syscall.PROT_READ})
	a.must(order{Do: "flock", Path: "/run/w/flock"})
	a.must(order{Do: "ofd", Path: "/run/w/ofd"})
	a.must(order{Do: "posix", Path: "/run/w/posix"})
	a.must(order{Do: "open", Path: "/run/w/posix", Flags: os.O_RDWR})
	a.must(order{Do: "chdir", Path: "/run/w/dir"})
	must(t, os.Rename("/run/w/read", "/run/w/renamed"))
	must(t, os.Link("/run/w/both", "/run/w/linked"))
	must(t, os.Remove("/run/w/both"))
	must(t, os.Remove("/run/w/map"))
	must(t, os.Remove("/run/w/gone"))
	must(t, os.Remove("/run/w/dir"))

	id := a.pid
	line := func(format string, args ...any) string {
		return fmt.Sprintf("%d "+format, append([]any{id}, args...)...)
	}
	for _, whole := range []bool{true, false} {
		opts := Options{Devices: []Device{o["read"].Device()}}
		if !whole {
			opts.Devices = nil
			for _, ob := range o {
				opts.Objects = append(opts.Objects, ob)
			}
		}
		x := scanFor(t, p, opts)
		want(t, x, o["read"], line("open r"))
		want(t, x, o["write"], line("open w"))
		want(t, x, o["both"], line("open rw"))
		want(t, x, o["path"], line("open path"))
		want(t, x, o["twice"], line("open r +1"))
		want(t, x, o["gone"], line("open r"))
		want(t, x, o["map"], line("mapped rw"))
		want(t, x, o["mapr"], line("mapped r"))
		want(t, x, o["flock"], line("open rw"), line("locked rw FLOCK"))
		want(t, x, o["ofd"], line("open rw"), line("locked rw OFDLCK"))
		want(t, x, o["posix"], line("open rw +1"), line("locked rw POSIX"))
		want(t, x, o["dir"], line("cwd"))
		want(t, x, o["idle"])
		var deleted []ID
		for _, n := range x.Deleted() {
			deleted = append(deleted, n.ID)
			if !strings.HasSuffix(n.Path, " (deleted)") {
				t.Errorf("deleted: %q", n.Path)
			}
		}
		wantDeleted := []ID{o["gone"].ID, o["map"].ID, o["dir"].ID}
		slices.SortFunc(wantDeleted, compareIDs)
		if !slices.Equal(deleted, wantDeleted) {
			t.Errorf("deleted: %v, want %v", deleted, wantDeleted)
		}
		for n := range x.All() {
			if n.Dev != o["read"].Dev {
				t.Errorf("%+v was not asked about", n)
			}
		}
	}
}
