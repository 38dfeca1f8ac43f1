package cli

import (
	"context"
	"io"
	"os"
	"strings"

	"github.com/slashrun/slashrun/internal/linux"
)

// Exit codes that every command shares. A command that has more of them lists
// them all in its Exits table, because they are part of the interface.
const (
	ExitOK    = 0
	ExitUsage = 1 // bad usage, and output that could not be written
)

// Env is what a command may know of the process around it. A command reads
// these fields and never package os's variables, so that a test can run it with
// others. It belongs to one run and is not safe for concurrent use.
type Env struct {
	// Args is the argument vector as the kernel gave it, argv[0] included.
	Args []string
	// Prog is the name to begin messages with: "slashrun", or the name by
	// which a command was called instead ("systemd-tmpfiles").
	Prog string
	// Command is the command that is running, set before its Run.
	Command *Command

	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Environ has the form of os.Environ.
	Environ []string
	// Getwd finds out the working directory; nil is none.
	Getwd func() (string, error)
}

// Getenv returns the value of the environment variable name, empty where it is
// not set.
func (e *Env) Getenv(name string) string {
	v, _ := e.LookupEnv(name)
	return v
}

// LookupEnv returns the value of the environment variable name and whether it
// is set. Of two settings the first one counts, as in getenv(3).
func (e *Env) LookupEnv(name string) (string, bool) {
	for _, kv := range e.Environ {
		if len(kv) > len(name) && kv[len(name)] == '=' && kv[:len(name)] == name {
			return kv[len(name)+1:], true
		}
	}
	return "", false
}

// Command is one command of slashrun: what help prints, what shells complete
// and what runs.
type Command struct {
	// Name is the word after "slashrun".
	Name string
	// Summary is one line for the list of commands: no capital, no full stop.
	Summary string
	// Args are the forms of the command line after the name, one each line of
	// the usage: "[OPTION]... [FILE]...".
	Args []string
	// Doc is the help's text between usage and options, in lines of at most 80
	// columns.
	Doc string
	// Flags gives all options, for help and completion; nil for none. It is a
	// function because no other run needs them.
	Flags func() []Flag
	// Words are fixed words that can stand in the place of an operand, for
	// completion.
	Words []string
	// Files says that operands are paths, for completion.
	Files bool
	// Sub gives the commands that the first operand may pick, for completion; their
	// Name is both words ("lock list").
	Sub func() []*Command
	// Exits are all exit codes with their meaning.
	Exits []Exit
	// CalledAs are the names which pick this command when argv[0] ends in one
	// of them.
	CalledAs []string
	// Run does it. args is what follows the name; the result is the exit code.
	Run func(ctx context.Context, env *Env, args []string) int
}

func (c *Command) flags() []Flag {
	if c.Flags == nil {
		return nil
	}
	return c.Flags()
}

func (c *Command) sub() []*Command {
	if c.Sub == nil {
		return nil
	}
	return c.Sub()
}

// word is the last word of the name: what picks a command below another.
func (c *Command) word() string { return c.Name[strings.LastIndexByte(c.Name, ' ')+1:] }

// Flag is one option of a command, for help and completion.
type Flag struct {
	// Long is the name without "--", Short the letter without "-"; one of them
	// may be missing (empty, zero).
	Long  string
	Short byte
	// Arg is the placeholder of the argument ("PATH"), empty for none.
	Arg string
	// Optional says that the argument may be left out.
	Optional bool
	// Help is one line: no capital, no full stop.
	Help string
	// Values are all values of the argument, where there is a fixed list.
	Values []string
	// Files says that the argument is a path.
	Files bool
}

// Exit is one exit code and what it tells a script.
type Exit struct {
	Code    int
	Meaning string
}

// Main runs the command line of this process and returns its exit code.
func Main() int {
	env := &Env{
		Args:    os.Args,
		Prog:    "slashrun",
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Environ: os.Environ(),
		Getwd:   linux.Getcwd,
	}
	return Run(context.Background(), env)
}

// Dir is the working directory, empty where it was removed or cannot be found out:
// only a relative path needs it.
func (e *Env) Dir() string {
	if e.Getwd == nil {
		return ""
	}
	dir, _ := e.Getwd()
	return dir
}

// Run runs the command line in env.Args and returns the exit code. It picks the
// command by argv[0], then by the first argument.
func Run(ctx context.Context, env *Env) int {
	var args []string
	if len(env.Args) > 0 { // execve(2) allows an empty vector
		args = env.Args[1:]
		called := env.Args[0][strings.LastIndexByte(env.Args[0], '/')+1:]
		for _, c := range commands() {
			for _, name := range c.CalledAs {
				if name == called {
					env.Prog = name
					return c.run(ctx, env, args)
				}
			}
		}
	}
	if len(args) == 0 {
		return env.Usagef("which command? %q lists them", "slashrun help")
	}
	switch name := args[0]; {
	case name == "-h" || name == "--help":
		return find("help").run(ctx, env, args[1:])
	case name == "--version":
		if len(args) > 1 {
			return env.Usagef("--version takes no argument, got %q", args[1])
		}
		return find("version").run(ctx, env, nil)
	case strings.HasPrefix(name, "-"):
		return env.Usagef("unknown option %q before the command; %q lists the commands", name, "slashrun help")
	default:
		if c := find(name); c != nil {
			return c.run(ctx, env, args[1:])
		}
		return runExternal(env, name, args[1:])
	}
}

// run runs c in env, which from then on speaks for it.
func (c *Command) run(ctx context.Context, env *Env, args []string) int {
	env.Command = c
	return c.Run(ctx, env, args)
}

// find returns the built-in command called name, nil if there is none.
func find(name string) *Command {
	for _, c := range commands() {
		if c.Name == name {
			return c
		}
	}
	return nil
}
