package shelltest

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func TestCronJob(t *testing.T) {
	forShells(t, func(t *testing.T, w *world) {
		w.want(64, "cron-job", "backup")
		if got := w.want(0, "cron-job", "backup", "echo", "one two").stdout(); got != "one two\n" {
			t.Errorf("the job printed %q", got)
		}
		w.want(3, "cron-job", "backup", "sh", "-c", "exit 3")
		w.want(128+9, "cron-job", "backup", "sh", "-c", "kill -9 $$")
		// While one runs, the next is left out.
		r, in, err := os.Pipe()
		must(t, err)
		first := w.start(r, nil, "cron-job", "backup", "sh", "-c", "echo runs; read x")
		w.until("the first job runs", func() bool { return first.stdout() != "" })
		if text := w.want(75, "cron-job", "backup", "touch", "/tmp/second").stderr(); !strings.Contains(text, "backup still runs") {
			t.Errorf("it said %q", text)
		}
		if exists("/tmp/second") {
			t.Error("two jobs ran at the same time")
		}
		w.want(0, "cron-job", "other", "true")
		in.Close()
		first.wait()
		// What a job leaves in the background keeps the next from nothing, and a job
		// that is killed neither.
		w.want(0, "cron-job", "backup", "sh", "-c", "sleep 1000 &")
		killed := w.start(nil, nil, "cron-job", "backup", "sh", "-c", "echo runs; exec sleep 1000")
		w.until("the job runs", func() bool { return killed.stdout() != "" })
		w.want(75, "cron-job", "backup", "true")
		w.want(0, "sh", "-c", "kill -9 $(slashrun lock list --json /run/lock/backup | grep '\"pid\"' | tr -dc '0-9\\n')")
		killed.wait()
		w.want(0, "cron-job", "backup", "true")
	})
}

func TestEntrypoint(t *testing.T) {
	forShells(t, func(t *testing.T, w *world) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		_, port, _ := net.SplitHostPort(l.Addr().String())
		vars := []string{"WAIT_FOR=tcp:localhost:" + port}
		// It becomes the service.
		r := w.start(nil, vars, "entrypoint", "sh", "-c", "echo $$ $WAIT_FOR")
		if r.wait() != 0 || r.stdout() != fmt.Sprintf("%d tcp:localhost:%s\n", r.cmd.Process.Pid, port) {
			t.Errorf("process %d printed %q\n%s", r.cmd.Process.Pid, r.stdout(), r.stderr())
		}
		w.wantWith(7, vars, "entrypoint", "sh", "-c", "exit 7")
		l.Close()
		// Without a database nothing starts, and why is said.
		r = w.wantWith(124, append(vars, "WAIT_TIMEOUT=0"), "entrypoint", "touch", "/tmp/started")
		if !strings.Contains(r.stderr(), "tcp:localhost:"+port+": ") || exists("/tmp/started") {
			t.Errorf("it said %q; started: %v", r.stderr(), exists("/tmp/started"))
		}
		// With one that comes later it does.
		r = w.start(nil, append(vars, "WAIT_TIMEOUT=5min"), "entrypoint", "touch", "/tmp/started")
		l, err = net.Listen("tcp", "127.0.0.1:"+port)
		must(t, err)
		defer l.Close()
		if r.wait() != 0 || !exists("/tmp/started") {
			t.Errorf("with a database that comes later: %s", r.stderr())
		}
	})
}

func (w *world) signals() string {
	text, _ := os.ReadFile("/tmp/signals")
	return strings.Join(strings.Fields(string(text)), " ")
}

