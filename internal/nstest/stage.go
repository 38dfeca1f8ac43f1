package nstest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/rerun"
)

// envName announces a stage to the test binary that is started again. It only
// starts the checks; it is no proof of anything.
const envName = "SLASHRUN_NSTEST"

// The two stages in which the test binary starts again.
const (
	stageInit = "init" // PID 1: arranges the mounts, starts the body, waits
	stageBody = "body" // runs TestMain and the test
)

// plan is what the outside tells the inside, as JSON in the environment.
type plan struct {
	Stage   string
	Options Options
	// Whole means MainInside: every test of the package is inside.
	Whole bool
	// Extra is the number of descriptors from fdFirstExtra on.
	Extra int
	// CoverDir is where both stages write their coverage counters, if at all.
	CoverDir string
}

// Descriptors that the outside hands down, through both stages.
const (
	fdReport     = 3 + iota // pipe: one JSON report per line
	fdMountNS               // the outside's namespaces
	fdUserNS                //
	fdPIDNS                 //
	fdOuterRun              // the outside's /run, or /dev/null if there is none
	fdLifeline              // pipe: end of file when the outside is gone
	fdFirstExtra            // files named by flags, as /proc/self/fd/N
)

// report travels from the inside to the outside.
type report struct {
	// Missing names what the machine refuses, and Why is the error.
	Missing, Why string `json:",omitempty"`
	// Failure is an error of the kit itself, or a refusal.
	Failure string `json:",omitempty"`
	rerun.Report
}

// inside is the state of a body; nil outside.
var inside *plan

// Inside reports whether this process runs in namespaces that nstest made and
// that it has checked against the kernel. Helpers that mount ask it first.
func Inside() bool { return inside != nil }

// FreshProc reports whether /proc shows the PID namespace of this process. It is
// false outside, and where the machine forbids mounting a fresh procfs: then
// /proc/self is right and the other numbers are the machine's.
func FreshProc() bool {
	self, err := os.Readlink("/proc/self")
	return inside != nil && err == nil && self == strconv.Itoa(os.Getpid())
}

// Main is the TestMain of a package that calls Run. It does not return.
func Main(m *testing.M) {
	Setup()
	os.Exit(m.Run())
}

// Setup is for a TestMain of your own and must be its first call. In a process
// that a test started normally it returns at once. Where Run started the test
// binary again it either becomes PID 1 and never returns, or checks that the
// namespaces are as they should be and returns.
func Setup() {
	text, ok := os.LookupEnv(envName)
	if !ok {
		adopt()
		return
	}
	os.Unsetenv(envName)
	var p plan
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		fail(nil, fmt.Errorf("$%s: %w", envName, err))
	}
	if err := checkNamespaces(p.Options); err != nil {
		// Descriptor 3 may be anything, so this goes to standard error.
		fail(nil, fmt.Errorf("refusing to run: %w", err))
	}
	switch p.Stage {
	case stageInit:
		runInit(p, reportPipe())
	case stageBody:
		if !p.Whole && len(rerun.Load().Frames) == 0 {
			// Run would start yet another process, and so on.
			fail(reportPipe(), errors.New("nothing says which call of Run is meant"))
		}
		if err := checkMounts(nil); err != nil {
			fail(reportPipe(), fmt.Errorf("refusing to run: %w", err))
		}
		if p.Options.PID1 {
			syscall.CloseOnExec(fdLifeline)
			go watchLifeline()
		}
		for _, fd := range []int{fdMountNS, fdUserNS, fdPIDNS, fdOuterRun} {
			syscall.Close(fd)
		}
		// Nothing of ours is for the programs that the test starts.
		syscall.CloseOnExec(fdReport)
		for i := range p.Extra {
			syscall.CloseOnExec(fdFirstExtra + i)
		}
		inside = &p
	default:
		fail(reportPipe(), fmt.Errorf("$%s names the stage %q", envName, p.Stage))
	}
}

