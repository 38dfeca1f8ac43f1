package tmpfiles

import (
	"fmt"
	"strconv"
)

// Action is what a change does.
type Action string

// The actions.
const (
	ActMkdir     Action = "create-directory"
	ActSubvolume Action = "create-subvolume"
	ActFile      Action = "create-file"
	ActWrite     Action = "write"
	ActAppend    Action = "append"
	ActSymlink   Action = "create-symlink"
	ActFifo      Action = "create-fifo"
	ActDevice    Action = "create-device"
	ActCopy      Action = "copy"
	ActChown     Action = "chown"
	ActChmod     Action = "chmod"
	ActXattr     Action = "set-xattr"
	ActACL       Action = "set-acl"
	ActCaps      Action = "set-capabilities"
	ActFlags     Action = "set-attributes"
	ActQuota     Action = "set-quota-groups"
	ActUnlink    Action = "remove"
	ActRmdir     Action = "remove-directory"
	ActRmTree    Action = "remove-tree"
)

// Change is one change to one node: what a dry run prints, and what a run does.
type Change struct {
	Action Action `json:"action"`
	Path   string `json:"path"`
	// From and To are the old and the new value, where there are such: modes
	// in octal, owners as uid:gid, link targets, ACLs in their text form.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	// Line is the line that asks for it.
	Line string `json:"line,omitempty"`
}

func (c Change) String() string {
	s := string(c.Action) + " " + strconv.Quote(c.Path)
	switch {
	case c.From != "" && c.To != "":
		s += ": " + c.From + " -> " + c.To
	case c.To != "":
		s += ": " + c.To
	}
	return s
}

// Problem is a failure that the run went on from.
type Problem struct {
	Path   string
	Source Source // zero for what no line caused
	Err    error
	// Tolerated failures are told and do not count: lines with `-`.
	Tolerated bool
}

func (p *Problem) Error() string {
	if p.Source.File == "" {
		return p.Err.Error()
	}
	return p.Source.String() + ": " + p.Err.Error()
}

func (p *Problem) Unwrap() error { return p.Err }

// Reporter is told what a run does, as it does it. Its methods are called from
// several goroutines during clean-up.
type Reporter interface {
	// Change tells a change. It is called only where Changes says so, which does
	// not change during a run.
	Change(Change)
	Changes() bool
	Problem(*Problem)
	// Debug tells what was looked at and left alone, and why. It is called
	// only where Verbose says so.
	Debug(src Source, path, why string)
	Verbose() bool
}

func octal(mode uint32) string { return fmt.Sprintf("%04o", mode) }

func ids(uid, gid uint32) string {
	return strconv.FormatUint(uint64(uid), 10) + ":" + strconv.FormatUint(uint64(gid), 10)
}
