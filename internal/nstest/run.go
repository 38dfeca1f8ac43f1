package nstest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/testenv"
)

// calls counts the calls of Run by test.
var calls = struct {
	sync.Mutex
	n       map[string]int
	running bool // inside: the function that was meant is running
}{n: map[string]int{}}

// Run runs f in namespaces of its own, as the package documentation describes,
// and ends t as f's test ended: it fails, skips, or returns.
func Run(t *testing.T, o Options, f func(t *testing.T)) {
	t.Helper()
	calls.Lock()
	call := calls.n[t.Name()]
	calls.n[t.Name()]++
	nested := calls.running
	calls.Unlock()
	if nested {
		t.Fatal("nstest: Run inside of Run's function")
	}
	if inside != nil && inside.Test == "" {
		f(t) // MainInside: already there
		return
	}
	if inside != nil {
		if t.Name() != inside.Test || call != inside.Call {
			return // another call of Run is meant
		}
		body(t, f)
	}
	runOutside(t, o, call)
}

// body runs the function that the outside asked for, and then ends the test:
// what follows Run is for the outside.
func body(t *testing.T, f func(t *testing.T)) {
	calls.Lock()
	calls.running = true
	calls.Unlock()
	returned := false
	t.Cleanup(func() { // registered first, so it runs after the function's own
		out := os.NewFile(fdReport, "report")
		err := send(out, report{Done: true, Failed: t.Failed(), Skipped: t.Skipped() && !returned})
		if err != nil {
			t.Errorf("nstest: reporting to the outside: %v", err)
		}
	})
	f(t)
	returned = true
	t.SkipNow()
}

// runOutside starts the inside and waits for it.
func runOutside(t *testing.T, o Options, call int) {
	t.Helper()
	if o.Real {
		testenv.Need(t, testenv.Root)
	}
	c := child{plan: plan{Stage: stageInit, Options: o, Test: t.Name(), Call: call}}
	if err := c.plan.Options.check(); err != nil {
		t.Fatalf("nstest: %v", err)
	}
	c.args = testArgs(t)
	if dir := flagValue("test.gocoverdir"); dir != "" {
		path, err := c.handDown(dir, os.O_RDONLY)
		if err != nil {
			t.Fatalf("nstest: %v", err)
		}
		c.args = append(c.args, "-test.gocoverdir="+path)
		c.plan.CoverDir = path
	}
	var log bytes.Buffer
	filter := &lineFilter{w: io.MultiWriter(t.Output(), &log), test: t.Name()}
	c.stdout, c.stderr = filter, filter
	status, reports, err := c.run(t.Context())
	filter.Flush()
	if err != nil {
		need(t, err)
		t.Fatalf("nstest: %v", err)
	}
	var done bool
	for _, r := range reports {
		switch {
		case r.Missing != "":
			need(t, &missingError{r.Missing, errors.New(r.Why)})
		case r.Failure != "":
			t.Fatalf("nstest: %s", r.Failure)
		case r.Done && r.Failed:
			t.Fatal("failed inside, see above")
		case r.Done && r.Skipped:
			t.Skipf("skipped inside: %s", strings.TrimSpace(log.String()))
		case r.Done:
			done = true
		}
	}
	if !done {
		t.Fatalf("the test inside ended before the function returned (exit status %d), see above", status)
	}
	if status != 0 {
		t.Fatalf("the test binary inside failed with status %d after the test had passed, see above", status)
	}
}

// need ends t by the rules of testenv if err means that the machine lacks
// something.
func need(t *testing.T, err error) {
	t.Helper()
	var missing *missingError
	if errors.As(err, &missing) {
		testenv.Need(t, testenv.Requirement{What: missing.what, Check: func() error { return missing.err }})
	}
}

// check refuses options that contradict each other.
func (o Options) check() error {
	if o.Real && o.SingleUser {
		return errors.New("Options.Real and Options.SingleUser exclude each other")
	}
	return nil
}

// testArgs are the flags of a test binary that runs t alone.
func testArgs(t *testing.T) []string {
	args := []string{
		"-test.run=" + pattern(t.Name(), flagValue("test.run")), "-test.v=true",
		"-test.count=1", "-test.paniconexit0",
	}
	for _, name := range []string{"test.short", "test.skip", "test.parallel", "test.failfast", "test.fullpath"} {
		if v := flagValue(name); v != "" && v != "false" {
			args = append(args, "-"+name+"="+v)
		}
	}
	if deadline, ok := t.Deadline(); ok {
		// A little earlier than our own, so that the goroutines of the test
		// inside are what is seen. The outer test still has a deadline if not.
		left := time.Until(deadline)
		args = append(args, "-test.timeout="+max(left-min(left/10, 5*time.Second), time.Millisecond).String())
	}
	return args
}

