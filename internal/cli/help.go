package cli

import (
	"bufio"
	"context"
	"strconv"
	"strings"
)

func helpCommand() *Command {
	return &Command{
		Name:    "help",
		Summary: "list the commands, or explain one",
		Args:    []string{"[COMMAND]"},
		Doc:     "Without COMMAND it lists the commands. For a COMMAND that is a program of\nits own (slashrun-COMMAND) it runs that program with --help.",
		Exits:   []Exit{{ExitOK, "printed"}, {ExitUsage, "bad usage, no such command, or the output could not be written"}},
		Run:     runHelp,
	}
}

func runHelp(_ context.Context, env *Env, args []string) int {
	switch {
	case len(args) == 0:
		return env.Output(writeOverview)
	case args[0] == "-h" || args[0] == "--help":
		return env.Help()
	case len(args) > 1:
		return env.Usagef("help takes one command, got %q as well", args[1])
	}
	if c := find(args[0]); c != nil {
		return env.Output(c.writeHelp)
	}
	return runExternal(env, args[0], []string{"--help"})
}

// Help prints the help of the running command to standard output and returns
// the exit code: what "slashrun NAME --help" does.
func (e *Env) Help() int { return e.Output(e.Command.writeHelp) }

// writeOverview writes the list of commands.
func writeOverview(w *bufio.Writer) {
	w.WriteString("slashrun owns /run: it mounts it, lays it out and looks after what lives in it.\n\nUsage:\n" +
		"  slashrun COMMAND [ARGUMENT]...\n  slashrun help [COMMAND]\n  slashrun --version\n\nCommands:\n")
	var rows [][2]string
	for _, c := range commands() {
		rows = append(rows, [2]string{c.Name, c.Summary})
	}
	writeColumns(w, rows)
	for _, c := range commands() {
		for _, name := range c.CalledAs {
			w.WriteString("\nCalled as " + name + " (by a link) it is \"slashrun " + c.Name + "\".\n")
		}
	}
	w.WriteString("\nAny other COMMAND runs the program slashrun-COMMAND, from the directory of slashrun\n" +
		"or from PATH. \"slashrun help COMMAND\" gives options and exit codes.\n")
}

// writeHelp writes the help of c.
func (c *Command) writeHelp(w *bufio.Writer) {
	w.WriteString("Usage:\n")
	for _, a := range c.Args {
		w.WriteString(strings.TrimRight("  slashrun "+c.Name+" "+a, " ") + "\n")
	}
	if c.Doc != "" {
		w.WriteString("\n" + strings.TrimSpace(c.Doc) + "\n")
	}
	if len(c.flags()) > 0 {
		w.WriteString("\nOptions:\n")
		var rows [][2]string
		for _, f := range c.flags() {
			rows = append(rows, [2]string{f.usage(), f.Help})
		}
		writeColumns(w, rows)
	}
	if len(c.Exits) > 0 {
		w.WriteString("\nExit status:\n")
		var rows [][2]string
		for _, x := range c.Exits {
			rows = append(rows, [2]string{strconv.Itoa(x.Code), x.Meaning})
		}
		writeColumns(w, rows)
	}
}

// usage is how help shows f: "-E", "    --prefix=PATH", "-n, --dry-run".
func (f *Flag) usage() string {
	var s string
	switch {
	case f.Short != 0 && f.Long != "":
		s = "-" + string(rune(f.Short)) + ", --" + f.Long
	case f.Short != 0:
		s = "-" + string(rune(f.Short))
	default:
		s = "    --" + f.Long
	}
	if f.Arg == "" {
		return s
	}
	arg := f.Arg
	if f.Long != "" {
		arg = "=" + arg
	}
	if f.Optional {
		arg = "[" + arg + "]"
	}
	if f.Long == "" && !f.Optional {
		arg = " " + arg
	}
	return s + arg
}

// columnLimit is the widest left column that still gets its text on the same
// line.
const columnLimit = 26

// writeColumns writes rows of a term and its text, indented and aligned. A long
// term gets a line of its own; a line break in the text is kept and indented.
func writeColumns(w *bufio.Writer, rows [][2]string) {
	width := 0
	for _, r := range rows {
		if n := len(r[0]); n > width && n <= columnLimit {
			width = n
		}
	}
	indent := "\n" + strings.Repeat(" ", width+4)
	for _, r := range rows {
		w.WriteString("  " + r[0])
		if len(r[0]) > width {
			w.WriteString(indent)
		} else {
			w.WriteString(strings.Repeat(" ", width-len(r[0])+2))
		}
		w.WriteString(strings.ReplaceAll(r[1], "\n", indent) + "\n")
	}
}
