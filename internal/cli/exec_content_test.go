package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What an image brings is content, whatever its name looks like.
func TestContainerKeepsContent(t *testing.T) {
	inContainers(t, func(t *testing.T, c *container) {
		files := map[string]string{
			"run/lock/db/settings.sqlite": "data", "run/app/settings.lock": "cfg", "run/app/lock": "[lock config]\n", "run/app/x.pid": "not\n",
			"run/lock/notes": "of the image", "run/app/lock.d/lock/file": "", "run/app/port": "8080\n",
		}
		for name, content := range files {
			mustDo(t, os.MkdirAll(filepath.Dir(c.root+"/"+name), 0o755))
			mustDo(t, os.WriteFile(c.root+"/"+name, []byte(content), 0o644))
		}
		gone := []string{"run/lock/subsystem", "run/lock/LCK..ttyS0", "run/app/app.pid", "run/app/.s.lock"}
		for _, name := range gone {
			mustDo(t, os.WriteFile(c.root+"/"+name, []byte(strings.Repeat("  4242\n", len(name)%2)), 0o644))
		}
		past()
		show := `cd /run; for f in app/* app/.s.lock app/lock.d/lock/* lock/* lock/db/*; do test -f $f && echo $f:$(cat $f); done`
		want := "app/lock:[lock config]\napp/port:8080\napp/settings.lock:cfg\napp/x.pid:not\napp/lock.d/lock/file:\nlock/notes:of the image\nlock/db/settings.sqlite:data"
		for _, c.bounding = range []bool{false, true} {
			c.run(t, "exec", "--", "sh", "-c", show+"; true").check(t, 0, want)
		}
		for _, name := range gone {
			if _, err := os.Stat(c.root + "/" + name); err == nil {
				t.Errorf("%s is still there", name)
			}
		}
	})
}

// The same in places that are named with a wildcard; what is named in full is a
// leftover because the caller says so.
func TestStaleWildcardsLeaveContent(t *testing.T) {
	inContainers(t, func(t *testing.T, c *container) {
		c.bounding = true
		mustDo(t, os.MkdirAll(c.root+"/app/pids", 0o755))
		for name, content := range map[string]string{"README": "readme", "empty": "", "server.pid": "1\n", "worker": "4242", "odd.pid": "pid=7\n"} {
			mustDo(t, os.WriteFile(c.root+"/app/pids/"+name, []byte(content), 0o644))
		}
		past()
		c.run(t, "exec", "--stale=/app/pids/*", "--", "ls", "/app/pids").check(t, 0, "README\nempty\nodd.pid")
		o := c.run(t, "exec", "--stale=/app/pids/odd.pid", "--", "ls", "/app/pids")
		o.check(t, 0, "README\nempty\nodd.pid")
		if !strings.Contains(o.stderr, "removing /app/pids/odd.pid: it holds something else than a PID") {
			t.Errorf("stderr %q", o.stderr)
		}
		c.run(t, "exec", "--stale=/app/pids/empty", "--", "ls", "/app/pids").check(t, 0, "README\nodd.pid")
	})
}

// A file with holes, hard links and a long file in the image's /run.
func TestContainerCopiesWhatItIs(t *testing.T) {
	inContainers(t, func(t *testing.T, c *container) {
		mustDo(t, os.WriteFile(c.root+"/run/sparse", []byte("begin"), 0o644))
		f, err := os.OpenFile(c.root+"/run/sparse", os.O_WRONLY, 0)
		mustDo(t, err)
		_, err = f.WriteAt([]byte("middle"), 1<<30)
		mustDo(t, err)
		mustDo(t, f.Truncate(3<<30))
		mustDo(t, f.Close())
		mustDo(t, os.Mkdir(c.root+"/run/d", 0o755))
		mustDo(t, os.WriteFile(c.root+"/run/d/one", []byte("x"), 0o644))
		mustDo(t, os.Link(c.root+"/run/d/one", c.root+"/run/two"))
		mustDo(t, os.WriteFile(c.root+"/run/long", []byte(strings.Repeat("0123456789abcdef", 1<<16)), 0o644))
		o := c.run(t, "exec", "--run=tmpfs", "--", "sh", "-c", `cd /run; stat -c %s sparse; head -c 5 sparse; dd if=sparse bs=6 skip=1073741824 count=1 iflag=skip_bytes 2>/dev/null; echo
			test $(du -k sparse | cut -f1) -lt 1024 && echo holes; stat -c %h d/one two; test d/one -ef two && echo same; cksum long`)
		sum := "3221225472\nbeginmiddle\nholes\n2\n2\nsame\n"
		if o.code != 0 || !strings.HasPrefix(o.stdout, sum) || !strings.Contains(o.stdout, " 1048576 long") {
			t.Errorf("%+v", o)
		}
	})
}
