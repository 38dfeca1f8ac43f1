package vmtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/rerun"
	"github.com/slashrun/slashrun/internal/testenv"
)

// Options says what is special about the machine that Run boots. The fields that
// it shares with Machine are described there.
type Options struct {
	Kernel  Kernel // Trixie if empty
	Files   map[string]string
	Text    map[string]string
	Links   map[string]string
	Modules []string // these are also loaded
	Disk    *Disk
	Append  string
	Memory  int
	Timeout time.Duration

	// Env is the environment of the test, besides PATH, HOME and TMPDIR.
	Env []string
}

// The plan of the inside, and where it and the rest of the kit are.
type plan struct {
	Args, Env, Modules []string
	Dir                string
	Cover              bool
}

const (
	kitDir     = "/.vmtest"
	planFile   = kitDir + "/plan"
	reportFile = kitDir + "/report"
	coverDir   = kitDir + "/cover"
	// envBody marks the test binary that PID 1 starts.
	envBody = "SLASHRUN_VMTEST"
)

var inside bool

// Inside reports whether this process is the test in a virtual machine.
func Inside() bool { return inside }

// Main is the TestMain of a package that calls Run. It does not return.
func Main(m *testing.M) {
	Setup()
	os.Exit(m.Run())
}

// Setup is for a TestMain of your own and must be its first call. Outside of a
// virtual machine it returns at once; as PID 1 of one it does PID 1's work and
// never returns.
func Setup() {
	if os.Getpid() == 1 {
		if text, err := os.ReadFile(planFile); err == nil {
			runInit(text)
		}
		return
	}
	if os.Getenv(envBody) == "" {
		return
	}
	os.Unsetenv(envBody)
	if !virtual() || len(rerun.Load().Frames) == 0 {
		fmt.Fprintf(os.Stderr, "vmtest: $%s is set, and this is not the virtual machine of a test\n", envBody)
		os.Exit(125)
	}
	inside = true
}

// Run runs f in a virtual machine, as the package documentation describes, and
// ends t as f's test ended: it fails, skips, or returns.
func Run(t *testing.T, o Options, f func(t *testing.T)) {
	t.Helper()
	switch role, frames := rerun.Enter(t, "vmtest"); role {
	case rerun.Outside:
		runOutside(t, o, frames)
	case rerun.Inside:
		if !inside {
			t.Fatal("vmtest: TestMain must call vmtest.Main or vmtest.Setup")
		}
		rerun.Body(t, f)
	case rerun.Through:
		f(t)
	case rerun.Elsewhere:
	}
}

func runOutside(t *testing.T, o Options, frames []rerun.Frame) {
	t.Helper()
	if o.Kernel == "" {
		o.Kernel = Trixie
	}
	Need(t, o.Kernel)
	m, err := o.machine(t, frames)
	if err != nil {
		t.Fatalf("vmtest: %v", err)
	}
	var log bytes.Buffer
	filter := rerun.NewFilter(t.Name(), io.MultiWriter(t.Output(), &log))
	r, err := m.boot(t, func(line string) { fmt.Fprintln(filter, line) })
	filter.Flush()
	if err != nil {
		t.Fatalf("vmtest: %v", err)
	}
	var report *rerun.Report
	status := -1
	for _, f := range r.frames {
		switch {
		case f.Trouble != "":
			t.Errorf("vmtest: inside: %s", f.Trouble)
		case f.Status != nil:
			status = *f.Status
		case f.File != "":
			// A name is all it is, whatever the guest says.
			path := filepath.Join(rerun.FlagValue("test.gocoverdir"), filepath.Base(f.File))
			if err := os.WriteFile(path, f.Data, 0o644); err != nil {
				t.Errorf("vmtest: coverage: %v", err)
			}
		case f.Report != nil:
			if err := json.Unmarshal(f.Report, &report); err != nil {
				t.Errorf("vmtest: report: %v", err)
			}
		}
	}
	if r.End != PoweredOff || report == nil {
		r.Output = "(above)"
		t.Fatalf("vmtest: the test inside did not come to its end (exit status %d)\n%v", status, r)
	}
	rerun.Conclude(t, report, status, log.String())
}

