package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/accounts"
	"github.com/slashrun/slashrun/internal/child"
	"github.com/slashrun/slashrun/internal/entry"
	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/linux"
)

// run makes everything ready and becomes the command. It returns only where it
// does not.
func (x *execRun) run(parent context.Context) int {
	name := "the command"
	if len(x.command) > 0 {
		name = Quote(x.command[0])
	}
	ctx, stop, err := x.hold(parent)
	if err != nil {
		return x.notRun(err)
	}
	umask := linux.Umask(0)
	res, err := x.prepare(ctx)
	if err == nil {
		err = ctx.Err() // before the signals are given back
	}
	stop()
	linux.Umask(umask)
	if sig := x.ending(); sig != 0 {
		x.env.Errorf("exec: stopped by signal %d (%v) before %s was started", int(sig), sig, name)
		return child.StatusSignalled + int(sig)
	}
	switch {
	case errors.Is(err, context.Canceled):
		x.env.Errorf("exec: stopped by a signal before %s was started", name)
		return child.StatusSignalled + int(syscall.SIGTERM)
	case err != nil:
		return x.fail("%v; %s was not started", err, name)
	}
	res.Without = append(res.Without, x.unknown...)
	if err := x.keptGroups(res); err != nil {
		return x.fail("%v; %s was not started", err, name)
	}
	if x.o.DryRun {
		return x.printPlan(res)
	}
	if len(res.Without) > 0 {
		x.env.Errorf("exec: went on without: %s", Quote(x.without(res.Without)))
		if x.strict {
			return x.fail("%s was not started, because of --strict", name)
		}
	}
	return x.become(environment(x.env.Environ, res))
}

// hold makes sure that no signal is lost in the preparation: an init forwards what
// comes, and ctx ends where it would end this process. By default that is so
// without any doing; only to the first process of a namespace a signal without a
// handler does nothing.
func (x *execRun) hold(parent context.Context) (ctx context.Context, stop func(), err error) {
	if x.o.DryRun || !x.init && os.Getpid() != 1 {
		ctx, stop = interruptible(parent)
		return ctx, stop, nil
	}
	ctx, cancel := context.WithCancel(parent)
	o := child.Options{Group: x.group, Report: func(err error) { x.env.Warnf("exec: %v", err) }}
	if !x.init {
		o.Caught = func(sig syscall.Signal) {
			if ends(sig) {
				cancel()
			}
		}
	}
	x.held, err = child.Hold(x.found, o)
	return ctx, cancel, err
}

// ending returns a signal that ends this process in place of the command, 0 for
// none.
func (x *execRun) ending() syscall.Signal {
	if x.held == nil || x.init {
		return 0
	}
	for _, sig := range x.held.Pending() {
		if ends(sig) {
			return sig
		}
	}
	return 0
}

func ends(sig syscall.Signal) bool {
	return sig == syscall.SIGTERM || sig == syscall.SIGINT || sig == syscall.SIGHUP || sig == syscall.SIGQUIT
}

// without is the one line's list of what could not be done.
func (x *execRun) without(list []string) string {
	const most = 5
	more := ""
	if len(list) > most && !x.verbose {
		more = fmt.Sprintf("; and %d more, which --verbose tells", len(list)-most)
		list = list[:most]
	}
	return strings.Join(list, "; ") + more
}

func (x *execRun) prepare(ctx context.Context) (*entry.Result, error) {
	root, err := inroot.Open("")
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := x.lookUpUser(root); err != nil {
		return nil, err
	}
	x.o.Root, x.o.Getenv = root, x.env.LookupEnv
	if x.o.Systemd = x.isSystemd(root); x.o.Systemd && x.init {
		return nil, errors.New("systemd must be PID 1 itself: leave --init out")
	}
	if len(x.tmpfiles) > 0 {
		x.o.Tmpfiles = x.applyTmpfiles
	}
	if x.verbose && !x.o.DryRun {
		x.o.Told = x.told
	}
	return entry.Run(ctx, x.o)
}

// lookUpUser finds whom --user names.
func (x *execRun) lookUpUser(root *inroot.Root) (err error) {
	if x.user == "" {
		return nil
	}
	x.as, err = child.LookupUser(accounts.System(root, accounts.DefaultGetent()), x.user)
	if err != nil {
		return fmt.Errorf("--user: %w", err)
	}
	x.o.User = &entry.User{UID: x.as.UID, GID: x.as.GID}
	return nil
}

