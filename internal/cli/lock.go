package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/slashrun/slashrun/internal/child"
	"github.com/slashrun/slashrun/internal/flock"
	"github.com/slashrun/slashrun/internal/getopt"
)

// Exit codes of lock, which are flock(1)'s: those of sysexits.h.
const (
	exitLockHeld       = 1
	exitLockUsage      = 64 // EX_USAGE
	exitLockRefused    = 65 // EX_DATAERR
	exitLockNoFile     = 66 // EX_NOINPUT
	exitLockNotRun     = 69 // EX_UNAVAILABLE
	exitLockSystem     = 71 // EX_OSERR
	exitLockNotMade    = 73 // EX_CANTCREAT
	exitLockDistrusted = 77 // EX_NOPERM
)

func lockCommand() *Command {
	return &Command{
		Name:    "lock",
		Summary: "run a command under a lock, as flock does",
		Args: []string{"[OPTION]... FILE|DIRECTORY COMMAND [ARGUMENT]...", "[OPTION]... FILE|DIRECTORY -c SCRIPT",
			"[OPTION]... DESCRIPTOR", "--name=NAME [OPTION]... COMMAND [ARGUMENT]...", "list [OPTION]... [PATH]..."},
		Doc: `Takes a lock, runs COMMAND and gives the lock up: flock(1) of util-linux with
all of its options. FILE is made where it is missing, and left. A DESCRIPTOR is
one that the shell has open: the lock stays on it when this program ends.

Whoever has to wait keeps its place in the kernel's queue, also with -w and
--report. If FILE is removed or replaced meanwhile, the new one is locked.

  slashrun lock /run/backup.lock backup --all
  slashrun lock -n /run/backup.lock -c 'backup --all >/var/log/backup.log'
  slashrun lock --name=backup --report=60 backup --all
  slashrun lock --verbose -w 10 -E 75 /run/backup.lock backup --all

  (
    slashrun lock -n 9 || exit 1
    backup --all
  ) 9>/run/backup.lock

--name takes NAME in /run/lock for root (/run/slashrun/lock where that is not
safe) and in $XDG_RUNTIME_DIR for others, and refuses what others put there.
--fair has readers and writers wait in one queue; all who use the file must say
so.`,
		Flags: lockFlags,
		Files: true,
		Sub:   func() []*Command { return []*Command{lockListCommand()} },
		Exits: []Exit{
			{ExitOK, "the lock was taken, or COMMAND's own status, as every other"},
			{exitLockHeld, "another holds the lock (-n), or still did after -w; see -E"},
			{exitLockUsage, "bad usage"},
			{exitLockRefused, "the kernel refused the lock, or DESCRIPTOR is not open"},
			{exitLockNoFile, "FILE cannot be opened"},
			{exitLockNotRun, "COMMAND cannot be executed"},
			{exitLockSystem, "out of memory, descriptors or processes, or a -w that no clock can\ncount"},
			{exitLockNotMade, "FILE cannot be made: full or read-only file system"},
			{exitLockDistrusted, "--name: others can replace the file, or put it there"},
			{child.StatusSignalled, "plus the signal's number: a signal ended COMMAND"},
		},
		CalledAs: []string{"flock"},
		Run:      runLock,
	}
}

// lockOptions are flock(1)'s, and at the end ours, which are Whole so that every
// shortened form means what it means there.
var lockOptions = []getopt.Option{
	{Long: "shared", Short: 's', Help: "take a shared lock"},
	{Long: "exclusive", Short: 'x', Help: "take an exclusive lock (the default)"},
	{Short: 'e', Help: "the same"},
	{Long: "unlock", Short: 'u', Help: "give up the lock that is on DESCRIPTOR"},
	{Long: "nonblocking", Short: 'n', Help: "fail where another holds the lock, and do not wait"},
	{Long: "nb", Short: 'n', Help: "the same"},
	{Long: "timeout", Short: 'w', Arg: getopt.RequiredArg, ValueName: "SECONDS", Help: "fail after waiting for so long; 0 is -n"},
	{Long: "wait", Short: 'w', Arg: getopt.RequiredArg, ValueName: "SECONDS", Help: "the same"},
	{Long: "conflict-exit-code", Short: 'E', Arg: getopt.RequiredArg, ValueName: "NUMBER", Help: "exit status where the lock could not be had (1)"},
	{Long: "close", Short: 'o', Help: "do not hand the lock down to COMMAND: its children cannot keep it"},
	{Long: "no-fork", Short: 'F', Help: "become COMMAND, which holds the lock"},
	{Long: "fcntl", Help: "an open file description lock, fcntl(2), in place of flock(2)"},
	{Long: "start", Arg: getopt.RequiredArg, ValueName: "OFFSET", Help: "the first byte of an --fcntl lock (0); 1K is 1024"},
	{Long: "length", Arg: getopt.RequiredArg, ValueName: "NUMBER", Help: "how many bytes; 0, the default, is all that follow"},
	{Long: "verbose", Help: "say who holds the lock, and how long it took"},
	{Long: "help", Short: 'h', Help: "print this help"},
	{Long: "version", Short: 'V', Help: "print the version"},
	{Long: "name", Arg: getopt.RequiredArg, ValueName: "NAME", Whole: true, Help: "lock NAME in /run/lock, or $XDG_RUNTIME_DIR, in place of a FILE"},
	{Long: "fair", Whole: true, Help: "wait in one queue with all others who do"},
	{Long: "report", Arg: getopt.RequiredArg, ValueName: "SECONDS", Whole: true, Help: "while waiting, say who holds the lock, again and again"},
}