// pattern matches the test called name and nothing beside it. Where the user's
// own pattern goes deeper, into subtests of name, the rest of it is kept.
func pattern(name, user string) string {
	var parts []string
	for _, elem := range strings.Split(name, "/") {
		parts = append(parts, "^"+regexp.QuoteMeta(elem)+"$")
	}
	if !strings.ContainsAny(user, "|[(\\") { // else it is not just a list of elements
		if deeper := strings.Split(user, "/"); len(deeper) > len(parts) {
			parts = append(parts, deeper[len(parts):]...)
		}
	}
	return strings.Join(parts, "/")
}

func flagValue(name string) string {
	if f := flag.Lookup(name); f != nil {
		return f.Value.String()
	}
	return ""
}

// child is the test binary to be started inside.
type child struct {
	plan           plan
	args           []string
	extra          []*os.File
	stdout, stderr io.Writer
}

// handDown opens a path of the outside for the inside, where it is at the path
// that handDown returns.
func (c *child) handDown(path string, flags int) (string, error) {
	f, err := os.OpenFile(path, flags, 0o666)
	if err != nil {
		return "", err
	}
	c.extra = append(c.extra, f)
	return "/proc/self/fd/" + strconv.Itoa(fdFirstExtra+len(c.extra)-1), nil
}

// run starts the child and waits for its end. The error is about starting it.
func (c *child) run(ctx context.Context) (status int, reports []report, err error) {
	c.plan.Extra = len(c.extra)
	env, err := stageEnv(c.plan)
	if err != nil {
		return 0, nil, err
	}
	reportR, reportW, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer reportR.Close()
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		reportW.Close()
		return 0, nil, err
	}
	defer lifeW.Close()
	files := []*os.File{reportW}
	open := func(path string) error {
		f, err := os.Open(path)
		if err == nil {
			files = append(files, f)
		}
		return err
	}
	err = errors.Join(open("/proc/self/ns/mnt"), open("/proc/self/ns/user"), open("/proc/self/ns/pid"))
	if open("/run") != nil { // then /dev/null is certainly another file system
		err = errors.Join(err, open("/dev/null"))
	}
	files = append(append(files, lifeR), c.extra...)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", c.args...)
	cmd.Args[0] = os.Args[0]
	cmd.Env, cmd.ExtraFiles = env, files
	cmd.Stdout, cmd.Stderr = c.stdout, c.stderr
	cmd.SysProcAttr = c.plan.Options.sysProcAttr()
	if err == nil {
		if err = cmd.Start(); err != nil {
			err = explainStart(err)
		}
	}
	for _, f := range files { // the child has its own
		f.Close()
	}
	if err != nil {
		return 0, nil, err
	}
	dec := json.NewDecoder(reportR)
	for {
		var r report
		if dec.Decode(&r) != nil {
			break // end of file: every process inside is gone
		}
		reports = append(reports, r)
	}
	cmd.Wait()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), reports, nil
	}
	return cmd.ProcessState.ExitCode(), reports, nil
}

func explainStart(err error) error {
	for _, errno := range []error{syscall.EPERM, syscall.EACCES, syscall.ENOSPC, syscall.EUSERS, syscall.EINVAL, syscall.ENOSYS} {
		if errors.Is(err, errno) {
			return &missingError{"user, mount and PID namespaces", fmt.Errorf("%w (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns govern them)", err)}
		}
	}
	return err
}

// sysProcAttr says which namespaces are new, and who is who in them.
func (o Options) sysProcAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}
	if o.Net {
		attr.Cloneflags |= syscall.CLONE_NEWNET
	}
	if o.Real {
		return attr
	}
	attr.Cloneflags |= syscall.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	if os.Geteuid() == 0 && !o.SingleUser {
		attr.UidMappings = identity("/proc/self/uid_map", attr.UidMappings)
		attr.GidMappings = identity("/proc/self/gid_map", attr.GidMappings)
		attr.GidMappingsEnableSetgroups = true
	}
	return attr
}

// identity maps every ID that this user namespace has to itself.
func identity(path string, fallback []syscall.SysProcIDMap) []syscall.SysProcIDMap {
	text, err := os.ReadFile(path)
	if err != nil {
		return fallback
	}
	var ids []syscall.SysProcIDMap
	for line := range strings.Lines(string(text)) {
		var first, above, n int
		if _, err := fmt.Sscan(line, &first, &above, &n); err != nil {
			return fallback
		}
		ids = append(ids, syscall.SysProcIDMap{ContainerID: first, HostID: first, Size: n})
	}
	return ids
}
