package locktest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
)

func TestMain(m *testing.M) {
	seccomptest.Setup()
	nstest.Setup()
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// reference needs the real flock and returns its command line.
func reference(t testing.TB) []string {
	t.Helper()
	testenv.Need(t, testenv.Dep("util-linux/run"))
	dir := filepath.Join(testenv.DepsDir(), "util-linux")
	return []string{dir + "/ld.so", "--library-path", dir + "/lib", "--argv0", "flock", dir + "/usr/bin/flock"}
}

var built struct {
	once sync.Once
	dir  string
	err  error
}

// ours is slashrun, built as it is shipped, under the name of flock.
func ours(t testing.TB) []string {
	t.Helper()
	if p := os.Getenv("SLASHRUN_LOCKTEST_OURS"); p != "" {
		return []string{p}
	}
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "locktest"); built.err != nil {
			return
		}
		if built.err = os.Chmod(built.dir, 0o755); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", built.dir+"/slashrun", "github.com/slashrun/slashrun/cmd/slashrun")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w: %s", err, out)
			return
		}
		built.err = os.Symlink("slashrun", built.dir+"/flock")
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return []string{built.dir + "/flock"}
}

// A scene is how the lock on the file F is held while a case runs.
type scene string

const (
	free    scene = "free"    // there is no F
	there   scene = "there"   // F is there and free
	heldEx  scene = "ex"      // flock(2), exclusive
	heldSh  scene = "sh"      // flock(2), shared
	heldOFD scene = "ofd"     // an OFD lock on the whole file, exclusive
	sharOFD scene = "ofd-sh"  // the same, shared
	partOFD scene = "ofd-10+" // an OFD lock on bytes 10 to 14, exclusive
)

// set makes the scene in the directory.
func (s scene) set(t testing.TB, dir string) {
	t.Helper()
	if s == free {
		return
	}
	f, err := os.OpenFile(filepath.Join(dir, "F"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	fd := int(f.Fd())
	switch s {
	case heldEx:
		err = linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB)
	case heldSh:
		err = linux.Flock(fd, linux.LOCK_SH|linux.LOCK_NB)
	case heldOFD:
		err = linux.OFDLock(fd, linux.F_WRLCK, 0, 0)
	case sharOFD:
		err = linux.OFDLock(fd, linux.F_RDLCK, 0, 0)
	case partOFD:
		err = linux.OFDLock(fd, linux.F_WRLCK, 10, 5)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// probe tells what a command under the lock can see. It is a program without a
// first line, too, when it is called so.
const probe = `#!/bin/sh
inode=$(stat -c %i F 2>/dev/null || echo none)
cat /proc/locks | while read -r n kind adv mode pid file start end; do
	case $kind in '->') continue ;; esac
	case $file in *:$inode) echo "lock $kind $mode $start $end" ;; esac
done | sort -u # a table that is read torn has lines twice
for fd in 3 4 5 6 7 8 9; do
	[ -e /proc/$$/fd/$fd ] || continue
	target=$(readlink /proc/$$/fd/$fd)
	case $target in "$PWD") target=. ;; pipe:*) target=pipe ;; *) target=${target##*/} ;; esac
	while read -r key value; do
		case $key in flags:) echo "fd $fd $target $value" ;; esac
	done </proc/$$/fdinfo/$fd
done
while read -r key value; do
	case $key in SigIgn:|SigBlk:) echo "$key $value" ;; esac
done </proc/$$/status
umask
echo "files $(ulimit -n) args $*"
read -r pid name state ppid pgrp session rest </proc/$$/stat
[ "$pgrp" = "$pid" ] && echo own group
[ "$session" = "$pid" ] && echo own session
exit 0
`

// result is what is compared.
type result struct {
	Status int // -signal where one ended it
	Stdout string
	Files  string
	stderr string
}

func (r result) String() string {
	return fmt.Sprintf("status %d\nstdout %q\nfiles %s\nstderr %s", r.Status, r.Stdout, r.Files, r.stderr)
}

// same reports whether two results are the same in all that counts.
func (r result) same(x result) bool {
	return r.Status == x.Status && r.Stdout == x.Stdout && r.Files == x.Files
}

// patience is how long a case may take that never waits for long.
const patience = 10 * time.Second

// runCase runs a line of shell with $FLOCK in a fresh directory.
func runCase(t testing.TB, flock []string, s scene, script string, env ...string) result {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.set(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "probe"), []byte(probe), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", script)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "FLOCK=" + strings.Join(flock, " ")}, env...)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s: it hangs; %s%s", script, out.String(), diag.String())
	}
	r := result{Stdout: out.String(), stderr: diag.String()}
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if r.Status = ws.ExitStatus(); ws.Signaled() {
		r.Status = -int(ws.Signal())
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		if e.Name() == "probe" {
			continue
		}
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		size := strconv.FormatInt(info.Size(), 10)
		if e.IsDir() {
			size = "-"
		}
		files = append(files, fmt.Sprintf("%s %v %s", e.Name(), info.Mode(), size))
	}
	slices.Sort(files)
	r.Files = strings.Join(files, ", ")
	return r
}

// locksOf counts the held and the waiting entries of /proc/locks for a file.
func locksOf(t testing.TB, path string) (held, waiting int) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		return 0, 0
	}
	inode := fmt.Sprintf(":%d", st.Sys().(*syscall.Stat_t).Ino)
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch {
		case len(f) == 9 && f[1] == "->" && strings.HasSuffix(f[6], inode):
			waiting++
		case len(f) == 8 && strings.HasSuffix(f[5], inode):
			held++
		}
	}
	return held, waiting
}

// until waits until cond holds.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// hold takes a lock on a file, until release is called.
func hold(t testing.TB, path string, how int) (release func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := linux.Flock(int(f.Fd()), how|linux.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() { f.Close() })
	t.Cleanup(release)
	return release
}
