package resolve

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Type is a type of records, RFC 1035, 3.2.2 and RFC 3596.
type Type uint16

// The types of addresses, and the one of another name.
const (
	A     Type = 1
	cname Type = 5
	AAAA  Type = 28
)

// Codes of answers, RFC 1035, 4.1.1.
const (
	Success       = 0
	ServerFailure = 2
	NoSuchName    = 3
	Refused       = 5
)

// MaxMessage is the longest message over UDP, RFC 1035, 4.2.1.
const MaxMessage = 512

const (
	headerSize = 12
	classIN    = 1

	flagAnswer    = 1 << 15
	flagTruncated = 1 << 9
	flagRecursion = 1 << 8
)

// Query makes a message that asks for the records of a type which name has: a
// full name that ValidName accepts, with or without the dot at its end.
func Query(id uint16, name string, t Type) []byte {
	b := make([]byte, headerSize, headerSize+len(name)+6)
	e := binary.BigEndian
	e.PutUint16(b, id)
	e.PutUint16(b[2:], flagRecursion)
	e.PutUint16(b[4:], 1) // one question
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		b = append(b, byte(len(label)))
		b = append(b, label...)
	}
	b = append(b, 0)
	b = e.AppendUint16(b, uint16(t))
	return e.AppendUint16(b, classIN)
}

// Answer is what a server said.
type Answer struct {
	Code      int // Success, NoSuchName, ...
	Addrs     []netip.Addr
	Truncated bool
}

var (
	// ErrMessage means that the message cannot be understood.
	ErrMessage = errors.New("malformed DNS message")
	// ErrOther means that the message is the answer to another question: drop it.
	ErrOther = errors.New("the answer to another question")
)

// ParseAnswer reads the answer to Query(id, name, t). Records count that belong to
// the name or to one that the answer calls its canonical name.
func ParseAnswer(b []byte, id uint16, name string, t Type) (Answer, error) {
	e := binary.BigEndian
	if len(b) < headerSize || e.Uint16(b) != id || e.Uint16(b[2:])&flagAnswer == 0 {
		return Answer{}, ErrOther
	}
	flags := e.Uint16(b[2:])
	a := Answer{Code: int(flags & 15), Truncated: flags&flagTruncated != 0}
	p := reader{b: b, at: headerSize}
	if n := e.Uint16(b[4:]); n != 1 {
		if n == 0 && a.Code != Success { // some servers leave it out when they refuse
			return a, nil
		}
		return Answer{}, ErrOther
	}
	want := strings.ToLower(strings.TrimSuffix(name, "."))
	q := p.name()
	if typ, class := p.u16(), p.u16(); p.bad || q != want || Type(typ) != t || class != classIN {
		return Answer{}, ErrOther
	}
	names := map[string]bool{want: true}
	for range e.Uint16(b[6:]) {
		owner := p.name()
		typ, class := Type(p.u16()), p.u16()
		p.skip(4) // time to live
		size := int(p.u16())
		end := p.at + size
		if p.bad || end > len(b) {
			if a.Truncated { // in the middle of a record
				return a, nil
			}
			return Answer{}, fmt.Errorf("%w: a record of %d bytes at %d of %d", ErrMessage, size, p.at, len(b))
		}
		switch {
		case class != classIN || !names[owner]:
		case typ == cname:
			target := p.name()
			if p.bad {
				return Answer{}, fmt.Errorf("%w: a name", ErrMessage)
			}
			names[target] = true
		case typ == t && t == A && size == 4:
			a.Addrs = append(a.Addrs, netip.AddrFrom4([4]byte(b[p.at:end])))
		case typ == t && t == AAAA && size == 16:
			a.Addrs = append(a.Addrs, netip.AddrFrom16([16]byte(b[p.at:end])))
		}
		p.at = end
	}
	return a, nil
}

// reader reads a message; bad says that it went past the end.
type reader struct {
	b   []byte
	at  int
	bad bool
}

func (p *reader) skip(n int) {
	if p.at += n; p.at > len(p.b) {
		p.bad, p.at = true, len(p.b)
	}
}

func (p *reader) u16() uint16 {
	at := p.at
	if p.skip(2); p.bad {
		return 0
	}
	return binary.BigEndian.Uint16(p.b[at:])
}

// name reads a name in lower case, without the dot at its end: labels, and then
// the end or a pointer to an earlier name (RFC 1035, 4.1.4).
func (p *reader) name() string {
	var out []byte
	at, jumped := p.at, false
	for hops := 0; ; {
		if at >= len(p.b) || len(out) > maxName {
			p.bad = true
			return ""
		}
		n := int(p.b[at])
		switch {
		case n == 0:
			if !jumped {
				p.at = at + 1
			}
			return string(out)
		case n < 64:
			label := p.b[min(at+1, len(p.b)):min(at+1+n, len(p.b))]
			if len(label) < n || bytes.IndexByte(label, '.') >= 0 { // which would look like two labels
				p.bad = true
				return ""
			}
			if len(out) > 0 {
				out = append(out, '.')
			}
			out = append(out, bytes.ToLower(label)...)
			at += 1 + n
		case n >= 192 && at+1 < len(p.b) && hops < 32:
			if !jumped {
				p.at = at + 2
			}
			at, jumped = int(binary.BigEndian.Uint16(p.b[at:]))&0x3fff, true
			hops++
		default:
			p.bad = true
			return ""
		}
	}
}
