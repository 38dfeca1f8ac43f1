package view

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// eyeEnv names the file that the test binary is to look for, as another user or
// with few descriptors (eyeFiles).
const (
	eyeEnv   = "SLASHRUN_VIEW_EYE"
	eyeFiles = "SLASHRUN_VIEW_FILES"
)

type seen struct {
	Places     []Place
	Incomplete []string
	Err        string
}

func eyeMain() {
	s, err := look(os.Getenv(eyeEnv))
	if err != nil {
		s.Err = err.Error()
	}
	json.NewEncoder(os.Stdout).Encode(s)
}

func look(path string) (s seen, err error) {
	p, err := process.Open()
	if err != nil {
		return s, err
	}
	fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_PATH|linux.O_NOFOLLOW, 0)
	if err != nil {
		return s, err
	}
	tg, err := TargetOf(p, fd)
	if err != nil {
		return s, err
	}
	if n := 0; os.Getenv(eyeFiles) != "" {
		fmt.Sscan(os.Getenv(eyeFiles), &n)
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(n), Max: uint64(n)}); err != nil {
			return s, err
		}
	}
	s.Places, s.Incomplete, err = Reach(context.Background(), p, tg)
	return s, err
}

// eye looks for path as the user.
func eye(t testing.TB, path string, uid uint32, env ...string) (s seen) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), append(env, eyeEnv+"="+path)...)
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	text, err := cmd.Output()
	must(t, err)
	must(t, json.Unmarshal(text, &s))
	return s
}

// An ordinary user reads the mounts of others, whose namespaces he cannot see, and
// confirms nothing there; with hidepid he is told that he sees nothing.
func TestOrdinaryUser(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.MkdirAll("/run/app", 0o755))
		must(t, os.WriteFile("/run/app/file", nil, 0o644))
		inNamespace(t, "mkdir /tmp/v; mount --bind /run/app /tmp/v")
		s := eye(t, "/run/app/file", 1000)
		const want = "/run/app/file confirmed own\n/run/app/file\n/tmp/v/file\n"
		if got := text(s.Places); got != want || s.Err != "" {
			t.Errorf("got\n%s\n%q %s", got, s.Incomplete, s.Err)
		}
		for _, p := range s.Places[1:] {
			if n := p.Namespaces[0]; n.ID != 0 || n.Count != 1 || len(n.Processes) != 1 {
				t.Errorf("%+v", n)
			}
		}
		for _, option := range []string{"hidepid=1", "hidepid=2"} {
			must(t, linux.Mount("proc", "/proc", "proc", 0, option))
			defer linux.Unmount("/proc", syscall.MNT_DETACH)
			s = eye(t, "/run/app/file", 1000)
			if got := text(s.Places); got != "/run/app/file confirmed own\n" || !mentions(s.Incomplete, "hidepid") {
				t.Errorf("%s: %s%q %s", option, got, s.Incomplete, s.Err)
			}
		}
	})
}

// No descriptor left: an error, or the whole answer.
func TestNoDescriptorsLeft(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.MkdirAll("/run/app", 0o755))
		must(t, os.WriteFile("/run/app/file", nil, 0o644))
		inNamespace(t, "mkdir /tmp/v; mount --bind /run/app /tmp/v")
		failed := 0
		for n := 20; n > 4; n-- {
			s := eye(t, "/run/app/file", 0, fmt.Sprint(eyeFiles, "=", n))
			switch {
			case mentions(s.Incomplete, "too many open files"):
				failed++
			case s.Err == "" && text(s.Places) != "/run/app/file confirmed own\n/run/app/file confirmed\n/tmp/v/file confirmed\n":
				t.Errorf("%d descriptors: %s%q", n, text(s.Places), s.Incomplete)
			case s.Err != "" && !strings.Contains(s.Err, "too many open files"):
				t.Errorf("%d descriptors: %s", n, s.Err)
			case s.Err != "":
				failed++
			}
		}
		if failed == 0 {
			t.Error("it never failed")
		}
	})
}

// Processes that were locked into a part of their namespace; one of them only, and
// then one that is not.
func TestChroot(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		p, err := process.Open()
		must(t, err)
		defer p.Close()
		must(t, os.MkdirAll("/run/app", 0o755))
		must(t, os.WriteFile("/run/app/file", nil, 0o644))
		tg := target(t, p, "/run/app/file")
		inNamespace(t, `mkdir -p /tmp/jail/app /tmp/jail/bin
			mount -t tmpfs none /tmp/jail; mkdir /tmp/jail/app /tmp/jail/usr /tmp/jail/proc
			mount --bind /run/app /tmp/jail/app; mount --rbind /usr /tmp/jail/usr
			ln -s usr/bin usr/lib usr/lib64 /tmp/jail
			exec chroot /tmp/jail /bin/sh -c 'echo ready; read wait || :'`)
		places, incomplete, err := Reach(t.Context(), p, tg)
		must(t, err)
		if got := text(places); got != "/run/app/file confirmed own\n/app/file confirmed\n" || !mentions(incomplete, "locked into") {
			t.Errorf("%s%q", got, incomplete)
		}
		if len(places) > 1 && places[1].Namespaces[0].Root != "/tmp/jail" {
			t.Errorf("%+v", places[1])
		}
	})
}

// A FUSE file system that does not answer lies on the way: nobody waits for it.
func TestHungFileSystem(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
		for _, profile := range seccomptest.All {
			t.Run(profile.String(), func(t *testing.T) {
				seccomptest.Run(t, profile, testHung)
			})
		}
	})
}

func testHung(t *testing.T) {
	p, err := process.Open()
	must(t, err)
	defer p.Close()
	if err := syscall.Mknod("/dev/fuse", syscall.S_IFCHR|0o600, int(linux.Makedev(10, 229))); !errors.Is(err, os.ErrExist) {
		must(t, err)
	}
	daemon, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0) // never read from
	if errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENXIO) {
		testenv.Need(t, testenv.Requirement{What: "FUSE in the kernel", Check: func() error { return err }})
	}
	must(t, err)
	must(t, os.MkdirAll("/run/hung", 0o755))
	must(t, os.MkdirAll("/run/app/sub", 0o755))
	must(t, os.WriteFile("/run/app/file", nil, 0o644))
	must(t, linux.Mount("none", "/run/hung", "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", daemon.Fd())))
	defer linux.Unmount("/run/hung", syscall.MNT_DETACH)
	defer daemon.Close() // which lets go of whoever waits
	must(t, linux.Mount("/run/app", "/run/hung", "", syscall.MS_BIND, ""))
	defer linux.Unmount("/run/hung", syscall.MNT_DETACH)
	tg := target(t, p, "/run/app/file")
	inNamespace(t, "")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	places, _, err := Reach(ctx, p, tg)
	must(t, err)
	paths := map[string]int{}
	for _, p := range places {
		paths[p.Path] += p.Count
	}
	if paths["/run/app/file"] != 2 || paths["/run/hung/file"] != 2 {
		t.Errorf("%s", text(places))
	}
}
