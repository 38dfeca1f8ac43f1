package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/getopt"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/prepare"
	"github.com/slashrun/slashrun/internal/runfs"
	"github.com/slashrun/slashrun/internal/tmpconf"
)

// Exit codes of boot.
const (
	exitBootFailed   = 2
	exitBootOccupied = 3
	exitBootPartly   = 4
)

func bootCommand() *Command {
	return &Command{
		Name:    "boot",
		Summary: "make /run right at the start of a machine or container",
		Args:    []string{"[--early | --late] [OPTION]...", "--initramfs [--newroot DIR] [OPTION]..."},
		Doc: `Mounts /run, lays it out and stamps it with the boot it belongs to; makes the
links /var/run and /var/lock; applies tmpfiles.d. A tmpfs that is on /run
already is adopted: its content stays, its limits are lowered to what they
should be. A new one is built where nobody can see it and appears complete. What
is in use, or may be, is never mounted over. Run it again at any time: it does
what is left.

  slashrun boot            all of it, once /usr and /var are there
  slashrun boot --early    the mount alone: needs no /usr, no /var
  slashrun boot --late     the links and tmpfiles.d
  slashrun boot --dry-run  what it would do now
  slashrun boot --initramfs --newroot /mnt
                           the mount, handed over to the next root

Sizes are bytes with k, m or g (1024), or a percentage of the smaller of RAM and
the memory limit of the cgroup.`,
		Flags: bootFlags,
		Exits: []Exit{
			{ExitOK, "done, or there was nothing to do"},
			{ExitUsage, "bad usage, or the output could not be written"},
			{exitBootFailed, "failed; /run is as it was, or complete as far as it was told"},
			{exitBootOccupied, "refused: /run is in use, or it cannot be told; nothing was done"},
			{exitBootPartly, "done, except for what was told (a limit, a link, a line of tmpfiles.d)"},
		},
		Run: runBoot,
	}
}

var bootOptions = []getopt.Option{
	{Long: "early", Help: "the /run mount alone: needs neither /usr nor /var"},
	{Long: "late", Help: "the legacy links and tmpfiles.d alone"},
	{Long: "initramfs", Help: "as --early, in an initramfs"},
	{Long: "newroot", Arg: getopt.RequiredArg, ValueName: "DIR", Help: "with --initramfs: move the finished mount to DIR/run"},
	{Long: "profile", Arg: getopt.RequiredArg, ValueName: "NAME", Help: "mode of /run/lock: debian (1777) or plain (0755, the default)"},
	{Long: "size", Arg: getopt.RequiredArg, ValueName: "SIZE", Help: "size of /run (default 20%, and never raised)"},
	{Long: "nr-inodes", Arg: getopt.RequiredArg, ValueName: "NUMBER", Help: "files that /run can hold (default 800k, and never raised)"},
	{Long: "lock-size", Arg: getopt.RequiredArg, ValueName: "SIZE", Help: "size of /run/lock (default 5m)"},
	{Long: "noexec", Help: "no program on /run can be executed"},
	{Long: "noswap", Help: "keep /run out of swap (Linux 6.4, not in a user namespace)"},
	{Long: "in-place", Help: "never mount: lay out the directory that is there"},
	{Long: "root", Arg: getopt.RequiredArg, ValueName: "DIR", Help: "work below DIR as if it were /"},
	{Long: "dry-run", Short: 'n', Help: "print what would be done, and do nothing"},
	{Long: "json", Help: "print what was found, wanted and done as JSON"},
	{Long: "verbose", Short: 'v', Help: "print each act"},
	{Long: "help", Short: 'h', Help: "print this help"},
}

func bootFlags() []Flag {
	var flags []Flag
	for _, o := range bootOptions {
		f := Flag{Long: o.Long, Short: byte(o.Short), Help: o.Help, Arg: o.ValueName, Files: o.ValueName == "DIR"}
		if o.Long == "profile" {
			f.Values = []string{string(runfs.Debian), string(runfs.Plain)}
		}
		flags = append(flags, f)
	}
	return flags
}

// bootRun is a command line of boot.
type bootRun struct {
	env             *Env
	o               prepare.Options
	root, newRoot   string
	early, late     bool
	initramfs       bool
	json, verbose   bool
	out             *bufio.Writer
	tmpfilesResults json.RawMessage
	config          func() *tmpconf.Loaded
}

func runBoot(ctx context.Context, env *Env, args []string) int {
	b := &bootRun{env: env, root: "/", out: bufio.NewWriter(env.Stdout)}
	b.o.Profile, b.o.Name = runfs.Plain, "run"
	p := getopt.New(bootOptions, args)
	for p.Next() {
		value, _ := p.Value()
		if p.Option().Long == "help" {
			return env.Help()
		}
		if err := b.option(p.Option().Long, value); err != nil {
			return env.Usagef("--%s: %v", p.Option().Long, err)
		}
	}
	if err := p.Err(); err != nil {
		return env.Usagef("%v", err)
	}
	if msg := b.conflict(p.Operands()); msg != "" {
		return env.Usagef("%s", msg)
	}
	return b.run(ctx)
}

