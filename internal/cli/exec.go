package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/slashrun/slashrun/internal/child"
	"github.com/slashrun/slashrun/internal/entry"
	"github.com/slashrun/slashrun/internal/getopt"
)

// Exit codes of exec, as env(1) and container runtimes have them.
const (
	exitExecFailed   = child.StatusFailed
	exitExecNotRun   = child.StatusNotExecutable
	exitExecNotFound = child.StatusNotFound
)

func execCommand() *Command {
	return &Command{
		Name:    "exec",
		Summary: "make /run ready in a container, then become its command",
		Args:    []string{"[OPTION]... [--] COMMAND [ARGUMENT]..."},
		Doc: `An image's entry point. Makes /run right: a new tmpfs with what the image has
there where mounting is allowed, else as it is; mounts below it stay. Applies
tmpfiles.d of the image; removes sockets, FIFOs, PID files and locks that are
proven to be of an earlier run. Then it becomes COMMAND, which is PID 1 and gets
its signals.

  ENTRYPOINT ["slashrun", "exec", "--"]
  ENTRYPOINT ["slashrun", "exec", "--unit=nginx", "--"]
  ENTRYPOINT ["slashrun", "exec", "--user=app", "--stale=/app/tmp/pids/*", "--"]
  slashrun exec --dry-run --json -- true    what it would do here, and why

What cannot be done here (no root, a read-only file system) is told in one line
on standard error, and COMMAND starts. What was asked for with an option and
cannot be done ends it with 125; with --strict everything does.

Where COMMAND is systemd, /run is left to it. Each option is a variable too,
which a manifest can set: SLASHRUN_EXEC_DRY_RUN=yes is --dry-run. The command
line wins. COMMAND does not get these variables.`,
		Flags: execFlags,
		Exits: []Exit{
			{ExitOK, "and every other: COMMAND's own"},
			{exitExecFailed, "slashrun failed, or bad usage: COMMAND was not started"},
			{exitExecNotRun, "COMMAND was found and cannot be run"},
			{exitExecNotFound, "COMMAND was not found"},
			{128, "plus the signal's number: a signal ended the preparation"},
		},
		Run: runExec,
	}
}

// execOptions is the one table of options; help, completion and the variables are
// made of it.
var execOptions = []getopt.Option{
	{Long: "run", Arg: getopt.RequiredArg, ValueName: "MODE", Help: "auto (the default), tmpfs (or fail), in-place (never mount)"},
	{Long: "size", Arg: getopt.RequiredArg, ValueName: "SIZE", Help: "size of a tmpfs on /run (default 20% of the memory)"},
	{Long: "tmpfiles", Arg: getopt.RequiredArg, ValueName: "WHAT", Help: "apply lines for run (the default: below /run), all, none, or PATH[:PATH]..."},
	{Long: "unit", Arg: getopt.RequiredArg, ValueName: "NAME", Help: "make the RuntimeDirectory= of this service, as its User=; several times, or NAME:NAME"},
	{Long: "user", Arg: getopt.RequiredArg, ValueName: "USER", Help: "run COMMAND as NAME, UID, NAME:GROUP or UID:GID, with nothing of root left"},
	{Long: "no-new-privs", Help: "nothing that COMMAND executes gains privileges (set-user-ID, capabilities)"},
	{Long: "drop-bounding", Help: "empty the capability bounding set"},
	{Long: "init", Help: "stay as PID 1: forward signals, reap, return COMMAND's status"},
	{Long: "group", Help: "with --init: signals go to COMMAND's whole process group"},
	{Long: "stale", Arg: getopt.RequiredArg, ValueName: "GLOB", Help: "also remove what matches and is proven stale; several times, or GLOB:GLOB"},
	{Long: "exclusive", Arg: getopt.RequiredArg, ValueName: "PATH", Help: "nobody else uses this directory: what is older than this run is stale; several times"},
	{Long: "keep-stale", Help: "remove nothing, below /run neither"},
	{Long: "strict", Help: "do not start COMMAND if anything could not be done"},
	{Long: "dry-run", Short: 'n', Help: "print what would be done, and do nothing, not even COMMAND"},
	{Long: "json", Help: "with --dry-run: print it as JSON"},
	{Long: "verbose", Short: 'v', Help: "tell each act on standard error, and why"},
	{Long: "help", Short: 'h', Help: "print this help"},
}

func execFlags() []Flag {
	var flags []Flag
	for _, o := range execOptions {
		f := Flag{Long: o.Long, Short: byte(o.Short), Help: o.Help, Arg: o.ValueName, Files: o.ValueName == "PATH"}
		switch o.Long {
		case "run":
			f.Values = []string{string(entry.Auto), string(entry.Tmpfs), string(entry.InPlace)}
		case "tmpfiles":
			f.Values = []string{"run", "all", "none"}
		}
		flags = append(flags, f)
	}
	return flags
}

