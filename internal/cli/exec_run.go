package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/entry"
	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/linux"
)

// run makes everything ready and becomes the command. It returns only where it
// does not.
func (x *execRun) run(parent context.Context) int {
	path, code := "", ExitOK
	if len(x.command) > 0 {
		// First: without the command nothing is to be changed.
		if path, code = x.find(x.command[0]); path == "" {
			return code
		}
	}
	umask := linux.Umask(0)
	ctx, stop := interruptible(parent)
	res, err := x.prepare(ctx, path)
	if err == nil {
		err = ctx.Err() // before the signals are given back
	}
	stop()
	linux.Umask(umask)
	switch {
	case errors.Is(err, context.Canceled):
		x.env.Errorf("exec: stopped by a signal before the command was started")
		return 128 + int(syscall.SIGTERM)
	case err != nil:
		return x.fail("%v; %s was not started", err, Quote(filepath.Base(path)))
	}
	if x.o.DryRun {
		return x.printPlan(res)
	}
	if len(res.Without) > 0 {
		x.env.Errorf("exec: went on without: %s", strings.Join(res.Without, "; "))
		if x.strict {
			return x.fail("%s was not started, because of --strict", Quote(filepath.Base(path)))
		}
	}
	return x.become(path, environment(x.env.Environ, res))
}

func (x *execRun) prepare(ctx context.Context, path string) (*entry.Result, error) {
	root, err := inroot.Open("")
	if err != nil {
		return nil, err
	}
	defer root.Close()
	x.o.Root = root
	x.o.Systemd = os.Getpid() == 1 && isSystemd(root, path)
	if len(x.tmpfiles) > 0 {
		x.o.Tmpfiles = x.applyTmpfiles
	}
	if x.verbose && !x.o.DryRun {
		x.o.Told = x.told
	}
	return entry.Run(ctx, x.o)
}

// isSystemd says whether a program is systemd as an init, by where its links lead:
// /sbin/init of a distribution with systemd, and systemd itself.
func isSystemd(root *inroot.Root, path string) bool {
	if path == "" {
		return false
	}
	at, err := root.Resolve(path)
	if err != nil || !at.Exists() {
		return false
	}
	at.Close()
	return strings.HasSuffix(at.Path, "/systemd/systemd")
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

// find looks for the command as execvp(3) does; no path means that it cannot be
// run, with the exit code.
func (x *execRun) find(name string) (path string, code int) {
	if strings.Contains(name, "/") {
		return name, ExitOK // execve(2) tells
	}
	list, ok := x.env.LookupEnv("PATH")
	if !ok {
		list = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	code = exitExecNotFound
	for _, dir := range filepath.SplitList(list) {
		p := filepath.Join("/", dir, name)
		st, err := os.Stat(p)
		if err != nil || st.IsDir() {
			continue
		}
		if st.Mode()&0o111 != 0 {
			return p, ExitOK
		}
		code = exitExecNotRun
	}
	x.env.Errorf("exec: %s: not found on PATH", Quote(name))
	return "", code
}

// become runs the command in this process. It returns where that fails.
func (x *execRun) become(path string, environ []string) int {
	err := syscall.Exec(path, x.command, environ)
	x.env.Errorf("exec: cannot run %s: %v", Quote(path), err)
	if errors.Is(err, fs.ErrNotExist) {
		return exitExecNotFound
	}
	return exitExecNotRun
}
