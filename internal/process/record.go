package process

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Record is what a PID file says. PID stands alone on the first line, as every
// reader expects; the rest is there in files of our own and says which process
// that was, so that the number cannot be taken for another's.
type Record struct {
	PID int
	// BootID and InitStart are of the run that PID lived in, see [Identity].
	BootID    string
	InitStart uint64
	// PIDNS is the inode number of the PID namespace that PID is a number of,
	// /proc/PID/ns/pid. The kernel gives the number again once the namespace is gone.
	PIDNS uint64
	// Start is when the process started, in clock ticks after the boot.
	Start uint64
	// Handle is the process's inode number on the pidfs, unique until the next
	// boot; 0 where the kernel had none (before Linux 6.9).
	Handle uint64
	// Locked says that whoever wrote the file locked it with flock(2) and keeps the
	// lock for as long as it lives.
	Locked bool
}

// The longest text that is read: postmaster.pid, the longest of the known
// formats, is below 500 bytes.
const maxRecord = 4096

// MaxPID is above every process id: PID_MAX_LIMIT of linux/threads.h is 2^22.
const MaxPID = 1 << 22

var (
	// ErrNoPID is wrapped by the errors of ParseRecord.
	ErrNoPID = errors.New("not a PID file")
	// ErrEmpty is one: the file is empty, or blank.
	ErrEmpty error = emptyError{}
)

type emptyError struct{}

func (emptyError) Error() string { return ErrNoPID.Error() + ": it is empty" }
func (emptyError) Unwrap() error { return ErrNoPID }

// Own reports whether the record carries the identity lines that Text writes.
func (r Record) Own() bool { return r.BootID != "" && r.PIDNS != 0 && r.InitStart|r.Start != 0 }

// Text is the content of a PID file. Nothing but the PID is a word of digits:
// scripts there are that take every such word of the file for a PID (killproc
// of Red Hat's init functions), and kill it.
func (r Record) Text() string {
	var b strings.Builder
	b.Grow(128)
	b.WriteString(strconv.Itoa(r.PID))
	b.WriteByte('\n')
	if r.Own() {
		b.WriteString("boot-id=" + r.BootID + "\n")
		for _, f := range r.fields() {
			if *f.value != 0 || f.always {
				b.WriteString(f.key)
				b.WriteByte('=')
				b.WriteString(strconv.FormatUint(*f.value, 10))
				b.WriteByte('\n')
			}
		}
	}
	if r.Locked {
		b.WriteString("lock=flock\n")
	}
	return b.String()
}

type field struct {
	key    string
	value  *uint64
	always bool
}

func (r *Record) fields() [4]field {
	return [4]field{
		{"init-start", &r.InitStart, true}, {"pid-namespace", &r.PIDNS, true},
		{"start", &r.Start, true}, {"pidfs-handle", &r.Handle, false},
	}
}

// ParseRecord reads the text of a PID file. It is as tolerant as the readers
// there are: blanks around the number, no newline at the end, lines that are
// something else (postmaster.pid has a directory and a port there). It refuses
// what no daemon meant: an empty file, words that are no number, two numbers on
// the first line, 0 and below, NUL bytes, more than 4096 bytes. Of the identity lines all have to
// be there and well-formed, or none counts, but for the one about the lock. Lines
// with keys that it does not know are left out.
func ParseRecord(text []byte) (Record, error) {
	if len(text) > maxRecord {
		return Record{}, fmt.Errorf("%w: it is longer than %d bytes", ErrNoPID, maxRecord)
	}
	if bytes.IndexByte(text, 0) >= 0 {
		return Record{}, fmt.Errorf("%w: it holds NUL bytes, as files do after a crash", ErrNoPID)
	}
	first, rest, _ := strings.Cut(string(text), "\n")
	first = strings.Trim(first, blank)
	if first == "" {
		if strings.Trim(rest, blank+"\n") == "" {
			return Record{}, ErrEmpty
		}
		return Record{}, fmt.Errorf("%w: its first line is empty", ErrNoPID)
	}
	pid, err := ParsePID(first)
	if err != nil {
		return Record{}, fmt.Errorf("%w: its first line %w", ErrNoPID, err)
	}
	r := Record{PID: pid}
	if !r.identity(rest) {
		return Record{PID: pid, Locked: r.Locked}, nil
	}
	return r, nil
}

const blank = " \t\r\v\f"

// ParsePID reads a process id: digits alone, and a number that the kernel could
// give.
func ParsePID(s string) (int, error) {
	v, ok := digits(s)
	switch {
	case !ok && len(s) > 20:
		return 0, fmt.Errorf("is no process id: %q and more", s[:20])
	case !ok:
		return 0, fmt.Errorf("is no process id: %q", s)
	case v == 0:
		return 0, errors.New("is 0, which is no process")
	case v > MaxPID:
		return 0, fmt.Errorf("is %s, which is above every process id", s)
	}
	return int(v), nil
}

// digits reads a decimal number without sign, blanks or underscores.
func digits(s string) (uint64, bool) {
	if s == "" || s[0] < '0' || s[0] > '9' { // ParseUint takes no sign either; this is for the empty string
		return 0, false
	}
	v, err := strconv.ParseUint(s, 10, 64)
	return v, err == nil
}

// identity reads the lines behind the first and reports whether all were there,
// once each. The one about the lock counts by itself.
func (r *Record) identity(text string) bool {
	seen := map[string]bool{}
	good := true
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !ok {
			continue
		}
		switch key {
		case "lock":
			r.Locked = r.Locked || value == "flock"
		case "boot-id":
			good = good && !seen[key] && len(value) == 36 && strings.Trim(value, "0123456789abcdef-") == ""
			r.BootID, seen[key] = value, true
		}
		for _, f := range r.fields() {
			if f.key == key {
				*f.value, ok = digits(value)
				good = good && ok && !seen[key]
				seen[key] = true
			}
		}
	}
	return good && seen["boot-id"] && seen["init-start"] && seen["pid-namespace"] && seen["start"] && r.Own()
}
