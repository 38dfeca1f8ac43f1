package locks

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/testenv"
)

// perlAgent does one step for each argument, and then sleeps until it is killed. It
// is a process of one thread, which no program in Go is.
//
//	say             prints "ready" and reads a line
//	flock,FILE,N    flock(2) of a new open file; N: 1 shared, 2 exclusive
//	ofd,FILE,N,START,LENGTH    F_OFD_SETLKW, N: 0 read, 1 write
//	posix,FILE,N,START,LENGTH  F_SETLKW
//	sigchld         gets a handler for SIGCHLD, and a child that sleeps
//	fork            the rest is done by a child too, which shares all
const perlAgent = `
$| = 1;
my @keep;
sub work {
  while (defined(my $s = shift @_)) {
    my ($op, $file, $n, $start, $len) = split /,/, $s;
    if ($op eq "say") { print "ready\n"; sysread(STDIN, my $x, 1); next }
    if ($op eq "fork") { fork; next }
    if ($op eq "sigchld") { $SIG{CHLD} = sub {}; if (fork == 0) { sleep } next }
    open(my $f, "+<", $file) or die "$file: $!";
    push @keep, $f;
    if ($op eq "flock") { flock($f, $n) or die "flock: $!"; next }
    fcntl($f, $op eq "ofd" ? 38 : 7, pack("s s x4 q q i x4", $n, 0, $start, $len, 0)) or die "fcntl: $!";
  }
  sleep;
}
work(@ARGV);
`

// agent is a perlAgent that runs. The pipe is its standard input.
type agent struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// perl starts an agent and waits until it has said "ready" for the first time.
func perl(t *testing.T, steps ...string) *agent {
	t.Helper()
	testenv.Need(t, testenv.Tool("perl"))
	return start(t, exec.Command("perl", append([]string{"-e", perlAgent}, steps...)...))
}

func start(t *testing.T, cmd *exec.Cmd) *agent {
	t.Helper()
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = ownGroup()
	must(t, cmd.Start())
	t.Cleanup(func() { in.Close(); killGroup(cmd.Process.Pid); cmd.Wait() })
	a := &agent{cmd, in, bufio.NewReader(out)}
	a.ready(t)
	return a
}

func (a *agent) ready(t *testing.T) {
	t.Helper()
	if line, err := a.out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the agent said %q, %v", line, err)
	}
}

// pid is the process id.
func (a *agent) pid() int { return a.Process.Pid }

// on lets it do what stands behind "say".
func (a *agent) on(t *testing.T) {
	t.Helper()
	_, err := io.WriteString(a.in, "x")
	must(t, err)
}

// scanned is a scan whose Proc stays open for the test.
func scanned(t *testing.T, dir string) *Table {
	t.Helper()
	p, err := process.Open()
	must(t, err)
	t.Cleanup(p.Close)
	tab, err := Scan(t.Context(), p, Options{})
	must(t, err)
	tab.Locks = slices.DeleteFunc(tab.Locks, func(h Held) bool { return !strings.HasPrefix(h.Path, dir+"/") })
	return tab
}

// scanUntil scans until the table is as wanted.
func scanUntil(t *testing.T, dir string, ok func(*Table) bool) *Table {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		tab := scanned(t, dir)
		if ok(tab) {
			return tab
		}
		if ctx.Err() != nil {
			t.Fatalf("%+v", tab)
		}
		runtime.Gosched()
	}
}

// waiting is how many waiters the table has who are known, if only together.
func (t *Table) waiting() (n int) {
	for _, h := range t.Locks {
		for _, w := range h.Waiters {
			if w.TID > 0 || len(w.Among) > 1 {
				n++
			}
		}
	}
	return n
}

// files makes empty files in a directory of the test's own.
func files(t *testing.T, names ...string) (dir string, paths []string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	for _, name := range names {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, nil, 0o600))
		paths = append(paths, path)
	}
	return dir, paths
}

// inodeOf is what a finder compares.
func inodeOf(st os.FileInfo) (dev, ino uint64) {
	s := st.Sys().(*syscall.Stat_t)
	return uint64(s.Dev), s.Ino
}