// execRun is a command line of exec.
type execRun struct {
	env      *Env
	o        entry.Options
	command  []string
	tmpfiles []string // prefixes; nil for none, "/" for all
	strict   bool
	json     bool
	verbose  bool

	unknown []string // variables

	found        child.Found
	user         string
	as           *child.User // whom user names
	noNewPrivs   bool
	dropBounding bool
	init, group  bool
	held         *child.Init // what catches signals, unless nil
}

func runExec(ctx context.Context, env *Env, args []string) int {
	x := &execRun{env: env, tmpfiles: []string{"/run"}}
	x.o.Mode = entry.Auto
	var err error
	if x.found, err = child.Find(); err != nil {
		return x.fail("%v", err)
	}
	environ, err := x.variables()
	if err != nil {
		return x.fail("%v", err)
	}
	p := getopt.New(execOptions, args)
	p.StopAtOperand = true
	given := map[string]bool{}
	for p.Next() {
		value, _ := p.Value()
		name := p.Option().Long
		if name == "help" {
			return env.Help()
		}
		if err := x.option(name, value, !given[name]); err != nil {
			return x.fail("--%s: %v", name, err)
		}
		given[name] = true
	}
	if err := p.Err(); err != nil {
		return x.fail("%v", err)
	}
	x.command = p.Operands()
	if msg := x.conflict(); msg != "" {
		return x.fail("%s", msg)
	}
	env.Environ = environ
	return x.run(ctx)
}

// fail tells why the command is not started.
func (x *execRun) fail(format string, args ...any) int {
	x.env.Errorf("exec: "+format, args...)
	return exitExecFailed
}

// option sets one option. first says that what it had (by a variable) no longer
// counts.
func (x *execRun) option(name, value string, first bool) (err error) {
	switch name {
	case "run":
		x.o.Mode, err = entry.ParseMode(value)
	case "size":
		var n *uint64
		if n, err = parseCount(value); err == nil {
			x.o.Size = *n
		}
	case "tmpfiles":
		x.tmpfiles, err = parseTmpfilesScope(value)
		x.o.TmpfilesOnHost = true
	case "unit":
		if first {
			x.o.Units = nil
		}
		x.o.Units = append(x.o.Units, strings.Split(value, ":")...)
	case "user":
		x.user = value
	case "no-new-privs":
		x.noNewPrivs = true
	case "drop-bounding":
		x.dropBounding = true
	case "init":
		x.init = true
	case "group":
		x.group = true
	case "stale":
		x.o.Stale, err = appendPaths(x.o.Stale, value, first)
	case "exclusive":
		x.o.Exclusive, err = appendPaths(x.o.Exclusive, value, first)
	case "keep-stale":
		x.o.KeepStale = true
	case "strict":
		x.strict = true
	case "dry-run":
		x.o.DryRun = true
	case "json":
		x.json = true
	case "verbose":
		x.verbose = true
	}
	return err
}

// appendPaths adds the absolute paths of a list that is joined by ":".
func appendPaths(to []string, value string, first bool) ([]string, error) {
	if first {
		to = nil
	}
	for path := range strings.SplitSeq(value, ":") {
		if !strings.HasPrefix(path, "/") {
			return nil, fmt.Errorf("%s is not an absolute path", Quote(path))
		}
		to = append(to, path)
	}
	return to, nil
}

// parseTmpfilesScope reads which lines of tmpfiles.d are applied.
func parseTmpfilesScope(s string) ([]string, error) {
	switch s {
	case "run":
		return []string{"/run"}, nil
	case "all":
		return []string{"/"}, nil
	case "none":
		return nil, nil
	}
	list := strings.Split(s, ":")
	for _, path := range list {
		if !strings.HasPrefix(path, "/") {
			return nil, fmt.Errorf("%s is neither run, all or none nor an absolute path", Quote(path))
		}
	}
	return list, nil
}

// conflict says what is wrong with the options together.
func (x *execRun) conflict() string {
	switch {
	case len(x.command) == 0 && !x.o.DryRun:
		return "which command? put it behind --"
	case len(x.command) > 0 && x.command[0] == "":
		return "the command is empty"
	case x.group && !x.init:
		return "--group goes with --init"
	case x.json && !x.o.DryRun:
		return "--json goes with --dry-run"
	case x.o.KeepStale && len(x.o.Stale) > 0:
		return "--keep-stale and --stale contradict each other"
	case x.o.Mode == entry.InPlace && x.o.Size != 0:
		return "--size is for a tmpfs, which --run=in-place does not make"
	}
	return ""
}