func TestDeploy(t *testing.T) {
	forShells(t, func(t *testing.T, w *world) {
		for _, release := range []string{"1", "2", "3"} {
			must(t, os.MkdirAll("/tmp/srv/releases/"+release, 0o755))
		}
		must(t, os.Symlink("releases/1", "/tmp/srv/current"))
		w.want(64, "deploy", "/tmp/srv")
		for _, release := range []string{"", ".", "..", "../..", "1/"} {
			w.want(64, "deploy", "/tmp/srv", release)
		}
		must(t, os.Symlink("releases/1", "/tmp/srv/current.new")) // one was killed in between
		w.start(nil, nil, "slashrun", "pidfile", "write", "/run/food.pid", "--", w.food)
		w.until("the service is up", func() bool { return w.signals() == "up" })

		current := func() string {
			to, err := os.Readlink("/tmp/srv/current")
			must(t, err)
			return to
		}
		w.want(0, "deploy", "/tmp/srv", "2")
		w.until("the service was told", func() bool { return w.signals() == "up HUP" })
		if current() != "releases/2" {
			t.Errorf("current is %s", current())
		}
		// Where nothing runs, that is said; the release is the current one all the same.
		if text := w.wantWith(5, []string{"PIDFILE=/run/none.pid"}, "deploy", "/tmp/srv", "3").stderr(); current() != "releases/3" || !strings.Contains(text, "is current") {
			t.Errorf("current is %s, it said %q", current(), text)
		}
		w.want(0, "deploy", "/tmp/srv", "2")
		if entries, err := os.ReadDir("/tmp/srv/releases/1"); err != nil || len(entries) > 0 {
			t.Errorf("in release 1 are %v, %v", entries, err)
		}
		if text := w.want(124, "deploy", "/tmp/srv", "none").stderr(); !strings.Contains(text, "releases/none") || current() != "releases/2" {
			t.Errorf("a release that is not there: current is %s, it said %q", current(), text)
		}

		// Two that wait go in the order in which they came.
		r, in, err := os.Pipe()
		must(t, err)
		before := w.start(r, nil, "slashrun", "lock", "--name=deploy", "--fair", "sh", "-c", "echo held; read x")
		w.until("the lock is held", func() bool { return before.stdout() != "" })
		first := w.start(nil, []string{"DEPLOY_REPORT=0.01"}, "deploy", "/tmp/srv", "3")
		w.until("one waits", func() bool { return w.waiters("/run/lock/deploy") == 1 })
		w.until("it says for whom", func() bool { return strings.Contains(first.stderr(), "held by process") })
		second := w.start(nil, nil, "deploy", "/tmp/srv", "1")
		w.until("two wait", func() bool { return w.waiters("/run/lock/deploy") == 2 })
		w.wantWith(75, []string{"DEPLOY_WAIT=0"}, "deploy", "/tmp/srv", "2")
		in.Close()
		if first.wait() != 0 || second.wait() != 0 || current() != "releases/1" {
			t.Errorf("current is %s\n%s%s", current(), first.stderr(), second.stderr())
		}
		// The variable alone is no lock.
		if text := w.wantWith(0, []string{"DEPLOY_LOCKED=1"}, "deploy", "/tmp/srv", "2").stdout(); text != "2\n" {
			t.Errorf("it printed %q", text)
		}
	})
}

// sockets makes one that somebody listens on and one that nobody has any more. A
// new one is not called stale before a second is over.
func (w *world) sockets(live, dead string) {
	t := w.t
	t.Helper()
	l, err := net.Listen("unix", live)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	d, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	must(t, err)
	d.SetUnlinkOnClose(false)
	d.Close()
	w.until("the dead socket counts as stale", func() bool {
		return strings.Contains(w.want(0, "slashrun", "why", dead).stdout(), ": socket, stale\n")
	})
}

func TestCleanStale(t *testing.T) {
	forShells(t, func(t *testing.T, w *world) {
		must(t, os.Mkdir("/tmp/srv", 0o755))
		w.sockets("/tmp/srv/live.sock", "/tmp/srv/dead.sock")
		w.want(0, "sh", "-c", "slashrun pidfile write /tmp/srv/dead.pid; :")
		w.want(0, "slashrun", "pidfile", "write", "--pid="+strconv.Itoa(os.Getpid()), "/tmp/srv/live.pid")
		w.write("srv/content.pid", "not a number\n")
		w.want(64, "clean-stale")
		w.want(64, "clean-stale", "-n")

		text := w.want(0, "clean-stale", "-n", "/tmp/srv/*").stdout()
		for _, name := range []string{"dead.sock", "dead.pid"} {
			if !strings.Contains(text, "would remove") || !strings.Contains(text, name) || !exists("/tmp/srv/"+name) {
				t.Errorf("a dry run with %s there: %v\n%s", name, exists("/tmp/srv/"+name), text)
			}
		}
		r := w.want(0, "clean-stale", "/tmp/srv/*.pid", "/tmp/srv/*.sock")
		for name, want := range map[string]bool{"dead.sock": false, "dead.pid": false, "live.sock": true, "live.pid": true, "content.pid": true} {
			if exists("/tmp/srv/"+name) != want {
				t.Errorf("%s is there: %v, want %v\n%s", name, !want, want, r.stderr())
			}
		}
	})
}

func TestHealth(t *testing.T) {
	forShells(t, func(t *testing.T, w *world) {
		must(t, os.Mkdir("/run/food", 0o755))
		w.sockets("/run/food/live.sock", "/run/food/dead.sock")
		w.want(0, "sh", "-c", "slashrun pidfile write /run/food/dead.pid; :")
		w.want(0, "slashrun", "pidfile", "write", "--pid="+strconv.Itoa(os.Getpid()), "/run/food/live.pid")
		must(t, os.WriteFile("/run/food/number.pid", []byte(strconv.Itoa(os.Getpid())), 0o644))
		w.want(64, "health", "/run/food/live.pid")
		w.want(0, "health", "/run/food/live.pid", "/run/food/live.sock")
		for _, c := range [][3]string{
			{"live.pid", "dead.sock", "dead.sock: socket, stale"},
			{"dead.pid", "live.sock", "dead.pid: PID file, stale"},
			{"none.pid", "live.sock", "none.pid"},
			{"live.pid", "none.sock", "none.sock"},
		} {
			if text := w.want(1, "health", "/run/food/"+c[0], "/run/food/"+c[1]).stderr(); !strings.Contains(text, c[2]) {
				t.Errorf("%v: it said %q", c, text)
			}
		}
		// A bare number on a mount that others may use: no reason to end the container.
		if text := w.want(0, "health", "/run/food/number.pid", "/run/food/live.sock").stderr(); !strings.Contains(text, "cannot be told") {
			t.Errorf("it said %q", text)
		}
		w.wantWith(1, []string{"HEALTH_UNKNOWN=1"}, "health", "/run/food/number.pid", "/run/food/live.sock")
	})
}

