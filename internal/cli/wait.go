package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/accounts"
	"github.com/slashrun/slashrun/internal/child"
	"github.com/slashrun/slashrun/internal/condition"
	"github.com/slashrun/slashrun/internal/getopt"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/timespan"
)

// Exit codes of wait: those of timeout(1), and its own for bad usage.
const (
	exitWaitUsage   = 2
	exitWaitTimeout = 124
	exitWaitFailed  = 125
)

func waitCommand() *Command {
	return &Command{
		Name:    "wait",
		Summary: "wait until sockets, files, locks, processes or ports are ready",
		Args:    []string{"[OPTION]... CONDITION... [-- COMMAND [ARGUMENT]...]"},
		Doc: `Waits until all CONDITIONs hold at one time, or with --any one of them, and then
becomes COMMAND if there is one. It sleeps until the kernel tells of a change,
and looks every so often only where the kernel tells nothing.

  path:PATH        something is there (links are followed)
  gone:PATH        nothing is there, not even a link
  listen:PATH      a unix socket on which somebody listens; nobody is woken
  connect:PATH     a unix socket that accepts a connection
  tcp:HOST:PORT    a port that accepts a connection; tcp:[::1]:80
  lock:PATH        nobody holds a lock on it; no lock is taken
  pidfile:PATH     a PID file whose process lives, proven to be the one it means
  user:NAME        the runtime directory of a user, /run/user/UID

listen:@NAME and connect:@NAME are abstract sockets.

  slashrun wait --timeout=1min tcp:db:5432 -- /app/serve
  slashrun wait listen:/run/dbus/system_bus_socket path:/dev/dri/card0
  slashrun wait --any gone:/run/maintenance path:/run/override
  slashrun wait --timeout=0 listen:/run/app.sock && echo it is up`,
		Flags: waitFlags,
		Exits: []Exit{
			{ExitOK, "the conditions hold; with a COMMAND its own status"},
			{exitWaitUsage, "bad usage"},
			{exitWaitTimeout, "the time is over; the last lines say what does not hold and why"},
			{exitWaitFailed, "it cannot be found out here, or no descriptors are left"},
			{exitExecNotRun, "COMMAND was found and cannot be run"},
			{exitExecNotFound, "COMMAND was not found"},
		},
		Run: runWait,
	}
}

var waitOptions = []getopt.Option{
	{Long: "timeout", Short: 't', Arg: getopt.RequiredArg, ValueName: "TIME", Help: "wait no longer: 30, 1min 30s, 500ms; 0 looks once (default: no end)"},
	{Long: "any", Help: "wait for one of the conditions, not for all"},
	{Long: "json", Help: "print how it ended as JSON"},
	{Long: "quiet", Short: 'q', Help: "no word on what does not hold, and no progress"},
	{Long: "verbose", Short: 'v', Help: "tell when a condition begins or ends to hold"},
	{Long: "exclusive", Arg: getopt.RequiredArg, ValueName: "DIR", Help: "lock:, pidfile: nobody outside of this container uses DIR"},
	{Long: "help", Short: 'h', Help: "print this help"},
}

func waitFlags() []Flag {
	var flags []Flag
	for _, o := range waitOptions {
		flags = append(flags, Flag{Long: o.Long, Short: byte(o.Short), Help: o.Help, Arg: o.ValueName, Files: o.ValueName == "DIR"})
	}
	return flags
}

// waitRun is a command line of wait.
type waitRun struct {
	env     *Env
	found   child.Found
	list    []condition.Condition
	command []string
	o       condition.Options
	within  string // the timeout as it was given
	json    bool
	quiet   bool
	verbose bool

	progress waitProgress
}

func runWait(ctx context.Context, env *Env, args []string) int {
	r := &waitRun{env: env}
	var err error
	if r.found, err = child.Find(); err != nil {
		return r.fail(exitWaitFailed, "%v", err)
	}
	r.o = condition.Options{Timeout: condition.Forever, UserDir: "/run/user", Getent: accounts.DefaultGetent()}
	own := args
	for i, a := range args {
		if a == "--" {
			if own, r.command = args[:i], args[i+1:]; len(r.command) == 0 {
				return r.fail(exitWaitUsage, "which command? there is none behind --")
			}
			break
		}
	}
	p := getopt.New(waitOptions, own)
	for p.Next() {
		value, _ := p.Value()
		switch p.Option().Long {
		case "timeout":
			if err := r.timeout(value); err != nil {
				return r.fail(exitWaitUsage, "--timeout: %v", err)
			}
		case "any":
			r.o.Any = true
		case "json":
			r.json = true
		case "quiet":
			r.quiet = true
		case "verbose":
			r.verbose = true
		case "exclusive":
			if !strings.HasPrefix(value, "/") {
				return r.fail(exitWaitUsage, "--exclusive: %s is not an absolute path", Quote(value))
			}
			r.o.Exclusive = append(r.o.Exclusive, value)
		case "help":
			return env.Help()
		}
	}
	if err := p.Err(); err != nil {
		return r.fail(exitWaitUsage, "%v", err)
	}
	if msg := r.operands(p.Operands()); msg != "" {
		return r.fail(exitWaitUsage, "%s", msg)
	}
	return r.run(ctx)
}

func (r *waitRun) fail(code int, format string, args ...any) int {
	r.env.Errorf("wait: "+format, args...)
	return code
}