// machine is the machine that runs the one test.
func (o Options) machine(t *testing.T, frames []rerun.Frame) (m Machine, err error) {
	exe, err := os.Executable()
	if err != nil {
		return m, err
	}
	p := plan{Args: append([]string{os.Args[0]}, rerun.Args(t)...), Modules: o.Modules}
	if p.Dir, err = os.Getwd(); err != nil {
		return m, err
	}
	// Inside, the deadline is nearer: the clock starts when the kernel is up.
	left := 3 * time.Minute
	if at, ok := t.Deadline(); ok {
		left = time.Until(at)
	}
	if o.Timeout != 0 {
		left = min(left, o.Timeout)
	}
	p.Args = append(p.Args, "-test.timeout="+max(left-time.Minute, left/2).String())
	state, err := rerun.State{Frames: frames, Report: reportFile}.Env()
	if err != nil {
		return m, err
	}
	p.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp", state, envBody + "=1"}, o.Env...)
	m = Machine{
		Kernel: o.Kernel, Init: exe, Links: o.Links, Modules: o.Modules, Disk: o.Disk,
		Append: o.Append, Memory: o.Memory, Timeout: o.Timeout,
		Files: map[string]string{}, Text: map[string]string{reportFile: ""},
	}
	if rerun.FlagValue("test.gocoverdir") != "" {
		p.Cover = true
		p.Args = append(p.Args, "-test.gocoverdir="+coverDir)
		p.Env = append(p.Env, "GOCOVERDIR="+coverDir)
	}
	// What tests look for around them.
	m.Text[p.Dir+"/.vmtest"] = ""
	if _, err := os.Stat("testdata"); err == nil {
		m.Files[filepath.Join(p.Dir, "testdata")] = "testdata"
	}
	if root, err := testenv.ModuleRoot(); err == nil {
		m.Files[filepath.Join(root, "go.mod")] = filepath.Join(root, "go.mod")
	}
	for k, v := range o.Files {
		m.Files[k] = v
	}
	for k, v := range o.Text {
		m.Text[k] = v
	}
	text, err := json.Marshal(p)
	m.Text[planFile] = string(text)
	return m, err
}

// runInit is PID 1. It never returns.
func runInit(text []byte) {
	status, err := initialise(text)
	for _, path := range coverFiles() {
		data, e := os.ReadFile(path)
		err = errors.Join(err, e, sendFrame(frame{File: filepath.Base(path), Data: data}))
	}
	if report, e := os.ReadFile(reportFile); e != nil {
		err = errors.Join(err, e)
	} else if report = bytes.TrimSpace(report); len(report) > 0 {
		err = errors.Join(err, sendFrame(frame{Report: report}))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "vmtest: %v\n", err) // on the console
		sendFrame(frame{Trouble: err.Error()})
	}
	if err := sendFrame(frame{Status: &status}); err != nil {
		fmt.Fprintf(os.Stderr, "vmtest: %v\n", err)
	}
	PowerOff()
}

func coverFiles() []string {
	list, _ := filepath.Glob(coverDir + "/*")
	return list
}

// initialise makes a system of the initramfs and runs the test binary in it.
func initialise(text []byte) (status int, err error) {
	syscall.Umask(0o022)
	if err := MountAPI(); err != nil {
		return -1, err
	}
	if !virtual() {
		return -1, errors.New("this is not the virtual machine of a test")
	}
	var p plan
	if err := json.Unmarshal(text, &p); err != nil {
		return -1, err
	}
	if err := linux.Mount("tmpfs", "/run", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=0755"); err != nil {
		return -1, err
	}
	if err := linux.SetInterfaceUp("lo"); err != nil {
		return -1, err
	}
	if err := linux.Sethostname("vmtest"); err != nil {
		return -1, err
	}
	if p.Cover {
		if err := os.Mkdir(coverDir, 0o755); err != nil {
			return -1, err
		}
	}
	for _, name := range p.Modules {
		if err := LoadModule(name); err != nil {
			return -1, err
		}
	}
	return runBody(p)
}

// runBody runs the test binary and reaps whatever becomes an orphan meanwhile.
func runBody(p plan) (status int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return -1, err
	}
	cmd := exec.Command("/init")
	cmd.Args, cmd.Env, cmd.Dir = p.Args, p.Env, p.Dir
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		return -1, err
	}
	w.Close()
	out, err := os.OpenFile(resultLine, os.O_WRONLY|syscall.O_NOCTTY, 0)
	if err != nil {
		return -1, err
	}
	defer out.Close()
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(out, r) })
	status = reap(cmd.Process.Pid)
	// What the test leaves running may hold the pipe: it does not live on.
	if err := syscall.Kill(-1, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
		return status, err
	}
	wg.Wait()
	return status, nil
}

// reap waits for children until body ends, and returns its exit status, or 128
// and the signal.
func reap(body int) int {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 125
		case pid == body && ws.Exited():
			return ws.ExitStatus()
		case pid == body && ws.Signaled():
			return 128 + int(ws.Signal())
		}
	}
}
