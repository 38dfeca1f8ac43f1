package origin

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/stale"
	"github.com/slashrun/slashrun/internal/testenv"
)

// aged waits until an orphan is old enough to be one: bind(2) makes the file first, so
// that a younger one proves nothing. The clock of the file system decides.
func aged(t *testing.T, path string) {
	t.Helper()
	for {
		var st syscall.Stat_t
		must(t, syscall.Lstat(path, &st))
		if time.Since(time.Unix(st.Ctim.Unix())) > 1100*time.Millisecond {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Every kind of object there is.
func TestKinds(t *testing.T) {
	for _, profile := range seccomptest.All {
		t.Run(profile.String(), func(t *testing.T) {
			nstest.Run(t, nstest.Options{}, func(t *testing.T) {
				seccomptest.Run(t, profile, kinds)
			})
		})
	}
}

func kinds(t *testing.T) {
	dir := t.TempDir() // on the tmpfs of /tmp
	at := func(name string) string { return filepath.Join(dir, name) }
	tree(t, dir, map[string]string{
		"file": "x", "d/x": "", "pid/dead.pid": "4194303\n", "x.lock": "", "hard": "h",
		"to-file": "->file", "dangling": "->nowhere", "loop": "->loop", "to-live": "->live.sock", "to-dir": "->d", "chain": "->to-live", "to-stale": "->orphan.sock",
	})
	must(t, os.Link(at("hard"), at("hard2")))
	must(t, syscall.Mkfifo(at("fifo"), 0o600))
	listen(t, "unix", at("live.sock"))
	listen(t, "unixgram", at("gram.sock"))
	listen(t, "unixpacket", at("packet.sock"))
	orphan(t, "unix", at("orphan.sock"))
	orphan(t, "unixgram", at("orphan.gram"))
	orphan(t, "unixpacket", at("orphan.packet"))
	listen(t, "unix", at("moved"))
	must(t, os.Rename(at("moved"), at("renamed.sock")))
	listen(t, "unix", at("linked.sock"))
	must(t, os.Link(at("linked.sock"), at("other-name.sock")))
	listen(t, "unix", at("replaced.sock"))
	must(t, os.Remove(at("replaced.sock")))
	orphan(t, "unix", at("replaced.sock"))
	must(t, os.Mkdir(at("mnt"), 0o755))
	must(t, syscall.Mount("scratch", at("mnt"), "tmpfs", 0, ""))
	defer syscall.Unmount(at("mnt"), 0)
	aged(t, at("replaced.sock"))

	i := inspector(t, Options{Root: system(t, nil)})
	type row struct {
		typ Type
		v   stale.Verdict
		p   stale.Proof
	}
	table := map[string]row{
		"file":            {File, stale.CannotTell, stale.WrongType},
		"d":               {Directory, stale.CannotTell, stale.UsedByName},
		"pid/dead.pid":    {File, stale.CannotTell, stale.ForeignNamespace},
		"x.lock":          {File, stale.CannotTell, stale.UsedByName},
		"fifo":            {FIFO, stale.CannotTell, stale.UsedByName},
		"live.sock":       {Socket, stale.Live, stale.SocketBound},
		"gram.sock":       {Socket, stale.Live, stale.SocketBound},
		"packet.sock":     {Socket, stale.Live, stale.SocketBound},
		"orphan.sock":     {Socket, stale.Stale, stale.ConnectRefused},
		"orphan.gram":     {Socket, stale.Stale, stale.ConnectRefused},
		"orphan.packet":   {Socket, stale.Stale, stale.ConnectRefused},
		"renamed.sock":    {Socket, stale.Live, stale.SocketBound},
		"linked.sock":     {Socket, stale.Live, stale.SocketBound},
		"other-name.sock": {Socket, stale.Live, stale.SocketBound},
		"replaced.sock":   {Socket, stale.Stale, stale.ConnectRefused},
		"mnt":             {Directory, stale.Live, Mounted},
		"to-file":         {Symlink, stale.CannotTell, Leads},
		"dangling":        {Symlink, stale.CannotTell, Dangling},
		"loop":            {Symlink, stale.CannotTell, Leads},
		"to-live":         {Symlink, stale.Live, Leads},
		"chain":           {Symlink, stale.Live, Leads},
		"to-stale":        {Symlink, stale.CannotTell, Leads},
		"to-dir":          {Symlink, stale.CannotTell, Leads},
	}
	for name, w := range table {
		want(t, look(t, i, at(name)), w.typ, w.v, w.p)
	}
	want(t, look(t, i, "/dev/null"), CharDevice, stale.Live, Mounted) // bound in by the kit
	if r := look(t, i, at("hard")); r.Names != 2 || r.Size != 1 {
		t.Errorf("%+v", r)
	}
	// A link and what it leads to; the path through a link says where it really is.
	if r := look(t, i, at("chain")); r.Link.Target != "to-live" || r.Link.Report == nil || r.Link.Report.Link.Report.Verdict != stale.Live {
		t.Errorf("%+v", r.Link)
	}
	if r := look(t, i, dir+"/to-dir/x"); r.Real != at("d/x") || r.Path != dir+"/to-dir/x" {
		t.Errorf("%+v", r)
	}
	if r := look(t, i, dir+"/to-dir/"); r.Type != Directory || r.Real != at("d") {
		t.Errorf("%+v", r)
	}
	if r := look(t, i, dir+"/d/../file/"); r.Err() == nil || !strings.Contains(r.Error, "not a directory") {
		t.Errorf("%v", r.Error)
	}
	for _, gone := range []string{"nowhere", "d/nowhere/x", "file/x"} {
		if r := look(t, i, at(gone)); r.Err() == nil || !strings.Contains(r.Error, dir) {
			t.Errorf("%s: %q", gone, r.Error)
		}
	}
	// The tree says the same of each.
	tr, err := i.Tree(t.Context(), dir, nil)
	must(t, err)
	seen := map[string]bool{}
	last := 0
	for _, r := range tr.Rows {
		name := strings.TrimPrefix(r.Path, dir+"/")
		if w, ok := table[name]; ok {
			seen[name] = true
			want(t, r, w.typ, w.v, w.p)
		}
		if rank(r.Verdict) < last {
			t.Errorf("%s is out of order", r.Path)
		}
		last = rank(r.Verdict)
	}
	for name := range table {
		if !seen[name] && name != "chain" {
			t.Errorf("the tree lacks %s", name)
		}
	}
	if tr.Stale != 4 || tr.Stale+tr.Live+tr.CannotTell != len(tr.Rows) || tr.Failed {
		t.Errorf("%+v", tr)
	}
}

// Devices need a real mknod.
func TestDevices(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	if err := syscall.Mknod(filepath.Join(dir, "c"), syscall.S_IFCHR|0o600, 1<<8|3); err != nil {
		t.Fatal(err)
	}
	must(t, syscall.Mknod(filepath.Join(dir, "b"), syscall.S_IFBLK|0o600, 7<<8|200))
	i := inspector(t, Options{Root: system(t, nil)})
	want(t, look(t, i, filepath.Join(dir, "c")), CharDevice, stale.CannotTell, stale.WrongType)
	want(t, look(t, i, filepath.Join(dir, "b")), BlockDevice, stale.CannotTell, stale.WrongType)
}

// Names may hold anything, and JSON carries them.
func TestHostileNames(t *testing.T) {
	dir := t.TempDir()
	names := []string{"new\nline", "\x1b[31mred", "inv\xffalid", "\u202ertl", " ", "-rf", strings.Repeat("n", 255), "\\", "\"", "a\tb.pid"}
	for _, n := range names {
		must(t, os.WriteFile(filepath.Join(dir, n), nil, 0o600))
	}
	must(t, os.Symlink("inv\xff\n", filepath.Join(dir, "link")))
	i := inspector(t, Options{Root: system(t, nil)})
	tr, err := i.Tree(t.Context(), dir, nil)
	must(t, err)
	if len(tr.Rows) != len(names)+1 {
		t.Errorf("%d rows", len(tr.Rows))
	}
	for _, n := range names {
		r := look(t, i, filepath.Join(dir, n))
		if r.Type != File || (n == "inv\xffalid") != (r.PathBytes != nil) {
			t.Errorf("%q: %+v", n, r)
		}
	}
	for _, e := range look(t, i, filepath.Join(dir, "a\tb.pid")).Evidence {
		if strings.ContainsAny(e.Text, "\t\n\x1b") {
			t.Errorf("%q", e.Text)
		}
	}
}

// An ordinary user is told what could not be seen, and the rest all the same.
func TestDenied(t *testing.T) {
	testenv.Need(t, testenv.NonRoot)
	dir := t.TempDir()
	tree(t, dir, map[string]string{"closed/x": "", "open/x": "", "unreadable.pid": "1"})
	must(t, os.Chmod(filepath.Join(dir, "closed"), 0))
	must(t, os.Chmod(filepath.Join(dir, "unreadable.pid"), 0))
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "closed"), 0o700) })
	i := inspector(t, Options{Root: system(t, nil)})
	if r := look(t, i, filepath.Join(dir, "closed/x")); r.Err() == nil || !strings.Contains(r.Error, "permission denied") {
		t.Errorf("%q", r.Error)
	}
	want(t, look(t, i, filepath.Join(dir, "closed")), Directory, stale.CannotTell, stale.UsedByName)
	if r := look(t, i, filepath.Join(dir, "unreadable.pid")); r.Verdict != stale.CannotTell || !strings.Contains(r.Why(), "permission denied") {
		t.Errorf("%s: %s", r.Verdict, r.Why())
	}
	tr, err := i.Tree(t.Context(), dir, nil)
	must(t, err)
	if len(tr.Rows) != 4 || !tr.Failed || len(tr.NotEntered) != 1 || !strings.Contains(tr.NotEntered[0].Why, "permission denied") {
		t.Errorf("%d rows, %+v", len(tr.Rows), tr)
	}
	if _, err := i.Tree(t.Context(), filepath.Join(dir, "closed"), nil); err == nil {
		t.Error("a directory that may not be listed is told as empty")
	}
}