func (b *bootRun) option(name, value string) (err error) {
	switch name {
	case "early":
		b.early = true
	case "late":
		b.late = true
	case "initramfs":
		b.initramfs = true
	case "newroot":
		b.newRoot = value
	case "profile":
		b.o.Profile, err = runfs.ParseProfile(value)
	case "size":
		b.o.Size, err = parseSize(value)
	case "nr-inodes":
		b.o.Inodes, err = parseCount(value)
	case "lock-size":
		b.o.LockSize, err = parseCount(value)
	case "noexec":
		b.o.NoExec = true
	case "noswap":
		b.o.NoSwap = true
	case "in-place":
		b.o.InPlace = true
	case "root":
		b.root = value
	case "dry-run":
		b.o.DryRun = true
	case "json":
		b.json = true
	case "verbose":
		b.verbose = true
	}
	return err
}

// parseSize reads "10%" or a number with a suffix.
func parseSize(s string) (*prepare.Size, error) {
	if n, ok := strings.CutSuffix(s, "%"); ok {
		p, err := strconv.ParseUint(n, 10, 32)
		if err != nil || p < 1 || p > 100 {
			return nil, fmt.Errorf("%s is not a percentage from 1%% to 100%%", Quote(s))
		}
		return &prepare.Size{Percent: p}, nil
	}
	n, err := parseCount(s)
	if err != nil {
		return nil, err
	}
	return &prepare.Size{Bytes: *n}, nil
}

// parseCount reads a number with k, m or g, as tmpfs(5) does.
func parseCount(s string) (*uint64, error) {
	digits, shift := s, 0
	if s != "" {
		if i := strings.IndexByte("kmg", s[len(s)-1]|0x20); i >= 0 {
			digits, shift = s[:len(s)-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || n == 0 || n > math.MaxInt64>>shift {
		return nil, fmt.Errorf("%s is not a number above 0, with k, m or g behind it or nothing", Quote(s))
	}
	n <<= shift
	return &n, nil
}

// conflict says what is wrong with the options together.
func (b *bootRun) conflict(operands []string) string {
	switch {
	case len(operands) > 0:
		return "boot takes no operand, got " + Quote(operands[0])
	case b.early && b.late:
		return "--early and --late together are what boot does without either; leave both out"
	case b.initramfs && b.late:
		return "--late needs the real root, there is none in an initramfs yet"
	case b.newRoot != "" && !b.initramfs:
		return "--newroot goes with --initramfs"
	case b.newRoot != "" && b.o.InPlace:
		return "--in-place makes no mount that could be handed over to --newroot"
	case b.root == "":
		return "--root needs a directory"
	}
	return ""
}

func (b *bootRun) run(ctx context.Context) int {
	defer linux.Umask(linux.Umask(0))
	ctx, stop := interruptible(ctx)
	defer stop()
	b.o.Early, b.o.Late = !b.late, !b.early && !b.initramfs
	root, err := fsat.OpenDir(b.root)
	if err != nil {
		return b.env.Usagef("cannot open the root directory: %v", err)
	}
	defer root.Close()
	b.o.Root = root
	if b.root != "/" {
		b.o.RootPath = b.root
	}
	if b.newRoot != "" {
		next, err := fsat.OpenDir(b.newRoot)
		if err != nil {
			return b.env.Usagef("cannot open the new root: %v", err)
		}
		defer next.Close()
		b.o.NewRoot, b.o.NewRootPath = next, b.newRoot
	}
	b.o.Tmpfiles, b.o.Told, b.o.Noted = b.tmpfiles, b.told, b.noted
	if b.o.Early && b.o.Late {
		b.readAhead()
	}
	res, err := prepare.Run(ctx, b.o)
	return b.end(res, err)
}

// end prints what is left to print and finds the exit code.
func (b *bootRun) end(res *prepare.Result, err error) int {
	code := ExitOK
	var occupied *runfs.OccupiedError
	switch {
	case errors.As(err, &occupied):
		code = exitBootOccupied
		b.env.Errorf("%v", err)
	case err != nil:
		code = exitBootFailed
		b.env.Errorf("%v", err)
	case res.Kept():
		code = exitBootPartly
	}
	if b.json {
		b.printJSON(res, err)
	}
	if werr := b.out.Flush(); werr != nil {
		b.env.Errorf("cannot write the output: %v", werr)
		return ExitUsage
	}
	return code
}

func (b *bootRun) printJSON(res *prepare.Result, err error) {
	v := struct {
		*prepare.Result
		DryRun   bool            `json:"dry_run"`
		Error    string          `json:"error,omitempty"`
		Tmpfiles json.RawMessage `json:"tmpfiles,omitempty"`
	}{Result: res, DryRun: b.o.DryRun, Tmpfiles: b.tmpfilesResults}
	if err != nil {
		v.Error = err.Error()
	}
	e := json.NewEncoder(b.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	e.Encode(v) // an error is the writer's, which Flush tells
}

func (b *bootRun) told(s runfs.Step) {
	if b.json || !b.o.DryRun && !b.verbose {
		return
	}
	would := ""
	if b.o.DryRun {
		would = "would "
	}
	fmt.Fprintf(b.out, "%s%s\n", would, s)
	for _, in := range s.Inner {
		fmt.Fprintf(b.out, "%s  in it, before it is seen: %s\n", would, in)
	}
	b.out.Flush()
}

// noted tells what is not as wanted always, and the rest where it was asked for
// or where somebody must know: that a /run is of another boot.
func (b *bootRun) noted(n runfs.Note) {
	if n.Kept {
		b.env.Warnf("%s", n)
	} else if !b.json {
		fmt.Fprintf(b.env.Stderr, "%s: %s\n", b.env.Prog, n)
	}
}

// tmpfiles is the last act of a boot: what "slashrun tmpfiles --create --remove
// --boot" does.
