package accounts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// NoID is the number that is no id: chown(2) takes it for "do not change".
const NoID = ^uint32(0)

// ErrInvalidID is in the error for a number that cannot be an id.
var ErrInvalidID = errors.New("not a valid id")

// ParseID returns the user or group id that s is: a decimal number without sign,
// space or leading zero, from 0 to 4294967294, but not 65535. Those two are -1 in
// 32 and in 16 bits, which chown(2) takes for "do not change" (credentials(7) and
// the rules of systemd for ids).
func ParseID(s string) (uint32, error) {
	if s == "" || s[0] < '0' || s[0] > '9' || s[0] == '0' && len(s) > 1 {
		return 0, fmt.Errorf("%q: %w", s, ErrInvalidID)
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || uint32(n) == NoID || n == 65535 {
		return 0, fmt.Errorf("%q: %w", s, ErrInvalidID)
	}
	return uint32(n), nil
}

// User is a line of passwd(5).
type User struct {
	Name     string
	UID, GID uint32 // GID may be NoID where only the uid is known
	Home     string
	Shell    string
}

// Group is a line of group(5).
type Group struct {
	Name string
	GID  uint32
}

// compat reports whether name is a directive of the compat service.
func compat(name string) bool { return name[0] == '+' || name[0] == '-' }

// maxLine is how much of a line is looked at. A group with a hundred thousand
// members is longer, but its name and number come first.
const maxLine = 64 << 10

// ParseUsers reads passwd(5) and calls yield for every well-formed line in its
// order, until that returns false. Which lines are well-formed is the C library's
// judgement (fgetpwent(3) of glibc): spaces in front are skipped, so are lines
// that start with #; the number fields take spaces in front and a sign; what is
// behind them may be missing. Lines for the compat service (+name) are given as
// any others. A line of 64 KiB or more is passed over.
func ParseUsers(r io.Reader, yield func(User) bool) error {
	return parse(r, func(line []byte, cut bool) bool {
		f := fields{rest: line}
		u := User{Name: f.name()}
		if u.Name == "" || cut {
			return true
		}
		c := compat(u.Name)
		if !f.empty || !c { // "+" alone is all of the name service
			f.next()
			u.UID = f.number(c)
			u.GID = f.number(c)
			f.next()
			u.Home = f.next()
			u.Shell = string(f.rest)
		}
		return f.bad || yield(u)
	})
}

// ParseGroups reads group(5) as ParseUsers reads passwd(5). Members are not read.
// Of a line of 64 KiB or more the rest is not looked at.
func ParseGroups(r io.Reader, yield func(Group) bool) error {
	return parse(r, func(line []byte, cut bool) bool {
		f := fields{rest: line}
		g := Group{Name: f.name()}
		if g.Name == "" {
			return true
		}
		c := compat(g.Name)
		if !f.empty || !c {
			f.next()
			g.GID = f.number(c)
		}
		return f.bad || cut && f.last || yield(g)
	})
}

// parse calls line for every line that is neither blank nor a comment, without
// the spaces in front. cut says that the line goes on.
func parse(r io.Reader, line func(line []byte, cut bool) bool) error {
	lr := lineReader{r: r}
	for {
		b, cut, err := lr.next()
		if i := bytes.IndexByte(b, 0); i >= 0 {
			b = b[:i] // the end of a string in C
		}
		b = bytes.TrimLeft(bytes.TrimSuffix(b, []byte("\n")), " \t\n\v\f\r")
		if len(b) > 0 && b[0] != '#' && !line(b, cut) {
			return nil
		}
		for more := cut; more; {
			_, more, err = lr.next()
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lineReader reads lines into a buffer that grows with them up to maxLine. A
// bufio.Reader would take all of that at once, for files of a few lines.
type lineReader struct {
	r   io.Reader
	buf []byte // what was read and not taken is buf[at:]
	at  int
	err error // of the reader, for when buf is used up
}

// next returns a line with its newline, valid until the next call; cut says that
// maxLine bytes of it came and more follow. The last line comes with the error.
func (l *lineReader) next() (line []byte, cut bool, err error) {
	for seen := 0; ; {
		rest := l.buf[l.at:]
		if i := bytes.IndexByte(rest[seen:], '\n'); i >= 0 {
			l.at += seen + i + 1
			return rest[:seen+i+1], false, nil
		}
		if len(rest) == maxLine {
			l.at = len(l.buf)
			return rest, true, nil
		}
		if l.err != nil {
			l.at = len(l.buf)
			return rest, false, l.err
		}
		seen = len(rest)
		l.fill(rest)
	}
}

// fill reads once, behind rest, which it moves to the front.
func (l *lineReader) fill(rest []byte) {
	if len(rest) == cap(l.buf) {
		size := min(max(4*len(rest), 8<<10), maxLine)
		l.buf = append(make([]byte, 0, size), rest...)
	} else {
		l.buf = l.buf[:copy(l.buf[:cap(l.buf)], rest)]
	}
	l.at = 0
	n, err := l.r.Read(l.buf[len(l.buf):cap(l.buf)])
	l.buf, l.err = l.buf[:len(l.buf)+n], err
}

// fields takes a line apart.
type fields struct {
	rest  []byte
	empty bool // nothing is left
	last  bool // the field taken last had no colon behind it
	bad   bool // a number was none
}

// take takes the field up to the next colon, or the rest.
func (f *fields) take() []byte {
	b, rest, found := bytes.Cut(f.rest, []byte(":"))
	f.rest, f.last, f.empty = rest, !found, len(rest) == 0
	return b
}

func (f *fields) next() string { return string(f.take()) }
func (f *fields) name() string { return f.next() }

// number takes a field that strtoul(3) would read to its end. With optional, it
// may be empty, but something must follow it.
func (f *fields) number(optional bool) uint32 {
	if f.empty {
		f.bad = true
		return 0
	}
	b := f.take()
	if optional && len(b) == 0 {
		return 0
	}
	b = bytes.TrimLeft(b, " \t\n\v\f\r")
	sign := byte('+')
	if len(b) > 0 && (b[0] == '+' || b[0] == '-') {
		sign, b = b[0], b[1:]
	}
	n := uint64(0)
	for _, c := range b {
		if c < '0' || c > '9' || n > 1<<32 {
			f.bad = true
			return 0
		}
		n = n*10 + uint64(c-'0')
	}
	if len(b) == 0 || n >= 1<<32 || sign == '-' && n != 0 {
		f.bad = true
		return 0
	}
	return uint32(n)
}
