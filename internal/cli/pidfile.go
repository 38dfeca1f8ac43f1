package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/child"
	"github.com/slashrun/slashrun/internal/getopt"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/pidfile"
)

// Exit codes of pidfile. 3 and 4 are what an init script's "status" returns (LSB);
// its 1 and 2, for a dead process, are bad usage and failure here.
const (
	exitPIDFailed     = 2
	exitPIDNotRunning = 3
	exitPIDUnknown    = 4
	exitPIDNoFile     = 5
	exitPIDRefused    = 6
	exitPIDHeld       = 7
)

func pidfileCommand() *Command {
	return &Command{
		Name:    "pidfile",
		Summary: "check, signal and write PID files, with proof",
		Args: []string{"check [OPTION]... FILE", "signal [-s SIGNAL] [OPTION]... FILE",
			"write [--pid=PID] FILE", "write FILE -- COMMAND [ARGUMENT]..."},
		Doc: `check tells whether the process that FILE names runs, and is not another one
that has its number now. It reads the PID files of all programs.

signal sends SIGNAL (TERM) to that process, held by a pidfd, or to nobody. FILE
and every directory on its way must be root's or yours, and writable for nobody
else; the process must be proven to be the one that FILE was written for.

write FILE -- COMMAND locks FILE, writes the PID to it and becomes COMMAND,
which holds the lock for as long as it lives: a second one does not start. A
file that a dead process left is taken over. The exit status is COMMAND's then.
write FILE writes the PID of whoever called it (a script), or of --pid, with
what proves it. Nobody holds such a file: it keeps no second instance from
starting.

  slashrun pidfile check /run/nginx.pid && echo it runs
  slashrun pidfile signal -s HUP /run/nginx.pid
  slashrun pidfile write /run/food.pid -- food --foreground
  slashrun pidfile check --json /run/food.pid`,
		Flags: pidfileFlags,
		Words: []string{"check", "signal", "write"},
		Exits: []Exit{
			{ExitOK, "check: it runs; signal: sent; write: written"},
			{ExitUsage, "bad usage, or the output could not be written"},
			{exitPIDFailed, "failed; nothing was signalled, and FILE is as it was"},
			{exitPIDNotRunning, "it is proven that the process does not run"},
			{exitPIDUnknown, "it cannot be told whether it runs, or FILE is no PID file; nothing was done"},
			{exitPIDNoFile, "there is no FILE"},
			{exitPIDRefused, "signal: others can have written FILE, or there are no pidfds; nothing was sent"},
			{exitPIDHeld, "write: another process runs and holds FILE"},
			{exitExecNotRun, "write: COMMAND was found and cannot be run"},
			{exitExecNotFound, "write: COMMAND was not found"},
		},
		Run: runPidfile,
	}
}

var pidfileOptions = []getopt.Option{
	{Long: "signal", Short: 's', Arg: getopt.RequiredArg, ValueName: "SIGNAL", Help: "what to send: a name (HUP, SIGHUP) or a number; 0 only asks"},
	{Long: "pid", Arg: getopt.RequiredArg, ValueName: "PID", Help: "write: the process to write, not the one that called"},
	{Long: "json", Help: "check, signal: print what was found as JSON"},
	{Long: "verbose", Short: 'v', Help: "print the evidence"},
	{Long: "help", Short: 'h', Help: "print this help"},
}

func pidfileFlags() []Flag {
	var flags []Flag
	for _, o := range pidfileOptions {
		f := Flag{Long: o.Long, Short: byte(o.Short), Help: o.Help, Arg: o.ValueName}
		if o.Long == "signal" {
			f.Values = []string{"HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM", "CONT", "STOP", "WINCH"}
		}
		flags = append(flags, f)
	}
	return flags
}

// pidfileRun is a command line of pidfile.
type pidfileRun struct {
	env     *Env
	verb    string
	file    string
	command []string
	signal  string
	pid     string
	json    bool
	verbose bool
	sig     syscall.Signal
}

