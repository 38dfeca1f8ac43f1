package locks

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Kinds of locks, as the kernel writes them.
const (
	Flock = "FLOCK"  // flock(2)
	OFD   = "OFDLCK" // fcntl(2) F_OFD_SETLK
	POSIX = "POSIX"  // fcntl(2) F_SETLK, lockf(3)
	Lease = "LEASE"  // fcntl(2) F_SETLEASE
)

// Lock is one line of /proc/locks, proc_locks(5), or one "lock:" line of fdinfo.
type Lock struct {
	Kind      string // Flock, OFD, POSIX, Lease or what else the kernel has
	Waiting   bool   // a "->" line: this lock is wanted, not held
	Exclusive bool
	// PID is who took the lock: for POSIX the owner; for Flock whoever called
	// flock(2), who may have exited since and left the lock with a child; for OFD
	// -1; 0 for one outside of our PID namespace.
	PID          int
	Major, Minor uint32 // of the superblock, which on overlayfs and btrfs is not stat's device
	Ino          uint64
	Start, End   int64 // the bytes, both included; End is math.MaxInt64 for "to the end"
}

// File is an inode as locks have it: by the device of its superblock.
type File struct {
	Major, Minor uint32
	Ino          uint64
}

// File is what the lock is on.
func (l *Lock) File() File { return File{l.Major, l.Minor, l.Ino} }

// Conflicts reports whether the two exclude each other if they are of two owners:
// of one file, both of flock(2) or both of fcntl(2), of common bytes, and not both
// shared.
func (l *Lock) Conflicts(o *Lock) bool {
	of := func(kind string) string {
		if kind == POSIX {
			return OFD
		}
		return kind
	}
	return l.File() == o.File() && of(l.Kind) == of(o.Kind) && (l.Exclusive || o.Exclusive) && l.Overlaps(o.Start, o.End)
}

// Overlaps reports whether the two are about common bytes.
func (l *Lock) Overlaps(start, end int64) bool { return l.Start <= end && start <= l.End }

// Parse reads one line: "1: -> FLOCK  ADVISORY  WRITE 123 00:1b:4711 0 EOF".
func Parse(line string) (Lock, error) {
	var l Lock
	f := strings.Fields(line)
	if len(f) > 0 && strings.HasSuffix(f[0], ":") {
		f = f[1:]
	}
	if len(f) > 0 && f[0] == "->" {
		l.Waiting, f = true, f[1:]
	}
	if len(f) != 7 {
		return Lock{}, fmt.Errorf("%d fields, not 7: %q", len(f), line)
	}
	l.Kind = f[0]
	switch f[2] {
	case "WRITE", "RW":
		l.Exclusive = true
	case "READ", "UNLCK", "NONE":
	default:
		return Lock{}, fmt.Errorf("the mode %q is none: %q", f[2], line)
	}
	var err error
	if l.PID, err = strconv.Atoi(f[3]); err != nil {
		return Lock{}, fmt.Errorf("the process id %q is no number: %q", f[3], line)
	}
	if f[4] != "<none>:0" {
		if err := l.inode(f[4]); err != nil {
			return Lock{}, fmt.Errorf("%w: %q", err, line)
		}
	}
	var e1, e2 error
	l.Start, e1 = strconv.ParseInt(f[5], 10, 64)
	l.End = math.MaxInt64
	if f[6] != "EOF" {
		l.End, e2 = strconv.ParseInt(f[6], 10, 64)
	}
	if e1 != nil || e2 != nil || l.Start < 0 || l.End < l.Start {
		return Lock{}, fmt.Errorf("the range is none: %q", line)
	}
	return l, nil
}

// inode reads "MAJOR:MINOR:INODE", the device in hexadecimal.
func (l *Lock) inode(s string) error {
	f := strings.Split(s, ":")
	if len(f) != 3 {
		return errors.New("the inode has not three parts")
	}
	major, e1 := strconv.ParseUint(f[0], 16, 32)
	minor, e2 := strconv.ParseUint(f[1], 16, 32)
	ino, e3 := strconv.ParseUint(f[2], 10, 64)
	if e1 != nil || e2 != nil || e3 != nil {
		return errors.New("the inode is no number")
	}
	l.Major, l.Minor, l.Ino = uint32(major), uint32(minor), ino
	return nil
}
