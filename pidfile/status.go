package pidfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/runfs"
	"github.com/slashrun/slashrun/internal/stale"
)

// Verdict is what is proven about the process that a PID file names.
type Verdict uint8

// The zero value is Unknown. Only Stale says that the process does not run;
// whoever would remove a file takes the other two for one.
const (
	Unknown Verdict = iota // evidence is missing
	Live                   // a process runs that is, or has to be taken for, the one
	Stale                  // it is proven that it does not run
)

// String is "unknown", "live" or "stale".
func (v Verdict) String() string {
	switch v {
	case Unknown:
		return "unknown"
	case Live:
		return "live"
	case Stale:
		return "stale"
	}
	return fmt.Sprintf("Verdict(%d)", uint8(v))
}

// MarshalText gives JSON the string.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// Evidence is one thing that was found out.
type Evidence struct {
	// Proof is a word for programs, the same in all versions: "process-gone",
	// "start-time", "lock-held", "clock-unproven", ...
	Proof string `json:"proof"`
	// Text is for people.
	Text string `json:"text"`
}

// Status is what a PID file says and what is true of it. It is data: nothing is
// held, and the process may end the moment after.
type Status struct {
	Path    string  `json:"path"`
	Verdict Verdict `json:"verdict"`
	// PID is the number in the file, 0 if there is none in it.
	PID int `json:"pid,omitempty"`
	// Name is the name of the process that lives, at most 15 bytes, which it has
	// chosen itself: any byte may be in it. Here is the process's number in our own
	// PID namespace, which differs from PID where the file is of another.
	Name string `json:"name,omitempty"`
	Here int    `json:"here,omitempty"`
	// Proven says that this process is the one that the file was written for, not
	// one that has its number now. Only then Find succeeds.
	Proven bool `json:"proven"`
	// Evidence ends with what decided.
	Evidence []Evidence `json:"evidence"`
}

// Why is the text of the evidence that decided.
func (s *Status) Why() string {
	if len(s.Evidence) == 0 {
		return ""
	}
	return s.Evidence[len(s.Evidence)-1].Text
}

// Check finds out whether the process that the PID file names runs. It reads
// files of every program, not only those of Create, changes nothing, locks
// nothing and sends no signal. The error is for a file that is not there
// (fs.ErrNotExist) or cannot be looked at; what it says is no error.
func Check(path string) (*Status, error) { return CheckExclusive(path) }

// CheckExclusive is Check for whoever knows that nobody outside of this container (of
// this PID namespace) uses the directories in exclusive, each with what is below it on
// the same mount: there the number in another program's file can only be one of ours.
// The kernel does not tell that of a volume, or of a tmpfs that is mounted in the
// container.
func CheckExclusive(path string, exclusive ...string) (*Status, error) {
	n, err := check(path, exclusive)
	if err != nil {
		return nil, &fs.PathError{Op: "check", Path: path, Err: err}
	}
	defer n.Close()
	return status(path, n), nil
}

func check(path string, exclusive []string) (*stale.Named, error) {
	dir, name, err := open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	p, err := process.Open()
	if err != nil {
		return nil, err
	}
	defer p.Close()
	return lookAt(p, dir, name, path, exclusive)
}

// lookAt judges a PID file, again if it is exchanged meanwhile.
func lookAt(p *process.Proc, dir *fsat.Dir, name, path string, exclusive []string) (n *stale.Named, err error) {
	j, err := newJudge(p, exclusive)
	if err != nil {
		return nil, err
	}
	for range 10 {
		n, err = j.LookPID(context.Background(), dir, name, path)
		if !errors.Is(err, stale.ErrChanged) {
			break
		}
	}
	return n, unwrapPath(err)
}

// unwrapPath takes the path off an error that gets it again.
func unwrapPath(err error) error {
	if u := errors.Unwrap(err); u != nil && !errors.Is(err, stale.ErrChanged) {
		return u
	}
	return err
}

// newJudge is a judge that knows the boot stamp, if this machine has one.
func newJudge(p *process.Proc, exclusive []string) (*stale.Judge, error) {
	o := stale.Options{Proc: p, Exclusive: exclusive}
	if run, err := fsat.OpenDir(runDir); err == nil {
		if s, made, err := runfs.FindStamp(run); err == nil && s != nil {
			o.Stamp = &stale.Stamp{Identity: s.Identity, Made: made}
		}
		run.Close()
	}
	return stale.New(context.Background(), o)
}

// runDir is where the boot stamp is: a fact of the machine, not a choice.
const runDir = "/run"

func status(path string, n *stale.Named) *Status {
	s := &Status{Path: path, PID: n.PID, Proven: n.Proven}
	if s.PID == 0 && n.Record != nil {
		s.PID = n.Record.PID
	}
	switch n.Verdict {
	case stale.Live:
		s.Verdict = Live
	case stale.Stale:
		s.Verdict = Stale
	}
	if n.Process != nil {
		s.Name, s.Here = n.Process.Comm, n.Process.PID
	}
	for _, e := range n.Evidence {
		s.Evidence = append(s.Evidence, Evidence{string(e.Proof), printable(e.Text)})
	}
	return s
}
