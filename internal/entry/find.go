package entry

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/glob"
)

// find calls visit for every entry that an absolute pattern matches. Of links in
// the names before the first wildcard only root's are followed (openTrusted), behind
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
		dir, at, err := r.openTrusted(prefix.String())
		switch {
		case err == nil:
		case fsat.NotExist(err), errors.Is(err, syscall.ENOTDIR):
			continue // nothing of it is there
		default:
			r.without("looking for %s: %v", pattern, err)
			continue
		}
		err = match(dir, at, comps, visit)
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
