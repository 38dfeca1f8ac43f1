package posixacl

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Lookup finds the ID of a name that is no number. A nil function knows no name.
type Lookup struct {
	User  func(name string) (uint32, error)
	Group func(name string) (uint32, error)
}

// The causes of an *Error, besides those that a Lookup returns.
var (
	ErrSyntax = errors.New("not an ACL entry")
	ErrID     = errors.New("no such user or group ID")
)

// Error tells which entry of an argument is at fault.
type Error struct {
	Entry string // the entry, or where it begins
	Err   error
}

func (e *Error) Error() string { return fmt.Sprintf("ACL entry %q: %v", e.Entry, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// Parse reads the argument of an `a` line. The error is an *Error.
func Parse(arg string, lookup Lookup) (Spec, error) {
	var plain, conditional, defaults []string
	for rest := arg; ; {
		entry, more, err := cutEntry(rest)
		if err != nil {
			return Spec{}, err
		}
		if entry == "" {
			break
		}
		rest = more
		fields := strings.Split(entry, ":")
		last := len(fields) - 1
		withX := strings.Contains(fields[last], "X")
		fields[last] = strings.ReplaceAll(fields[last], "X", "x")
		switch {
		case len(fields) == 4 && (fields[0] == "d" || fields[0] == "default"):
			defaults = append(defaults, strings.Join(fields[1:], ":"))
		case len(fields) != 3:
			return Spec{}, &Error{Entry: entry, Err: fmt.Errorf("%w: want TAG:WHO:PERMS or d:TAG:WHO:PERMS", ErrSyntax)}
		case withX:
			conditional = append(conditional, strings.Join(fields, ":"))
		default:
			plain = append(plain, entry)
		}
	}
	var s Spec
	for _, part := range []struct {
		entries  []string
		to       *ACL
		condExec bool
	}{{plain, &s.Access, false}, {conditional, &s.Access, true}, {defaults, &s.Default, false}} {
		a, err := parseText(strings.Join(part.entries, ","), lookup)
		if err != nil {
			return Spec{}, err
		}
		for i := range a {
			a[i].CondExec = part.condExec
		}
		*part.to = append(*part.to, a...)
	}
	s.Access.Sort()
	s.Default.Sort()
	return s, nil
}

// cutEntry takes the text before the next comma off s, empty texts skipped. A
// backslash goes, and keeps a comma behind it in the entry.
func cutEntry(s string) (entry, rest string, err error) {
	s = strings.TrimLeft(s, ",")
	end := strings.IndexAny(s, `,\`)
	switch {
	case end < 0:
		return s, "", nil
	case s[end] == ',':
		return s[:end], s[end:], nil
	}
	var b strings.Builder
	i := 0
	for ; i < len(s) && s[i] != ','; i++ {
		if s[i] == '\\' {
			if i++; i == len(s) {
				return "", "", &Error{Entry: s, Err: fmt.Errorf("%w: backslash at the end", ErrSyntax)}
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), s[i:], nil
}

// parseText reads what acl_from_text(3) of libacl 2.3 reads.
func parseText(text string, lookup Lookup) (ACL, error) {
	var a ACL
	for rest := text; rest != ""; {
		e, next, err := parseEntry(rest, lookup)
		if err != nil {
			return nil, &Error{Entry: rest, Err: err}
		}
		a = append(a, e)
		rest = skipSpace(next)
		if strings.HasPrefix(rest, ",") {
			rest = skipSpace(rest[1:])
		}
		if strings.HasPrefix(rest, "#") {
			_, rest, _ = strings.Cut(rest, "\n")
		}
	}
	a.Sort()
	return a, nil
}

func skipSpace(s string) string { return strings.TrimLeft(s, " \t\r\n") }

var tags = [...]struct {
	name       string
	obj, named Tag
}{
	{"user", UserObj, User},
	{"group", GroupObj, Group},
	{"mask", Mask, 0},
	{"other", Other, 0},
}

func parseEntry(s string, lookup Lookup) (e Entry, rest string, err error) {
	s = skipSpace(s)
	e.ID = NoID
	for _, t := range tags {
		if s == "" || s[0] != t.name[0] {
			continue
		}
		var ok bool
		if rest, ok = strings.CutPrefix(s, t.name); !ok {
			rest = s[1:]
		}
		if rest, ok = strings.CutPrefix(skipSpace(rest), ":"); !ok {
			return e, "", ErrSyntax
		}
		e.Tag = t.obj
		if t.named == 0 {
			// The second colon of m:: and o:: may be missing.
			rest = strings.TrimPrefix(skipSpace(rest), ":")
		} else if rest, err = parseWho(rest, t.named, &e, lookup); err != nil {
			return e, "", err
		}
		if e.Perm, rest, ok = parsePerm(rest); !ok {
			return e, "", ErrSyntax
		}
		return e, rest, nil
	}
	return e, "", ErrSyntax
}

// parseWho reads the name between two colons, which may be empty.
func parseWho(s string, named Tag, e *Entry, lookup Lookup) (rest string, err error) {
	end := strings.IndexAny(s, ":,\r\n")
	if end < 0 || s[end] != ':' {
		return "", ErrSyntax
	}
	who, rest := s[:end], s[end+1:]
	if who == "" {
		return rest, nil
	}
	e.Tag = named
	find := lookup.User
	if named == Group {
		find = lookup.Group
	}
	e.ID, err = parseID(unquote(who), find)
	return rest, err
}

// parseID reads what strtol(3) reads with base 0, else asks for the name.
// Numbers below zero are taken modulo 2^16, as libacl does, so that -2 is 65534.
// Other than libacl we refuse numbers beyond 32 bits: it cuts them off, which
// makes 4294967296 root.
func parseID(who string, find func(string) (uint32, error)) (uint32, error) {
	number := strings.TrimLeft(who, " \t\n\v\f\r")
	digits := strings.TrimLeft(number, "+-")
	if len(number)-len(digits) <= 1 && !strings.ContainsAny(digits, "_oObB") {
		if v, err := strconv.ParseInt(number, 0, 64); err == nil {
			switch {
			case v < 0:
				return uint32(v & 0xffff), nil
			case v <= int64(NoID):
				return uint32(v), nil
			}
			return 0, fmt.Errorf("%w: %s is beyond 32 bits", ErrID, number)
		} else if errors.Is(err, strconv.ErrRange) {
			return 0, fmt.Errorf("%w: %s is beyond 32 bits", ErrID, number)
		}
	}
	if find == nil {
		return 0, fmt.Errorf("%w: %q", ErrID, who)
	}
	return find(who)
}

// unquote resolves \OOO, as getfacl(1) writes white space in a name.
func unquote(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out = append(out, byte(v))
				i += 3
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

// parsePerm reads up to three of r w x and -.
func parsePerm(s string) (p Perm, rest string, ok bool) {
	n := 0
	for ; n < 3 && n < len(s); n++ {
		bit := Perm(0)
		switch s[n] {
		case 'r':
			bit = Read
		case 'w':
			bit = Write
		case 'x':
			bit = Execute
		case '-':
		default:
			return p, s[n:], n > 0
		}
		if p&bit != 0 {
			return 0, "", false
		}
		p |= bit
	}
	return p, s[n:], n > 0
}
