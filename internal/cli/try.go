package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/getopt"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/prepare"
	"github.com/slashrun/slashrun/internal/runfs"
	"github.com/slashrun/slashrun/internal/sandbox"
	"github.com/slashrun/slashrun/internal/tmpconf"
	"github.com/slashrun/slashrun/internal/tmpfiles"
)

func tryCommand() *Command {
	return &Command{
		Name:    "try",
		Summary: "make a throw-away /run on any machine, show it, and run a command in it",
		Args:    []string{"[OPTION]... [--] [COMMAND [ARGUMENT]...]"},
		Doc: `Makes /run as boot does, from the machine's own tmpfiles.d, in namespaces of its
own, and shows what came of it. Everything else of the machine is there too,
read-only. Then it runs COMMAND in there, or a shell on a terminal. With it
everything ends: nothing is left, and the machine has not changed.

  slashrun try                    look at it, with a shell
  slashrun try -- ls -l /run      run one program
  slashrun try --no-tour nginx -t

Root and ordinary users can do that. For an ordinary user the namespace knows
one user, so what shall belong to another cannot be made; the tour lists it.
TMPDIR is /dev/shm, which can be written to. The network is the machine's.`,
		Flags: tryFlags,
		Exits: []Exit{
			{ExitOK, "COMMAND said so, or there was none"},
			{ExitUsage, "bad usage"},
			{sandbox.StatusFailed, "this machine does not allow it, or making /run failed"},
			{sandbox.StatusNotRunnable, "COMMAND cannot be executed"},
			{sandbox.StatusNotFound, "COMMAND is not found"},
			{128, "and above: a signal with that number less 128 ended COMMAND;\nanything else is COMMAND's own"},
		},
		Run: runTry,
	}
}

var tryOptions = []getopt.Option{
	{Long: "profile", Arg: getopt.RequiredArg, ValueName: "NAME", Help: "mode of /run/lock: debian (1777) or plain (0755, the default)"},
	{Long: "no-tour", Help: "do not show what was made"},
	{Long: "help", Short: 'h', Help: "print this help"},
}

// tryInside, as the first argument, makes it the inside. It is no option, since
// it is of no use to anybody: sandbox.Enter refuses where it was not us who
// started it.
const (
	tryInside      = "--inside"
	tryInsideShell = "--inside=shell"
)

func tryFlags() []Flag {
	var flags []Flag
	for _, o := range tryOptions {
		f := Flag{Long: o.Long, Short: byte(o.Short), Help: o.Help, Arg: o.ValueName}
		if o.Long == "profile" {
			f.Values = []string{string(runfs.Debian), string(runfs.Plain)}
		}
		flags = append(flags, f)
	}
	return flags
}

// tryRun is a command line of try, on either side.
type tryRun struct {
	env     *Env
	profile runfs.Profile
	tour    bool
	argv    []string // of COMMAND, empty for none
	shell   bool     // the terminal is ours: without COMMAND there is a shell
}

func runTry(ctx context.Context, env *Env, args []string) int {
	t := &tryRun{env: env, profile: runfs.Plain, tour: true}
	if len(args) > 0 && (args[0] == tryInside || args[0] == tryInsideShell) {
		t.shell = args[0] == tryInsideShell
		if code, done := t.parse(args[1:]); done {
			return code
		}
		return t.inside(ctx)
	}
	if code, done := t.parse(args); done {
		return code
	}
	return t.outside(args)
}

// parse reads the command line up to the first word that is no option: what
// follows is COMMAND with its own options.
func (t *tryRun) parse(args []string) (code int, done bool) {
	options, command := tryArguments(args)
	p := getopt.New(tryOptions, options)
	for p.Next() {
		value, _ := p.Value()
		switch p.Option().Long {
		case "help":
			return t.env.Help(), true
		case "no-tour":
			t.tour = false
		case "profile":
			profile, err := runfs.ParseProfile(value)
			if err != nil {
				return t.env.Usagef("--profile: %v", err), true
			}
			t.profile = profile
		}
	}
	if err := p.Err(); err != nil {
		return t.env.Usagef("%v", err), true
	}
	t.argv = command
	return 0, false
}

// tryArguments cuts a command line in front of COMMAND.
func tryArguments(args []string) (options, command []string) {
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			return args[:i], args[i+1:]
		case !strings.HasPrefix(a, "-") || a == "-":
			return args[:i], args[i:]
		case len(a) > 2 && strings.HasPrefix("--profile", a): // its value is the next word
			i++
		}
	}
	return args, nil
}

