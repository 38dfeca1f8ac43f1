package entry

import (
	"fmt"
	"slices"
	"strings"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/glob"
)

// find calls visit for every entry that an absolute pattern matches. Links in the
// names before the first wildcard are followed, for the caller wrote them; behind
// it none is.
func (r *run) find(pattern string, visit func(dir *fsat.Dir, name, shown string) error) error {
	if !strings.HasPrefix(pattern, "/") {
		return fmt.Errorf("%q is not an absolute path", pattern)
	}
	patterns, err := glob.ExpandBraces(pattern)
	if err != nil {
		return fmt.Errorf("%q: %w", pattern, err)
	}
	for _, p := range patterns {
		comps := glob.Components(p)
		if len(comps) == 0 {
			return fmt.Errorf("%q is the root directory", pattern)
		}
		var prefix strings.Builder
		for len(comps) > 1 {
			name, literal := comps[0].Literal()
			if !literal {
				break
			}
			prefix.WriteString("/" + name)
			comps = comps[1:]
		}
		at, err := r.o.Root.Resolve(prefix.String() + "/")
		if err != nil {
			continue // not a directory: nothing of it is there
		}
		if !at.Exists() {
			continue
		}
		dir := fsat.DirOf(at.Fd)
		err = match(dir, strings.TrimSuffix(at.Path, "/"), comps, visit)
		dir.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// match finds the entries of dir that the components lead to.
func match(dir *fsat.Dir, shown string, comps []glob.Component, visit func(*fsat.Dir, string, string) error) error {
	var names []string
	if name, literal := comps[0].Literal(); literal {
		names = []string{name}
	} else {
		all, err := dir.Names()
		if err != nil {
			return nil // not ours to read: nothing can be proven of it
		}
		for _, n := range all {
			if comps[0].Match(n) && !ours(n) {
				names = append(names, n)
			}
		}
		slices.Sort(names)
	}
	for _, name := range names {
		if fsat.ValidName(name) != nil {
			continue
		}
		if len(comps) == 1 {
			var st fsat.Stat
			if dir.Stat(name, &st) != nil {
				continue
			}
			if err := visit(dir, name, shown+"/"+name); err != nil {
				return err
			}
			continue
		}
		inner, err := dir.OpenDir(name)
		if err != nil {
			continue
		}
		err = match(inner, shown+"/"+name, comps[1:], visit)
		inner.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
