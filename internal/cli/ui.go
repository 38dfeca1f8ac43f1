package cli

// Rules of what slashrun prints, for whoever adds a line:
//
//  1. What was asked for goes to standard output, everything else (errors,
//     warnings, progress) to standard error. Success without a result is silent.
//  2. A message is one line: the program, what failed, where, why, and after a
//     semicolon what to do next. No capital at the start, no full stop at the
//     end, no stack of prefixes that repeat one another.
//  3. A name that comes from a file system, a file or the command line goes
//     through Quote: it may hold a newline or an escape sequence, and then it
//     must not draw on somebody's terminal.
//  4. Colour goes to a terminal alone, never where NO_COLOR is set and not empty
//     (no-color.org) or TERM is "dumb", and no meaning is in colour alone.
//  5. Progress goes to standard error, on a terminal alone, and not in the first
//     second.
//  6. Output that cannot be written is an error with an exit code, not silence:
//     print results through Output, which says so.
//  7. Machine-readable output (--json) is complete and has no colour.

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/slashrun/slashrun/internal/linux"
)

// Style is a way to set text off on a terminal. The values are the parameters
// of the SGR sequence (ECMA-48 8.3.117).
type Style string

// The styles there are. A list of meanings, not of colours.
const (
	Bold  Style = "1"
	Dim   Style = "2"
	Bad   Style = "31" // an error, a refusal
	Good  Style = "32"
	Doubt Style = "33" // a warning, "cannot tell"
)

// Errorf writes one line to standard error, after the program's name.
func (e *Env) Errorf(format string, args ...any) {
	e.message(Bad, "", format, args)
}

// Warnf writes one line to standard error that begins with "warning:".
func (e *Env) Warnf(format string, args ...any) {
	e.message(Doubt, "warning: ", format, args)
}

// Usagef reports bad usage in one line and returns ExitUsage, for
// "return env.Usagef(...)".
func (e *Env) Usagef(format string, args ...any) int {
	e.Errorf(format, args...)
	return ExitUsage
}

// message writes one line in one write, so that the lines of two processes on
// the same file do not mix. An error is dropped: there is nowhere to tell it.
func (e *Env) message(s Style, kind, format string, args []any) {
	prog := e.Prog + ":"
	if e.Colour(e.Stderr) {
		prog = s.Wrap(prog)
	}
	fmt.Fprintf(e.Stderr, "%s %s%s\n", prog, kind, fmt.Sprintf(format, args...))
}

// Output runs print with a buffered standard output and returns ExitOK, or
// ExitUsage after a message where the output could not be written.
func (e *Env) Output(print func(w *bufio.Writer)) int {
	w := bufio.NewWriter(e.Stdout)
	print(w)
	if err := w.Flush(); err != nil {
		e.Errorf("cannot write the output: %v", err)
		return ExitUsage
	}
	return ExitOK
}

// Terminal reports whether w is a terminal.
func Terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && linux.IsTerminal(int(f.Fd()))
}

// Colour reports whether colour may be written to w.
func (e *Env) Colour(w io.Writer) bool {
	return e.Getenv("NO_COLOR") == "" && e.Getenv("TERM") != "dumb" && Terminal(w)
}

// Wrap returns text between the sequences that begin and end s.
func (s Style) Wrap(text string) string {
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// Quote returns name as it is where it is harmless to print, else as a Go
// string literal: control characters, invalid UTF-8 and characters that do not
// print (bidirectional overrides among them) never reach the terminal.
func Quote(name string) string {
	if name == "" {
		return `""`
	}
	for i, r := range name {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(name[i:]); n == 1 {
				return strconv.Quote(name)
			}
		}
		if !unicode.IsPrint(r) {
			return strconv.Quote(name)
		}
	}
	return name
}
