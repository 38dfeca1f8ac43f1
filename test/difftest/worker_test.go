package difftest

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/testenv"
)

// A Case is a tree and the commands that run on it, one after the other.
type Case struct {
	Name string
	// Root runs the commands with --root=/r and the tree below /r.
	Root bool
	// Disk needs a disk file system (ext4), else tmpfs.
	Disk  bool
	Nodes []Node
	Cmds  [][]string
	Env   []string
	Stdin string
	UID   int
	// Output compares standard output as well.
	Output bool
}

// A Step is what one command left.
type Step struct {
	// Exit is the exit status; -1 is a command that was ended after its time,
	// and a signal is minus its number and 1000.
	Exit           int
	Stdout, Stderr string
	Tree           []Node
}

// A request to a worker: run the case with this executable.
type request struct {
	Case *Case
	Exe  string
	Argv []string
	// In the place of a case:
	Attack     *AttackRequest
	Deep       *DeepRequest
	Fault      *FaultRequest
	Luck       *LuckRequest
	CleanFault *CleanFaultRequest
}

// An AttackRequest runs the attack case of that name on a program.
type AttackRequest struct {
	Name    string
	Argv    []string
	MinRuns int
}

type response struct {
	Steps []Step
	Err   string
	// Of an attack.
	Swaps      int64
	Runs       int
	Violations []string
	// Of a fault run without a fault.
	Calls map[string]int
}

const workerEnv = "SLASHRUN_DIFF_WORKER"

// A worker is the test binary in its own namespaces with a root of its own.
type worker struct {
	cmd *exec.Cmd
	enc *gob.Encoder
	dec *gob.Decoder
	in  io.Closer
}

// setup is the first message to a worker.
type setup struct {
	Start    int64             // the start of the suite, nanoseconds
	NotMount string            // the mount namespace it must not be in
	Dir      string            // the mount point to build the root on
	Disk     string            // an ext4 image, else a tmpfs
	Files    map[string]string // executables to copy in: name below /x, source
}