// outside starts the inside and waits for it.
func (t *tryRun) outside(args []string) int {
	env := t.env
	inside := tryInside
	if stdin := fileOf(env.Stdin); stdin != nil && linux.IsForeground(int(stdin.Fd())) {
		if len(t.argv) == 0 && Terminal(env.Stdout) {
			inside = tryInsideShell
		}
		// A shell inside leaves the terminal to its process group, which is gone in
		// the end. Where no job control shell is around us (make, go run), nobody
		// else would take it back.
		defer func() {
			signal.Ignore(syscall.SIGTTOU) // what a background process gets for it
			_ = linux.SetForeground(int(stdin.Fd()))
			signal.Reset(syscall.SIGTTOU)
		}()
	}
	status, err := sandbox.Run(sandbox.Program{
		Args: append([]string{"slashrun", "try", inside}, args...), Env: env.Environ,
		Stdin: env.Stdin, Stdout: env.Stdout, Stderr: env.Stderr,
	})
	if err != nil {
		env.Errorf("%v", err)
		return sandbox.StatusFailed
	}
	return status
}

func fileOf(stream any) *os.File {
	f, _ := stream.(*os.File)
	return f
}

// inside is PID 1 of the sandbox.
func (t *tryRun) inside(ctx context.Context) int {
	env := t.env
	fail := func(format string, args ...any) int {
		env.Errorf(format, args...)
		return sandbox.StatusFailed
	}
	// Some tmpfiles.d lines are in /run itself, so they are read while the
	// machine's is still there.
	dir := env.Dir() // before the mounts are other ones
	loaded, err := tmpconf.Load(tmpconf.Options{Boot: true, Include: []string{"/run"}, Getenv: env.LookupEnv, Dir: dir})
	if err != nil {
		return fail("cannot read tmpfiles.d: %v", err)
	}
	in, err := sandbox.Enter()
	if errors.Is(err, sandbox.ErrNotInside) {
		return env.Usagef("%s is for try itself: leave it out (%v)", tryInside, err)
	}
	if err != nil {
		return fail("%v", err)
	}
	report := &tryReport{}
	res, err := t.makeRun(ctx, in, loaded, report)
	if err != nil {
		return fail("cannot make /run: %v", err)
	}
	c := sandbox.Command{
		Args: t.argv, Env: tryEnviron(env.Environ), Dir: dir,
		Files: []*os.File{fileOf(env.Stdin), fileOf(env.Stdout), fileOf(env.Stderr)},
	}
	if t.shell {
		c.Args, c.Foreground = t.userShell(), true
	}
	if t.tour {
		tour := &tryTour{env: env, in: in, res: res, loaded: loaded, report: report, shell: t.shell}
		if code := env.Output(tour.write); code != ExitOK {
			return sandbox.StatusFailed
		}
	}
	if len(c.Args) == 0 {
		return ExitOK
	}
	status, err := in.Exec(c)
	if err != nil {
		env.Errorf("%s: %v", Quote(c.Args[0]), err)
	}
	return status
}

// userShell is $SHELL, where that is an absolute path to something.
func (t *tryRun) userShell() []string {
	if shell := t.env.Getenv("SHELL"); strings.HasPrefix(shell, "/") {
		if _, err := os.Stat(shell); err == nil {
			return []string{shell}
		}
	}
	return []string{"/bin/sh"}
}

// tryEnviron is the environment of COMMAND: what names the /run outside is left
// out, and temporary files go where they can be made.
func tryEnviron(environ []string) []string {
	out := slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return name == "TMPDIR" || name == "XDG_RUNTIME_DIR" || name == "DBUS_SESSION_BUS_ADDRESS"
	})
	return append(out, "TMPDIR=/dev/shm")
}

// makeRun makes /run as boot does.
func (t *tryRun) makeRun(ctx context.Context, in *sandbox.Inside, loaded *tmpconf.Loaded, report *tryReport) (*prepare.Result, error) {
	if !in.FreshProc {
		// With the /proc of outside nobody can tell that a directory is in use by
		// nobody, so boot would refuse it. A tmpfs it adopts.
		if err := linux.Mount("tmpfs", "/run", "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=0755"); err != nil {
			return nil, err
		}
	}
	root, err := fsat.OpenDir("/")
	if err != nil {
		return nil, err
	}
	defer root.Close()
	res, err := prepare.Run(ctx, prepare.Options{Root: root, Name: "run", Early: true, Profile: t.profile})
	if err != nil {
		return nil, err
	}
	result, err := loaded.Config.Apply(ctx, tmpfiles.Options{
		Root: root, Ops: tmpfiles.Create | tmpfiles.Remove, Report: report, HardlinksProtected: hardlinksProtected(),
	})
	if err != nil {
		return nil, fmt.Errorf("applying tmpfiles.d: %w", err)
	}
	res.TmpfilesFailed = result.Failures > 0
	return res, nil
}
