package exectest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/podtest"
)

// restarts is how often each container of a scene is killed and started again.
const restarts = 20

// A scene is a service in one kind of container.
type scene struct {
	name     string
	services []string // those of an ordinary run
	can      []string // those that can live so
	rootless bool
	options  []string            // of podman create
	more     map[string][]string // further ones, by service
	volume   map[string]string   // where the volume of the scene is mounted, by service
	fresh    bool                // each start is one of a new container, as a kubelet's
	script   map[string]string   // instead of the example's CMD, by service
	derived  string              // lines of a Containerfile that go on from the example
	// before is called before the first start, and returns options; after, after each
	// start that has answered.
	before func(t *testing.T, w *world, volume string) []string
	after  func(t *testing.T, r *podtest.Running)
}

// helper starts a process beside the command, which has PID 2 where that is PID 1.
var helper = map[string]string{"postgresql": "sleep infinity & exec COMMAND"}

var (
	all    = []string{"apache2", "nginx", "postgresql", "rails", "redis"}
	inRun  = map[string]string{"apache2": "/run", "nginx": "/run", "postgresql": "/run", "redis": "/run"}
	writes = map[string][]string{ // beside /run
		"apache2": {"--tmpfs=/var/log/apache2"}, "postgresql": {"--tmpfs=/var/lib/postgresql", "--tmpfs=/var/log/postgresql"},
		"rails": {"--tmpfs=/app/tmp"}, "redis": {"--tmpfs=/var/lib/redis"},
	}
)

var scenes = []scene{
	// podman start, or docker restart: the root is what the killed run left.
	{name: "restart", services: []string{"apache2", "nginx", "postgresql"}, can: all, script: helper},
	{name: "rootless", rootless: true, services: []string{"rails", "redis"}, can: all, script: helper},

	{name: "tmpfs on run", services: []string{"postgresql"}, can: all, options: []string{"--tmpfs=/run"}, script: helper},
	{name: "rootless tmpfs on run", rootless: true, services: []string{"apache2"}, can: all, options: []string{"--tmpfs=/run"}, script: helper},

	// The runtime puts a tmpfs on /run.
	{name: "read-only", services: []string{"apache2"}, can: all, options: []string{"--read-only"}, more: writes, script: helper},

	// Of a volume on /run everything stays, and only the kernel can tell what is stale:
	// sockets, but no PID file, so apache2 cannot live so.
	{name: "read-only with a volume on run", services: []string{"redis"}, can: []string{"nginx", "redis"},
		options: []string{"--read-only"}, more: writes, volume: inRun},
	{name: "any user with a volume on run", services: []string{"nginx"}, can: []string{"nginx"},
		options: []string{"--user=12345:0", "--read-only", "--read-only-tmpfs=false"}, volume: inRun, fresh: true},
	// What OpenShift wants of an image: root's group may do what root may. The root is the
	// container's own, so PID files go, too.
	{name: "any user", services: []string{"nginx"}, can: []string{"nginx"},
		options: []string{"--user=12345:0"}, derived: "RUN chmod g=u /run\n"},
	{name: "rootless any user with a volume on run", rootless: true, services: []string{"nginx"}, can: []string{"nginx"},
		options: []string{"--user=12345:0", "--cap-drop=all"}, volume: inRun, fresh: true},

	// A volume that somebody says is ours alone.
	{name: "exclusive volume", services: []string{"postgresql"}, can: []string{"apache2", "postgresql", "rails"}, script: helper,
		volume: map[string]string{"apache2": "/run", "postgresql": "/var/lib/postgresql", "rails": "/app/tmp/pids"},
		more: map[string][]string{
			"apache2":    {"--env=SLASHRUN_EXEC_EXCLUSIVE=/run"},
			"postgresql": {"--env=SLASHRUN_EXEC_EXCLUSIVE=/var/lib/postgresql"},
			"rails":      {"--env=SLASHRUN_EXEC_EXCLUSIVE=/app/tmp/pids"},
		}},
	{name: "any user with an exclusive volume", services: []string{"rails"}, can: []string{"rails"}, fresh: true,
		volume:  map[string]string{"rails": "/app/tmp/pids"},
		options: []string{"--user=12345:0", "--read-only", "--env=SLASHRUN_EXEC_EXCLUSIVE=/app/tmp/pids"}},

	// A new tmpfs on /run, with the mounts below it.
	{name: "right to mount", services: []string{"nginx"}, can: []string{"apache2", "nginx", "postgresql", "redis"}, script: helper,
		options: []string{"--cap-add=SYS_ADMIN"}, before: secrets, after: secretsAreThere},
	{name: "rootless right to mount", rootless: true, services: []string{"nginx"}, can: []string{"apache2", "nginx", "postgresql", "redis"}, script: helper,
		options: []string{"--cap-add=SYS_ADMIN"}, before: secrets, after: secretsAreThere},
}

