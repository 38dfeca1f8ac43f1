package cli

import (
	"os"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// In a container the locks of all others are hidden, and those whose taker has
// ended: what is on the container's own root can be told all the same, what is on a
// volume can not.
func TestWaitInContainer(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Tool("flock"))
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		mustDo(t, os.Mkdir("/tmp/volume", 0o777))
		for _, f := range []string{"free", "go"} {
			mustDo(t, os.WriteFile("/tmp/volume/"+f, nil, 0o666))
		}
		const asPID1 = `exec 9>/tmp/held; flock 9; /slashrun wait -t 0 lock:/tmp/free && echo free
			/slashrun wait -t 0 lock:/tmp/held; echo $?; flock -u 9; /slashrun wait lock:/tmp/held; echo $?; echo PID $$`
		for name, scene := range map[string]struct {
			change func(c *container)
			args   []string
			code   int
			out    string
			errs   string
		}{
			"the container's own": {
				args: []string{"path:/", "--", "sh", "-c", asPID1},
				out:  "free\n124\n0\nPID 1\n", errs: "not ready: lock:/tmp/held: held by process 1 (sh)",
			},
			"any user": {
				change: func(c *container) { c.uid, c.bounding = 54321, true },
				args:   []string{"path:/", "--", "sh", "-c", asPID1},
				out:    "free\n124\n0\nPID 1\n", errs: "held by process 1 (sh)",
			},
			"a volume": {
				args: []string{"lock:/volume/free"},
				code: 125, errs: "given up: lock:/volume/free: whether it is locked cannot be seen from inside of a container: it lies on the mount on /volume, which others may use, too; take it to find out: slashrun lock",
			},
			"a volume that is nobody else's": {args: []string{"--exclusive=/volume", "lock:/volume/free", "path:/volume/go"}},
			"either":                         {args: []string{"--any", "lock:/volume/free", "path:/volume/go"}},
			"no /proc": {
				change: func(c *container) { c.noProc, c.bounding = true, true },
				args:   []string{"lock:/etc/free", "path:/volume/go"},
				code:   125, errs: "given up: lock:/etc/free: /proc is not mounted",
			},
			"no /proc, and no need": {
				change: func(c *container) { c.noProc, c.readOnly = true, true },
				args:   []string{"--quiet", "path:/volume/go", "gone:/etc/nothing"},
			},
		} {
			t.Run(name, func(t *testing.T) {
				c := newContainer(t)
				mustDo(t, os.Chmod(c.root+"/tmp", 0o777))
				mustDo(t, os.Mkdir(c.root+"/volume", 0o755))
				for _, f := range []string{"/etc/free", "/tmp/free"} {
					mustDo(t, os.WriteFile(c.root+f, nil, 0o666))
				}
				c.mounts = append(c.mounts, "/tmp/volume:/volume")
				if scene.change != nil {
					scene.change(c)
				}
				got := c.run(t, append([]string{"wait"}, scene.args...)...)
				if got.code != scene.code || got.stdout != scene.out || !strings.Contains(got.stderr, scene.errs) || scene.errs == "" && got.stderr != "" {
					t.Errorf("%+v", got)
				}
			})
		}
	})
}