// keptGroups adds to what could not be done the groups that stay.
func (x *execRun) keptGroups(res *entry.Result) error {
	if x.as == nil {
		return nil
	}
	groups, err := x.as.KeptGroups()
	if err == nil && groups != nil {
		res.Without = append(res.Without, fmt.Sprintf("dropping the supplementary groups %v, which the container gave its user: that takes root", groups))
	}
	return err
}

// isSystemd says whether the command is systemd as an init, by where its links
// lead: /sbin/init of a distribution with systemd, and systemd itself.
func (x *execRun) isSystemd(root *inroot.Root) bool {
	if os.Getpid() != 1 || len(x.command) == 0 {
		return false
	}
	paths := []string{x.command[0]}
	if name := x.command[0]; name == "init" || name == "systemd" {
		paths = nil
		for _, dir := range filepath.SplitList(x.env.Getenv("PATH")) {
			paths = append(paths, dir+"/"+name)
		}
	}
	for _, path := range paths {
		if !strings.HasPrefix(path, "/") {
			continue
		}
		at, err := root.Resolve(path)
		if err == nil && at.Exists() {
			at.Close()
			return strings.HasSuffix(at.Path, "/systemd/systemd")
		}
	}
	return false
}

// told tells an act with its reason.
func (x *execRun) told(s entry.Step) {
	text := s.Text
	if s.Why != "" {
		text += ": " + s.Why
	}
	fmt.Fprintf(x.env.Stderr, "%s: exec: %s\n", x.env.Prog, Quote(text))
}

// printPlan is the result of a dry run.
func (x *execRun) printPlan(res *entry.Result) int {
	var err error
	if x.json {
		e := json.NewEncoder(x.env.Stdout)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		err = e.Encode(struct {
			*entry.Result
			Command []string `json:"command,omitempty"`
		}{res, x.command})
	} else {
		var b strings.Builder
		for _, s := range res.Steps {
			if !s.Left {
				b.WriteString("would ")
			}
			b.WriteString(Quote(s.Text))
			if s.Why != "" {
				b.WriteString(": " + Quote(s.Why))
			}
			b.WriteByte('\n')
		}
		for _, kv := range res.Env {
			b.WriteString("would set " + Quote(kv) + "\n")
		}
		for _, w := range res.Without {
			b.WriteString("cannot: " + Quote(w) + "\n")
		}
		if len(x.command) > 0 {
			b.WriteString("would become " + Quote(strings.Join(x.command, " ")) + "\n")
		}
		_, err = x.env.Stdout.Write([]byte(b.String()))
	}
	if err != nil {
		return x.fail("cannot write the output: %v", err)
	}
	return ExitOK
}

// environment is what the command gets.
func environment(environ []string, res *entry.Result) []string {
	if len(res.Env) == 0 && len(res.Unset) == 0 {
		return environ
	}
	drop := map[string]bool{}
	for _, name := range res.Unset {
		drop[name] = true
	}
	for _, kv := range res.Env {
		name, _, _ := strings.Cut(kv, "=")
		drop[name] = true
	}
	var out []string
	for _, kv := range environ {
		if name, _, _ := strings.Cut(kv, "="); !drop[name] {
			out = append(out, kv)
		}
	}
	return append(out, res.Env...)
}

// become hands this process over to the command: as its init, or by becoming it.
func (x *execRun) become(environ []string) int {
	c := child.Command{
		Args: x.command, Env: environ, User: x.as, Found: x.found, NoNewPrivs: x.noNewPrivs, DropBounding: x.dropBounding,
	}
	if x.as != nil {
		c.Env = x.as.Environ(c.Env)
	}
	if !x.init {
		return x.notRun(child.Become(c))
	}
	status, err := x.held.Run(c)
	if err != nil {
		return x.notRun(err)
	}
	return status
}

// notRun tells why the command does not run.
func (x *execRun) notRun(err error) int {
	x.env.Errorf("exec: %v", err)
	var e *child.Error
	if errors.As(err, &e) {
		return e.Status
	}
	return exitExecFailed
}
