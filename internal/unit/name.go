package unit

import (
	"fmt"
	"slices"
	"strings"
)

// Name is the name of a unit: PREFIX[@INSTANCE].TYPE (systemd.unit(5)).
type Name struct {
	Prefix   string
	Instance string
	At       bool // there is an @: an instance, or with an empty Instance a template
	Type     string
}

// types are the unit types that have files.
const types = " service socket device mount automount swap target path timer slice scope "

// ParseName reads a name. Without a type it is a service's.
func ParseName(s string) (Name, error) {
	var n Name
	stem := s
	if i := strings.LastIndexByte(s, '.'); i >= 0 && strings.Contains(types, " "+s[i+1:]+" ") && s[i+1:] != "" {
		stem, n.Type = s[:i], s[i+1:]
	} else {
		n.Type = "service"
	}
	n.Prefix, n.Instance, n.At = strings.Cut(stem, "@")
	if n.Prefix == "" || len(stem)+1+len(n.Type) > 255 {
		return Name{}, fmt.Errorf("%q is not the name of a unit", s)
	}
	for i := range len(stem) {
		if c := stem[i]; !alnum(c) && !strings.ContainsRune(`:-_.\@`, rune(c)) {
			return Name{}, fmt.Errorf("%q is not the name of a unit: %q cannot be in one; systemd-escape(1) escapes it", s, c)
		}
	}
	if stem == "." || stem == ".." {
		return Name{}, fmt.Errorf("%q is not the name of a unit", s)
	}
	return n, nil
}

func alnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// Stem is the name without its type: %N of the unit.
func (n Name) Stem() string {
	if n.At {
		return n.Prefix + "@" + n.Instance
	}
	return n.Prefix
}

func (n Name) String() string { return n.Stem() + "." + n.Type }

// Template is the template of an instance, and n itself for all others.
func (n Name) Template() Name {
	n.Instance = ""
	return n
}

// dropIns adds to list the names of the directories of drop-ins for n and for the
// prefixes that it shares, in their order: foo-bar@i, foo-bar@, foo-, foo-@i, foo-@
// of foo-bar@i.
func (n Name) dropIns(list []string) []string {
	if dir := n.String() + ".d"; !slices.Contains(list, dir) {
		list = append(list, dir)
	}
	shorter := n
	if n.At && n.Instance != "" {
		list = n.Template().dropIns(list)
	} else {
		shorter.At = false // a template shares the drop-ins of plain names
	}
	i := strings.LastIndexByte(n.Prefix[:len(n.Prefix)-1], '-')
	if i <= 0 {
		return list
	}
	shorter.Prefix = n.Prefix[:i+1]
	return shorter.dropIns(list)
}

// Unescape undoes the escaping of systemd-escape(1): "-" is a slash and \xNN a
// byte. What is no such escape stays.
func Unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '-':
			b.WriteByte('/')
		case s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x' && hex(s[i+2]) >= 0 && hex(s[i+3]) >= 0:
			b.WriteByte(byte(hex(s[i+2])<<4 | hex(s[i+3])))
			i += 3
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// specifier is what %c stands for because of the name alone; false for letters
// that are not about the name (systemd.unit(5), "Specifiers").
func (n Name) specifier(c byte) (string, bool) {
	last := n.Prefix[strings.LastIndexByte(n.Prefix, '-')+1:]
	switch c {
	case 'n':
		return n.String(), true
	case 'N':
		return n.Stem(), true
	case 'p':
		return n.Prefix, true
	case 'P':
		return Unescape(n.Prefix), true
	case 'i':
		return n.Instance, true
	case 'I':
		return Unescape(n.Instance), true
	case 'j':
		return last, true
	case 'J':
		return Unescape(last), true
	case 'f':
		if n.Instance != "" {
			return "/" + strings.TrimPrefix(Unescape(n.Instance), "/"), true
		}
		return "/" + strings.TrimPrefix(Unescape(n.Prefix), "/"), true
	}
	return "", false
}
