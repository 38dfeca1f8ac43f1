package tmpfiles

import (
	"strconv"
	"strings"

	"github.com/slashrun/slashrun/internal/fileattr"
	"github.com/slashrun/slashrun/internal/filecaps"
	"github.com/slashrun/slashrun/internal/posixacl"
)

// Source is where a line stands.
type Source struct {
	File string // as it was opened; "<stdin>" and "<inline>" for lines without a file
	Line int    // from 1
}

func (s Source) String() string { return s.File + ":" + strconv.Itoa(s.Line) }

// Type is the letter of a line, tmpfiles.d(5) "Type".
type Type byte

// The sets of types that rules speak of.
const (
	plainTypes   = "fFdDvqQpLcbC"
	globTypes    = "wexXrRzZmtThHaAkK"
	purgeTypes   = "fFdDvqQpLcbCwe"
	ownerTypes   = "fFdDvqQpLcbCwexXrR" // at most one per path, unless they agree
	noArgTypes   = "dDvqQepxXrRzZm"     // refuse an argument
	needArgTypes = "wcbtTaAhHkK"        // require one
	noBase64     = "LCcbtTaAhHkK"       // take no `~`
	dirTypes     = "dDvqQ"              // make a directory, default mode 0755
)

func (t Type) in(set string) bool { return strings.IndexByte(set, byte(t)) >= 0 }

// Glob says that the path of such a line is a pattern.
func (t Type) Glob() bool { return t.in(globTypes) }

// TakesOwnership says that such a line decides what its path is, so that two of
// them must agree.
func (t Type) TakesOwnership() bool { return t.in(ownerTypes) }

// AgeBy is a set of timestamps that can keep a file from being cleaned.
type AgeBy uint8

// The timestamps, and the defaults of tmpfiles.d(5): all of them, but for
// directories not the change time, which cleaning itself moves.
const (
	ByAtime AgeBy = 1 << iota
	ByBtime
	ByCtime
	ByMtime

	AgeByFile = ByAtime | ByBtime | ByCtime | ByMtime
	AgeByDir  = ByAtime | ByBtime | ByMtime
)

// Modifiers are the characters after the type letter.
type Modifiers struct {
	Plus       bool // `+`: append, truncate, replace or merge, by type
	Boot       bool // `!`: only with --boot
	MayFail    bool // `-`: a failure on create is told and not counted
	Replace    bool // `=`: nodes of the wrong type on the way and at the path are removed
	Base64     bool // `~`: the argument is base64
	Credential bool // `^`: the argument names a credential
	Purge      bool // `$`: subject to --purge
	IfTarget   bool // `?` on L: only where the target exists
}

// ID is an owner field.
type ID struct {
	Set     bool
	NewOnly bool // prefix `:`: only for what is created
	Value   uint32
}

// Mode is a mode field.
type Mode struct {
	Set     bool
	NewOnly bool // prefix `:`
	Masked  bool // prefix `~`: masked by the bits that are there
	Value   uint32
}

// Age is an age field.
type Age struct {
	Set       bool
	KeepFirst bool // prefix `~`: what lies directly in the directory stays
	Usec      uint64
	File, Dir AgeBy
}

// Item is one line, parsed and resolved: plain data. Path is absolute, cleaned,
// and relative to the root handle of the run.
type Item struct {
	Source   Source
	Text     string // the line as written; only with Config.KeepSkipped
	Type     Type
	Mod      Modifiers
	Path     string
	Mode     Mode
	UID, GID ID
	Age      Age

	// Argument is the argument after unescaping and specifiers: the target of
	// L, the source of C. Content is the same as bytes, or what a credential
	// or base64 gave, for f and w.
	Argument string
	Content  []byte
	HasArg   bool

	Rdev   uint64          // c, b
	Xattrs []Xattr         // t, T
	ACL    *posixacl.Spec  // a, A; nil if it could not be parsed
	Caps   *filecaps.Spec  // k, K; nil if it could not be parsed
	Attr   fileattr.Change // h, H
}

// Xattr is one name=value of a t line.
type Xattr struct{ Name, Value string }

// Op is a set of operations.
type Op uint8

// The operations, systemd-tmpfiles(8).
const (
	Create Op = 1 << iota
	Remove
	Clean
	Purge
)

// group holds the lines of one path, in the order of application.
type group struct {
	path     string
	items    []*Item
	parent   *group   // the nearest ancestor that has lines
	children []*group // those whose nearest ancestor this is
	done     Op
	seq      int // order of insertion, for deterministic children
}

// table holds the groups of plain paths, or those of patterns, in the order in
// which their first lines came.
type table struct {
	byPath map[string]*group
	order  []*group
}

// compatible says that two lines on one path may both stand. The type letter is
// not compared: `d` and `D` with the same fields agree.
func compatible(a, b *Item) bool {
	if !a.Type.TakesOwnership() || !b.Type.TakesOwnership() {
		return true
	}
	return a.HasArg == b.HasArg && a.Argument == b.Argument && string(a.Content) == string(b.Content) &&
		a.UID == b.UID && a.GID == b.GID && a.Mode == b.Mode && a.Age == b.Age && a.Rdev == b.Rdev
}

// conflicts returns the earlier line that makes it a duplicate, or nil. Several
// `w+` lines on one path are allowed.
func (g *group) conflicts(it *Item) *Item {
	for _, e := range g.items {
		if compatible(e, it) {
			continue
		}
		if e.Type != 'w' || !e.Mod.Plus || it.Type != 'w' || !it.Mod.Plus {
			return e
		}
	}
	return nil
}

// insert puts it in the order of application: lines that take ownership first,
// then by type byte, equal ones in the order in which they came.
func (g *group) insert(it *Item) {
	at := len(g.items)
	for at > 0 && before(it, g.items[at-1]) {
		at--
	}
	g.items = append(g.items, nil)
	copy(g.items[at+1:], g.items[at:])
	g.items[at] = it
}

func before(a, b *Item) bool {
	if x, y := a.Type.TakesOwnership(), b.Type.TakesOwnership(); x != y {
		return x
	}
	return a.Type < b.Type
}
