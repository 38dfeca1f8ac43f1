package tmpfiles

import (
	"path"
	"strings"

	"github.com/slashrun/slashrun/internal/glob"
)

// Role is how a line governs a path.
type Role string

// The roles.
const (
	RoleOwn     Role = "path"     // the line is for this very path
	RolePattern Role = "pattern"  // its pattern matches the path
	RoleTree    Role = "tree"     // it works on a tree that the path is in (Z T A H K)
	RoleCopy    Role = "copy"     // the path lies in a tree that C makes
	RoleClean   Role = "clean"    // it cleans the directory that the path is in, by age
	RoleRemove  Role = "remove"   // R, D or --purge removes the tree that the path is in
	RoleKeep    Role = "keep"     // x or X keeps the path from being cleaned
	RoleIgnored Role = "no-count" // it would govern the path, but does not count
)

// Governing is one line that has to do with a path.
type Governing struct {
	Role   Role
	Source Source
	Text   string // the line as written
	Why    string // for RoleIgnored
}

// Explain lists the lines that govern a path, in the order in which a run
// applies them, then those that do not count and why. The configuration must
// have been read with KeepSkipped.
func (c *Config) Explain(p string) []Governing {
	c.link()
	var out []Governing
	add := func(role Role, it *Item) {
		out = append(out, Governing{Role: role, Source: it.Source, Text: it.Text})
	}
	for _, g := range c.plain.order {
		for _, it := range g.items {
			if role, ok := it.plainRole(p); ok {
				add(role, it)
			}
		}
	}
	for _, g := range c.globs.order {
		for _, it := range g.items {
			if role, ok := it.patternRole(p); ok {
				add(role, it)
			}
		}
	}
	for _, i := range c.Ignored {
		if i.governs(p) {
			out = append(out, Governing{RoleIgnored, i.Source, i.Text, i.reason()})
		}
	}
	for _, e := range c.Invalid {
		if strings.Contains(e.Line, p) {
			out = append(out, Governing{RoleIgnored, e.Source, e.Line, "is wrong: " + e.Err.Error()})
		}
	}
	return out
}

func (i *Ignored) reason() string {
	if i.By != nil {
		return i.Why + " (" + i.By.Source.String() + ")"
	}
	return i.Why
}

func (i *Ignored) governs(p string) bool {
	if i.Item != nil {
		_, plain := i.Item.plainRole(p)
		_, pattern := i.Item.patternRole(p)
		return plain && !i.Item.Type.Glob() || pattern && i.Item.Type.Glob()
	}
	// Skipped before it was resolved: the path as it is written.
	f, n, err := splitFields(i.Text)
	return err == nil && n >= 2 && matchesPath(f.path, p)
}

// below says that p lies in the tree of dir.
func below(p, dir string) bool { return p != dir && hasPrefixPath(p, dir) }

// plainRole is the role of a line whose path is no pattern.
func (it *Item) plainRole(p string) (Role, bool) {
	switch {
	case it.Path == p:
		return RoleOwn, true
	case !below(p, it.Path):
		return "", false
	case it.Type == 'C':
		return RoleCopy, true
	case it.Age.Set && it.Type.in("dDvqQ"):
		return RoleClean, true
	case it.Type == 'D':
		return RoleRemove, true
	}
	return "", false
}

func matchesPath(pattern, p string) bool {
	patterns, err := glob.ExpandBraces(pattern)
	if err != nil {
		return false
	}
	for _, x := range patterns {
		if glob.Match(x, p) {
			return true
		}
	}
	return false
}

// patternRole is the role of a line whose path is a pattern.
func (it *Item) patternRole(p string) (Role, bool) {
	if matchesPath(it.Path, p) {
		switch it.Type {
		case 'x', 'X':
			return RoleKeep, true
		}
		return RolePattern, true
	}
	for up := path.Dir(p); ; up = path.Dir(up) {
		if matchesPath(it.Path, up) {
			switch {
			case it.Type == 'x':
				return RoleKeep, true
			case it.Type.in("ZTAHK"):
				return RoleTree, true
			case it.Type == 'R':
				return RoleRemove, true
			case it.Age.Set && it.Type.in("eX"):
				return RoleClean, true
			}
		}
		if up == "/" {
			return "", false
		}
	}
}
