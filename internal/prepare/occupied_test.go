package prepare

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/runfs"
)

// refused runs and wants an OccupiedError that names why, and nothing done.
func refused(t *testing.T, root, why string) {
	t.Helper()
	before := countMounts(t)
	res, err := Run(context.Background(), options(t, root))
	var occupied *runfs.OccupiedError
	if !errors.As(err, &occupied) || !strings.Contains(err.Error(), why) {
		t.Errorf("error %v, want an OccupiedError that says %q; steps %v", err, why, res.Steps)
	}
	if n := countMounts(t); n != before || len(res.Steps) != 0 {
		t.Errorf("it acted all the same: %v", res.Steps)
	}
}

// other starts a process that is none of our ancestors, and waits until script
// has said something.
func other(t *testing.T, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", script+"; echo ready; read x")
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

func TestRefusesWhatIsOccupied(t *testing.T) {
	for _, c := range []struct {
		name, why string
		prepare   func(t *testing.T, root string)
	}{
		{"cwd", "has cwd there", func(t *testing.T, root string) { other(t, "cd "+root+"/run") }},
		{"open file", "has fd 9 there", func(t *testing.T, root string) { other(t, "exec 9>"+root+"/run/log") }},
		{"content with somebody alive", "which may use them by name", func(t *testing.T, root string) {
			must(t, os.WriteFile(root+"/run/x.pid", nil, 0o644))
			other(t, ":")
		}},
		{"live socket", "bound to the socket sub/s", func(t *testing.T, root string) {
			must(t, os.Mkdir(root+"/run/sub", 0o755))
			l, err := net.Listen("unix", root+"/run/sub/s")
			must(t, err)
			t.Cleanup(func() { l.Close() })
		}},
		{"live datagram socket", "bound to the socket d", func(t *testing.T, root string) {
			l, err := net.ListenPacket("unixgram", root+"/run/d")
			must(t, err)
			t.Cleanup(func() { l.Close() })
		}},
		{"live socket with a name too long for an address", "bound to the socket nnn", func(t *testing.T, root string) {
			l, err := net.Listen("unix", root+"/run/"+strings.Repeat("n", 60))
			must(t, err)
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			t.Cleanup(func() { l.Close() })
			must(t, os.Rename(root+"/run/"+strings.Repeat("n", 60), root+"/run/"+strings.Repeat("n", 200)))
		}},
		{"another file system", "a proc is mounted there", func(t *testing.T, root string) {
			must(t, syscall.Mount("/proc", root+"/run", "", syscall.MS_BIND|syscall.MS_REC, ""))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inside(t, func(t *testing.T, root string) {
				c.prepare(t, root)
				refused(t, root, c.why)
			})
		})
	}
}

// Somebody who is alive does not keep an empty directory from being mounted over.
func TestAnEmptyDirectoryIsNotOccupied(t *testing.T) {
	inside(t, func(t *testing.T, root string) {
		other(t, ":")
		mustRun(t, options(t, root))
		checkRun(t, root+"/run")
	})
}
