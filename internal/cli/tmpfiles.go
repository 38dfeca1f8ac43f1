package cli

import (
	"bufio"
	"context"
	"errors"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/slashrun/slashrun/internal/conffiles"
	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/getopt"
	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/tmpconf"
	"github.com/slashrun/slashrun/internal/tmpfiles"
)

// Exit codes of systemd-tmpfiles(8), and one of ours.
const (
	exitDrift     = 2  // --check: something would be changed
	exitDataErr   = 65 // EX_DATAERR of sysexits.h
	exitCantCreat = 73 // EX_CANTCREAT
)

func tmpfilesCommand() *Command {
	return &Command{
		Name:     "tmpfiles",
		Summary:  "create, clean and remove files and directories as tmpfiles.d says",
		CalledAs: []string{"systemd-tmpfiles", "systemd-tmpfiles.standalone"},
		Args:     []string{"COMMAND... [OPTION]... [CONFIGURATION FILE]..."},
		Files:    true,
		Doc: `Reads tmpfiles.d(5) lines and makes them true. It stands in for systemd-tmpfiles
262: commands, options, files and exit codes are the same. Without a file, all
of /etc, /run, /usr/local/lib and /usr/lib/tmpfiles.d are read; "-" is standard
input.

  slashrun tmpfiles --create --remove --boot   what a boot does
  slashrun tmpfiles --create --dry-run         the changes that it would make
  slashrun tmpfiles --create --check           status 2 if something has drifted
  slashrun tmpfiles --create --prefix=/run nginx.conf
  slashrun tmpfiles --explain /run/nginx       the lines for a path, and why
  echo 'd /run/x 0750 x x' | slashrun tmpfiles --create -`,
		Flags: tmpfilesFlags,
		Exits: []Exit{
			{ExitOK, "done; lines for other machines or users were skipped"},
			{ExitUsage, "bad usage, a named file cannot be read, or a resource ran out"},
			{exitDrift, "--check: something would be changed"},
			{exitDataErr, "some lines are wrong and were ignored, the others were applied"},
			{exitCantCreat, "some lines could not be applied"},
		},
		Run: runTmpfiles,
	}
}

// tmpfilesOptions is the one table of options; help and completion are made of it.
var tmpfilesOptions = []getopt.Option{
	{Long: "create", Help: "create and adjust files and directories"},
	{Long: "clean", Help: "clean up files and directories by age"},
	{Long: "remove", Help: "remove files and directories marked for removal"},
	{Long: "purge", Help: "remove what the named files declare and mark with '$' (careful)"},
	{Long: "cat-config", Help: "print the configuration files"},
	{Long: "tldr", Help: "print the configuration files without comments"},
	{Long: "explain", Arg: getopt.RequiredArg, ValueName: "PATH", Help: "tell which lines govern PATH, in which order, and which do not count"},
	{Long: "help", Short: 'h', Help: "print this help"},
	{Long: "version", Help: "print the version"},
	{Long: "user", Help: "use the user's configuration (user-tmpfiles.d)"},
	{Long: "boot", Help: "apply lines with '!' too, which are safe at boot only"},
	{Long: "graceful", Help: "ignore unknown users and groups"},
	{Long: "prefix", Arg: getopt.RequiredArg, ValueName: "PATH", Help: "only lines for paths below PATH"},
	{Long: "exclude-prefix", Arg: getopt.RequiredArg, ValueName: "PATH", Help: "no lines for paths below PATH"},
	{Short: 'E', Help: "no lines for paths below /dev, /proc, /run and /sys"},
	{Long: "root", Arg: getopt.RequiredArg, ValueName: "PATH", Help: "work below PATH as if it were /"},
	{Long: "image", Arg: getopt.RequiredArg, ValueName: "PATH", Help: "not supported: mount the image and use --root"},
	{Long: "image-policy", Arg: getopt.RequiredArg, ValueName: "POLICY", Help: "not supported, as --image"},
	{Long: "replace", Arg: getopt.RequiredArg, ValueName: "PATH", Help: "read the files given as if they stood at PATH"},
	{Long: "dry-run", Short: 'n', Help: "print the changes that would be made, and make none"},
	{Long: "check", Help: "as --dry-run, silent but for differences, and exit with 2 if there are any"},
	{Long: "json", Help: "print the changes as JSON"},
	{Long: "inline", Help: "take the operands as lines"},
	{Long: "verbose", Short: 'v', Help: "print each change, and what was left alone and why"},
	{Long: "no-pager", Help: "accepted; no pager is ever started"},
}

