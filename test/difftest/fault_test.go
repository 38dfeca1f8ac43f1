package difftest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/testenv"
)

// A FaultRequest runs the fault configuration with one system call failing, or
// killed at it.
type FaultRequest struct {
	Inject string // strace's -e inject=, empty to count the calls
	Kill   bool
}

// The fault configuration has a line of every kind that creates. What adjusts
// (z, a, t, k) works on nodes that are there before, so that a new node has one
// right form only.
const (
	faultTree = `
d /t 0755 0:0
d /t/old 0700 0:0
f /t/old/f 0600 0:0 content=old
f /t/old/w 0600 0:0 content="old text"
l /t/l2 0777 0:0 target=elsewhere
d /src 0750 1000:1000
f /src/a 0640 1000:50 content=aaaa mtime=-3d
f /src/b/c 0600 0:0 content=cccc
l /src/l 0777 0:0 target=a
`
	faultLines = `d /t/d 1777 alice staff
d /t/p/q/r 0700 bob
f /t/d/f 0640 alice staff - some content
f+ /t/d/g 4711 bob - - other content
w /t/old/w - - - - text
L /t/l - alice - - /t/d
L+ /t/l2 - - - - there
p /t/fifo 0620 svc svc
c /t/null 0666 - - - 1:3
C /t/copy 0711 bob - - /src
z /t/old/f 0644 alice
t /t/old - - - - user.k=v
a /t/old - - - - u:alice:rx
k /t/old/f - - - - cap_net_raw+ep
Z /t/old 0750 alice alice
`
)

// runtimeCalls belong to the Go runtime: memory, threads, signals and clocks. A
// process that gets none of these cannot go on, and none of them is ours.
var runtimeCalls = strings.Fields(`mmap munmap mprotect madvise brk rt_sigaction rt_sigprocmask rt_sigreturn
	sigaltstack clone clone3 futex gettid getpid tgkill arch_prctl set_tid_address set_robust_list rseq
	prlimit64 sched_getaffinity sched_yield nanosleep epoll_create1 epoll_ctl epoll_pwait eventfd2 execve
	exit exit_group sysinfo restart_syscall pipe2 umask getuid geteuid getgid getegid`)

