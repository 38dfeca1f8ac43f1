// Package fileattr reads the argument of the `h` and `H` lines of tmpfiles.d(5):
// the file attributes that chattr(1) sets, as flags of FS_IOC_SETFLAGS.
//
// The argument is [+-=]LETTERS with the letters aAcCdDeijPsStTu. + adds, and is
// what is meant without a prefix; - removes; = sets exactly the letters that
// follow it, which may be none, and clears the others of these fifteen. Flags
// without a letter here are never touched. A letter may stand twice.
//
// # Plan and apply
//
// Parse gives a Change, once per line of configuration. Change.Apply gives the
// flags that a file shall have from those that it has (FS_IOC_GETFLAGS). File
// systems know only some of the flags; what to do about the others is the
// caller's matter.
//
// # What fails, and how
//
// Parse returns an *Error: ErrEmpty for a prefix + or - without a letter (for
// tmpfiles.d a line with a syntax error), ErrLetter for any other letter.
//
// # When not to use it
//
// For extended attributes (`t` lines) and for the attributes of statx(2), whose
// bits are others.
package fileattr

import (
	"errors"
	"fmt"
	"strings"
)

// The flags of linux/fs.h that have a letter.
const (
	SecureDelete   = 0x00000001 // s, FS_SECRM_FL
	Undelete       = 0x00000002 // u, FS_UNRM_FL
	Compress       = 0x00000004 // c, FS_COMPR_FL
	Sync           = 0x00000008 // S, FS_SYNC_FL
	Immutable      = 0x00000010 // i, FS_IMMUTABLE_FL
	Append         = 0x00000020 // a, FS_APPEND_FL
	NoDump         = 0x00000040 // d, FS_NODUMP_FL
	NoAtime        = 0x00000080 // A, FS_NOATIME_FL
	JournalData    = 0x00004000 // j, FS_JOURNAL_DATA_FL
	NoTail         = 0x00008000 // t, FS_NOTAIL_FL
	DirSync        = 0x00010000 // D, FS_DIRSYNC_FL, directories only
	TopDir         = 0x00020000 // T, FS_TOPDIR_FL
	Extents        = 0x00080000 // e, FS_EXTENT_FL
	NoCopyOnWrite  = 0x00800000 // C, FS_NOCOW_FL
	ProjectInherit = 0x20000000 // P, FS_PROJINHERIT_FL
)

// All is every flag that has a letter: what = resets.
const All = SecureDelete | Undelete | Compress | Sync | Immutable | Append | NoDump | NoAtime |
	JournalData | NoTail | DirSync | TopDir | Extents | NoCopyOnWrite | ProjectInherit

// table is in the order in which lsattr(1) writes the letters.
var table = [...]struct {
	letter byte
	flag   uint32
}{
	{'s', SecureDelete}, {'u', Undelete}, {'S', Sync}, {'D', DirSync}, {'i', Immutable},
	{'a', Append}, {'d', NoDump}, {'A', NoAtime}, {'c', Compress}, {'j', JournalData},
	{'t', NoTail}, {'T', TopDir}, {'e', Extents}, {'C', NoCopyOnWrite}, {'P', ProjectInherit},
}

// The causes of an *Error.
var (
	ErrEmpty  = errors.New("no attribute is given")
	ErrLetter = errors.New("unknown file attribute")
)

// Error tells what is wrong with an argument.
type Error struct {
	Text   string // the argument
	Offset int    // byte offset in it
	Err    error  // ErrEmpty or ErrLetter
}

func (e *Error) Error() string {
	if e.Offset < len(e.Text) {
		return fmt.Sprintf("%v %q in %q, want a letter of aAcCdDeijPsStTu", e.Err, e.Text[e.Offset:e.Offset+1], e.Text)
	}
	return fmt.Sprintf("%v in %q, want letters of aAcCdDeijPsStTu", e.Err, e.Text)
}

func (e *Error) Unwrap() error { return e.Err }

// Change is what one argument asks for. The zero value changes nothing.
type Change struct {
	Mask  uint32 // the flags it speaks about
	Value uint32 // which of them are to be set, a subset of Mask
}

// Parse reads an argument. The error is an *Error.
func Parse(arg string) (Change, error) {
	letters, prefix := arg, byte('+')
	if arg != "" && strings.IndexByte("+-=", arg[0]) >= 0 {
		prefix, letters = arg[0], arg[1:]
	}
	if letters == "" && prefix != '=' {
		return Change{}, &Error{Text: arg, Offset: len(arg), Err: ErrEmpty}
	}
	var c Change
	for i := range len(letters) {
		flag := flagOf(letters[i])
		if flag == 0 {
			return Change{}, &Error{Text: arg, Offset: len(arg) - len(letters) + i, Err: ErrLetter}
		}
		c.Mask |= flag
	}
	if prefix != '-' {
		c.Value = c.Mask
	}
	if prefix == '=' {
		c.Mask = All
	}
	return c, nil
}

func flagOf(letter byte) uint32 {
	for i := range table {
		if table[i].letter == letter {
			return table[i].flag
		}
	}
	return 0
}

// Apply returns the flags that a file shall have that now has the flags old.
// DirSync is never set on anything but a directory.
func (c Change) Apply(old uint32, isDir bool) uint32 {
	value := c.Value & c.Mask
	if !isDir {
		value &^= DirSync
	}
	return old&^c.Mask | value
}

// Letters writes those of flags that have a letter, in lsattr's order; "" if
// there is none.
func Letters(flags uint32) string {
	var b strings.Builder
	for i := range table {
		if flags&table[i].flag != 0 {
			b.WriteByte(table[i].letter)
		}
	}
	return b.String()
}

// String writes the change as an argument that Parse reads back: "+ia", "-i",
// "=", or "" for the zero value.
func (c Change) String() string {
	switch {
	case c.Mask == 0:
		return ""
	case c.Mask == All:
		return "=" + Letters(c.Value)
	case c.Value == 0:
		return "-" + Letters(c.Mask)
	}
	return "+" + Letters(c.Value)
}