func tmpfilesFlags() []Flag {
	var flags []Flag
	for _, o := range tmpfilesOptions {
		f := Flag{Long: o.Long, Short: byte(o.Short), Help: o.Help, Arg: o.ValueName}
		f.Files = o.ValueName == "PATH"
		flags = append(flags, f)
	}
	return flags
}

// tmpfilesRun is a command line of tmpfiles.
type tmpfilesRun struct {
	env      *Env
	load     tmpconf.Options
	ops      tmpfiles.Op
	cat      bool
	catStyle conffiles.Style
	explain  string
	dryRun   bool
	check    bool
	json     bool
	verbose  bool
	// early gives the configuration where it was read already; nil where it was
	// not, or may be another by now.
	early func() *tmpconf.Loaded
}

// loaded is the configuration.
func (t *tmpfilesRun) loaded() (*tmpconf.Loaded, error) {
	if t.early != nil {
		if l := t.early(); l != nil {
			return l, nil
		}
	}
	return tmpconf.Load(t.load)
}

func runTmpfiles(ctx context.Context, env *Env, args []string) int {
	t := &tmpfilesRun{env: env}
	t.load = tmpconf.Options{Stdin: env.Stdin, Getenv: env.LookupEnv, Dir: env.Dir()}
	if code, done := t.parse(args); done {
		return code
	}
	// A run is short: collecting garbage costs more than the memory.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	defer linux.Umask(linux.Umask(0))
	ctx, stop := interruptible(ctx)
	defer stop()
	switch {
	case t.cat:
		return t.catConfig()
	case t.explain != "":
		return t.explainPath()
	}
	return t.apply(ctx)
}

// parse reads the command line; done is set where nothing is left to do.
func (t *tmpfilesRun) parse(args []string) (code int, done bool) {
	p := getopt.New(tmpfilesOptions, args)
	for p.Next() {
		value, _ := p.Value()
		if code, done := t.option(p.Option(), value); done {
			return code, true
		}
	}
	if err := p.Err(); err != nil {
		return t.env.Usagef("%v", err), true
	}
	t.load.Args = p.Operands()
	if msg := t.conflict(); msg != "" {
		return t.env.Usagef("%s", msg), true
	}
	return 0, false
}

func (t *tmpfilesRun) option(o *getopt.Option, value string) (code int, done bool) {
	fail := func(format string, args ...any) (int, bool) { return t.env.Usagef(format, args...), true }
	switch o.Long {
	case "help":
		return t.env.Help(), true
	case "version":
		return t.version(), true
	case "create":
		t.ops |= tmpfiles.Create
	case "clean":
		t.ops |= tmpfiles.Clean
	case "remove":
		t.ops |= tmpfiles.Remove
	case "purge":
		t.ops |= tmpfiles.Purge
	case "cat-config":
		t.cat = true
	case "tldr":
		t.cat, t.catStyle.Brief = true, true
	case "explain":
		if !filepath.IsAbs(value) {
			return fail("--explain needs an absolute path, got %s", Quote(value))
		}
		t.explain = filepath.Clean(value)
	case "user":
		t.load.User = true
	case "boot":
		t.load.Boot = true
	case "graceful":
		t.load.Graceful = true
	case "prefix":
		t.load.Include = append(t.load.Include, value)
	case "exclude-prefix":
		t.load.Exclude = append(t.load.Exclude, value)
	case "":
		t.load.Exclude = append(t.load.Exclude, "/dev", "/proc", "/run", "/sys")
	case "root":
		root, err := t.rootArgument(value)
		if err != nil {
			return fail("--root: %v", err)
		}
		t.load.Root = root
	case "image", "image-policy":
		return fail("--%s is not supported; mount the image yourself and use --root=DIRECTORY", o.Long)
	case "replace":
		if !filepath.IsAbs(value) {
			return fail("the argument of --replace must be an absolute path, got %s", Quote(value))
		}
		if !strings.HasSuffix(value, ".conf") {
			return fail("the argument of --replace must end in .conf, got %s", Quote(value))
		}
		t.load.Replace = value
	case "dry-run":
		t.dryRun = true
	case "check":
		t.dryRun, t.check = true, true
	case "json":
		t.json = true
	case "inline":
		t.load.Inline = true
	case "verbose":
		t.verbose = true
	}
	return 0, false
}

// rootArgument makes the path of --root absolute; "" and "/" are the system's own.
func (t *tmpfilesRun) rootArgument(value string) (string, error) {
	if value == "" {
		return "", nil
	}
	if !filepath.IsAbs(value) {
		if t.env.Dir() == "" {
			return "", errors.New("the working directory is gone, use an absolute path")
		}
		value = filepath.Join(t.env.Dir(), value)
	}
	return strings.TrimSuffix(filepath.Clean(value), "/"), nil
}

