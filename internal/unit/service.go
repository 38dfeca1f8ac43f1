package unit

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/slashrun/slashrun/internal/quoting"
	"github.com/slashrun/slashrun/internal/specifier"
)

// Service is what a service says of its runtime directories and whose they are
// (systemd.exec(5)).
type Service struct {
	User, Group string // empty for none; names or numbers
	DynamicUser bool
	Mode        uint32 // RuntimeDirectoryMode=, 0755 where it is not set
	Preserve    string // RuntimeDirectoryPreserve=: no, yes or restart
	Directories []Directory
}

// Directory is one of RuntimeDirectory=.
type Directory struct {
	Name  string   // below /run, normalized
	Links []string // below /run: links to it
}

// Service interprets the section [Service]. r expands the specifiers that are not
// about the unit's name. What cannot be used is added to Problems.
func (u *Unit) Service(r *specifier.Resolver) *Service {
	s := &Service{Mode: 0o755, Preserve: "no"}
	for i := range u.Assignments {
		if a := &u.Assignments[i]; a.Section == "Service" {
			if err := u.assign(s, a, r); err != nil {
				u.Problems = append(u.Problems, &Problem{a.File, a.Line, a.Key + "=: " + err.Error()})
			}
		}
	}
	slices.SortFunc(s.Directories, func(a, b Directory) int { return comparePaths(a.Name, b.Name) })
	return s
}

func (u *Unit) assign(s *Service, a *Assignment, r *specifier.Resolver) error {
	switch a.Key {
	case "User":
		return u.account(&s.User, a.Value, r)
	case "Group":
		return u.account(&s.Group, a.Value, r)
	case "DynamicUser":
		on, err := parseBool(a.Value)
		if err == nil {
			s.DynamicUser = on
		}
		return err
	case "RuntimeDirectoryMode":
		mode, err := strconv.ParseUint(a.Value, 8, 32)
		if err != nil || mode > 0o7777 {
			return fmt.Errorf("%q is not an octal mode; it does not count", a.Value)
		}
		s.Mode = uint32(mode)
	case "RuntimeDirectoryPreserve":
		if a.Value == "restart" {
			s.Preserve = a.Value
			return nil
		}
		on, err := parseBool(a.Value)
		if err == nil {
			s.Preserve = map[bool]string{true: "yes", false: "no"}[on]
		}
		return err
	case "RuntimeDirectory":
		if a.Value == "" {
			s.Directories = nil
			return nil
		}
		return u.directories(s, a.Value, r)
	}
	return nil
}

func (u *Unit) account(to *string, value string, r *specifier.Resolver) error {
	name, err := u.Expand(value, r)
	if err == nil {
		*to = name
	}
	return err
}

// parseBool reads a boolean as systemd.syntax(7) has it.
func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "1", "yes", "y", "true", "t", "on":
		return true, nil
	case "0", "no", "n", "false", "f", "off":
		return false, nil
	}
	return false, fmt.Errorf("%q is not a boolean; it does not count", s)
}

// Expand replaces the specifiers in s.
func (u *Unit) Expand(s string, r *specifier.Resolver) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		v, ok := u.Name.specifier(s[i])
		if !ok {
			var err error
			if v, err = r.Expand(s[i-1:i+1], 0); err != nil {
				return "", err
			}
		}
		b.WriteString(v)
	}
	return b.String(), nil
}

// directories reads the words of RuntimeDirectory=. One that is wrong does not
// keep the others from counting.
func (u *Unit) directories(s *Service, value string, r *specifier.Resolver) error {
	var errs []error
	for value != "" {
		// Backslashes stay for the colons inside of the word.
		word, rest, ok, err := quoting.Word(value, quoting.Unquote|quoting.RetainEscape)
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("%w; the rest of the line does not count", err))...)
		}
		if !ok {
			break
		}
		value = rest
		if strings.Trim(word, ":") == "" {
			return errors.Join(append(errs, fmt.Errorf("%q names nothing; the rest of the line does not count", word))...)
		}
		var bad *quoting.Error
		err = u.directory(s, word, r)
		if errors.As(err, &bad) {
			return errors.Join(append(errs, fmt.Errorf("%w; the rest of the line does not count", err))...)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// directory reads PATH[:LINK[:FLAGS]].
func (u *Unit) directory(s *Service, word string, r *specifier.Resolver) error {
	parts, err := splitColons(word)
	if err != nil {
		return err
	}
	name, err := u.below(parts[0], r)
	if err != nil {
		return err
	}
	if name == "private" || strings.HasPrefix(name, "private/") {
		return fmt.Errorf("%q is systemd's own directory; it does not count", name)
	}
	link := ""
	if len(parts) > 1 {
		if link, err = u.below(parts[1], r); err != nil {
			return err
		}
	}
	i := slices.IndexFunc(s.Directories, func(d Directory) bool { return d.Name == name })
	if i < 0 {
		i = len(s.Directories)
		s.Directories = append(s.Directories, Directory{Name: name})
	}
	if d := &s.Directories[i]; link != "" && !slices.Contains(d.Links, link) {
		d.Links = append(d.Links, link)
	}
	return nil
}

// below is a path below /run: relative and normalized.
func (u *Unit) below(text string, r *specifier.Resolver) (string, error) {
	text, err := u.Expand(text, r)
	if err != nil {
		return "", err
	}
	switch {
	case text == "":
		return "", errors.New("an empty path does not count")
	case strings.HasPrefix(text, "/"):
		return "", fmt.Errorf("%q is absolute; it does not count", text)
	case strings.Contains(text, "\x00"):
		return "", fmt.Errorf("%q is no path; it does not count", text)
	}
	for part := range strings.SplitSeq(text, "/") {
		if part == ".." || len(part) > 255 {
			return "", fmt.Errorf("%q is not normalized; it does not count", text)
		}
	}
	if text = path.Clean(text); text == "." {
		return "", errors.New(`"." is /run itself; it does not count`)
	}
	return text, nil
}

// splitColons cuts a word at its colons and resolves C escapes; \: is no cut.
func splitColons(word string) ([]string, error) {
	var parts []string
	var part strings.Builder
	flush := func() error {
		text, err := quoting.Unescape(part.String())
		parts = append(parts, text)
		part.Reset()
		return err
	}
	for i := 0; i < len(word); i++ {
		switch {
		case word[i] == '\\' && i+1 < len(word):
			i++
			if word[i] != ':' {
				part.WriteByte('\\')
			}
			part.WriteByte(word[i])
		case word[i] == ':':
			if part.Len() == 0 {
				continue // several in a row are one, and one at the beginning is none
			}
			if err := flush(); err != nil {
				return nil, err
			}
		default:
			part.WriteByte(word[i])
		}
	}
	if part.Len() == 0 && len(parts) > 0 {
		return parts, nil
	}
	err := flush()
	return parts, err
}

// comparePaths orders paths by their components, so that a directory comes before
// what is in it.
func comparePaths(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}
