package nstest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/rerun"
	"github.com/slashrun/slashrun/internal/testenv"
)

// Run runs f in namespaces of its own, as the package documentation describes,
// and ends t as f's test ended: it fails, skips, or returns.
func Run(t *testing.T, o Options, f func(t *testing.T)) {
	t.Helper()
	if inside != nil && inside.Whole {
		f(t) // MainInside: already there
		return
	}
	switch role, frames := rerun.Enter(t, "nstest"); role {
	case rerun.Outside:
		runOutside(t, o, frames)
	case rerun.Inside:
		if inside == nil {
			t.Fatal("nstest: TestMain must call nstest.Main or nstest.Setup")
		}
		rerun.Body(t, f)
	case rerun.Through:
		f(t)
	case rerun.Elsewhere:
	}
}

// runOutside starts the inside and waits for it.
func runOutside(t *testing.T, o Options, frames []rerun.Frame) {
	t.Helper()
	if o.Real {
		testenv.Need(t, testenv.Root)
	}
	if err := o.check(); err != nil {
		t.Fatalf("nstest: %v", err)
	}
	c := child{plan: plan{Stage: stageInit, Options: o}, args: rerun.Args(t)}
	c.state = rerun.State{Frames: frames, Report: "/proc/self/fd/" + strconv.Itoa(fdReport)}
	if dir := rerun.FlagValue("test.gocoverdir"); dir != "" {
		path, err := c.handDown(dir, os.O_RDONLY)
		if err != nil {
			t.Fatalf("nstest: %v", err)
		}
		c.args = append(c.args, "-test.gocoverdir="+path)
		c.plan.CoverDir = path
	}
	var log bytes.Buffer
	filter := rerun.NewFilter(t.Name(), io.MultiWriter(t.Output(), &log))
	c.stdout, c.stderr = filter, filter
	status, reports, err := c.run(t.Context())
	filter.Flush()
	if err != nil {
		need(t, err)
		t.Fatalf("nstest: %v", err)
	}
	var last *rerun.Report
	for _, r := range reports {
		switch {
		case r.Missing != "":
			need(t, &missingError{r.Missing, errors.New(r.Why)})
		case r.Failure != "":
			t.Fatalf("nstest: %s", r.Failure)
		case r.Done:
			last = &r.Report
		}
	}
	rerun.Conclude(t, last, status, log.String())
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
	if o.Root == RootOverlay && !o.Real {
		return errors.New("Options.Root: an overlay needs Options.Real, see RootOverlay")
	}
	return nil
}

// child is the test binary to be started inside.
type child struct {
	plan           plan
	state          rerun.State
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
	env, err := stageEnv(rerun.CleanEnv(), c.plan)
	if err != nil {
		return 0, nil, err
	}
	state, err := c.state.Env()
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
	cmd.Env, cmd.ExtraFiles = append(env, state), files
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
		attr.GidMappingsEnableSetgroups = setgroupsAllowed()
	}
	return attr
}

// setgroupsAllowed says whether a user namespace made here may allow
// setgroups(2): not where the present one denies it (user_namespaces(7)), which
// it does where an ordinary user made it, and writing "allow" is EPERM then.
func setgroupsAllowed() bool {
	text, err := os.ReadFile("/proc/self/setgroups")
	return err == nil && strings.TrimSpace(string(text)) == "allow"
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
