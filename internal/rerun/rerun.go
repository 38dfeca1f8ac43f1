// Package rerun is what the test kits share that run a test again in another
// process: nstest in new namespaces, seccomptest under a system call filter,
// vmtest in a virtual machine. Only they import it.
//
// A kit's Run(t, ..., f) is called twice: outside, where it starts the test
// binary with flags that select this test alone, and inside, where it calls f.
// Which call of Run is meant is a Frame, handed down in the environment. Kits
// nest: inside f another kit's Run may start a third process, whose frames are
// those of the second and one more; there the first Run only calls through.
//
// The inner process tells the outer one what came of the test by writing a
// Report to a descriptor or file that the outer one names. Exit status alone would
// not do: a test binary that finds no test to run exits with 0, and so does one
// whose test ends by skipping, or by calling exit_group directly.
package rerun

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// envName holds a State as JSON. It is removed when it has been read, so that
// programs that a test starts do not see it.
const envName = "SLASHRUN_RERUN"

// A Frame is one call of a kit's Run.
type Frame struct {
	Kit  string // the package: "nstest"
	Test string // testing.T.Name
	Call int    // how many calls of the same kit in the same test came before
}

// State is what the outer process tells the inner one.
type State struct {
	Frames []Frame
	// Report is the file that the inner process writes its Report to.
	Report string
}

// A Report says how the test ended inside.
type Report struct {
	// Done means that the test ended by itself, with the results that follow.
	Done, Failed, Skipped bool
}

var (
	once   sync.Once
	loaded State

	mu    sync.Mutex
	calls = map[Frame]int{} // Call is 0 in the keys
	depth int               // frames of loaded that have been entered
)

// Load reads the state from the environment and removes it from there. A kit's
// Setup calls it; Enter does if nobody did.
func Load() State {
	once.Do(func() {
		text, ok := os.LookupEnv(envName)
		if !ok {
			return
		}
		os.Unsetenv(envName)
		if err := json.Unmarshal([]byte(text), &loaded); err != nil {
			fmt.Fprintf(os.Stderr, "rerun: $%s: %v\n", envName, err)
			os.Exit(125)
		}
	})
	return loaded
}

// Env returns the variable that hands s down.
func (s State) Env() (string, error) {
	text, err := json.Marshal(s)
	return envName + "=" + string(text), err
}

// CleanEnv is the environment of this process without any state.
func CleanEnv() (env []string) {
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, envName+"=") {
			env = append(env, kv)
		}
	}
	return env
}

// A Role is what a call of a kit's Run has to do in this process.
type Role int

const (
	Outside   Role = iota // start the inner process, with the frames that Enter returns
	Inside                // call Body
	Through               // call the function: an inner Run is the one that is meant
	Elsewhere             // return at once: another call is meant
)

// Enter tells a kit's Run, called for the test t, its role.
func Enter(t *testing.T, kit string) (Role, []Frame) {
	s := Load()
	mu.Lock()
	defer mu.Unlock()
	f := Frame{Kit: kit, Test: t.Name()}
	n := calls[f]
	calls[f]++
	f.Call = n
	switch {
	case depth == len(s.Frames):
		return Outside, append(append([]Frame(nil), s.Frames...), f)
	case s.Frames[depth] != f:
		return Elsewhere, nil
	}
	depth++
	if depth < len(s.Frames) {
		return Through, nil
	}
	return Inside, nil
}

// Body runs f as the test that the outer process asked for, reports, and ends the
// test, because what follows Run is for the outer process. It does not return.
func Body(t *testing.T, f func(t *testing.T)) {
	returned := false
	t.Cleanup(func() { // registered first, so it runs after the cleanups of f
		r := Report{Done: true, Failed: t.Failed(), Skipped: t.Skipped() && !returned}
		if err := write(Load().Report, r); err != nil {
			t.Errorf("rerun: reporting to the outside: %v", err)
		}
	})
	f(t)
	returned = true
	t.SkipNow()
}

func write(path string, r Report) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(json.NewEncoder(f).Encode(r), f.Close())
}

// Conclude ends t as the test inside ended: it fails or skips t, or returns. The
// report is nil if none came, status is the exit status of the inner process, and
// log is its output.
func Conclude(t *testing.T, r *Report, status int, log string) {
	t.Helper()
	switch {
	case r == nil || !r.Done:
		t.Fatalf("the test inside ended before its function returned (exit status %d), see above", status)
	case r.Failed:
		t.Fatal("failed inside, see above")
	case r.Skipped:
		t.Skipf("skipped inside: %s", strings.TrimSpace(log))
	case status != 0:
		t.Fatalf("the test binary inside failed with status %d after the test had passed, see above", status)
	}
}

// Args are the flags of a test binary that runs t alone, and as much of t as the
// flags of this process select. The deadline is a little earlier than t's, so that
// the goroutines of the inner test are what one sees when it hangs.
func Args(t *testing.T) []string {
	args := []string{
		"-test.run=" + pattern(t.Name(), FlagValue("test.run")), "-test.v=true",
		"-test.count=1", "-test.paniconexit0",
	}
	for _, name := range []string{"test.short", "test.skip", "test.parallel", "test.failfast", "test.fullpath"} {
		if v := FlagValue(name); v != "" && v != "false" {
			args = append(args, "-"+name+"="+v)
		}
	}
	if deadline, ok := t.Deadline(); ok {
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

// FlagValue is the value of the flag called name, "" if there is no such flag.
func FlagValue(name string) string {
	if f := flag.Lookup(name); f != nil {
		return f.Value.String()
	}
	return ""
}
