package exectest

import (
	"slices"
	"strings"
	"testing"
)

// A failure is what a service says without slashrun.
type failure struct {
	name, service string
	options       []string // of podman create
	// script is what people write as an entry point, with the example's CMD in place of
	// COMMAND; "" is the CMD alone.
	script string
	// plant is done before the hard kill after a first start that must go well; nil
	// is no first start.
	plant func(v *vandal)
	// says is in the output, and status is the exit status.
	says   string
	status int
}

var failures = []failure{
	{name: "a socket that a killed nginx left", service: "nginx",
		script: "mkdir -p /run/nginx; exec COMMAND",
		plant:  func(*vandal) {},
		says:   "bind() to unix:/run/nginx/http.sock failed (98: Address already in use)", status: 1},
	{name: "no directory for nginx", service: "nginx", options: []string{"--tmpfs=/run"},
		says: `"/run/nginx/`, status: 1},
	{name: "no directory for redis", service: "redis", options: []string{"--tmpfs=/run"},
		says: "Failed opening Unix socket: bind: No such file or directory", status: 1},
	{name: "no directory for apache2", service: "apache2", options: []string{"--tmpfs=/run"},
		says: "DefaultRuntimeDir must be a valid directory", status: 1},
	{name: "the PID of the entry point in a PID file", service: "apache2",
		script: "mkdir -p /run/apache2 /run/lock/apache2; COMMAND; exit $?",
		plant:  func(v *vandal) { v.pidFile("/run/apache2/apache2.pid", 1) },
		says:   "httpd (pid 1) already running", status: 0},
	{name: "no directory for postgresql", service: "postgresql", options: []string{"--user=postgres", "--tmpfs=/run"},
		says: `could not create lock file "/var/run/postgresql/.s.PGSQL.5432.lock": No such file or directory`, status: 1},
	{name: "the PID of a helper in postmaster.pid", service: "postgresql", options: []string{"--user=postgres", "--tmpfs=/run/postgresql:mode=1777"},
		script: "sleep infinity & exec COMMAND",
		plant:  func(v *vandal) { v.pidFile("/var/lib/postgresql/15/main/postmaster.pid", 2) },
		says:   `lock file "postmaster.pid" already exists`, status: 1},
	{name: "the own PID in a PID file", service: "rails",
		plant: func(*vandal) {},
		says:  "A server is already running (pid: 1, file: tmp/pids/server.pid)", status: 1},
}

// testFailures runs the services without slashrun, so that what it is there for is
// known to be real.
func testFailures(t *testing.T, w *world) {
	for _, f := range failures {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			s := services[f.service]
			args := slices.Concat([]string{"--entrypoint="}, f.options, []string{"localhost/example-" + f.service}, command(t, f.service, f.script))
			c := w.Create(t, containerName(t), args...)
			if f.plant != nil {
				r := c.Start(t)
				s.ready(t, r)
				v := newVandal(r)
				f.plant(v)
				v.check(t)
				r.Kill(t)
			}
			r := c.Start(t)
			if status := r.Wait(t); status != f.status || !strings.Contains(r.Output(), f.says) {
				t.Errorf("status %d, want %d with %q:\n%s", status, f.status, f.says, r.Output())
			}
		})
	}
}
