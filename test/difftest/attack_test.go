package difftest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/testenv"
)

// The attack: an unprivileged user owns /t/home and everything in it, and swaps
// directories, files, FIFOs and links to /canary there, without a pause, while
// root applies lines to paths below it. Nothing in /canary, which belongs to root,
// may change in any way that can be seen, not even its ctime; nothing may appear
// there; and nothing may hang.
//
// A deliberately careless implementation (careless_test.go) goes through the same
// attack and must be caught: a test that it passed would prove nothing.

// An attackCase is one kind of operation under attack.
type attackCase struct {
	name  string
	args  string
	lines string
	// careless says that the careless implementation knows this kind.
	careless bool
	// makes says that the attacker's names go away in a run and are made again.
	gone bool
}

var attackCases = []attackCase{
	{name: "d", args: "--create", lines: "d /t/home/d 0700 alice alice\nd /t/home/d/sub 0711 alice\nd /t/home/d/new/er 0711 alice alice", careless: true},
	{name: "f", args: "--create", lines: "f /t/home/d/f 0600 alice alice - x\nf /t/home/d/new 0666 alice - - x", careless: true},
	{name: "f+", args: "--create", lines: "f+ /t/home/d/f 0666 alice alice - owned\nF /t/home/d/sub/g - alice - - owned", careless: true},
	{name: "w", args: "--create", lines: "w /t/home/d/f - - - - owned\nw+ /t/home/d/sub/g - - - - owned\nw /t/home/*/f - - - - owned", careless: true},
	{name: "L", args: "--create", lines: "L+ /t/home/d/new - alice - - x\nL /t/home/d/sub/n - alice - - x\nL+ /t/home/d/f - alice - - x", gone: true},
	{name: "p", args: "--create", lines: "p+ /t/home/d/new 0666 alice\np /t/home/d/f 0666 alice\np+ /t/home/d/sub/g 0666 alice", gone: true},
	{name: "c", args: "--create", lines: "c+ /t/home/d/new 0666 alice - - 1:3\nb /t/home/d/sub/n 0666 alice - - 7:200\nc /t/home/d/f 0666 alice - - 1:3", gone: true},
	{name: "C", args: "--create", lines: "C /t/home/d/new 0777 alice - - /src\nC+ /t/home/d 0777 alice - - /src\nC /t/home/d/sub/n - alice - - /src/f"},
	{name: "z", args: "--create", lines: "z /t/home/d/f 0666 alice alice\nz /t/home/d 0777 alice\nz /t/home/*/f 0666 alice", careless: true},
	{name: "Z", args: "--create", lines: "Z /t/home 0777 alice alice\nZ /t/home/d ~0777 alice alice", careless: true},
	{name: "a", args: "--create", lines: "a /t/home/d/f - - - - u:alice:rwx\nA+ /t/home - - - - u:alice:rwX,d:u:alice:rwx"},
	{name: "t", args: "--create", lines: "t /t/home/d/f - - - - user.owned=1\nT /t/home - - - - user.owned=1"},
	{name: "h", args: "--create", lines: "h /t/home/d/f - - - - +A\nH /t/home - - - - +A"},
	{name: "k", args: "--create", lines: "k /t/home/d/f - - - - all+ep\nK /t/home - - - - all+ep"},
	{name: "e", args: "--create", lines: "e /t/home/d 0777 alice alice\ne /t/home/*/sub 0777 alice"},
	{name: "=", args: "--create", lines: "d= /t/home/d/f 0777 alice\nf= /t/home/d/sub 0666 alice - - x\nf= /t/home/d/sub/new/x 0666 alice\nL= /t/home/d/f - alice - - x", gone: true},
	{name: "r", args: "--remove", lines: "r /t/home/d/f\nr /t/home/d/sub/g\nr /t/home/*/*", careless: true, gone: true},
	{name: "R", args: "--remove", lines: "R /t/home/d\nR /t/home/*", careless: true, gone: true},
	{name: "D", args: "--remove", lines: "D /t/home/d\nD /t/home/d/sub", careless: true, gone: true},
	{name: "clean", args: "--clean", lines: "d /t/home - - - 0\ne /t/home/* - - - 0", careless: true, gone: true},
	{name: "purge", args: "--purge", lines: "d$ /t/home/d\nf$ /t/home/d/f\nf$ /t/home/d/sub/g", gone: true},
	{name: "explain", args: "--create --dry-run", lines: "f+ /t/home/d/f 0666 alice - - x\nZ /t/home 0777 alice"},
}

const (
	attackTree = `
d /canary 0755 0:0 x.user.k=v
f /canary/f 0600 0:0 content=secret x.user.k=v
d /canary/sub 0700 0:0
f /canary/sub/g 4711 0:0 content=secret2
d /src 0755 0:0
f /src/f 0644 0:0 content=src
d /src/sub 0755 0:0
f /src/sub/g 0644 0:0 content=src
d /t 0755 0:0
d /t/home 0755 1000:1000
`
	swapsPerCase = 5000
	attackUID    = 1000
)

