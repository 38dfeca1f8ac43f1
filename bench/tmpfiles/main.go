// Tmpfiles measures slashrun tmpfiles beside systemd-tmpfiles 262 on a tmpfs of
// its own, in a mount namespace of its own: creating what is there already and
// what is not, reading many files, and cleaning half a million.
//
// As an ordinary user it runs in a user namespace. The reference is what "make
// test-deps" fetched.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/slashrun/slashrun/internal/bench"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/testenv"
)

// What is measured: the sizes of the promises.
const (
	lines     = 10_000
	files     = 2_000
	patterns  = 500
	dirs      = 500
	perDir    = 1_000
	maxMemory = 32 << 20
)

const reference = "systemd-tmpfiles/usr/bin/systemd-tmpfiles"

func main() {
	if os.Getenv(insideEnv) == "" {
		os.Exit(inside())
	}
	bench.Main("tmpfiles", "`slashrun tmpfiles --root=DIR` and systemd-tmpfiles 262 with the same arguments, on a tmpfs. "+
		"The half million files that are cleaned lie in 500 directories.", run)
}

func run(b *bench.B) {
	ref := filepath.Join(testenv.DepsDir(), reference)
	if err := testenv.Dep(reference).Check(); err != nil {
		b.Fatal(err)
	}
	m := &machine{b: b, root: filepath.Join(b.Dir(), "root"), ref: ref}
	m.ours = filepath.Join(b.Dir(), "systemd-tmpfiles")
	m.must(os.Symlink(b.Slashrun(), m.ours))
	m.must(os.Mkdir(m.root, 0o755))
	m.must(linux.Mount("bench", m.root, "tmpfs", 0, "mode=0755"))
	defer linux.Unmount(m.root, syscall.MNT_DETACH)
	m.must(os.MkdirAll(m.path("/etc/tmpfiles.d"), 0o755))

	m.creating()
	m.reading()
	m.cleaning()
}

// machine is the root directory that both programs work on.
type machine struct {
	b               *bench.B
	root, ours, ref string
}

func (m *machine) must(err error) {
	if err != nil {
		m.b.Fatal(err)
	}
}

func (m *machine) path(p string) string { return filepath.Join(m.root, p) }

// compare measures both programs with the same arguments.
func (m *machine) compare(name string, want float64, rounds int, prepare, check func() error, args ...string) {
	side := func(program, exe string) bench.Side {
		return bench.Side{Name: program, Prepare: prepare, Check: check, Cmd: func() *exec.Cmd {
			cmd := exec.Command(exe, append([]string{"--root=" + m.root}, args...)...)
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"} // as at boot; the reference matches faster so
			return cmd
		}}
	}
	m.b.Compare(bench.Case{
		Name: name, Want: want, Rounds: rounds, MaxMemory: maxMemory,
		Ours:  side("slashrun", m.ours),
		Peers: []bench.Side{side("systemd-tmpfiles 262", m.ref)},
	})
}

// conf writes a configuration file and returns its name.
func (m *machine) conf(name, text string) string {
	p := filepath.Join(m.b.Dir(), name+".conf")
	m.must(os.WriteFile(p, []byte(text), 0o644))
	return p
}

func (m *machine) creating() {
	var text strings.Builder
	for i := range lines {
		fmt.Fprintf(&text, "d /run/made/dir-%05d 0755 root root -\n", i)
	}
	conf := m.conf("create", text.String())
	made := func() error { return m.count("/run/made", lines) }
	empty := func() error { return os.RemoveAll(m.path("/run")) }
	m.compare(fmt.Sprintf("create %d d lines, nothing there", lines), 3, 21, empty, made, "--create", conf)
	m.compare(fmt.Sprintf("create %d d lines, all there", lines), 8, 21, nil, made, "--create", conf)
	m.must(empty())
}

// reading has many files, and X lines in a few of them: each takes over an age
// from the lines of the others.
func (m *machine) reading() {
	for i := range files {
		var text strings.Builder
		for k := range 5 {
			fmt.Fprintf(&text, "d /run/read/%04d-%d 0755 root root -\n", i, k)
		}
		if i%(files/10) == 0 {
			fmt.Fprintf(&text, "X /run/read/%04d-0/x*\n", i)
		}
		m.must(os.WriteFile(m.path(fmt.Sprintf("/etc/tmpfiles.d/%04d.conf", i)), []byte(text.String()), 0o644))
	}
	made := func() error { return m.count("/run/read", 5*files) }
	m.compare(fmt.Sprintf("create from %d files with 10 X lines, all there", files), 20, 3, nil, made, "--create")
	m.must(os.RemoveAll(m.path("/run")))
	m.must(os.RemoveAll(m.path("/etc/tmpfiles.d")))
}

func (m *machine) cleaning() {
	m.must(m.fill())
	all := func() error { return m.count("/tmp", dirs) }
	none := func() error { return m.count("/tmp", 0) }
	name := func(what string) string { return fmt.Sprintf("clean %d files, %s", dirs*perDir, what) }
	m.compare(name("nothing old"), 1.4, 11, nil, all, "--clean", m.conf("young", "d /tmp - - - 10d\n"))

	var text strings.Builder
	text.WriteString("d /tmp - - - 10d\n")
	for i := range patterns {
		fmt.Fprintf(&text, "x /tmp/keep-%d-*.sock\n", i)
	}
	m.compare(name("nothing old, 500 x lines"), 6, 2, nil, all, "--clean", m.conf("patterns", text.String()))
	m.compare(name("all old"), 1.5, 5, m.fill, none, "--clean", m.conf("old", "d /tmp - - - 0\n"))
}

// fill makes the files that are not there.
func (m *machine) fill() error {
	var wg sync.WaitGroup
	errs := make([]error, dirs)
	slots := make(chan struct{}, 4)
	for i := range dirs {
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			errs[i] = fillDir(m.path(fmt.Sprintf("/tmp/dir-%03d", i)))
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

func fillDir(path string) error {
	err := os.Mkdir(path, 0o755)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if errors.Is(err, os.ErrNotExist) {
		err = os.MkdirAll(path, 0o755)
	}
	if err != nil {
		return err
	}
	d, err := linux.Openat(linux.AT_FDCWD, path, linux.O_PATH|linux.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer linux.Close(d)
	for i := range perDir {
		fd, err := linux.Openat(d, fmt.Sprintf("file-%06d.tmp", i), linux.O_CREAT|linux.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		linux.Close(fd)
	}
	return nil
}

// count checks that a directory has so many entries.
func (m *machine) count(dir string, want int) error {
	entries, err := os.ReadDir(m.path(dir))
	if err == nil && len(entries) != want {
		err = fmt.Errorf("%s has %d entries, want %d", dir, len(entries), want)
	}
	return err
}

// insideEnv says that this process is in the namespaces that inside makes.
const insideEnv = "SLASHRUN_BENCH_INSIDE"

// inside runs this program again in a mount namespace of its own.
func inside() int {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Unshareflags, not Cloneflags: then the runtime also makes / private.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if uid := os.Geteuid(); uid != 0 {
		ids := func(id int) []syscall.SysProcIDMap { return []syscall.SysProcIDMap{{HostID: id, Size: 1}} }
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: ids(uid), GidMappings: ids(os.Getegid()), Pdeathsig: syscall.SIGKILL}
	}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	case errors.Is(err, syscall.EPERM):
		err = fmt.Errorf("%w; run it as root, or allow user namespaces", err)
	}
	fmt.Fprintln(os.Stderr, "bench/tmpfiles:", err)
	return 1
}
