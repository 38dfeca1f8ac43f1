package origin

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/stale"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		childMain(text)
	}
	seccomptest.Setup()
	nstest.Main(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree makes files below a directory: a path with its content, or "->target".
func tree(t testing.TB, dir string, entries map[string]string) {
	t.Helper()
	for name, content := range entries {
		at := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(at), 0o755))
		if target, ok := strings.CutPrefix(content, "->"); ok {
			must(t, os.Symlink(target, at))
			continue
		}
		must(t, os.WriteFile(at, []byte(content), 0o644))
	}
}

// system makes a root with nothing in it but the entries.
func system(t testing.TB, entries map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	tree(t, dir, entries)
	return dir
}

func inspector(t testing.TB, o Options) *Inspector {
	t.Helper()
	if o.Proc == nil && o.NoProc == nil {
		p, err := process.Open()
		must(t, err)
		t.Cleanup(p.Close)
		o.Proc = p
	}
	i, err := Open(t.Context(), o)
	must(t, err)
	t.Cleanup(i.Close)
	return i
}

func look(t testing.TB, i *Inspector, path string) *Report {
	t.Helper()
	list, err := i.Look(t.Context(), path)
	must(t, err)
	if len(list) != 1 {
		t.Fatalf("%d reports", len(list))
	}
	if _, err := json.Marshal(list[0]); err != nil {
		t.Errorf("%s: JSON: %v", path, err)
	}
	return list[0]
}

// orphan leaves a socket file that nobody is bound to, older than a second.
func orphan(t testing.TB, network, path string) {
	t.Helper()
	typ := map[string]int{"unix": syscall.SOCK_STREAM, "unixgram": syscall.SOCK_DGRAM, "unixpacket": syscall.SOCK_SEQPACKET}[network]
	fd, err := syscall.Socket(syscall.AF_UNIX, typ, 0)
	must(t, err)
	must(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}))
	must(t, syscall.Close(fd))
}

func listen(t testing.TB, network, path string) {
	t.Helper()
	if network == "unixgram" {
		c, err := net.ListenUnixgram(network, &net.UnixAddr{Name: path, Net: network})
		must(t, err)
		t.Cleanup(func() { c.Close() })
		return
	}
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network})
	must(t, err)
	l.SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
}

// want compares the verdict and the deciding proof.
func want(t testing.TB, r *Report, typ Type, v stale.Verdict, p stale.Proof) {
	t.Helper()
	got := stale.Proof("none")
	if n := len(r.Evidence); n > 0 {
		got = r.Evidence[n-1].Proof
	}
	if r.Type != typ || r.Verdict != v || got != p {
		t.Errorf("%s: %s, %s, %s (%s)\nwant %s, %s, %s", r.Path, r.Type, r.Verdict, got, r.Why(), typ, v, p)
	}
}

// maker is the first maker in a short form.
func maker(r *Report) string {
	if len(r.MadeBy) == 0 {
		return ""
	}
	m := r.MadeBy[0]
	text := string(m.By) + " " + m.Unit + " " + m.Text
	if m.Above != "" {
		text += " above " + m.Above
	}
	if m.Package != nil {
		text += " of " + m.Package.Package
	}
	return text
}
