package filecaps

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/slashrun/slashrun/internal/quoting"
)

// The causes of an *Error, besides those of package quoting.
var (
	ErrSyntax = errors.New("want NAMES and one of + - = and flags of e, i, p, or rootuid=UID")
	ErrName   = errors.New("no such capability")
	ErrUID    = errors.New("not a uid")
)

// Error tells which clause of an argument is at fault.
type Error struct {
	Clause string // the clause, or the whole argument if it cannot be split
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("capabilities %q: %v", e.Clause, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// flags are the three sets of a file, in whatever role.
type flags struct{ effective, inheritable, permitted Set }

// Spec is the argument of one `k`, `k+`, `K` or `K+` line. The zero value sets
// no capability and, with add, keeps all.
type Spec struct {
	set     flags // what the file shall have
	touched flags // what the argument speaks about
	rootUID uint32
	hasRoot bool
}

// Parse reads an argument. all is what "all" stands for, UpTo the kernel's
// last capability. The error is an *Error.
func Parse(arg string, all Set) (Spec, error) {
	var s Spec
	for rest := arg; rest != ""; {
		clause, next, ok, err := quoting.Word(rest, quoting.Unquote|quoting.Relax)
		if err != nil {
			return Spec{}, &Error{Clause: arg, Err: err}
		}
		if !ok {
			break
		}
		if err := s.clause(clause, all); err != nil {
			return Spec{}, &Error{Clause: clause, Err: err}
		}
		rest = next
	}
	return s, nil
}

func (s *Spec) clause(text string, all Set) error {
	at := strings.IndexAny(text, "+-=")
	if at < 0 {
		return ErrSyntax
	}
	key, sign, value := text[:at], text[at], text[at+1:]
	if key == "rootuid" && sign == '=' {
		uid, err := parseUID(value)
		if err != nil {
			return err
		}
		s.rootUID, s.hasRoot = uid, true
		return nil
	}
	if strings.Trim(value, "eip") != "" {
		return ErrSyntax
	}
	caps, err := parseNames(key, all)
	if err != nil {
		return err
	}
	for _, f := range [...]struct {
		letter       string
		set, touched *Set
	}{
		{"e", &s.set.effective, &s.touched.effective},
		{"i", &s.set.inheritable, &s.touched.inheritable},
		{"p", &s.set.permitted, &s.touched.permitted},
	} {
		named := strings.Contains(value, f.letter)
		switch {
		case named && sign == '-':
			*f.set &^= caps
		case named:
			*f.set |= caps
		}
		if named || sign == '=' {
			*f.touched |= caps
		}
	}
	return nil
}

func parseNames(list string, all Set) (Set, error) {
	if list == "" {
		return all, nil
	}
	var s Set
	for name := range strings.SplitSeq(list, ",") {
		if name == "" {
			continue
		}
		if name == "all" {
			s |= all
			continue
		}
		n, ok := Number(name)
		if !ok {
			return 0, fmt.Errorf("%w: %q", ErrName, name)
		}
		s |= 1 << n
	}
	return s, nil
}

// parseUID reads a plain decimal number. The two values that setresuid(2) and
// 16 bit systems take for "none" are nobody's.
func parseUID(s string) (uint32, error) {
	v, err := strconv.ParseUint(s, 10, 32)
	if err != nil || len(s) > 1 && s[0] == '0' || v == 0xffff || v == 0xffffffff {
		return 0, fmt.Errorf("%w: %q", ErrUID, s)
	}
	return uint32(v), nil
}

// For returns the capabilities for a file that now has old. With add (`k+`),
// what the argument does not speak about stays as it is.
func (s Spec) For(old Caps, add bool) Caps {
	if !add {
		return Caps{
			Permitted: s.set.permitted, Inheritable: s.set.inheritable, Effective: s.set.effective, RootUID: s.rootUID,
		}
	}
	c := Caps{
		Permitted:   old.Permitted&^s.touched.permitted | s.set.permitted,
		Inheritable: old.Inheritable&^s.touched.inheritable | s.set.inheritable,
		Effective:   old.Effective&^s.touched.effective | s.set.effective,
		RootUID:     old.RootUID,
	}
	if s.hasRoot {
		c.RootUID = s.rootUID
	}
	return c
}