func lockFlags() []Flag {
	flags := []Flag{{Short: 'c', Arg: "SCRIPT", Help: "behind FILE: have the shell $SHELL run SCRIPT"}}
	for _, o := range lockOptions {
		f := Flag{Long: o.Long, Short: byte(o.Short), Help: o.Help, Arg: o.ValueName}
		if o.Long == "nb" || o.Long == "wait" { // the letter stands with the first name
			f.Short = 0
		}
		flags = append(flags, f)
	}
	return flags
}

// lockRun is a command line of lock.
type lockRun struct {
	env      *Env
	o        flock.Options
	unlock   bool
	noFork   bool
	close    bool
	verbose  bool
	conflict int           // the exit status of -E
	limit    time.Duration // of a wait
	noClock  error         // why limit cannot be counted
	every    time.Duration // of reports
	named    bool
	name     string
	file     string
	fd       int // unless file or name
	command  []string
	found    child.Found
	looks    looks
}

func runLock(ctx context.Context, env *Env, args []string) int {
	// Called as flock there is no list, and a file of that name is a file.
	if len(args) > 0 && args[0] == "list" && env.Prog == "slashrun" {
		return runLockList(ctx, env, args[1:])
	}
	if request, fd, ok := lookRequest(args); ok {
		return runLook(ctx, env, request, fd)
	}
	r := &lockRun{env: env, conflict: exitLockHeld, limit: flock.Forever, fd: -1}
	if len(args) == 0 {
		return r.usage("what? a file and a command, or a descriptor")
	}
	p := getopt.New(lockOptions, args)
	p.StopAtOperand = true
	for p.Next() {
		value, _ := p.Value()
		switch o := p.Option(); o.Long {
		case "help":
			return env.Help()
		case "version":
			return runVersion(ctx, env, nil)
		default:
			if msg := r.option(o, value); msg != "" {
				return r.usage("%s", msg)
			}
		}
	}
	if err := p.Err(); err != nil {
		var e *getopt.Error
		if errors.As(err, &e) && e.Name == "-c" {
			return r.usage("-c goes behind the file: FILE -c SCRIPT")
		}
		return r.usage("%v", err)
	}
	if msg := r.operands(p.Operands()); msg != "" {
		return r.usage("%s", msg)
	}
	return r.run()
}

func (r *lockRun) usage(format string, args ...any) int {
	r.env.Usagef("%s", visible(fmt.Sprintf(format, args...)))
	return exitLockUsage
}

// option takes in one option, and returns what is wrong with it.
func (r *lockRun) option(o *getopt.Option, value string) string {
	switch o.Short {
	case 's':
		r.o.Shared, r.unlock = true, false
	case 'x', 'e':
		r.o.Shared, r.unlock = false, false
	case 'u':
		r.unlock = true
	case 'n':
		r.o.NoWait = true
	case 'o':
		r.close = true
	case 'F':
		r.noFork = true
	case 'w':
		d, err := flock.ParseSeconds(value)
		if err != nil && !errors.Is(err, flock.ErrNegative) {
			return fmt.Sprintf("-w takes a number of seconds, not %q", value)
		}
		r.limit, r.noClock = d, err
	case 'E':
		n, err := strconv.ParseInt(strings.TrimLeft(value, " \t\n\v\f\r"), 10, 32)
		if err != nil || n < 0 || n > 255 {
			return fmt.Sprintf("-E takes an exit status from 0 to 255, not %q", value)
		}
		r.conflict = int(n)
	default:
		return r.longOption(o.Long, value)
	}
	return ""
}

func (r *lockRun) longOption(name, value string) string {
	switch name {
	case "fcntl":
		r.o.Record = true
	case "start", "length":
		n, err := flock.ParseOffset(value)
		if err != nil {
			return fmt.Sprintf("--%s takes a number of bytes, not %q: %v", name, value, err)
		}
		r.o.Record = true
		if name == "start" {
			r.o.Start = n
		} else {
			r.o.Length = n
		}
	case "verbose":
		r.verbose = true
	case "fair":
		r.o.Fair = true
	case "name":
		if err := flock.CheckName(value); err != nil {
			return fmt.Sprintf("%q is no name for a lock: %v", value, err)
		}
		r.named, r.name = true, value
	case "report":
		d, err := flock.ParseSeconds(value)
		if err != nil || d <= 0 {
			return fmt.Sprintf("--report takes a number of seconds, not %q", value)
		}
		r.every = d
	}
	return ""
}

// operands sorts what is no option, and returns what is wrong.
func (r *lockRun) operands(list []string) string {
	if r.noFork && r.close {
		return "with -F and -o nothing would be left to hold the lock: leave one out"
	}
	if r.named {
		if r.unlock {
			return "-u gives up the lock of a descriptor; the lock of --name ends with its command"
		}
		if len(list) == 0 {
			return "--name takes a command: --name=NAME COMMAND [ARGUMENT]..."
		}
		r.command = list
		return ""
	}
	switch {
	case len(list) == 0:
		return "what? a file and a command, or a descriptor"
	case len(list) == 1:
		n, err := strconv.ParseInt(strings.TrimLeft(list[0], " \t\n\v\f\r"), 10, 32)
		if err != nil { // that -1 is not open the kernel says
			return fmt.Sprintf("%q is no number of a descriptor; a file takes a command behind it", list[0])
		}
		r.fd = int(n)
	case list[1] == "-c" || list[1] == "--command":
		if len(list) != 3 {
			return fmt.Sprintf("%s takes one argument, a script: quote it", list[1])
		}
		shell, ok := r.env.LookupEnv("SHELL")
		if !ok || shell == "" {
			shell = "/bin/sh"
		}
		r.file, r.command = list[0], []string{shell, "-c", list[2]}
	default:
		r.file, r.command = list[0], list[1:]
	}
	return ""
}