func startWorker(t testing.TB, s setup) *worker {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^$")
	cmd.Env = []string{workerEnv + "=1", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w := &worker{cmd: cmd, enc: gob.NewEncoder(in), dec: gob.NewDecoder(out), in: in}
	if s.NotMount, err = os.Readlink("/proc/self/ns/mnt"); err != nil {
		t.Fatal(err)
	}
	s.Dir = t.TempDir()
	if err := w.enc.Encode(s); err != nil {
		t.Fatal(err)
	}
	var r response
	if err := w.dec.Decode(&r); err != nil || r.Err != "" {
		t.Fatalf("starting a worker: %v %s", err, r.Err)
	}
	t.Cleanup(w.stop)
	return w
}

func (w *worker) stop() {
	w.in.Close()
	w.cmd.Wait()
}

func (w *worker) run(c *Case, exe string, argv ...string) ([]Step, error) {
	r, err := w.ask(request{Case: c, Exe: exe, Argv: argv})
	if err != nil {
		return nil, err
	}
	return r.Steps, nil
}

// ask has the worker do something else than a case.
func (w *worker) ask(r request) (response, error) {
	var resp response
	if err := w.enc.Encode(r); err != nil {
		return resp, err
	}
	if err := w.dec.Decode(&resp); err != nil {
		return resp, fmt.Errorf("the worker died: %w", err)
	}
	if resp.Err != "" {
		return resp, errors.New(resp.Err)
	}
	return resp, nil
}

// inside is ask for a test that cannot go on without the answer.
func (w *worker) inside(t testing.TB, r request) response {
	t.Helper()
	resp, err := w.ask(r)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// A pool hands out workers, one a core.
type pool struct {
	free chan *worker
}

func newPool(t testing.TB, n int, disk bool, files map[string]string) *pool {
	p := &pool{free: make(chan *worker, n)}
	for range n {
		s := setup{Start: suiteStart.UnixNano(), Files: files}
		if disk {
			s.Disk = ext4Image(t)
		}
		p.free <- startWorker(t, s)
	}
	return p
}

func (p *pool) with(f func(*worker)) {
	w := <-p.free
	defer func() { p.free <- w }()
	f(w)
}

// each runs f for every index with a worker, in parallel, and waits.
func (p *pool) each(n int, f func(w *worker, i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range cap(p.free) {
		wg.Go(func() {
			for i := range next {
				p.with(func(w *worker) { f(w, i) })
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

func ext4Image(t testing.TB) string {
	t.Helper()
	testenv.Need(t, testenv.Tool("mkfs.ext4"))
	mkfs, _ := testenv.LookTool("mkfs.ext4")
	img := filepath.Join(t.TempDir(), "ext4")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, 64<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", "-F", "-O", "^has_journal", img).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	return img
}

// -- inside the worker

// keep is what a wipe leaves: the executables, proc and the C library.
var keep = map[string]bool{"/x": true, "/proc": true, "/lib": true, "/lib64": true, "/lost+found": true}

func workerMain() int {
	enc, dec := gob.NewEncoder(os.Stdout), gob.NewDecoder(os.Stdin)
	var s setup
	if err := dec.Decode(&s); err != nil {
		return 1
	}
	if err := enterRoot(s); err != nil {
		enc.Encode(response{Err: err.Error()})
		return 1
	}
	enc.Encode(response{})
	start := time.Unix(0, s.Start)
	for {
		var r request
		if err := dec.Decode(&r); err != nil {
			return 0
		}
		var resp response
		var err error
		switch {
		case r.Attack != nil:
			for _, a := range attackCases {
				if a.name == r.Attack.Name {
					resp.Swaps, resp.Runs, resp.Violations, err = attack(a, r.Attack.Argv, r.Attack.MinRuns)
				}
			}
		case r.Deep != nil:
			resp.Violations, err = deepTree(r.Deep)
		case r.Fault != nil:
			resp.Calls, resp.Violations, err = fault(r.Fault)
		case r.CleanFault != nil:
			var s *Step
			if s, err = cleanFault(r.CleanFault); err == nil {
				resp.Steps = []Step{*s}
			}
		case r.Luck != nil:
			var s *Step
			if s, err = luck(r.Luck); err == nil {
				resp.Steps = []Step{*s}
			}
		default:
			resp.Steps, err = runCase(&r, start)
		}
		if err != nil {
			resp.Err = err.Error()
		}
		if err := enc.Encode(resp); err != nil {
			return 1
		}
	}
}

// enterRoot builds the root and pivots into it. It refuses unless it is process
// 1 of a PID namespace and outside the mount namespace of its parent: a variable
// in the environment alone proves nothing.
func enterRoot(s setup) error {
	if os.Getpid() != 1 {
		return errors.New("a worker is process 1 of a PID namespace of its own")
	}
	if ns, err := os.Readlink("/proc/thread-self/ns/mnt"); err == nil && ns == s.NotMount {
		return errors.New("a worker has a mount namespace of its own")
	}
	if err := linux.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	if s.Disk != "" {
		if out, err := exec.Command("mount", "-o", "loop", s.Disk, s.Dir).CombinedOutput(); err != nil {
			return fmt.Errorf("mount -o loop: %w: %s", err, out)
		}
	} else if err := linux.Mount("tmpfs", s.Dir, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	for _, d := range []string{"x", "proc", "lib", "lib64", "old"} {
		if err := os.Mkdir(filepath.Join(s.Dir, d), 0o755); err != nil {
			return err
		}
	}
	for _, l := range []string{"lib", "lib64"} {
		target := filepath.Join(s.Dir, l)
		if _, err := os.Stat("/" + l); err != nil {
			continue
		}
		if err := linux.Mount("/"+l, target, "", syscall.MS_BIND, ""); err != nil {
			return err
		}
		if err := linux.Mount("", target, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""); err != nil {
			return err
		}
	}
	if err := linux.Mount("proc", filepath.Join(s.Dir, "proc"), "proc", syscall.MS_RDONLY, ""); err != nil {
		return err
	}
	for name, src := range s.Files {
		if err := copyFile(filepath.Join(s.Dir, "x", name), src); err != nil {
			return err
		}
	}
	if err := os.Symlink("slashrun", filepath.Join(s.Dir, "x", "systemd-tmpfiles")); err != nil {
		return err
	}
	linux.Umask(0o022)
	if err := linux.Sethostname("test.example"); err != nil {
		return err
	}
	if err := linux.PivotRoot(s.Dir, filepath.Join(s.Dir, "old")); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := linux.Unmount("/old", syscall.MNT_DETACH); err != nil {
		return err
	}
	return os.Remove("/old")
}

func copyFile(dst, src string) error {
	b, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	return os.WriteFile(dst, b, 0o755)
}

const baseTree = `
d /etc 0755 0:0
d /run 0755 0:0
d /tmp 1777 0:0
d /var 0755 0:0
d /var/tmp 1777 0:0
d /var/lib 0755 0:0
d /usr/lib 0755 0:0
d /usr/local/lib 0755 0:0
d /usr/share 0755 0:0
d /root 0700 0:0
d /dev 0755 0:0
c /dev/null 0666 0:0 dev=1:3
c /dev/zero 0666 0:0 dev=1:5
c /dev/full 0666 0:0 dev=1:7
c /dev/random 0666 0:0 dev=1:8
c /dev/urandom 0666 0:0 dev=1:9
f /etc/passwd 0644 0:0 content="root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\nsvc:x:150:151::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n"
f /etc/group 0644 0:0 content="root:x:0:\ndaemon:x:1:\nadm:x:4:alice\nstaff:x:50:\nsvc:x:151:\nalice:x:1000:\nbob:x:1001:\nnogroup:x:65534:\n"
f /etc/nsswitch.conf 0644 0:0 content="passwd: files\ngroup: files\n"
f /etc/os-release 0644 0:0 content="ID=testos\nVERSION_ID=7\nBUILD_ID=b5\nIMAGE_ID=img\nIMAGE_VERSION=33\nVARIANT_ID=var\n"
f /etc/machine-id 0444 0:0 content="0123456789abcdef0123456789abcdef\n"
f /etc/hostname 0644 0:0 content="test.example\n"
`

const altRoot = "/r"

func runCase(r *request, start time.Time) ([]Step, error) {
	if err := wipe("/", keep); err != nil {
		return nil, fmt.Errorf("wiping: %w", err)
	}
	linux.Umask(0)
	defer linux.Umask(0o022)
	base, err := parseTree(baseTree)
	if err != nil {
		return nil, err
	}
	if _, err := build("", base, start); err != nil {
		return nil, err
	}
	root := ""
	if r.Case.Root {
		root = altRoot
		if err := os.Mkdir(altRoot, 0o755); err != nil {
			return nil, err
		}
		// The alternate root's users have other numbers than the outer ones.
		inner, err := parseTree(strings.NewReplacer(":1000:1000:", ":2000:2000:", "alice:x:1000:", "alice:x:2000:", ":150:151:", ":250:251:", "svc:x:151:", "svc:x:251:").Replace(baseTree))
		if err != nil {
			return nil, err
		}
		if _, err := build(root, inner, start); err != nil {
			return nil, err
		}
	}
	release, err := build(root, r.Case.Nodes, start)
	defer release()
	if err != nil {
		return nil, err
	}
	linux.Umask(0o022)
	var steps []Step
	for _, args := range r.Case.Cmds {
		s, err := runStep(r, args, start)
		if err != nil {
			return steps, err
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// stepTime is far beyond what any case takes; a command that is still there then hangs.
const stepTime = 20 * time.Second

func runStep(r *request, args []string, start time.Time) (Step, error) {
	ctx, cancel := context.WithTimeout(context.Background(), stepTime)
	defer cancel()
	argv := append([]string{}, r.Argv...)
	if r.Case.Root {
		argv = append(argv, "--root="+altRoot)
	}
	argv = append(argv, args...)
	cmd := exec.CommandContext(ctx, r.Exe, argv...)
	cmd.Env = append([]string{"PATH=/usr/bin", "HOME=/root", "LC_ALL=C.UTF-8", "SYSTEMD_LOG_TARGET=console", "SYSTEMD_LOG_COLOR=0", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER=cat"}, r.Case.Env...)
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(r.Case.Stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if r.Case.UID != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(r.Case.UID), Gid: uint32(r.Case.UID)}}
	}
	// A child that outlives the command and holds its output is not waited for.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	s := Step{Stdout: stdout.String(), Stderr: stderr.String()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		s.Exit = -1
	case errors.As(err, &exit):
		s.Exit = exit.ExitCode()
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			s.Exit = -1000 - int(ws.Signal())
		}
	case err != nil:
		return s, err
	}
	s.Tree, err = digest("", keep, start)
	return s, err
}
