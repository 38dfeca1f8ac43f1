package vmtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/slashrun/slashrun/internal/testenv"
)

// frame is what follows "vmtest:" on the line of results.
type frame struct {
	Exit *int `json:"exit,omitempty"`
	// Report and Status are Run's: what the test sent, and the exit status of
	// the test binary.
	Report json.RawMessage `json:"report,omitempty"`
	Status *int            `json:"status,omitempty"`
	// File is a coverage file by its base name, and Data its content.
	File string `json:"file,omitempty"`
	Data []byte `json:"data,omitempty"`
	// Trouble is an error of the kit itself.
	Trouble string `json:"trouble,omitempty"`
}

const framePrefix = "vmtest:"

// runQEMU runs QEMU with args and the two serial lines and the monitor that tell
// what happens inside.
func runQEMU(ctx context.Context, dir string, args []string, sink func(string)) (*Result, error) {
	qemu, err := testenv.LookTool("qemu-system-x86_64")
	if err != nil {
		return nil, err
	}
	consoleR, consoleW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer consoleR.Close()
	resultR, resultW, err := os.Pipe()
	if err != nil {
		consoleW.Close()
		return nil, err
	}
	defer resultR.Close()
	monitor := filepath.Join(dir, "monitor")
	l, err := net.Listen("unix", monitor)
	if err != nil {
		consoleW.Close()
		resultW.Close()
		return nil, err
	}
	defer l.Close()
	args = append(args,
		"-chardev", "file,id=console,path=/dev/fd/3", "-serial", "chardev:console",
		"-chardev", "file,id=result,path=/dev/fd/4", "-serial", "chardev:result",
		"-chardev", "socket,id=monitor,path="+monitor, "-mon", "chardev=monitor,mode=control")
	var trouble bytes.Buffer
	cmd := exec.CommandContext(ctx, qemu, args...)
	cmd.ExtraFiles = []*os.File{consoleW, resultW}
	cmd.Stdout, cmd.Stderr = &trouble, &trouble
	release, err := startTied(cmd)
	defer release()
	consoleW.Close()
	resultW.Close()
	if err != nil {
		return nil, err
	}
	r := &Result{Exit: -1}
	var reason string
	var wg sync.WaitGroup
	wg.Go(func() {
		text, _ := io.ReadAll(consoleR)
		r.Console = strings.ReplaceAll(string(text), "\r\n", "\n")
	})
	wg.Go(func() { r.readResults(resultR, sink) })
	wg.Go(func() { reason = watchMonitor(l) })
	err = cmd.Wait()
	l.Close() // if QEMU never connected
	wg.Wait()
	for _, f := range r.frames {
		if f.Exit != nil {
			r.Exit = *f.Exit
		}
	}
	switch {
	case ctx.Err() != nil:
		r.End = TimedOut
	case err != nil:
		r.End, r.detail = Crashed, fmt.Sprintf("%v: %s", err, strings.TrimSpace(trouble.String()))
	case strings.Contains(r.Console, "Kernel panic - not syncing"):
		r.End = Panicked
	case reason == "guest-reset":
		r.End = Rebooted
	case reason == "guest-shutdown":
		r.End = PoweredOff
	default:
		r.End, r.detail = Crashed, fmt.Sprintf("reason %q: %s", reason, strings.TrimSpace(trouble.String()))
	}
	return r, nil
}

// readResults takes the guest's lines to its end. The line discipline of a tty
// makes \r\n of \n.
func (r *Result) readResults(in io.Reader, sink func(string)) {
	var out strings.Builder
	br := bufio.NewReaderSize(in, 1<<16)
	for {
		line, err := br.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		if text, ok := strings.CutPrefix(line, framePrefix); ok {
			var f frame
			if e := json.Unmarshal([]byte(text), &f); e != nil {
				f.Trouble = fmt.Sprintf("a frame that cannot be read: %v: %.200q", e, text)
			}
			r.frames = append(r.frames, f)
		} else if err == nil || line != "" {
			out.WriteString(line + "\n")
			if sink != nil {
				sink(line)
			}
		}
		if err != nil {
			r.Output = out.String()
			return
		}
	}
}

// watchMonitor speaks the QEMU Machine Protocol until the machine shuts down, and
// returns the reason that QEMU gives: "guest-shutdown", "guest-reset", ...
func watchMonitor(l net.Listener) (reason string) {
	c, err := l.Accept()
	if err != nil {
		return ""
	}
	defer c.Close()
	// Events come only after this command.
	if _, err := io.WriteString(c, `{"execute":"qmp_capabilities"}`+"\n"); err != nil {
		return ""
	}
	for dec := json.NewDecoder(c); ; {
		var event struct {
			Event string
			Data  struct{ Reason string }
		}
		if err := dec.Decode(&event); err != nil {
			return reason
		}
		if event.Event == "SHUTDOWN" && reason == "" {
			reason = event.Data.Reason
		}
	}
}

// startTied starts cmd so that it is killed when this process ends, in whatever
// way. The kernel sends the signal when the *thread* that forked ends, so a
// goroutine keeps one until release is called, after the command has ended.
func startTied(cmd *exec.Cmd) (release func(), err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- cmd.Start()
		<-ended
	}()
	return func() { close(ended) }, <-started
}