func runPidfile(_ context.Context, env *Env, args []string) int {
	r := &pidfileRun{env: env}
	own, command := args, []string(nil)
	for i, a := range args {
		if a == "--" {
			own, command = args[:i], args[i+1:]
			break
		}
	}
	p := getopt.New(pidfileOptions, own)
	for p.Next() {
		value, _ := p.Value()
		switch p.Option().Long {
		case "signal":
			r.signal = value
		case "pid":
			r.pid = value
		case "json":
			r.json = true
		case "verbose":
			r.verbose = true
		case "help":
			return env.Help()
		}
	}
	if err := p.Err(); err != nil {
		return env.Usagef("%v", err)
	}
	if msg := r.operands(p.Operands(), command); msg != "" {
		return env.Usagef("pidfile: %s", msg)
	}
	switch r.verb {
	case "check":
		return r.check()
	case "signal":
		return r.send()
	}
	return r.write()
}

// operands sorts what is no option, and returns what is wrong.
func (r *pidfileRun) operands(list, command []string) string {
	if len(list) == 0 {
		return "what? check, signal or write"
	}
	r.verb = list[0]
	rest := list[1:]
	if r.verb != "write" { // for which -- begins the command
		rest = append(rest[:len(rest):len(rest)], command...)
		command = nil
	}
	switch {
	case r.verb != "check" && r.verb != "signal" && r.verb != "write":
		return fmt.Sprintf("no %q here: check, signal or write", r.verb)
	case len(rest) == 0 || rest[0] == "":
		return r.verb + " takes the path of a PID file"
	case len(rest) > 1 && r.verb == "write":
		return fmt.Sprintf("write takes one FILE, got %q as well; a command goes behind --", rest[1])
	case len(rest) > 1:
		return fmt.Sprintf("%s takes one FILE, got %q as well", r.verb, rest[1])
	case r.signal != "" && r.verb != "signal":
		return "--signal goes with signal"
	case r.pid != "" && r.verb != "write":
		return "--pid goes with write"
	case r.pid != "" && len(command) > 0:
		return "--pid and a command exclude each other: the command's PID is written"
	case r.json && r.verb == "write":
		return "--json goes with check and signal"
	}
	r.file, r.command = rest[0], command
	return r.parseSignal()
}

func (r *pidfileRun) parseSignal() string {
	s := r.signal
	if s == "" {
		s = "TERM"
	}
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 { // SIGRTMAX
			return fmt.Sprintf("no signal has the number %d", n)
		}
		r.sig = syscall.Signal(n)
		return ""
	}
	r.sig = linux.SignalByName("SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG"))
	if r.sig == 0 {
		return fmt.Sprintf("no signal is called %q", s)
	}
	return ""
}

// fail tells an error of package pidfile and returns its exit code.
func (r *pidfileRun) fail(err error) int {
	r.env.Errorf("%s", r.text(err))
	return exitOfPIDError(err)
}

// text is the error with its path in front, once.
func (r *pidfileRun) text(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) && pe.Path == r.file {
		err = pe.Err
	}
	return Quote(r.file) + ": " + Quote(strings.TrimPrefix(err.Error(), r.file+": "))
}

func exitOfPIDError(err error) int {
	switch {
	case errors.Is(err, pidfile.ErrHeld):
		return exitPIDHeld
	case errors.Is(err, pidfile.ErrNotRunning):
		return exitPIDNotRunning
	case errors.Is(err, pidfile.ErrUntrusted), errors.Is(err, pidfile.ErrNoPidfd):
		return exitPIDRefused
	case errors.Is(err, pidfile.ErrUncertain), errors.Is(err, pidfile.ErrNoPIDFile):
		return exitPIDUnknown
	case errors.Is(err, fs.ErrNotExist):
		return exitPIDNoFile
	}
	return exitPIDFailed
}

func (r *pidfileRun) check() int {
	s, err := pidfile.Check(r.file)
	if err != nil {
		return r.fail(err)
	}
	code := map[pidfile.Verdict]int{pidfile.Live: ExitOK, pidfile.Stale: exitPIDNotRunning, pidfile.Unknown: exitPIDUnknown}[s.Verdict]
	if out := r.env.Output(func(w *bufio.Writer) { r.print(w, s, nil) }); out != ExitOK {
		return out
	}
	return code
}

// signalled is what signal --json adds.
type signalled struct {
	Signal int    `json:"signal"`
	Sent   bool   `json:"sent"`
	Error  string `json:"error,omitempty"`
}