func TestService(t *testing.T) {
	forShells(t, func(t *testing.T, w *world) {
		w.want(64, "service", "start")
		w.want(64, "service", "start", "/run/food.pid")
		w.want(64, "service", "frob", "/run/food.pid")
		w.want(5, "service", "status", "/run/food.pid")
		w.want(0, "service", "stop", "/run/food.pid")

		w.want(0, "service", "start", "/run/food.pid", w.food)
		w.until("the daemon is up", func() bool { return w.signals() == "up" })
		w.want(0, "service", "status", "/run/food.pid")
		w.want(0, "service", "start", "/run/food.pid", w.food) // it runs
		w.want(0, "service", "reload", "/run/food.pid")
		w.until("it reads its configuration", func() bool { return w.signals() == "up HUP" })
		w.want(0, "service", "stop", "/run/food.pid")
		if w.signals() != "up HUP TERM" {
			t.Errorf("the daemon saw %q", w.signals())
		}
		w.want(3, "service", "status", "/run/food.pid")
		w.want(3, "service", "reload", "/run/food.pid")
		w.want(0, "service", "stop", "/run/food.pid")

		// One that does not end by itself; its file is taken over after it.
		w.want(0, "service", "start", "/run/food.pid", "sh", "-c", "trap '' TERM; echo deaf >>/tmp/signals; exec sleep 1000")
		w.until("it is up", func() bool { return strings.HasSuffix(w.signals(), "deaf") })
		w.wantWith(0, []string{"STOP_WAIT=0"}, "service", "stop", "/run/food.pid")
		w.until("it is killed", func() bool { return w.start(nil, nil, "service", "status", "/run/food.pid").wait() == 3 })

		// One that leaves a process, which has the lock.
		w.want(0, "service", "start", "/run/food.pid", "sh", "-c", "trap 'exit 0' TERM; sleep 1000 & echo left >>/tmp/signals; while :; do wait; done")
		w.until("it is up", func() bool { return strings.HasSuffix(w.signals(), "left") })
		r := w.wantWith(1, []string{"STOP_WAIT=0"}, "service", "stop", "/run/food.pid")
		if !regexp.MustCompile(`(?m)^sleep .* /run/food.pid$`).MatchString(r.stderr()) {
			t.Errorf("who is left is not said: %q", r.stderr())
		}
		w.want(0, "sh", "-c", "kill $(slashrun lock list --json /run/food.pid | grep '\"pid\"' | tr -dc '0-9\\n')")
		w.until("it has ended", func() bool { return w.start(nil, nil, "service", "status", "/run/food.pid").wait() == 3 })

		// One that does not come up.
		must(t, os.Remove("/tmp/signals"))
		never := []string{"START_WAIT=0", "READY=path:/nonexistent"}
		for _, command := range [][]string{{"/nonexistent"}, {"sh", "-c", "exit 3"}, {w.food}} {
			r := w.start(nil, never, append([]string{"service", "start", "/run/food.pid"}, command...)...)
			if r.wait() == 0 {
				t.Errorf("%q, which is not ready in time, is said to be started\n%s", command, r.stderr())
			}
			after := w.start(nil, nil, "service", "status", "/run/food.pid")
			if status := after.wait(); status != 3 && status != 5 {
				t.Errorf("%q: status %d afterwards, want 3 or 5\n%s%s", command, status, r.stderr(), after.stdout())
			}
		}
		w.want(0, "service", "stop", "/run/food.pid")
		w.wantWith(0, []string{"START_WAIT=60", "READY=path:/tmp/signals"}, "service", "start", "/run/food.pid", w.food)
		w.want(0, "service", "stop", "/run/food.pid")
	})
}

// Each script is told of in the README, and has a test here.
func TestScriptsAreTold(t *testing.T) {
	readme, err := os.ReadFile(examples + "/README.md")
	must(t, err)
	tests, err := os.ReadFile("scripts_test.go")
	must(t, err)
	scripts, err := os.ReadDir(examples)
	must(t, err)
	if len(scripts) == 0 {
		t.Fatal("there are no scripts")
	}
	for _, s := range scripts {
		if s.Name() == "README.md" {
			continue
		}
		if !strings.Contains(string(readme), "["+s.Name()+"]("+s.Name()+")") {
			t.Errorf("README.md does not tell of %s", s.Name())
		}
		if !strings.Contains(string(tests), "w.want(0, \""+s.Name()+"\"") && !strings.Contains(string(tests), "w.start(nil, vars, \""+s.Name()+"\"") {
			t.Errorf("nothing here runs %s", s.Name())
		}
	}
}