// fault returns the calls seen (name, count) of a run without injection, or what
// went wrong in a run with it.
func fault(r *FaultRequest) (calls map[string]int, violations []string, err error) {
	lay := func() error {
		if err := wipe("/", keep); err != nil {
			return err
		}
		nodes, err := parseTree(baseTree + faultTree)
		if err != nil {
			return err
		}
		linux.Umask(0)
		defer linux.Umask(0o022)
		if _, err := build("", nodes, time.Now()); err != nil {
			return err
		}
		return os.WriteFile("/x/fault.conf", []byte(faultLines), 0o644)
	}
	look := func() (map[string]Node, error) {
		tree, err := digest("/t", nil, time.Now())
		m := map[string]Node{}
		for _, n := range tree {
			n.Atime, n.Mtime = 0, 0
			m[n.Path] = n
		}
		return m, err
	}
	run := func(argv ...string) (int, string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, argv[0], append(argv[1:], "tmpfiles", "--create", "/x/fault.conf")...)
		cmd.Env = []string{"PATH=/usr/bin", "HOME=/root"}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
			return 0, "", fmt.Errorf("%q: %w, %w", argv, err, ctx.Err())
		}
		return cmd.ProcessState.ExitCode(), stderr.String(), nil
	}

	if err := lay(); err != nil {
		return nil, nil, err
	}
	before, err := look()
	if err != nil {
		return nil, nil, err
	}
	if r.Inject == "" {
		if code, stderr, err := run("/x/strace", "-f", "-qq", "-o", "/x/log", "/x/slashrun"); err != nil || code != 0 {
			return nil, nil, fmt.Errorf("exit %d, %w: %s", code, err, stderr)
		}
		text, err := os.ReadFile("/x/log")
		if err != nil {
			return nil, nil, err
		}
		calls = map[string]int{}
		for _, m := range regexp.MustCompile(`(?m)^\d+ +([a-z0-9_]+)\(`).FindAllSubmatch(text, -1) {
			calls[string(m[1])]++
		}
		return calls, nil, nil
	}
	if code, stderr, err := run("/x/slashrun"); err != nil || code != 0 {
		return nil, nil, fmt.Errorf("without a fault: exit %d, %w: %s", code, err, stderr)
	}
	final, err := look()
	if err != nil {
		return nil, nil, err
	}
	name, _, _ := strings.Cut(r.Inject, ":")
	var code int
	var stderr string
	for try := 1; ; try++ {
		if err := lay(); err != nil {
			return nil, nil, err
		}
		code, stderr, err = run("/x/strace", "-f", "-qq", "-o", "/x/log", "-e", "trace="+name, "-e", "inject="+r.Inject, "/x/slashrun")
		if err != nil {
			return nil, nil, err
		}
		// strace counts the calls of each thread, and the Go runtime moves its
		// work between threads: a run in which it hit twice is none of ours.
		text, err := os.ReadFile("/x/log")
		if err != nil {
			return nil, nil, err
		}
		if n := bytes.Count(text, []byte("(INJECTED)")); n <= 1 {
			break
		} else if try == 20 {
			return nil, nil, fmt.Errorf("%d faults in each of %d runs", n, try)
		}
	}
	after, err := look()
	if err != nil {
		return nil, nil, err
	}
	bad := func(format string, args ...any) { violations = append(violations, fmt.Sprintf(format, args...)) }
	complete := sameTree(after, final)
	switch {
	case r.Kill:
	case strings.Contains(stderr, "cannot open standard fds"): // the runtime, before any line of ours
	case code == 0 && complete != "":
		bad("exit 0, and the tree is not complete:\n%sstderr: %s", complete, stderr)
	case code != 0 && code != 1 && code != 65 && code != 73:
		bad("exit %d\n%s", code, stderr)
	case code != 0 && name != "write" && !strings.HasPrefix(stderr, "slashrun: "):
		bad("exit %d without a reason: %q", code, stderr)
	}
	for p, n := range after {
		was, old := before[p]
		is, known := final[p]
		switch {
		case old && was.String() == n.String() || known && is.String() == n.String():
		case old: // an existing node, on its way from one to the other
			if n.Type == 'f' && n.Content != was.Content && n.Content != is.Content {
				bad("half-written: %s", n)
			}
		case known && n.String() == (Node{Type: 'd', Path: p, Mode: 0o755}).String():
			// Its own line failed, and it is an implicit parent of another line.
		case known:
			bad("half-made: %s, in the end %s", n, is)
		case strings.Contains(p, ".#slashrun.") && r.Kill:
		default:
			bad("left behind: %s", n)
		}
	}
	for p := range before {
		if _, there := after[p]; !there && !r.Kill {
			bad("lost: %s", p)
		}
	}
	if code, stderr, err := run("/x/slashrun"); err != nil || code != 0 {
		bad("the run after it: exit %d, %v\n%s", code, err, stderr)
	}
	again, err := look()
	if err != nil {
		return nil, nil, err
	}
	for p := range again {
		if strings.Contains(p, ".#slashrun.") {
			delete(again, p)
		}
	}
	if d := sameTree(again, final); d != "" {
		bad("the run after it does not complete the tree:\n%s", d)
	}
	return nil, violations, nil
}

func sameTree(got, want map[string]Node) string {
	text := func(m map[string]Node) (out []string) {
		for _, n := range m {
			out = append(out, n.String())
		}
		slices.Sort(out)
		return out
	}
	return treeDiff(text(want), text(got))
}