// attack runs one case against one program until the attacker has swapped often
// enough. It returns the number of swaps, the number of runs, and what went wrong.
func attack(a attackCase, argv []string, minRuns int) (swaps int64, runs int, violations []string, err error) {
	if err := wipe("/", keep); err != nil {
		return 0, 0, nil, err
	}
	for _, text := range []string{baseTree, attackTree} {
		nodes, err := parseTree(text)
		if err != nil {
			return 0, 0, nil, err
		}
		if _, err := build("", nodes, time.Now()); err != nil {
			return 0, 0, nil, err
		}
	}
	if err := os.WriteFile("/etc/a.conf", []byte(a.lines+"\n"), 0o644); err != nil {
		return 0, 0, nil, err
	}
	before, err := snapshot("/canary")
	if err != nil {
		return 0, 0, nil, err
	}
	att, err := startAttacker()
	if err != nil {
		return 0, 0, nil, err
	}
	deadline := time.Now().Add(20 * time.Second)
	for len(violations) == 0 && (runs < minRuns || att.swaps.Load() < swapsPerCase) && time.Now().Before(deadline) {
		runs++
		if hung := attackedRun(argv, a); hung != "" {
			violations = append(violations, hung)
		}
		after, err := snapshot("/canary")
		if err != nil {
			violations = append(violations, "the canary cannot be read: "+err.Error())
		} else if d := treeDiff(before, after); d != "" {
			violations = append(violations, fmt.Sprintf("run %d:\n%s", runs, d))
		}
	}
	swaps, err = att.stop()
	return swaps, runs, violations, err
}

func attackedRun(argv []string, a attackCase) string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	args := append(slices.Clone(argv[1:]), strings.Fields(a.args)...)
	cmd := exec.CommandContext(ctx, argv[0], append(args, "/etc/a.conf")...)
	cmd.Env = []string{"PATH=/usr/bin", "HOME=/root"}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return "it hangs"
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if c := exit.ExitCode(); c != 73 {
			return fmt.Sprintf("exit %v\n%s", exit, out)
		}
		return ""
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// snapshot has everything of a tree, mtime and ctime to the nanosecond.
func snapshot(root string) ([]string, error) {
	nodes, err := digest(root, nil, time.Now())
	if err != nil {
		return nil, err
	}
	nodes = append(nodes, Node{Type: 'd', Path: "/"})
	var out []string
	for _, n := range nodes {
		n.Atime, n.Mtime = 0, 0
		var st syscall.Stat_t
		if err := linux.Fstatat(atFDCWD, root+n.Path, 0x100, &st); err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprintf("%s mtime=%d.%09d ctime=%d.%09d nlink=%d %o %d:%d", n, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec, st.Nlink, st.Mode, st.Uid, st.Gid))
	}
	return out, nil
}

// -- the attacker

type attacker struct {
	cmd   *exec.Cmd
	in    io.Closer
	swaps atomic.Int64
	done  chan error
}

func startAttacker() (*attacker, error) {
	cmd := exec.Command("/x/attacker")
	cmd.Env = []string{attackerEnv + "=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: attackUID, Gid: attackUID}, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	a := &attacker{cmd: cmd, in: in, done: make(chan error, 1)}
	ready := make(chan struct{})
	go func() {
		sc := bufio.NewScanner(out)
		for first := true; sc.Scan(); first = false {
			var n int64
			fmt.Sscan(sc.Text(), &n)
			a.swaps.Store(n)
			if first {
				close(ready)
			}
		}
		a.done <- sc.Err()
	}()
	select {
	case <-ready:
		return a, nil
	case <-a.done:
		return nil, errors.Join(errors.New("the attacker did not start"), cmd.Wait())
	}
}

func (a *attacker) stop() (int64, error) {
	a.in.Close()
	timer := time.AfterFunc(10*time.Second, func() { a.cmd.Process.Kill() })
	defer timer.Stop()
	err := <-a.done
	return a.swaps.Load(), errors.Join(err, a.cmd.Wait())
}

const attackerEnv = "SLASHRUN_DIFF_ATTACKER"

// attackerMain swaps until its standard input ends, and writes how often.
func attackerMain() int {
	var stop atomic.Bool
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop.Store(true)
	}()
	linux.Umask(0)
	swaps := 0
	for i := 0; !stop.Load(); i++ {
		if i%64 == 0 {
			furnish()
			fmt.Println(swaps)
		}
		p := swapPairs[i%len(swapPairs)]
		if linux.Renameat2(atFDCWD, p[0], atFDCWD, p[1], 2 /* RENAME_EXCHANGE */) == nil {
			swaps++
		}
	}
	fmt.Println(swaps)
	return 0
}

// swapPairs: each run of the loop changes what every component is.
var swapPairs = [][2]string{
	{"/t/home/d", "/t/home/dl"},
	{"/t/home/d", "/t/home/dl"},
	{"/t/home/d/f", "/t/home/fl"},
	{"/t/home/d", "/t/home/d2"},
	{"/t/home/d/sub", "/t/home/sl"},
	{"/t/home/d/f", "/t/home/p"},
	{"/t/home/d", "/t/home/dl"},
	{"/t/home/d/f", "/t/home/d/sub"},
	{"/t/home/d/sub", "/t/home/sl"},
	{"/t/home/d2/f", "/t/home/fl"},
}

