package accounts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// GroupsOf returns the groups that have name among their members, in the order of
// the group file, without the user's primary group: what initgroups(3) adds to
// that one. A user that nobody knows is in none.
//
// The name service is asked (getent initgroups) only by System, and only for a user
// that the passwd file does not have.
func (s *Source) GroupsOf(name string) ([]uint32, error) {
	if plausible(name) != nil {
		return nil, nil
	}
	f, err := s.root.OpenFile(groupFile)
	if errors.Is(err, fs.ErrNotExist) {
		return s.askGroups(name, nil)
	} else if err != nil {
		return nil, fmt.Errorf("groups of %s: %w", name, err)
	}
	defer f.Close()
	var groups []uint32
	err = parseMembers(f, name, func(gid uint32) {
		if s.valid(gid) {
			groups = append(groups, gid)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("groups of %s: %s: %w", name, s.root.Path(groupFile), err)
	}
	return s.askGroups(name, groups)
}

// askGroups adds what the name service knows.
func (s *Source) askGroups(name string, groups []uint32) ([]uint32, error) {
	if !s.system {
		return groups, nil
	}
	if err := s.loadUsers(); err != nil {
		return nil, err
	}
	if _, ok := s.users.byName[name]; ok || name == "root" {
		return groups, nil
	}
	text, err := s.getent.ask("initgroups", name)
	if errors.Is(err, ErrUnknown) {
		return groups, nil
	} else if err != nil {
		return nil, fmt.Errorf("groups of %s: %w", name, err)
	}
	words := bytes.Fields(firstLineBytes(text)) // "name 4 24 1000"
	for _, w := range words[min(1, len(words)):] {
		if gid, err := ParseID(string(w)); err == nil && s.valid(gid) {
			groups = append(groups, gid)
		}
	}
	return groups, nil
}

func firstLineBytes(text []byte) []byte {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return line
}

// parseMembers reads group(5) and calls yield with the number of each group that
// lists name. A line may be of any length.
func parseMembers(r io.Reader, name string, yield func(gid uint32)) error {
	var (
		g    Group
		head = true // at the beginning of a line
		rest []byte // of a line that is longer than what is read at once
		ours bool
		ok   bool // the line is a group's
	)
	lr := lineReader{r: r}
	for {
		b, cut, err := lr.next()
		if i := bytes.IndexByte(b, 0); i >= 0 {
			b = b[:i]
		}
		b = bytes.TrimSuffix(b, []byte("\n"))
		if head {
			g, b, ok = groupHead(bytes.TrimLeft(b, " \t\n\v\f\r"))
			rest, ours = rest[:0], false
		}
		rest = append(rest, b...)
		for {
			m, more, found := bytes.Cut(rest, []byte(","))
			if !found && cut {
				break // the name may go on
			}
			ours = ours || ok && string(bytes.Trim(m, " \t")) == name
			if rest = more; !found {
				break
			}
		}
		if len(rest) > maxLine {
			ok, rest = false, rest[:0] // no name is that long
		}
		if head = !cut; head && ours {
			yield(g.GID)
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// groupHead takes the first three fields of a line of group(5).
func groupHead(line []byte) (g Group, members []byte, ok bool) {
	if len(line) == 0 || line[0] == '#' {
		return g, nil, false
	}
	f := fields{rest: line}
	g.Name = f.name()
	if g.Name == "" || compat(g.Name) {
		return g, nil, false
	}
	f.next()
	g.GID = f.number(false)
	return g, f.rest, !f.bad
}
