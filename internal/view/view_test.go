package view

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/vmtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(eyeEnv) != "" {
		eyeMain()
		return
	}
	vmtest.Setup()
	seccomptest.Setup()
	nstest.Main(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inNamespace runs a shell script in a mount namespace of its own, and returns when
// the script is through; its process then waits.
func inNamespace(t testing.TB, script string) (pid int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-euc", script+"\necho ready\nread wait || :")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		rest, _ := io.ReadAll(out)
		t.Fatalf("%q %v %s", line, err, rest)
	}
	return cmd.Process.Pid
}

func target(t testing.TB, p *process.Proc, path string) Target {
	t.Helper()
	fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_PATH|linux.O_NOFOLLOW, 0)
	must(t, err)
	defer linux.Close(fd)
	tg, err := TargetOf(p, fd)
	must(t, err)
	return tg
}

// text is the places in short: "PATH ro hidden:POINT confirmed xCOUNT pids".
func text(places []Place) string {
	var b strings.Builder
	for _, p := range places {
		b.WriteString(p.Path)
		if p.ReadOnly {
			b.WriteString(" ro")
		}
		if p.HiddenBy != "" {
			b.WriteString(" hidden:" + p.HiddenBy)
		}
		if p.Confirmed {
			b.WriteString(" confirmed")
		}
		if p.Namespaces[0].Own {
			b.WriteString(" own")
		}
		if p.Count > 1 {
			fmt.Fprintf(&b, " x%d", p.Count)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestReach(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		for _, profile := range seccomptest.All {
			t.Run(profile.String(), func(t *testing.T) {
				seccomptest.Run(t, profile, testReach)
			})
		}
	})
}

func testReach(t *testing.T) {
	p, err := process.Open()
	must(t, err)
	defer p.Close()
	must(t, os.RemoveAll("/run/app"))
	must(t, os.MkdirAll("/run/app/sub", 0o755))
	must(t, os.WriteFile("/run/app/sub/file", nil, 0o644))
	tg := target(t, p, "/run/app/sub/file")

	same := inNamespace(t, "")
	inNamespace(t, "")
	inNamespace(t, "mkdir -p /tmp/v; mount --bind /run/app /tmp/v; mount -t tmpfs none /run")
	inNamespace(t, "mkdir -p /tmp/r; mount --bind /run/app/sub /tmp/r; mount -o remount,bind,ro /tmp/r; mount -t tmpfs none /run/app/sub")
	inNamespace(t, "mount -t tmpfs none /run; mkdir /run/app")
	inNamespace(t, "umount -l /run")

	places, incomplete, err := Reach(t.Context(), p, tg)
	must(t, err)
	const want = `/run/app/sub/file confirmed own
/run/app/sub/file confirmed x2
/run/app/sub/file hidden:/run x2
/tmp/v/sub/file confirmed
/run/app/sub/file hidden:/run/app/sub
/tmp/r/file ro confirmed
`
	if got := text(places); got != want {
		t.Errorf("got\n%s\nwant\n%s%q", got, want, incomplete)
	}
	if ns := places[1].Namespaces; len(ns) != 2 || len(ns[0].Processes) != 1 || ns[0].Processes[0].PID != same || ns[0].ID == 0 {
		t.Errorf("%+v", places[1])
	}
}

// A name that looks deleted and is there, one that is gone with another left, and a
// file without any.
func TestTargetOf(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		p, err := process.Open()
		must(t, err)
		defer p.Close()
		must(t, os.WriteFile("/run/odd (deleted)", nil, 0o644))
		if tg := target(t, p, "/run/odd (deleted)"); tg.Path != "/odd (deleted)" {
			t.Errorf("%+v", tg)
		}
		must(t, os.WriteFile("/run/a", nil, 0o644))
		must(t, os.Link("/run/a", "/run/b"))
		fd, err := linux.Openat(linux.AT_FDCWD, "/run/a", linux.O_PATH, 0)
		must(t, err)
		defer linux.Close(fd)
		for _, name := range []string{"/run/a", "/run/b"} {
			must(t, os.Remove(name))
			if tg, err := TargetOf(p, fd); !errors.Is(err, syscall.ENOENT) {
				t.Errorf("%+v %v", tg, err)
			}
		}
	})
}

// Somebody mounts it a few hundred times: the list has an end, and says so.
func TestManyPlaces(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		p, err := process.Open()
		must(t, err)
		defer p.Close()
		must(t, os.Mkdir("/run/app", 0o755))
		const many = maxPlaces + 20
		for i := range many {
			at := fmt.Sprint("/tmp/", i)
			must(t, os.Mkdir(at, 0o755))
			must(t, linux.Mount("/run/app", at, "", syscall.MS_BIND, ""))
		}
		places, _, err := Reach(t.Context(), p, target(t, p, "/run/app"))
		must(t, err)
		if n := len(places); n != maxPlaces || places[n-1].More != many+1-maxPlaces {
			t.Errorf("%d places and %d more", n, places[n-1].More)
		}
		v, err := Open(t.Context(), p)
		must(t, err)
		defer v.Close()
		if !v.room(maxMounts) || v.room(1) {
			t.Error("there is always room")
		}
	})
}