// furnish makes again what the subject took away.
func furnish() {
	for _, d := range []string{"/t/home/d", "/t/home/d2"} {
		os.Mkdir(d, 0o777)
		os.Mkdir(d+"/sub", 0o777)
		for _, name := range []string{"/f", "/sub/g"} {
			// O_EXCL: never the subject's FIFO, on which the attacker would wait.
			if f, err := os.OpenFile(d+name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666); err == nil {
				f.WriteString("mine")
				f.Close()
			}
		}
	}
	os.Symlink("/canary", "/t/home/dl")
	os.Symlink("/canary/f", "/t/home/fl")
	os.Symlink("/canary/sub", "/t/home/sl")
	linux.Mknodat(atFDCWD, "/t/home/p", syscall.S_IFIFO|0o666, 0)
}

// -- the tests

func attackFiles(t testing.TB) map[string]string {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	deny := filepath.Join(t.TempDir(), "denynew")
	cmd := exec.Command("go", "build", "-o", deny, "github.com/slashrun/slashrun/internal/seccomptest/cmd/denynew")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return map[string]string{"slashrun": slashrun(t), "attacker": self, "careless": self, "denynew": deny}
}

func TestAttack(t *testing.T) {
	testenv.Need(t, testenv.Root)
	files := attackFiles(t)
	var total int64
	for _, profile := range []string{"", "eperm", "old-enosys"} {
		argv := []string{"/x/slashrun", "tmpfiles"}
		name := "all calls"
		if profile != "" {
			argv = append([]string{"/x/denynew", profile}, argv...)
			name = "seccomp " + profile
		}
		t.Run(name, func(t *testing.T) {
			w := startWorker(t, setup{Start: suiteStart.UnixNano(), Files: files})
			for _, a := range attackCases {
				r := w.inside(t, request{Attack: &AttackRequest{Name: a.name, Argv: argv, MinRuns: 60}})
				for _, v := range r.Violations {
					t.Errorf("%s: after %d swaps and %d runs of %q: %s", a.name, r.Swaps, r.Runs, a.lines, v)
				}
				if r.Swaps < swapsPerCase && len(r.Violations) == 0 {
					t.Errorf("%s: %d swaps in %d runs, want %d", a.name, r.Swaps, r.Runs, swapsPerCase)
				}
				total += r.Swaps
				t.Logf("%s: %d swaps, %d runs", a.name, r.Swaps, r.Runs)
			}
		})
	}
	t.Logf("%d swaps", total)
	if total < 100_000 {
		t.Errorf("%d swaps in the suite, want 100,000", total)
	}
}

// The careless implementation must fall, in every kind that it knows.
func TestAttackCatchesTheCareless(t *testing.T) {
	testenv.Need(t, testenv.Root)
	w := startWorker(t, setup{Start: suiteStart.UnixNano(), Files: attackFiles(t)})
	for _, a := range attackCases {
		if !a.careless {
			continue
		}
		r := w.inside(t, request{Attack: &AttackRequest{Name: a.name, Argv: []string{"/x/careless", "tmpfiles"}, MinRuns: 2000}})
		if len(r.Violations) == 0 {
			t.Errorf("%s: the careless implementation came through %d swaps and %d runs: the attack does not work", a.name, r.Swaps, r.Runs)
		} else {
			t.Logf("%s: caught after %d swaps and %d runs: %.120s", a.name, r.Swaps, r.Runs, r.Violations[0])
		}
	}
}

// TestHardLinks: a hard link to a file of root, in a directory that anybody can
// write to. Where the kernel lets users make such links, owner and mode of it are
// not touched (CVE-2017-18078, CVE-2017-18188); where it does not, root has made
// the link, and the line holds.
func TestHardLinks(t *testing.T) {
	testenv.Need(t, testenv.Root)
	b, err := os.ReadFile("/proc/sys/fs/protected_hardlinks")
	if err != nil {
		t.Fatal(err)
	}
	protected := strings.TrimSpace(string(b)) != "0"
	w := startWorker(t, setup{Start: suiteStart.UnixNano(), Files: attackFiles(t)})
	nodes, err := parseTree("f /canary/f 0600 0:0 content=secret\nd /t/pub 1777 0:0\nh /t/pub/f 0600 0:0 target=/canary/f\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"z /t/pub/f 0666 alice", "Z /t/pub 0666 alice", "f /t/pub/f 0666 alice", "m /t/pub/f* 0666 alice"} {
		c := &Case{Name: line, Nodes: nodes, Cmds: [][]string{{"--create", "--inline", line}}}
		steps, err := w.run(c, ours.exe, ours.argv...)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range steps[0].Tree {
			if n.Path != "/canary/f" {
				continue
			}
			if touched := n.Mode != 0o600 || n.UID != 0; touched == protected {
				continue
			}
			t.Errorf("%s, fs.protected_hardlinks %v: %s\n%s", line, protected, n, steps[0].Stderr)
		}
	}
}