// TestEverySystemCallFailsOnce: each call of a create run fails once with EIO,
// and once the process is killed at it.
func TestEverySystemCallFailsOnce(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Tool("strace"))
	strace, err := testenv.LookTool("strace")
	if err != nil {
		t.Fatal(err)
	}
	p := newPool(t, runtime.NumCPU(), false, map[string]string{"slashrun": slashrun(t), "strace": strace})
	var calls map[string]int
	p.with(func(w *worker) { calls = w.inside(t, request{Fault: &FaultRequest{}}).Calls })
	var requests []FaultRequest
	for name, n := range calls {
		if slices.Contains(runtimeCalls, name) || strings.HasPrefix(name, "syscall_") { // unknown to this strace
			continue
		}
		for i := 1; i <= n; i++ {
			if i > 12 && i%7 != 0 {
				continue
			}
			requests = append(requests, FaultRequest{Inject: fmt.Sprintf("%s:error=EIO:when=%d", name, i)},
				FaultRequest{Inject: fmt.Sprintf("%s:signal=SIGKILL:when=%d", name, i), Kill: true})
		}
	}
	t.Logf("%d runs of %d kinds of calls", len(requests), len(calls))
	if len(requests) < 100 {
		t.Errorf("%d runs are too few: %v", len(requests), calls)
	}
	p.each(len(requests), func(w *worker, i int) {
		r, err := w.ask(request{Fault: &requests[i]})
		if err != nil {
			t.Errorf("%s: %v", requests[i].Inject, err)
			return
		}
		for _, v := range r.Violations {
			t.Errorf("%s: %s", requests[i].Inject, v)
		}
	})
}

// -- bad luck

// A LuckRequest mounts a file system with these options on /t and runs lines.
type LuckRequest struct {
	Options string
	NoFile  uint64 // RLIMIT_NOFILE
	UID     int
	Lines   string
}

func luck(r *LuckRequest) (*Step, error) {
	nodes, err := parseTree(baseTree + "d /t 0755 0:0\nf /etc/a.conf 0644 0:0 content=\"\"\n")
	if err != nil {
		return nil, err
	}
	if err := wipe("/", keep); err != nil {
		return nil, err
	}
	if _, err := build("", nodes, time.Now()); err != nil {
		return nil, err
	}
	if err := os.WriteFile("/etc/a.conf", []byte(r.Lines), 0o644); err != nil {
		return nil, err
	}
	if r.Options != "" {
		flags, options := uintptr(0), r.Options
		if options == "ro" {
			flags, options = syscall.MS_RDONLY, ""
		}
		if err := linux.Mount("tmpfs", "/t", "tmpfs", flags, options); err != nil {
			return nil, err
		}
		defer linux.Unmount("/t", syscall.MNT_DETACH)
	}
	argv := []string{"/x/slashrun", "tmpfiles", "--create", "/etc/a.conf"}
	cmd := exec.Command(argv[0], argv[1:]...)
	if r.NoFile != 0 {
		cmd = exec.Command("/x/limited", append([]string{fmt.Sprint(r.NoFile)}, argv...)...)
	}
	cmd.Env = []string{"PATH=/usr/bin", "HOME=/root"}
	if r.UID != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(r.UID), Gid: uint32(r.UID)}}
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, err
	}
	s := &Step{Exit: cmd.ProcessState.ExitCode(), Stderr: string(out)}
	s.Tree, err = digest("/t", nil, suiteStart)
	return s, err
}

// limitedMain lowers RLIMIT_NOFILE and becomes the command.
func limitedMain() int {
	var n uint64
	fmt.Sscan(os.Args[1], &n)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: n}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	fmt.Fprintln(os.Stderr, syscall.Exec(os.Args[2], os.Args[2:], os.Environ()))
	return 98
}

