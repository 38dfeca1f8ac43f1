package podtest

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

func TestMain(m *testing.M) { nstest.Main(m) }

var kinds = map[string]Options{"rootful": {}, "rootless": {Rootless: true}}

func TestContainer(t *testing.T) {
	testenv.Need(t, testenv.Tool("busybox"))
	for name, o := range kinds {
		t.Run(name, func(t *testing.T) {
			Run(t, o, func(t *testing.T, p *Podman) {
				image := p.Import(t, smallTree(t), "--change=ENV COLOUR=green")
				r := p.Run(t, image, "/bin/sh", "-c", `
					echo "pid=$$ colour=$COLOUR"
					grep Seccomp: /proc/self/status
					cat /proc/self/uid_map
					ls -a /run
					ls /sys/class/net
					exit 7`)
				if r.Status != 7 {
					t.Errorf("exit status %d, want 7", r.Status)
				}
				wants := []string{"pid=1 colour=green", "Seccomp:\t2", ".containerenv", "from-the-image"}
				if o.Rootless {
					wants = append(wants, "200000      65536")
				}
				for _, want := range wants {
					if !strings.Contains(r.Stdout, want) {
						t.Errorf("the output does not have %q", want)
					}
				}
				if t.Failed() {
					t.Log(r)
				}
			})
		})
	}
}

// The kinds of /run that a container may find.
func TestRunInContainers(t *testing.T) {
	testenv.Need(t, testenv.Tool("busybox"))
	for name, o := range kinds {
		t.Run(name, func(t *testing.T) {
			Run(t, o, func(t *testing.T, p *Podman) {
				image := p.Import(t, smallTree(t))
				for _, c := range []struct {
					option string
					tmpfs  bool
				}{{"--tty=false", false}, {"--read-only", true}, {"--tmpfs=/run", true}} {
					r := p.Run(t, c.option, image, "/bin/sh", "-c", "grep ' /run tmpfs ' /proc/mounts; touch /run/file && ls /run")
					if got := strings.Contains(r.Stdout, " /run tmpfs "); got != c.tmpfs {
						t.Errorf("%s: tmpfs on /run is %v, want %v\n%v", c.option, got, c.tmpfs, r)
					}
					if !strings.Contains(r.Stdout, "file\nfrom-the-image") {
						t.Errorf("%s: /run does not have both the new file and the image's\n%v", c.option, r)
					}
				}
			})
		})
	}
}

// What one start leaves in /run the next start finds.
func TestSecondStart(t *testing.T) {
	testenv.Need(t, testenv.Tool("busybox"))
	Run(t, Options{Rootless: true}, func(t *testing.T, p *Podman) {
		image := p.Import(t, smallTree(t))
		r := p.Podman(t, "create", "--name=twice", "--network=none", image, "/bin/sh", "-c", "cat /run/left; echo 4711 >/run/left")
		if r.Status != 0 {
			t.Fatal(r)
		}
		for i, want := range []string{"", "4711\n"} {
			if r := p.Podman(t, "start", "--attach", "twice"); r.Stdout != want || r.Status != 0 {
				t.Errorf("start %d: %v; want %q", i, r, want)
			}
		}
	})
}

// What was killed hard has not tidied up, and the next start finds it; with either
// driver, and with an image that was built.
func TestKilledContainer(t *testing.T) {
	testenv.Need(t, testenv.Tool("busybox"))
	for _, driver := range []Driver{VFS, Overlay} {
		for name, o := range kinds {
			o.Driver = driver
			t.Run(name+" "+string(driver), func(t *testing.T) {
				Run(t, o, func(t *testing.T, p *Podman) {
					if r := p.Podman(t, "tag", p.Import(t, smallTree(t)), "localhost/base"); r.Status != 0 {
						t.Fatal(r)
					}
					context := t.TempDir()
					text := "FROM base\nRUN echo built >/built\nCMD [\"/bin/false\"]\n"
					if err := os.WriteFile(context+"/Containerfile", []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
					p.Build(t, context, "localhost/small")
					c := p.Create(t, "killed", "localhost/small", "/bin/sh", "-c", "cat /built /run/left 2>/dev/null; echo $$ >/run/left; echo ready; while :; do sleep 60; done")
					for i, want := range []string{"built\nready\n", "built\n1\nready\n"} {
						r := c.Start(t)
						for deadline := time.Now().Add(20 * time.Second); !strings.HasSuffix(r.Output(), "ready\n") && !r.Ended(); {
							if time.Now().After(deadline) {
								t.Fatalf("start %d: not ready: %q", i, r.Output())
							}
							time.Sleep(time.Millisecond)
						}
						if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/run/left", r.PID)); string(data) != "1\n" {
							t.Errorf("start %d: the file is %q, %v", i, data, err)
						}
						r.Kill(t)
						if !strings.HasSuffix(r.Output(), want) || !r.Ended() {
							t.Errorf("start %d: %q, want %q", i, r.Output(), want)
						}
					}
				})
			})
		}
	}
}

// An image need not have more than one program, and the errors are podman's.
func TestErrors(t *testing.T) {
	testenv.Need(t, testenv.Tool("busybox"))
	Run(t, Options{}, func(t *testing.T, p *Podman) {
		image := p.Import(t, smallTree(t))
		if r := p.Run(t, image, "/no/such/program"); r.Status != 127 {
			t.Errorf("a program that is not there: %v; want status 127", r)
		}
		if r := p.Run(t, "no-such-image", "/bin/sh"); r.Status != 125 || r.Stderr == "" {
			t.Errorf("an image that is not there: %v; want status 125", r)
		}
	})
}

// smallTree is a root with a shell, and a file in /run.
func smallTree(t *testing.T) string {
	t.Helper()
	path, err := testenv.LookTool("busybox")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, d := range []string{"/bin", "/run"} {
		if err := os.Mkdir(dir+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/bin/busybox", program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "cat", "ls", "grep", "touch", "sleep"} {
		if err := os.Symlink("busybox", dir+"/bin/"+name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/run/from-the-image", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}
