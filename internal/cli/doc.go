// Package cli is the command line of slashrun: floor 8, one file per command.
//
// # How a command is added
//
// A command is a function that returns a [Command], in a file named after it
// (tmpfiles.go holds tmpfilesCommand), and one line in commands() in table.go.
// Nothing registers itself: there is no init function, and reading table.go
// tells the whole list. The Command's tables of options and exit codes are what
// "slashrun help NAME" prints and what the shell completions are made from, so
// an option that is missing there is missing everywhere.
//
// A command does no work of its own. It parses its arguments, fills an options
// struct, calls the package that does the work, and prints what that returns.
//
// # How a command is called
//
//	slashrun NAME ARGS...       a built-in command, else slashrun-NAME
//	ln -s slashrun systemd-tmpfiles; systemd-tmpfiles ARGS...
//
// A name in Command.CalledAs makes the executable be that command when argv[0]
// ends in it. A NAME that is not built in runs the program slashrun-NAME from
// the directory of the executable, or from an absolute directory on PATH, as git
// does: the manager and the terminal UI are programs of their own, because
// images and boot scripts want a small one.
//
// # Start-up
//
// Scripts and images wait for this program, so the package does nothing before
// Main: no init functions, no package-level maps or regular expressions, and
// the table of commands is built by a function, not by a variable.
//
// # When it fails
//
//	usage            one line on stderr, exit code 1
//	output refused   (full disk, /dev/full) one line on stderr, exit code 1
//	reader gone      SIGPIPE ends the program, as it ends any filter
//
// Everything else is the command's own and stands in its help under "Exit
// status".
package cli