func (r *waitRun) timeout(value string) error {
	span, err := timespan.Parse(value)
	if err != nil {
		return err
	}
	r.within = span.String()
	var finite bool
	if r.o.Timeout, finite = span.Duration(); !finite {
		r.o.Timeout = condition.Forever
	}
	return nil
}

// operands reads the conditions, and returns what is wrong.
func (r *waitRun) operands(list []string) string {
	switch {
	case len(list) == 0:
		return `wait for what? "slashrun help wait" lists the conditions`
	case r.json && len(r.command) > 0:
		return "--json and a command exclude each other: standard output is the command's"
	case r.quiet && r.verbose:
		return "--quiet and --verbose contradict each other"
	}
	for _, text := range list {
		c, err := condition.Parse(text)
		if err != nil {
			return err.Error()
		}
		r.list = append(r.list, c)
	}
	return ""
}

func (r *waitRun) run(parent context.Context) int {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	r.progress.env, r.progress.start = r.env, time.Now()
	show := !r.quiet && Terminal(r.env.Stderr)
	if show {
		r.o.Tick = r.progress.show
	}
	// A signal ends this process by itself, at once. But to the first process of a
	// namespace one without a handler does nothing, and a line that is half written
	// on a terminal is cleared first.
	if show || os.Getpid() == 1 {
		r.catch(cancel)
	} else if !signal.Ignored(syscall.SIGINT) {
		_ = linux.DefaultSignal(syscall.SIGQUIT) // for which Go would print its goroutines
	}
	r.o.Note = func(text string) {
		if !r.quiet {
			r.progress.clear()
			r.env.Warnf("wait: %s: looking every so often instead", Quote(text))
		}
	}
	if r.verbose {
		r.o.Changed = r.changed
	}
	rep, err := condition.Wait(ctx, r.list, r.o)
	r.progress.clear()
	switch {
	case r.progress.signal() != 0:
		return endBySignal(r.progress.signal())
	case err != nil:
		return r.fail(exitWaitFailed, "%v", err)
	}
	return r.end(rep)
}

// catch has SIGINT and the like end the wait.
func (r *waitRun) catch(cancel func()) {
	list := []os.Signal{syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		list = append(list, syscall.SIGHUP)
	}
	if !signal.Ignored(syscall.SIGINT) { // and with it SIGQUIT, of which Go does not know: what a shell runs with &
		list = append(list, syscall.SIGINT, syscall.SIGQUIT)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, list...)
	go func() {
		if sig, ok := (<-signals).(syscall.Signal); ok {
			r.progress.caught.Store(int32(sig))
			cancel()
		}
	}()
}

// endBySignal ends the process by the signal that ended the wait, so that a shell
// sees it; the first process of a namespace stays alive and exits with its number.
func endBySignal(sig syscall.Signal) int {
	signal.Reset(sig)
	if linux.DefaultSignal(sig) == nil {
		syscall.Kill(os.Getpid(), sig)
	}
	return child.StatusSignalled + int(sig)
}

// changed tells that a condition begins or ends to hold.
func (r *waitRun) changed(c condition.Result, after time.Duration) {
	r.progress.clear()
	verb := "holds"
	if !c.Holds {
		verb = "no longer holds"
	}
	fmt.Fprintf(r.env.Stderr, "%s: wait: %s %s after %.1f s: %s\n", r.env.Prog, Quote(c.Condition), verb, after.Seconds(), Quote(c.Why))
}

// end says how it ended, and becomes the command.
func (r *waitRun) end(rep *condition.Report) int {
	code := ExitOK
	switch {
	case rep.Never:
		code = exitWaitFailed
	case rep.TimedOut:
		code = exitWaitTimeout
	}
	if r.json {
		if out := r.env.Output(func(w *bufio.Writer) {
			e := json.NewEncoder(w)
			e.SetEscapeHTML(false)
			e.SetIndent("", "  ")
			e.Encode(rep)
		}); out != ExitOK {
			return exitWaitFailed
		}
	} else if code != ExitOK && !r.quiet {
		r.failed(rep)
	}
	if code != ExitOK || len(r.command) == 0 {
		return code
	}
	if os.Getpid() != 1 { // whose runtime would exit with 2 for a signal that the kernel does not let kill it
		signal.Reset()
	}
	if sig := r.progress.signal(); sig != 0 { // it came too late for the wait
		return endBySignal(sig)
	}
	err := child.Become(child.Command{Args: r.command, Env: r.env.Environ, Found: r.found})
	r.env.Errorf("wait: %v", err)
	var e *child.Error
	if errors.As(err, &e) {
		return e.Status
	}
	return exitWaitFailed
}

// failed says what does not hold, a line for each.
func (r *waitRun) failed(rep *condition.Report) {
	head := "given up"
	switch {
	case rep.TimedOut && r.o.Timeout == 0:
		head = "not ready"
	case rep.TimedOut:
		head = "not ready after " + r.within
	}
	const most = 20
	n := 0
	for _, c := range rep.Conditions {
		if c.Holds {
			continue
		}
		if n++; n > most {
			continue
		}
		r.env.Errorf("wait: %s: %s: %s", head, Quote(c.Condition), Quote(c.Why))
	}
	if n > most {
		r.env.Errorf("wait: %s: and %d more conditions", head, n-most)
	}
}
