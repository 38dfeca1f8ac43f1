package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// TestPodman loads the archive as its users do, runs it, and copies from it.
func TestPodman(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Tool("podman"), testenv.Tool("crun"))
	// The executable is built outside, because the build cache is read-only inside.
	const exeVar = "SLASHRUN_RELEASE_TEST_EXE"
	exe := os.Getenv(exeVar)
	if !nstest.Inside() {
		exe = filepath.Join(t.TempDir(), "slashrun")
		if _, err := build("..", exe, runtime.GOARCH, "test", nil); err != nil {
			t.Fatal(err)
		}
	}
	// Real: podman as root wants the machine's user namespace. Storage, run-time
	// state and cgroups are still private; storage is on the tmpfs that TMPDIR is.
	nstest.Run(t, nstest.Options{Real: true, Keep: []string{exe}, Env: []string{exeVar + "=" + exe}}, func(t *testing.T) {
		// crun wants to see cgroup2, and writes nothing with --cgroups=disabled.
		if err := syscall.Mount("cgroup", "/sys/fs/cgroup", "cgroup2", syscall.MS_RDONLY, ""); err != nil {
			t.Fatalf("mount cgroup2: %v", err)
		}
		// podman unpacks an archive there, whatever TMPDIR says.
		if err := syscall.Mount("tmpfs", "/var/tmp", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=1777"); err != nil {
			t.Fatalf("mount tmpfs: %v", err)
		}
		// Not t.TempDir: podman leaves a mount in its storage, which goes with the
		// namespace.
		dir, err := os.MkdirTemp("", "podman")
		if err != nil {
			t.Fatal(err)
		}
		// By default it sets a sysctl, and /proc/sys is read-only.
		if err := os.WriteFile(dir+"/containers.conf", []byte("[containers]\ndefault_sysctls=[]\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		podman := func(args ...string) string {
			t.Helper()
			cmd := exec.Command("podman", append([]string{"--root", dir + "/root", "--runroot", dir + "/run", "--tmpdir", dir + "/tmp",
				"--cgroup-manager=cgroupfs", "--runtime=crun", "--events-backend=none"}, args...)...)
			cmd.Env = append(os.Environ(), "HOME="+dir, "CONTAINERS_CONF="+dir+"/containers.conf")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("podman %s: %v\n%s", strings.Join(args, " "), err, out)
			}
			return string(out)
		}
		data, err := os.ReadFile(exe)
		if err != nil {
			t.Fatal(err)
		}
		im := testImage()
		im.Executables[runtime.GOARCH] = data
		archive, err := im.archive()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "slashrun-oci.tar")
		if err := os.WriteFile(path, archive, 0o644); err != nil {
			t.Fatal(err)
		}
		podman("load", "-i", path)
		name := "localhost/slashrun:" + im.Version
		run := []string{"run", "--rm", "--network=none", "--cgroups=disabled", "--ulimit=host"}
		if got := podman(append(run, name, "--version")...); !strings.HasPrefix(got, "slashrun test (") {
			t.Errorf("the image printed %q, want the version", got)
		}

		if err := os.WriteFile(dir+"/Containerfile", []byte("FROM scratch\nCOPY --from="+name+" /slashrun /init\nCOPY --from="+name+" /usr/bin/slashrun /bin/\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		podman("build", "--isolation=chroot", "-t", "localhost/copied", "-f", dir+"/Containerfile", dir)
		for _, exe := range []string{"/init", "/bin/slashrun"} {
			if got := podman(append(run, "localhost/copied", exe, "--version")...); !strings.HasPrefix(got, "slashrun test (") {
				t.Errorf("%s, copied from the image, printed %q, want the version", exe, got)
			}
		}
	})
}
