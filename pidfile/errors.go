package pidfile

import (
	"errors"
	"fmt"
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
	// one that has locked it; 0 and empty if neither can be seen.
	PID  int
	Name string
	// Why says more.
	Why string
}

func (e *HeldError) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d (%s)", e.PID, e.Name)
	}
	return fmt.Sprintf("%s: %s holds it: %s", e.Path, who, e.Why)
}

// Is reports whether target is ErrHeld.
func (e *HeldError) Is(target error) bool { return target == ErrHeld }
