package seccomptest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/rerun"
	"github.com/slashrun/slashrun/internal/testenv"
)

// envName names the profile that Setup installs: the interface to make test, and
// Run's own way to tell the process that it starts.
const envName = "SLASHRUN_SECCOMP"

// envLifeline is set by Run: descriptor 4 is a pipe that ends with the outside.
const envLifeline = "SLASHRUN_SECCOMP_LIFELINE"

const (
	fdReport   = 3
	fdLifeline = 4
	fdCover    = 5
)

// current is the profile that Setup installed.
var current Profile

// Current is the profile that this process is under, as far as Setup installed
// it. A test asserts with it that a fast path was not taken.
func Current() Profile { return current }

// Main is the TestMain of a package that is tested under a profile. It does not
// return.
func Main(m *testing.M) {
	Setup()
	os.Exit(m.Run())
}

// Setup installs the profile that $SLASHRUN_SECCOMP names, if any. It is for a
// TestMain of your own and must be its first call. If the filter cannot be
// installed it ends the process: a run under no filter would prove nothing.
func Setup() {
	frames := rerun.Load().Frames
	current = Profile(os.Getenv(envName))
	if err := Install(current); err != nil {
		fmt.Fprintf(os.Stderr, "seccomptest: $%s: %v\n", envName, err)
		os.Exit(125)
	}
	if os.Getenv(envLifeline) != "" {
		os.Unsetenv(envLifeline)
		if len(frames) == 0 {
			// Run would start yet another process, and so on.
			fmt.Fprintln(os.Stderr, "seccomptest: nothing says which call of Run is meant")
			os.Exit(125)
		}
		for fd := fdReport; fd <= fdCover; fd++ {
			syscall.CloseOnExec(fd)
		}
		go func() {
			io.Copy(io.Discard, os.NewFile(fdLifeline, "lifeline"))
			os.Exit(125) // the process that waits for us is gone
		}()
	}
}

// Run runs f under the profile p, in a process of its own, and ends t as f's test
// ended. Under None it calls f right here (where $SLASHRUN_SECCOMP may have put
// the process under a profile already; of two, the later one says the errno).
func Run(t *testing.T, p Profile, f func(t *testing.T)) {
	t.Helper()
	if p == None {
		f(t)
		return
	}
	switch role, frames := rerun.Enter(t, "seccomptest"); role {
	case rerun.Outside:
		runOutside(t, p, frames)
	case rerun.Inside:
		if current != p {
			t.Fatalf("seccomptest: under profile %q instead of %q: TestMain must call seccomptest.Main or seccomptest.Setup", current, p)
		}
		rerun.Body(t, f)
	case rerun.Through:
		f(t)
	case rerun.Elsewhere:
	}
}

func runOutside(t *testing.T, p Profile, frames []rerun.Frame) {
	t.Helper()
	testenv.Need(t, Available)
	reportR, reportW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reportR.Close()
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer lifeW.Close()
	state, err := rerun.State{Frames: frames, Report: fmt.Sprintf("/proc/self/fd/%d", fdReport)}.Env()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	filter := rerun.NewFilter(t.Name(), io.MultiWriter(t.Output(), &log))
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", rerun.Args(t)...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(environ(), state, envName+"="+string(p), envLifeline+"=1")
	cmd.ExtraFiles = []*os.File{reportW, lifeR}
	if dir := rerun.FlagValue("test.gocoverdir"); dir != "" {
		cover, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer cover.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, cover)
		cmd.Args = append(cmd.Args, fmt.Sprintf("-test.gocoverdir=/proc/self/fd/%d", fdCover))
	}
	cmd.Stdout, cmd.Stderr = filter, filter
	err = cmd.Start()
	reportW.Close()
	lifeR.Close()
	if err != nil {
		t.Fatal(err)
	}
	var r *rerun.Report
	for dec := json.NewDecoder(reportR); ; {
		var next rerun.Report
		if dec.Decode(&next) != nil {
			break
		}
		r = &next
	}
	cmd.Wait()
	filter.Flush()
	rerun.Conclude(t, r, cmd.ProcessState.ExitCode(), log.String())
}

// environ is the environment without the variables of this package.
func environ() (env []string) {
	for _, kv := range rerun.CleanEnv() {
		if !strings.HasPrefix(kv, envName+"=") && !strings.HasPrefix(kv, envLifeline+"=") {
			env = append(env, kv)
		}
	}
	return env
}

// Available is the right to install filters, for testenv.Need.
var Available = testenv.Requirement{What: "seccomp filters", Check: func() error {
	text, err := os.ReadFile("/proc/self/status")
	if err == nil && !strings.Contains(string(text), "\nSeccomp:") {
		err = errors.New("this kernel has none (/proc/self/status has no Seccomp line)")
	}
	return err
}}