// Without /proc it tells what it can, and what it cannot.
func TestNoProc(t *testing.T) {
	dir := t.TempDir()
	tree(t, dir, map[string]string{"web/x": "", "x.pid": "1"})
	listen(t, "unix", filepath.Join(dir, "s"))
	i := inspector(t, Options{Root: system(t, declarations()), NoProc: fmt.Errorf("/proc: gone")})
	for _, name := range []string{"web/x", "x.pid", "s"} {
		r := look(t, i, filepath.Join(dir, name))
		if r.Verdict != stale.CannotTell || r.Err() != nil || r.Inode == 0 || !strings.Contains(strings.Join(r.Unseen, "\n"), "/proc: gone") {
			t.Errorf("%+v", r)
		}
	}
	tr, err := i.Tree(t.Context(), dir, nil)
	must(t, err)
	if len(tr.Rows) != 4 || len(tr.Unseen) == 0 {
		t.Errorf("%+v", tr)
	}
}

// What goes while it is looked at is no error, and nothing is told twice.
func TestVanishing(t *testing.T) {
	dir := t.TempDir()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			d := filepath.Join(dir, fmt.Sprint("d", n%16))
			os.MkdirAll(filepath.Join(d, "sub"), 0o755)
			os.WriteFile(filepath.Join(d, "sub", "x.pid"), []byte("1"), 0o644)
			os.Symlink("x", filepath.Join(d, "l"))
			syscall.Mkfifo(filepath.Join(d, "f"), 0o600)
			os.RemoveAll(filepath.Join(dir, fmt.Sprint("d", (n+8)%16)))
			os.Rename(d, filepath.Join(dir, fmt.Sprint("d", (n+3)%16)))
		}
	}()
	i := inspector(t, Options{Root: system(t, nil)})
	for range 30 {
		tr, err := i.Tree(t.Context(), dir, nil)
		must(t, err)
		for _, r := range tr.Rows {
			if r.Verdict == stale.Stale {
				t.Errorf("%s: %s", r.Path, r.Why())
			}
		}
		look(t, i, filepath.Join(dir, "d3/sub/x.pid"))
	}
	close(stop)
	<-done
}

// Deep and looping trees end.
func TestDeep(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	top := t.TempDir()
	dir := top
	fd, err := syscall.Open(dir, syscall.O_DIRECTORY, 0)
	must(t, err)
	for range maxDepth + 20 { // deeper than a path may be long
		must(t, syscall.Mkdirat(fd, "directory-with-a-name", 0o755))
		next, err := syscall.Openat(fd, "directory-with-a-name", syscall.O_DIRECTORY, 0)
		must(t, err)
		syscall.Close(fd)
		fd = next
	}
	syscall.Close(fd)
	i := inspector(t, Options{Root: system(t, nil)})
	tr, err := i.Tree(t.Context(), top, nil)
	must(t, err)
	if len(tr.Rows) != maxDepth+1 || !tr.Failed || len(tr.NotEntered) != 1 || !strings.Contains(tr.NotEntered[0].Why, "deep") {
		t.Errorf("%d rows, %+v", len(tr.Rows), tr.NotEntered)
	}
}
