package tmpfiles

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/slashrun/slashrun/internal/accounts"
	"github.com/slashrun/slashrun/internal/timespan"
)

// owners parses user, group, mode and age.
func (p *lineParser) owners(it *Item, f fields) error {
	missing := false
	id := func(field, text string, resolve func(string) (uint32, error)) (ID, error) {
		var id ID
		if emptyOrDash(text) {
			return id, nil
		}
		name := text
		if name[0] == ':' {
			id.NewOnly, name = true, name[1:]
		}
		v, err := resolve(name)
		switch {
		case err == nil:
			id.Set, id.Value = true, v
		case p.env.Graceful && errors.Is(err, accounts.ErrUnknown):
			missing = true
			p.skip(it.Source, field+" "+name+" is unknown, ownership is left alone")
		default:
			return id, &LineError{Source: it.Source, Field: field, Text: name, Err: err}
		}
		return id, nil
	}
	var err error
	if it.UID, err = id("user", f.user, p.env.User); err != nil {
		return err
	}
	if it.GID, err = id("group", f.group, p.env.Group); err != nil {
		return err
	}
	if it.Mode, err = parseMode(it.Type, f.mode); err != nil {
		return &LineError{Source: it.Source, Field: "mode", Text: f.mode, Err: err}
	}
	if missing && it.Mode.Value&^0777 != 0 {
		p.notice(it.Source, fmt.Sprintf("mode %#o becomes %#o, because the owner is unknown", it.Mode.Value, it.Mode.Value&0777))
		it.Mode.Value &= 0777
	}
	if it.Age, err = parseAge(it.Type, f.age); err != nil {
		return &LineError{Source: it.Source, Field: "age", Text: f.age, Err: err}
	}
	return nil
}

func parseMode(t Type, text string) (Mode, error) {
	if emptyOrDash(text) {
		if t.in(dirTypes) {
			return Mode{Value: 0755}, nil
		}
		return Mode{Value: 0644}, nil
	}
	m := Mode{Set: true}
	digits := text
	for digits != "" && (digits[0] == '~' || digits[0] == ':') {
		if digits[0] == '~' {
			m.Masked = true
		} else {
			m.NewOnly = true
		}
		digits = digits[1:]
	}
	v, err := strconv.ParseUint(digits, 8, 32)
	if err != nil || v > 07777 || strings.Contains(digits, "_") {
		return m, errors.New("not an octal mode up to 07777")
	}
	m.Value = uint32(v)
	return m, nil
}

func parseAge(t Type, text string) (Age, error) {
	a := Age{File: AgeByFile, Dir: AgeByDir}
	if emptyOrDash(text) {
		return a, nil
	}
	if text[0] == '~' {
		if t == 'r' {
			return a, errors.New("prefix '~' does not go with line type 'r'")
		}
		a.KeepFirst, text = true, text[1:]
	}
	if by, span, ok := strings.Cut(text, ":"); ok {
		var err error
		if a.File, a.Dir, err = parseAgeBy(by); err != nil {
			return a, err
		}
		text = span
	}
	usec, err := timespan.Parse(text)
	if err != nil {
		return a, err
	}
	a.Set, a.Usec = true, uint64(usec)
	return a, nil
}

func parseAgeBy(s string) (file, dir AgeBy, err error) {
	const letters = "abcm"
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == ' ' || c == '\t' || c == '\n' || c == '\r' {
			continue
		}
		if k := strings.IndexByte(letters, c); k >= 0 {
			file |= 1 << k
		} else if k := strings.IndexByte(letters, c|0x20); k >= 0 && c >= 'A' && c <= 'Z' {
			dir |= 1 << k
		} else {
			return 0, 0, fmt.Errorf("timestamp letters are abcm and ABCM, not %q", c)
		}
	}
	if file == 0 && dir == 0 {
		return 0, 0, errors.New("no timestamp letter before ':'")
	}
	if file == 0 {
		file = AgeByFile
	}
	if dir == 0 {
		dir = AgeByDir
	}
	return file, dir, nil
}
