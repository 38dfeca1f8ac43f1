// Boot measures how long a machine's start waits for /run: from exec to a laid-out
// /run with Debian's default tmpfiles.d, by "slashrun boot" and by what it takes
// the place of, mount(8) and systemd-tmpfiles 262. The benchmark runs itself again in
// mount and PID namespaces of its own, so that nothing comes out of it and nobody
// else is alive, as at the start of a machine. It needs root and what
// test/deps.d/tmpfiles-peers.sh fetches ("make test-deps").
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/slashrun/slashrun/internal/bench"
	"github.com/slashrun/slashrun/internal/testenv"
)

// peerScript is what an init script does without slashrun: the options are ours,
// so that both end with the same mounts.
const peerScript = `mount -t tmpfs -o nosuid,nodev,size=20%,nr_inodes=800k,mode=0755 tmpfs "$1/run"
mkdir "$1/run/lock" "$1/run/user"
mount -t tmpfs -o nosuid,nodev,noexec,size=5m,nr_inodes=4096,mode=1777 tmpfs "$1/run/lock"
exec "$2" --root="$1" --create --remove --boot`

func main() {
	if os.Getpid() != 1 { // of the namespace
		os.Exit(inNamespaces())
	}
	// mount(8) keeps a file in /run/mount: it is not to be the machine's.
	if err := syscall.Mount("bench", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		fmt.Fprintln(os.Stderr, "bench/boot: a private /run:", err)
		os.Exit(1)
	}
	bench.Main("boot", "From exec to a laid-out `/run` with Debian's default tmpfiles.d. What these declare on disk is there from the boot before; `/run` is empty.", func(b *bench.B) {
		deps := testenv.DepsDir()
		peer := filepath.Join(deps, "systemd-tmpfiles", "usr", "bin", "systemd-tmpfiles")
		defaults := filepath.Join(deps, "tmpfiles.d", "systemd")
		for _, p := range []string{peer, defaults} {
			if _, err := os.Stat(p); err != nil {
				b.Fatal(fmt.Errorf("%w: make test-deps fetches it", err))
			}
		}
		exe := b.Slashrun()
		root := filepath.Join(b.Dir(), "root")
		if err := makeRoot(root, defaults); err != nil {
			b.Fatal(err)
		}
		// What the lines declare on disk is there from the boot before, as at every
		// boot but a machine's first; bench counts no first run.
		prepare := func() error { return takeAway(root) }
		b.Compare(bench.Case{
			Name: "boot",
			Ours: bench.Side{Name: "slashrun boot", Prepare: prepare, Check: func() error { return check(root) },
				Cmd: func() *exec.Cmd { return exec.Command(exe, "boot", "--root="+root, "--profile=debian") }},
			Peers: []bench.Side{{Name: "mount + systemd-tmpfiles 262", Prepare: prepare, Check: func() error { return check(root) },
				Cmd: func() *exec.Cmd { return exec.Command("/bin/sh", "-ec", peerScript, "sh", root, peer) }}},
			Rounds: 51,
			Want:   3,
		})
	})
}

// inNamespaces runs the benchmark as PID 1 of new namespaces.
func inNamespaces() int {
	cmd := exec.Command("unshare", append([]string{"--mount", "--propagation=private", "--pid", "--fork", "--mount-proc", "/proc/self/exe"}, os.Args[1:]...)...)
	if exe, err := os.Executable(); err == nil {
		cmd.Args[len(cmd.Args)-len(os.Args)] = exe
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "bench/boot in namespaces of its own, for which it needs root:", err)
	return 1
}

// takeAway unmounts what a run mounted.
func takeAway(root string) error {
	for {
		err := syscall.Unmount(filepath.Join(root, "run"), syscall.MNT_DETACH)
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOENT) {
			return nil // not a mount point any more
		}
		if err != nil {
			return err
		}
	}
}

// makeRoot makes a root as a machine has it when it starts.
func makeRoot(root, defaults string) error {
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	for _, d := range []string{"etc", "run", "var/lib", "var/log", "tmp", "root", "home", "srv", "usr/lib/tmpfiles.d"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(filepath.Join(defaults, "*.conf"))
	if err != nil || len(files) == 0 {
		return errors.Join(err, fmt.Errorf("no *.conf in %s", defaults))
	}
	for _, f := range files {
		if err := copyFile(f, filepath.Join(root, "usr/lib/tmpfiles.d", filepath.Base(f))); err != nil {
			return err
		}
	}
	for _, f := range []string{"passwd", "group"} {
		if err := os.WriteFile(filepath.Join(root, "etc", f), []byte(accounts[f]), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// accounts are the users and groups that the default lines name.
var accounts = map[string]string{
	"passwd": "root:x:0:0::/root:/bin/sh\nsystemd-network:x:998:998::/:/bin/false\nsystemd-resolve:x:997:997::/:/bin/false\n",
	"group":  "root:x:0:\nadm:x:4:\nutmp:x:43:\nsystemd-network:x:998:\nsystemd-resolve:x:997:\nsystemd-journal:x:996:\nwheel:x:995:\n",
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}

// check looks at what both must have made.
func check(root string) error {
	var fs syscall.Statfs_t
	for _, p := range []string{"run", "run/lock"} {
		if err := syscall.Statfs(filepath.Join(root, p), &fs); err != nil {
			return err
		}
		if fs.Type != 0x01021994 { // TMPFS_MAGIC
			return fmt.Errorf("%s is no tmpfs", p)
		}
	}
	for _, p := range []string{"var/cache", "var/spool", "var/tmp", "run/user", "run/log"} {
		if _, err := os.Stat(filepath.Join(root, p)); err != nil {
			return err
		}
	}
	return nil
}