// conflict says what is wrong with the options together.
func (t *tmpfilesRun) conflict() string {
	switch {
	case t.ops == 0 && !t.cat && t.explain == "":
		return "say what to do: --create, --clean, --remove, --purge, or --cat-config, --tldr, --explain"
	case t.ops&tmpfiles.Purge != 0 && len(t.load.Args) == 0:
		return "--purge needs the configuration files to purge; without any, it would remove what all of them declare"
	case t.load.Replace != "" && t.cat:
		return "--replace does not go with --cat-config or --tldr"
	case t.load.Replace != "" && len(t.load.Args) == 0:
		return "--replace needs the configuration that takes its place"
	case t.load.User && t.load.Root != "":
		return "--user does not go with --root"
	}
	return ""
}

func (t *tmpfilesRun) version() int {
	return t.env.Output(func(w *bufio.Writer) {
		if t.env.Prog != "slashrun" { // scripts look for the number
			w.WriteString("systemd 262 (slashrun " + Version() + ")\n")
			return
		}
		w.WriteString("slashrun " + Version() + "\n")
	})
}

func (t *tmpfilesRun) catConfig() int {
	root, err := inroot.Open(t.load.Root)
	if err != nil {
		return t.env.Usagef("%v", err)
	}
	defer root.Close()
	list, err := conffiles.Search(root, t.load.Dirs(), conffiles.Options{})
	if err != nil {
		return t.env.Usagef("%v", err)
	}
	defer list.Close()
	for _, w := range list.Warnings {
		t.env.Warnf("%v", w)
	}
	t.catStyle.Color = t.env.Colour(t.env.Stdout)
	if err := conffiles.Cat(t.env.Stdout, list, t.catStyle); err != nil {
		return t.env.Usagef("%v", err)
	}
	return ExitOK
}

// debugLog says whether the environment asks for everything, as it does of the
// reference (systemd-tmpfiles(8), $SYSTEMD_LOG_LEVEL).
func (t *tmpfilesRun) debugLog() bool {
	level := t.env.Getenv("SYSTEMD_LOG_LEVEL")
	return level == "debug" || level == "7"
}

// apply loads the configuration and runs it.
func (t *tmpfilesRun) apply(ctx context.Context) int {
	loaded, err := t.loaded()
	if err != nil {
		return t.env.Usagef("%v", err)
	}
	for _, w := range loaded.Warnings {
		t.env.Warnf("%v", w)
	}
	cfg := loaded.Config
	for _, n := range cfg.Notices {
		t.env.Warnf("%s", n)
	}
	for _, e := range cfg.Invalid {
		t.env.Errorf("%v; the line is ignored", e)
	}
	root, err := fsat.OpenDir(cmpOr(t.load.Root, "/"))
	if err != nil {
		return t.env.Usagef("cannot open the root directory: %v", err)
	}
	defer root.Close()
	report := t.reporter()
	res, err := cfg.Apply(ctx, tmpfiles.Options{
		Root: root, Ops: t.ops, DryRun: t.dryRun, Report: report,
		HardlinksProtected: hardlinksProtected(), ForceSubvolume: t.forceSubvolume(),
		Progress: report.progress(),
	})
	report.end()
	switch {
	case err != nil:
		return t.env.Usagef("stopped before the end: %v; run it again to finish", err)
	case report.err != nil:
		return t.env.Usagef("cannot write the output: %v", report.err)
	case res.Resource():
		return ExitUsage
	case len(cfg.Invalid) > 0:
		return exitDataErr
	case res.Failures > 0:
		return exitCantCreat
	case t.check && report.changes > 0:
		return exitDrift
	}
	return ExitOK
}

func cmpOr(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// hardlinksProtected reads the sysctl; where it cannot be read it counts as off.
func hardlinksProtected() bool {
	v, err := linux.ReadSmallFile("/proc/sys/fs/protected_hardlinks")
	return err == nil && strings.TrimSpace(string(v)) == "1"
}

// forceSubvolume is $SYSTEMD_TMPFILES_FORCE_SUBVOL, nil where it is unset.
func (t *tmpfilesRun) forceSubvolume() *bool {
	v, ok := t.env.LookupEnv("SYSTEMD_TMPFILES_FORCE_SUBVOL")
	if !ok {
		return nil
	}
	b := slices.Contains([]string{"1", "yes", "y", "true", "t", "on"}, strings.ToLower(v))
	if !b && !slices.Contains([]string{"0", "no", "n", "false", "f", "off"}, strings.ToLower(v)) {
		t.env.Warnf("cannot parse $SYSTEMD_TMPFILES_FORCE_SUBVOL=%s, ignoring it", strconv.Quote(v))
		return nil
	}
	return &b
}
