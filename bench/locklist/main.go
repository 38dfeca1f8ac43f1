// Locklist measures "slashrun lock list" beside lslocks of util-linux: 200 processes
// hold five files each by an exclusive flock. Both list the locks of the machine;
// ours also says who shares each, since when the process runs and to which unit it
// belongs.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/bench"
	"github.com/slashrun/slashrun/internal/testenv"
)

const (
	processes = 200
	each      = 5
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "hold" {
		hold(os.Args[2:])
	}
	bench.Main("locklist", fmt.Sprintf("`slashrun lock list` beside lslocks, %d locks in %d processes. "+
		"The lslocks of Debian 12 (2.38) looks at no open file of a process and names whoever took a lock, also where that one has ended.", processes*each, processes), run)
}

// hold locks the files, says so, and sleeps until it is killed.
func hold(paths []string) {
	for _, path := range paths {
		fd, err := syscall.Open(path, syscall.O_CREAT|syscall.O_RDWR, 0o600)
		if err == nil {
			err = syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, path, err)
			os.Exit(1)
		}
	}
	fmt.Println("ready")
	os.Stdin.Read(make([]byte, 1)) // ends with the benchmark
	os.Exit(0)
}

func run(b *bench.B) {
	ours := b.Slashrun()
	dir := filepath.Join(testenv.DepsDir(), "util-linux")
	version, err := os.ReadFile(filepath.Join(dir, "version"))
	if err != nil {
		b.Fatal(fmt.Errorf("%w; \"make test-deps\" fetches it", err))
	}
	var holders []*exec.Cmd
	defer func() {
		for _, c := range holders {
			c.Process.Kill()
			c.Wait()
		}
	}()
	for i := range processes {
		c, err := start(b, i)
		if err != nil {
			b.Fatal(err)
		}
		holders = append(holders, c)
	}
	side := func(name, exe string, args ...string) bench.Side {
		out := filepath.Join(b.Dir(), "output")
		var file *os.File
		return bench.Side{
			Name: name,
			Prepare: func() (err error) {
				file, err = os.Create(out)
				return err
			},
			Cmd: func() *exec.Cmd {
				cmd := exec.Command(exe, args...)
				cmd.Stdout = file
				return cmd
			},
			Check: func() error {
				file.Close()
				text, err := os.ReadFile(out)
				// lslocks reads /proc/locks once: where others take and release locks
				// meanwhile it has some twice or not at all.
				n, want := bytes.Count(text, []byte("/held-")), processes*each
				if right := n == want || exe != ours && n > want*9/10 && n < want*11/10; err == nil && !right {
					err = fmt.Errorf("it lists %d of %d locks", n, processes*each)
				}
				return err
			},
		}
	}
	peers := []bench.Side{side("lslocks "+strings.TrimSpace(string(version)), filepath.Join(dir, "ld.so"),
		"--library-path", filepath.Join(dir, "lib"), "--argv0", "lslocks", filepath.Join(dir, "usr/bin/lslocks"), "--notruncate")}
	if path, err := testenv.LookTool("lslocks"); err == nil {
		peers = append(peers, side("lslocks as installed here", path, "--notruncate"))
	}
	b.Compare(bench.Case{
		Name:   fmt.Sprintf("%d locks in %d processes", processes*each, processes),
		Ours:   side("slashrun lock list", ours, "lock", "list"),
		Peers:  peers,
		Rounds: 51,
		Want:   1,
	})
}

// start starts one process that holds locks.
func start(b *bench.B, n int) (*exec.Cmd, error) {
	args := []string{"hold"}
	for k := range each {
		args = append(args, filepath.Join(b.Dir(), fmt.Sprintf("held-%d.%d", n, k)))
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil && line != "ready\n" {
		err = errors.New("a holder said " + line)
	}
	return cmd, err
}
