package pidfile

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// Errors that [errors.Is] finds in what this package returns. A file that is not
// there is fs.ErrNotExist.
var (
	// ErrHeld says that another process runs and holds the file; the error is a
	// *HeldError.
	ErrHeld = errors.New("held by another process")
	// ErrUncertain says that it cannot be told whether the process that the file
	// names still runs, so the file is neither taken over nor believed.
	ErrUncertain = errors.New("it cannot be told whether the process runs")
	// ErrNotRunning says that it is proven that the process does not run.
	ErrNotRunning = errors.New("the process does not run")
	// ErrUntrusted says that somebody else than root and the caller could have
	// written the file.
	ErrUntrusted = errors.New("not to be trusted")
	// ErrNoPIDFile says that what is there is no PID file: another type of file, or
	// other content.
	ErrNoPIDFile = errors.New("not a PID file")
	// ErrNoPidfd says that this kernel (before Linux 5.3), or a seccomp filter, has
	// no pidfds, without which a signal could reach another process.
	ErrNoPidfd = errors.New("no pidfds here (pidfd_open(2), Linux 5.3)")
	// ErrLost says that the file is no longer the one at its path: somebody removed
	// or replaced it.
	ErrLost = errors.New("no longer the file at this path")
)

// HeldError says who holds a PID file that was to be created.
type HeldError struct {
	Path string
	// PID and Name are of the process that the file names, if that lives, else of
	// one that has locked it; 0 and empty if neither can be seen. The process has
	// chosen its name itself: any byte may be in it. Error escapes it.
	PID  int
	Name string
	// Why says more.
	Why string
}

func (e *HeldError) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d (%s)", e.PID, printable(e.Name))
	}
	return fmt.Sprintf("%s: %s holds it: %s", e.Path, who, e.Why)
}

// printable escapes what does not print: a process's name must not draw on
// somebody's terminal, nor begin a line of a log.
func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) < 0 {
		return s
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// Is reports whether target is ErrHeld.
func (e *HeldError) Is(target error) bool { return target == ErrHeld }