// runScenes runs the scenes of one kind of podman.
func runScenes(t *testing.T, w *world, rootless bool) {
	for _, s := range scenes {
		if s.rootless != rootless {
			continue
		}
		names := s.services
		if os.Getenv("SLASHRUN_SCENES") == "all" {
			names = s.can
		}
		for _, name := range names {
			t.Run(s.name+" "+name, func(t *testing.T) {
				t.Parallel()
				s.run(t, w, name)
			})
		}
	}
}

func (s scene) run(t *testing.T, w *world, name string) {
	service, volume := services[name], ""
	options := slices.Concat(s.options, s.more[name])
	if point := s.volume[name]; point != "" {
		// A named volume, since it begins with what the image has there.
		volume = containerName(t)
		options = append(options, "--volume="+volume+":"+point)
		if strings.Contains(s.name, "any user") {
			volume = w.emptyDir(t)
			options[len(options)-1] = "--volume=" + volume + ":" + point
		}
	}
	if s.before != nil {
		options = append(options, s.before(t, w, volume)...)
	}
	image := "localhost/example-" + name
	if s.derived != "" {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/Containerfile", []byte("FROM "+image+"\n"+s.derived), 0o644); err != nil {
			t.Fatal(err)
		}
		image = "localhost/" + containerName(t)
		w.Build(t, dir, image)
	}
	options = append(options, image)
	options = append(options, command(t, name, s.script[name])...)
	ours := s.volume[name] != "/run" || strings.Contains(s.name, "exclusive")
	var c *podtest.Container
	for start := range restarts + 1 {
		if c == nil || s.fresh {
			c = w.Create(t, fmt.Sprintf("%s-%d", containerName(t), start), options...)
		}
		r := c.Start(t)
		service.ready(t, r)
		if service.dir != "" && start > 0 {
			checkOlder(t, r, service.dir, ours)
		}
		if s.after != nil {
			s.after(t, r)
		}
		v := newVandal(r)
		service.plant(v)
		if service.dir != "" {
			v.older(service.dir)
		}
		v.check(t)
		r.Kill(t)
		if t.Failed() {
			t.Fatalf("start %d\n%s", start, r.Output())
		}
	}
}

// emptyDir is a directory of the machine that anybody may write to, as a Kubernetes
// volume of that name is.
func (w *world) emptyDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "volume")
	if err == nil {
		err = os.Chmod(dir, 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// secrets are what Kubernetes and Docker mount below /run: /var/run is a link to it.
func secrets(t *testing.T, w *world, _ string) []string {
	dir := w.emptyDir(t)
	for _, name := range []string{"token", "password"} {
		if err := os.WriteFile(dir+"/"+name, []byte(name+" of the test\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return []string{
		"--volume=" + dir + ":/run/secrets/kubernetes.io/serviceaccount:ro",
		"--volume=" + dir + "/password:/run/secrets/password:ro",
	}
}

func secretsAreThere(t *testing.T, r *podtest.Running) {
	t.Helper()
	root := fmt.Sprintf("/proc/%d/root", r.PID)
	for path, want := range map[string]string{
		"/run/secrets/kubernetes.io/serviceaccount/token": "token of the test\n",
		"/run/secrets/password":                           "password of the test\n",
		"/run/.containerenv":                              "",
	} {
		if got, err := os.ReadFile(root + path); string(got) != want {
			t.Errorf("%s is %q, %v", path, got, err)
		}
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", r.PID))
	if err != nil || !strings.Contains(string(mounts), " /run tmpfs ") {
		t.Errorf("no tmpfs on /run: %v\n%s", err, mounts)
	}
}
