// Why measures `slashrun why /run` on a /run of 100,000 entries, as a machine has it
// that nobody cleaned up: files, directories, sockets bound and orphaned, PID files,
// locks, FIFOs and links, with 200 processes alive that use some of them. The
// benchmark runs itself again in a mount namespace of its own and needs root.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/bench"
)

const entries = 100_000

func main() {
	if os.Getenv("BENCH_WHY") == "" {
		os.Exit(inNamespace())
	}
	if err := syscall.Mount("bench", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		fmt.Fprintln(os.Stderr, "bench/why: a private /run:", err)
		os.Exit(1)
	}
	bench.Main("why", "`slashrun why /run`, every one of 100,000 entries judged, with its makers and users, beside what only lists them.", func(b *bench.B) {
		exe := b.Slashrun()
		children, err := fill("/run")
		defer func() {
			for _, c := range children {
				c.Process.Kill()
				c.Wait()
			}
		}()
		if err != nil {
			b.Fatal(err)
		}
		out := filepath.Join(b.Dir(), "out")
		command := func(name string, args ...string) func() *exec.Cmd {
			return func() *exec.Cmd {
				cmd := exec.Command(name, args...)
				if f, err := os.Create(out); err == nil {
					cmd.Stdout = f
				}
				return cmd
			}
		}
		check := func(parts ...string) func() error {
			return func() error {
				text, err := os.ReadFile(out)
				if err != nil {
					return err
				}
				if n := bytes.Count(text, []byte("\n")); n < entries-1000 {
					return fmt.Errorf("%d lines", n)
				}
				for _, p := range parts {
					if !bytes.Contains(text, []byte(p)) {
						return fmt.Errorf("no %q in the output", p)
					}
				}
				return nil
			}
		}
		b.Compare(bench.Case{
			Name: "100,000 entries",
			Ours: bench.Side{Name: "slashrun why --all /run", Cmd: command(exe, "why", "--all", "/run"), Check: check("/run: 100000 entries: 2000 stale", "sleep[")},
			Peers: []bench.Side{
				{Name: "find -ls", Cmd: command("find", "/run", "-ls"), Check: check()},
			},
			Rounds:  11,
			MaxTime: 2 * time.Second,
		})
	})
}

// bound keeps the sockets that are to stay bound from the collector.
var bound []net.Listener

// fill makes the entries, and the processes.
func fill(dir string) (children []*exec.Cmd, err error) {
	made := 0
	check := func(e error) {
		made++
		err = errors.Join(err, e)
	}
	// 500 sockets that are bound by us and 2,000 that nobody is bound to.
	check(os.Mkdir(dir+"/sock", 0o755))
	for n := range 2500 {
		l, e := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("%s/sock/%d", dir, n), Net: "unix"})
		check(e)
		if e != nil {
			return nil, e
		}
		if n < 500 {
			bound = append(bound, l)
			continue
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	check(os.Mkdir(dir+"/pid", 0o755))
	check(os.Mkdir(dir+"/lock", 0o755))
	for n := range 1000 {
		check(os.WriteFile(fmt.Sprintf("%s/pid/%d.pid", dir, n), []byte("1\n"), 0o644))
		check(os.WriteFile(fmt.Sprintf("%s/lock/%d.lock", dir, n), nil, 0o644))
		check(syscall.Mkfifo(fmt.Sprintf("%s/lock/%d.fifo", dir, n), 0o644))
		check(os.Symlink("../pid/1.pid", fmt.Sprintf("%s/pid/%d.link", dir, n)))
	}
	for n := 0; made < entries; n++ {
		sub := fmt.Sprintf("%s/service-%04d", dir, n)
		check(os.Mkdir(sub, 0o755))
		for k := 0; k < 50 && made < entries; k++ {
			check(os.WriteFile(fmt.Sprintf("%s/state-file-%02d", sub, k), nil, 0o644))
		}
	}
	for n := range 200 {
		f, e := os.Open(fmt.Sprintf("%s/service-%04d/state-file-07", dir, n))
		err = errors.Join(err, e)
		cmd := exec.Command("sleep", "900")
		cmd.Stdin = f
		if e := cmd.Start(); e != nil {
			return children, errors.Join(err, e)
		}
		f.Close()
		children = append(children, cmd)
	}
	time.Sleep(1100 * time.Millisecond) // a younger socket may be in the making
	return children, err
}

// inNamespace runs the benchmark in a mount namespace of its own.
func inNamespace() int {
	exe, err := os.Executable()
	if err == nil {
		cmd := exec.Command("unshare", append([]string{"--mount", "--propagation=private", exe}, os.Args[1:]...)...)
		cmd.Env = append(os.Environ(), "BENCH_WHY=inside")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		if err = cmd.Run(); err == nil {
			return 0
		}
	}
	if text := strings.TrimSpace(err.Error()); !strings.HasPrefix(text, "exit status") || os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "bench/why in a mount namespace of its own, for which it needs root:", text)
	}
	return 1
}