func TestBadLuck(t *testing.T) {
	testenv.Need(t, testenv.Root)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := startWorker(t, setup{Start: suiteStart.UnixNano(), Files: map[string]string{"slashrun": slashrun(t), "limited": self}})
	for _, c := range []struct {
		name string
		LuckRequest
		exit int
		says []string // each in stderr
		tree []string // all that is in /t afterwards
	}{
		{"no bytes left", LuckRequest{Options: "size=4k,mode=755", Lines: "f~ /t/full - - - - " + strings.Repeat("QUFB", 3000) + "\nd /t/d\n"}, 73,
			[]string{"/t/full", "no space left", "a.conf:1"}, []string{"d /d 0755 0:0"}},
		{"no inodes left", LuckRequest{Options: "nr_inodes=3,mode=755", Lines: "d /t/d\nd /t/e\nd /t/f\nf /t/g - - - - x\n"}, 73,
			[]string{"/t/f", "/t/g", "no space left"}, []string{"d /d 0755 0:0", "d /e 0755 0:0"}},
		{"read-only", LuckRequest{Options: "ro", Lines: "d /t/d\nf /t/f\nL /t/l - - - - x\n"}, 73,
			[]string{"/t/d", "/t/f", "/t/l", "read-only file system"}, nil},
		{"no descriptors left", LuckRequest{NoFile: 7, Lines: "d /t/a/b/c/d/e/f\nf /t/f - - - - x\n"}, 1,
			[]string{"too many open files"}, nil},
		{"no permission", LuckRequest{UID: 1000, Lines: "d /t/d\nf /t/f\n"}, 73,
			[]string{"/t/d", "/t/f", "permission denied"}, nil},
	} {
		r, err := w.ask(request{Luck: &c.LuckRequest})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		s := r.Steps[0]
		if s.Exit != c.exit {
			t.Errorf("%s: exit %d, want %d\n%s", c.name, s.Exit, c.exit, s.Stderr)
		}
		for _, text := range c.says {
			if !strings.Contains(strings.ToLower(s.Stderr), text) {
				t.Errorf("%s: standard error lacks %q:\n%s", c.name, text, s.Stderr)
			}
		}
		if d := treeDiff(c.tree, lines(s.Tree, false)); d != "" && c.NoFile == 0 {
			t.Errorf("%s: the tree (- wanted, + there):\n%s", c.name, d)
		}
	}
}

// TestHostileInput: what no editor writes, beside the reference.
func TestHostileInput(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Dep(reference))
	w := startWorker(t, setup{Start: suiteStart.UnixNano(), Files: executables(t)})
	for name, text := range map[string]string{
		"NUL in a path":          "d /t/a\x00b\nd /t/ok\n",
		"NUL in an argument":     "f /t/f - - - - a\x00b\nd /t/ok\n",
		"NUL alone":              "\x00\nd /t/ok\n",
		"only NUL bytes":         strings.Repeat("\x00", 5000),
		"a line of 1 MiB":        "f /t/f - - - - " + strings.Repeat("x", 1<<20-16) + "\nd /t/ok\n",
		"a line beyond 1 MiB":    "f /t/f - - - - " + strings.Repeat("x", 1<<20) + "\nd /t/ok\n",
		"a comment beyond":       "#" + strings.Repeat("x", 1<<20+5) + "\nd /t/ok\n",
		"no newline at the end":  "d /t/a\nd /t/ok",
		"carriage returns":       "d /t/a\r\nd /t/ok\r\n",
		"bytes that are no text": "d /t/\xff\xfe\nf /t/f - - - - \xff\nd /t/ok\n",
		"byte order mark":        "\xef\xbb\xbfd /t/a\nd /t/ok\n",
	} {
		for _, where := range []string{"file", "stdin"} {
			c := &Case{Name: name + " in a " + where, Cmds: [][]string{{"--create"}}}
			if where == "file" {
				c.Nodes = []Node{{Type: 'f', Path: "/etc/tmpfiles.d/a.conf", Mode: 0o644, Content: text}}
			} else {
				c.Stdin, c.Cmds = text, [][]string{{"--create", "-"}}
			}
			diff, want, got, err := differs(w, c, theReference, ours)
			if err != nil {
				t.Fatal(err)
			}
			if diff != "" && accepted(c, want, got) == "" {
				t.Errorf("%s: %.3000s\nthe reference: %.500s\nours: %.500s", c.Name, diff, want[0].Stderr, got[0].Stderr)
			}
			if got[0].Exit != 0 && got[0].Stderr == "" {
				t.Errorf("%s: exit %d without a word", c.Name, got[0].Exit)
			}
		}
	}
}
