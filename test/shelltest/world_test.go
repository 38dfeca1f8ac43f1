package shelltest

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 1 && filepath.Base(os.Args[0]) == "food" {
		food()
	}
	nstest.Setup()
	code := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

// food is a service that writes down the signals it gets. It is no script, because
// a shell would have children, which hold a lock on its PID file, too.
func food() {
	log, err := os.OpenFile("/tmp/signals", os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		os.Exit(1)
	}
	got := make(chan os.Signal, 10)
	signal.Notify(got, syscall.SIGHUP, syscall.SIGTERM)
	log.WriteString("up\n")
	for sig := range got {
		if sig == syscall.SIGTERM {
			log.WriteString("TERM\n")
			os.Exit(0)
		}
		log.WriteString("HUP\n")
	}
}

// examples is where the scripts are.
const examples = "../../examples/scripts"

// progEnv names the executable inside of a namespace: it is built outside.
const progEnv = "SLASHRUN_SHELLTEST_PROGRAM"

// shells run the scripts, by the name of the program.
var shells = []string{"dash", "busybox", "bash"}

// built is the directory of the executable.
var built string

// program builds the executable once.
func program(t *testing.T) string {
	t.Helper()
	if prog := os.Getenv(progEnv); prog != "" {
		return prog
	}
	if built != "" {
		return built + "/slashrun"
	}
	dir, err := os.MkdirTemp("", "shelltest")
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", dir+"/slashrun", "github.com/slashrun/slashrun/cmd/slashrun")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		t.Fatalf("go build: %v\n%s", err, out)
	}
	built = dir
	return built + "/slashrun"
}

// forShells runs f once with each shell, in namespaces of their own.
func forShells(t *testing.T, f func(t *testing.T, w *world)) {
	prog := program(t)
	for _, shell := range shells {
		t.Run(shell, func(t *testing.T) {
			testenv.Need(t, testenv.Tool(shell))
			// A root of our own, also for an ordinary user: the machine's belongs to one
			// that the namespace does not know, and signals trust nobody.
			o := nstest.Options{
				Root: nstest.RootEmpty, Net: true, Keep: []string{prog, "/usr", "/bin", "/sbin", "/lib", "/lib64"},
				Env: []string{progEnv + "=" + prog},
			}
			nstest.Run(t, o, func(t *testing.T) { f(t, newWorld(t, prog, shell)) })
		})
	}
}

// A world is a machine with one shell.
type world struct {
	t   *testing.T
	dir string // of the scripts
	env []string

	interpreter string // of the scripts
	food        string // a daemon
}

func newWorld(t *testing.T, prog, shell string) *world {
	t.Helper()
	// What whoever runs the tests ignores would be ignored by all of them.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(caught) })
	path, err := testenv.LookTool(shell)
	must(t, err)
	w := &world{t: t, dir: "/tmp/bin", interpreter: path}
	must(t, os.Mkdir(w.dir, 0o755))
	must(t, os.Symlink(prog, w.dir+"/slashrun"))
	search := os.Getenv("PATH")
	if shell == "busybox" {
		applets := "/tmp/applets"
		must(t, os.Mkdir(applets, 0o755))
		if out, err := exec.CommandContext(t.Context(), path, "--install", "-s", applets).CombinedOutput(); err != nil {
			t.Fatalf("busybox --install: %v\n%s", err, out)
		}
		search, w.interpreter = applets, applets+"/sh"
	}
	w.env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }), "PATH="+w.dir+":"+search)
	self, err := os.Executable()
	must(t, err)
	w.food = w.dir + "/food"
	must(t, os.Symlink(self, w.food))
	scripts, err := os.ReadDir(examples)
	must(t, err)
	for _, s := range scripts {
		if s.Name() == "README.md" {
			continue
		}
		text, err := os.ReadFile(examples + "/" + s.Name())
		must(t, err)
		rest, ok := strings.CutPrefix(string(text), "#!/bin/sh\n")
		if !ok {
			t.Errorf("examples/scripts/%s is no script of /bin/sh", s.Name())
		}
		w.write("bin/"+s.Name(), "#!"+w.interpreter+"\n"+rest)
	}
	must(t, os.Mkdir("/run/lock", 0o755)) // as slashrun boot makes it
	return w
}

// write makes an executable file below /tmp.
func (w *world) write(name, text string) string {
	w.t.Helper()
	path := "/tmp/" + name
	must(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(w.t, os.WriteFile(path, []byte(text), 0o755))
	return path
}

// A run is a program that was started. What it prints goes to files: a daemon that
// it leaves has them open, too.
type run struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, err *os.File
}

// start starts a program, which is searched on the world's PATH; vars are added to
// its environment.
func (w *world) start(stdin *os.File, vars []string, args ...string) *run {
	w.t.Helper()
	r := &run{t: w.t}
	var err error
	r.out, err = os.CreateTemp("", "out")
	must(w.t, err)
	r.err, err = os.CreateTemp("", "err")
	must(w.t, err)
	r.cmd = exec.CommandContext(w.t.Context(), "/proc/self/exe")
	for _, dir := range filepath.SplitList(strings.TrimPrefix(w.env[len(w.env)-1], "PATH=")) {
		if _, err := os.Stat(dir + "/" + args[0]); err == nil {
			r.cmd = exec.CommandContext(w.t.Context(), dir+"/"+args[0], args[1:]...)
			break
		}
	}
	r.cmd.Args[0] = args[0]
	r.cmd.Env = append(slices.Clone(w.env), vars...)
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.err
	if stdin != nil {
		r.cmd.Stdin = stdin
	}
	must(w.t, r.cmd.Start())
	return r
}

// wait waits for its end and returns its status as a shell has it.
func (r *run) wait() int {
	r.t.Helper()
	err := r.cmd.Wait()
	var e *exec.ExitError
	if err != nil && !errors.As(err, &e) {
		r.t.Fatal(err)
	}
	ws := r.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

func (r *run) stdout() string { return read(r.t, r.out.Name()) }
func (r *run) stderr() string { return read(r.t, r.err.Name()) }

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return string(text)
}

// want runs a program to its end, and fails the test unless it has that status.
func (w *world) want(status int, args ...string) *run {
	w.t.Helper()
	return w.wantWith(status, nil, args...)
}

func (w *world) wantWith(status int, vars []string, args ...string) *run {
	w.t.Helper()
	r := w.start(nil, vars, args...)
	if got := r.wait(); got != status {
		w.t.Fatalf("%q: status %d, want %d\n%s%s", args, got, status, r.stdout(), r.stderr())
	}
	return r
}

// until waits for something that another process brings about.
func (w *world) until(what string, f func() bool) {
	w.t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not so after 30 s: %s", what)
		}
	}
}

// waiters is how many processes wait for a lock on a file.
func (w *world) waiters(path string) int {
	w.t.Helper()
	var list struct {
		Locks []struct{ Waiters []struct{ PID int } }
	}
	must(w.t, json.NewDecoder(bytes.NewBufferString(w.want(0, "slashrun", "lock", "list", "--json", path).stdout())).Decode(&list))
	n := 0
	for _, l := range list.Locks {
		n += len(l.Waiters)
	}
	return n
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
