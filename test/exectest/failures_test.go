package exectest

import (
	"strings"
	"testing"
)

// A failure is what a service says without slashrun.
type failure struct {
	name, service string
	options       []string // of podman create
	command       []string // instead of the example's CMD; see cmd
	// plant is done before the hard kill after a first start that must go well; nil
	// is no first start.
	plant func(v *vandal)
	says  string
}

// script is what people write as an entry point: the directories, then the command.
func script(text string) []string { return []string{"sh", "-c", text} }

const (
	nginxCommand    = `nginx -g "daemon off;"`
	apacheCommand   = `apache2 -D FOREGROUND`
	postgresCommand = `/usr/lib/postgresql/15/bin/postgres -c config_file=/etc/postgresql/15/main/postgresql.conf`
	redisCommand    = `redis-server --dir /var/lib/redis --pidfile /run/redis/redis-server.pid --unixsocket /run/redis/redis.sock --port 0`
)

var failures = []failure{
	{name: "a socket that a killed nginx left", service: "nginx",
		command: script("mkdir -p /run/nginx; exec " + nginxCommand),
		plant:   func(*vandal) {},
		says:    "bind() to unix:/run/nginx/http.sock failed (98: Address already in use)"},
	{name: "no directory for nginx", service: "nginx", options: []string{"--tmpfs=/run"},
		command: script("exec " + nginxCommand),
		says:    `"/run/nginx/`},
	{name: "no directory for redis", service: "redis", options: []string{"--tmpfs=/run"},
		command: script("exec " + redisCommand),
		says:    "Failed opening Unix socket: bind: No such file or directory"},
	{name: "no directory for apache2", service: "apache2", options: []string{"--tmpfs=/run"},
		command: script("exec " + apacheCommand),
		says:    "DefaultRuntimeDir must be a valid directory"},
	{name: "the PID of the entry point in a PID file", service: "apache2",
		command: script("mkdir -p /run/apache2 /run/lock/apache2; " + apacheCommand + "; exit $?"),
		plant:   func(v *vandal) { v.pidFile("/run/apache2/apache2.pid", 1, 0) },
		says:    "httpd (pid 1) already running"},
	{name: "no directory for postgresql", service: "postgresql", options: []string{"--user=postgres", "--tmpfs=/run"},
		command: script("exec " + postgresCommand),
		says:    `could not create lock file "/var/run/postgresql/.s.PGSQL.5432.lock": No such file or directory`},
	{name: "the PID of a helper in postmaster.pid", service: "postgresql", options: []string{"--user=postgres", "--tmpfs=/run/postgresql:mode=1777"},
		command: script("sleep infinity & exec " + postgresCommand),
		plant:   func(v *vandal) { v.pidFile("/var/lib/postgresql/15/main/postmaster.pid", 2, userPostgres) },
		says:    `lock file "postmaster.pid" already exists`},
	{name: "the own PID in a PID file", service: "rails",
		command: []string{"bin/rails", "server", "-b", "127.0.0.1"},
		plant:   func(*vandal) {},
		says:    "A server is already running (pid: 1, file: tmp/pids/server.pid)"},
}

// testFailures runs the services without slashrun, so that what it is there for is
// known to be real.
func testFailures(t *testing.T, w *world) {
	for _, f := range failures {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			s := services[f.service]
			args := append([]string{"--entrypoint="}, f.options...)
			c := w.Create(t, containerName(t), append(append(args, "localhost/example-"+f.service), f.command...)...)
			if f.plant != nil {
				r := c.Start(t)
				s.ready(t, r)
				v := w.vandal(r)
				f.plant(v)
				v.check(t)
				r.Kill(t)
			}
			r := c.Start(t)
			r.Wait(t)
			if !strings.Contains(r.Output(), f.says) {
				t.Errorf("the output does not have %q:\n%s", f.says, r.Output())
			}
		})
	}
}