// reportPipe is for PID 1, and for a process that ends right away. A body must
// not make one and forget it: some garbage collection would close the
// descriptor, and the number then belongs to whatever the test opened since.
func reportPipe() *os.File { return os.NewFile(fdReport, "report") }

// adopt finds out whether another kit has started this process inside of
// namespaces that nstest made. The kernel's word for it is the mount on /run:
// outside none has our name for its source.
func adopt() {
	for _, f := range rerun.Load().Frames {
		if f.Kit == "nstest" {
			list, err := mountTable()
			if err != nil {
				fail(nil, err)
			}
			top := mount{}
			for _, m := range list {
				if m.point == "/run" {
					top = m
				}
			}
			if top.source == source && !top.propagates {
				inside = &plan{}
			}
			return
		}
	}
}

// runInit is PID 1: it arranges the mounts and starts the body. It never returns.
func runInit(p plan, out *os.File) {
	go watchLifeline()
	if err := setUp(p.Options); err != nil {
		fail(out, err)
	}
	p.Stage = stageBody
	env, err := stageEnv(os.Environ(), p)
	if err != nil {
		fail(out, err)
	}
	state, err := rerun.Load().Env() // which took it out of the environment
	if err != nil {
		fail(out, err)
	}
	env = append(env, state)
	exe, err := os.Executable()
	if err != nil {
		fail(out, err)
	}
	if p.Options.PID1 { // the descriptors stay open
		err := syscall.Exec(exe, os.Args, env)
		fail(out, fmt.Errorf("exec %s: %w", exe, err))
	}
	// The body decides about signals to the group; PID 1 outlives it.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	cmd := exec.Command(exe)
	cmd.Args, cmd.Env = os.Args, env
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	for fd := fdReport; fd < fdFirstExtra+p.Extra; fd++ {
		var f *os.File // the lifeline is ours alone
		if fd != fdLifeline {
			f = os.NewFile(uintptr(fd), "inherited")
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	if err := cmd.Start(); err != nil {
		fail(out, err)
	}
	os.Exit(reap(cmd.Process.Pid))
}

// reap waits for every child of PID 1 until the body ends, and returns the exit
// status that stands for its end: its own, or 128 and the signal, as in a shell.
func reap(body int) int {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			fmt.Fprintf(os.Stderr, "nstest: waiting for the test: %v\n", err)
			return 125
		case pid == body && ws.Exited():
			return ws.ExitStatus()
		case pid == body && ws.Signaled():
			fmt.Fprintf(os.Stderr, "nstest: the test was killed: %v\n", ws.Signal())
			return 128 + int(ws.Signal())
		}
	}
}

// watchLifeline ends this process, and as it is PID 1 the whole namespace, when
// the process outside is gone.
func watchLifeline() {
	io.Copy(io.Discard, os.NewFile(fdLifeline, "lifeline"))
	os.Exit(125)
}

// stageEnv is the environment environ with the plan in it.
func stageEnv(environ []string, p plan) ([]string, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	var env []string
	for _, kv := range environ {
		if !strings.HasPrefix(kv, envName+"=") {
			env = append(env, kv)
		}
	}
	env = append(env, p.Options.Env...)
	if p.CoverDir != "" {
		env = append(env, "GOCOVERDIR="+p.CoverDir) // what the runtime goes by
	}
	return append(env, "TMPDIR=/tmp", envName+"="+string(text)), nil
}

// missingError is an error that means: this machine does not allow it.
type missingError struct {
	what string
	err  error
}

func (e *missingError) Error() string { return e.what + ": " + e.err.Error() }
func (e *missingError) Unwrap() error { return e.err }

// fail reports err to the outside, or to standard error, and ends the process.
func fail(out *os.File, err error) {
	r := report{Failure: err.Error()}
	var missing *missingError
	if errors.As(err, &missing) {
		r = report{Missing: missing.what, Why: missing.err.Error()}
	}
	if out == nil || send(out, r) != nil {
		fmt.Fprintf(os.Stderr, "nstest: %v\n", err)
	}
	os.Exit(125)
}

func send(out *os.File, r report) error { return json.NewEncoder(out).Encode(r) }