// print writes what was found.
func (r *pidfileRun) print(w *bufio.Writer, s *pidfile.Status, sent *signalled) {
	if r.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.Encode(struct {
			*pidfile.Status
			*signalled
		}{s, sent})
		return
	}
	if r.verbose {
		for _, e := range s.Evidence {
			fmt.Fprintf(w, "%s: %s (%s)\n", Quote(s.Path), Quote(e.Text), e.Proof)
		}
	}
	if sent != nil {
		return
	}
	verdict := map[pidfile.Verdict]string{pidfile.Live: "runs", pidfile.Stale: "does not run", pidfile.Unknown: "cannot tell"}[s.Verdict]
	fmt.Fprintf(w, "%s: %s: %s\n", Quote(s.Path), verdict, Quote(s.Why()))
}

func (r *pidfileRun) send() int {
	tell := r.json || r.verbose
	s := &pidfile.Status{Path: r.file}
	if tell { // first: the process may be gone right after
		if found, err := pidfile.Check(r.file); err == nil {
			s = found
		}
	}
	p, err := pidfile.Find(r.file)
	if err == nil {
		defer p.Close()
		err = p.Signal(r.sig)
	}
	sent := &signalled{Signal: int(r.sig), Sent: err == nil && r.sig != 0}
	code := ExitOK
	if err != nil {
		sent.Error, code = r.text(err), r.fail(err)
	}
	if !tell {
		return code
	}
	out := r.env.Output(func(w *bufio.Writer) {
		r.print(w, s, sent)
		if err == nil && !r.json {
			fmt.Fprintf(w, "%s: sent %s to process %d (%s)\n", Quote(r.file), signalName(r.sig), p.PID(), Quote(p.Name()))
		}
	})
	if code == ExitOK {
		return out
	}
	return code
}

func signalName(sig syscall.Signal) string {
	if name := linux.SignalName(sig); name != "" {
		return name
	}
	return "signal " + strconv.Itoa(int(sig))
}

func (r *pidfileRun) write() int {
	if len(r.command) > 0 {
		return r.become()
	}
	pid, err := r.whose()
	if err != nil {
		return r.env.Usagef("pidfile: %v", err)
	}
	if err := pidfile.WriteFor(r.file, pid); err != nil {
		return r.fail(err)
	}
	if r.verbose {
		return r.env.Output(func(w *bufio.Writer) { fmt.Fprintf(w, "%s: names process %d; nobody holds it\n", Quote(r.file), pid) })
	}
	return ExitOK
}

// whose is the process that write names: the caller, unless --pid says otherwise.
// If the caller has ended our parent is another, init or a subreaper, which is not
// meant: that one is not of our session.
func (r *pidfileRun) whose() (int, error) {
	if r.pid != "" {
		pid, err := process.ParsePID(r.pid)
		if err != nil {
			return 0, fmt.Errorf("--pid %w", err)
		}
		return pid, nil
	}
	pid := os.Getppid()
	if pid == 0 {
		return 0, errors.New("whoever called is outside of this PID namespace; name a process with --pid")
	}
	ours, err1 := linux.Getsid(0)
	theirs, err2 := linux.Getsid(pid)
	if pid == 1 || err1 != nil || err2 != nil || ours != theirs {
		return 0, fmt.Errorf("our parent is process %d, which may not be who called; name a process with --pid", pid)
	}
	return pid, nil
}

// become holds the file and is the command from then on.
func (r *pidfileRun) become() int {
	found, err := child.Find()
	if err != nil {
		r.env.Errorf("%v", err)
		return exitPIDFailed
	}
	f, err := pidfile.Create(r.file)
	if err != nil {
		return r.fail(err)
	}
	if r.verbose {
		r.env.Output(func(w *bufio.Writer) { fmt.Fprintf(w, "%s: held by process %d\n", Quote(r.file), os.Getpid()) })
	}
	if err = f.KeepOnExec(); err == nil {
		err = child.Become(child.Command{Args: r.command, Env: r.env.Environ, Found: found})
	}
	f.Close() // nobody runs
	r.env.Errorf("%v", err)
	var failed *child.Error
	if errors.As(err, &failed) && failed.Status != child.StatusFailed {
		return failed.Status
	}
	return exitPIDFailed
}
