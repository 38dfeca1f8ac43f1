package tmpfiles

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/glob"
)

// match is one node that a line's pattern matches: a name in a held directory.
type match struct {
	at   spot
	name string
	path string
}

// safe refuses a match that was reached by an unsafe way.
func (m *match) safe() error {
	if !normalized(m.path) {
		return errNotNormalized
	}
	if m.at.unsafe != nil {
		return m.at.unsafe
	}
	return nil
}

// eachMatch calls act for every node that the pattern of the line matches, as
// glob(3) with GLOB_BRACE and GLOB_NOSORT does. It goes on after a failure.
func (r *run) eachMatch(it *Item, act func(*Item, match) error) error {
	patterns, err := glob.ExpandBraces(it.Path)
	if err != nil {
		return err
	}
	g := &gather{r: r, it: it}
	for _, p := range patterns {
		comps := glob.Components(p)
		if len(comps) == 0 {
			g.add("/", act(it, match{spot{place: r.walk.root}, ".", "/"}))
			continue
		}
		r.expand(g, spot{place: r.walk.root}, "/", comps, func(m match) {
			g.add(m.path, act(it, m))
		})
	}
	return g.err()
}

// expand walks the components of a pattern below at. What cannot be looked at
// does not match, as in glob(3) without GLOB_ERR; why is told in verbose mode. A
// disk that fails or a resource that is gone is a failure all the same: what
// should have matched is not known.
func (r *run) expand(g *gather, at spot, dir string, comps []glob.Component, yield func(match)) {
	c, rest := comps[0], comps[1:]
	if name, ok := c.Literal(); ok {
		path := join(dir, name)
		if len(rest) == 0 {
			var st fsat.Stat
			if found, err := lookup(at, name, &st); err != nil {
				g.unseen(path, err)
			} else if found {
				yield(match{at, name, path})
			}
			return
		}
		r.descend(g, path, rest, yield)
		return
	}
	// A directory is not listed through a link, as in the reference (a link in a
	// component above is followed).
	if dir != "/" {
		up, err := r.walk.dirAt(path.Dir(dir), false)
		var st fsat.Stat
		if err == nil {
			_, err = lookup(up, path.Base(dir), &st)
		}
		if err != nil {
			g.unseen(dir, err)
			return
		}
		if st.IsSymlink() {
			return
		}
	}
	names, err := at.dir.Names()
	if err != nil {
		g.unseen(dir, err)
		return
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !c.Match(name) })
	slices.Sort(names) // so that two runs do the same in the same order
	for _, name := range names {
		path := join(dir, name)
		if len(rest) == 0 {
			yield(match{at, name, path})
			continue
		}
		r.descend(g, path, rest, yield)
	}
}

func (r *run) descend(g *gather, path string, rest []glob.Component, yield func(match)) {
	next, err := r.walk.dirAt(path, false)
	if err != nil {
		if !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ENOTDIR) {
			g.unseen(path, err)
		}
		return
	}
	r.expand(g, next, path, rest, yield)
}

// unseen takes note of what a pattern could not look at.
func (g *gather) unseen(path string, err error) {
	for _, e := range []syscall.Errno{syscall.EIO, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE} {
		if errors.Is(err, e) {
			g.add(path, err)
			return
		}
	}
	g.r.debug(g.it, path, err.Error())
}

// nodeAct works on one held inode.
type nodeAct func(it *Item, n inode, path string, st *fsat.Stat) error

// onNode holds the inode of a match, a link itself, and calls act.
func (r *run) onNode(it *Item, m match, act nodeAct) error {
	n, st, err := r.holdMatch(m)
	if n == nil || err != nil {
		return err
	}
	defer n.Close()
	return act(it, n, m.path, st)
}

// holdMatch opens the inode of a match. It is nil if it vanished meanwhile. The
// step to the node itself is a transition like any other.
func (r *run) holdMatch(m match) (inode, *fsat.Stat, error) {
	if err := m.safe(); err != nil {
		return nil, nil, err
	}
	n, err := m.at.dir.OpenNode(m.name)
	if fsat.NotExist(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	st := new(fsat.Stat)
	if err := n.Stat(st); err != nil {
		n.Close()
		return nil, nil, err
	}
	from := owner{m.at.st.UID, m.at.real, false}
	if bad := from.unsafeTo(st.UID, m.path); bad != nil {
		n.Close()
		return nil, nil, bad
	}
	if atAutofs(m.at, m.name, st) {
		n.Close()
		return nil, nil, errAutofs
	}
	return n, st, nil
}

// onTree calls act for the node of a match and everything below it; links are
// not followed. It goes on after a failure.
func (r *run) onTree(it *Item, m match, act nodeAct) error {
	n, st, err := r.holdMatch(m)
	if n == nil || err != nil {
		return err
	}
	g := &gather{r: r, it: it}
	r.tree(it, n, m.path, st, act, g)
	return g.err()
}

// tree works on n, which it closes, and on all below it.
func (r *run) tree(it *Item, n inode, path string, st *fsat.Stat, act nodeAct, g *gather) {
	g.add(path, act(it, n, path, st))
	if !st.IsDir() {
		n.Close()
		return
	}
	d, err := n.AsDir()
	n.Close()
	if err != nil {
		g.add(path, err)
		return
	}
	err = descend(d, path, func(c *chain, name string) (enter bool) {
		if r.ctx.Err() != nil {
			return false
		}
		p := c.path(name)
		child, err := c.dir().OpenNode(name)
		if fsat.NotExist(err) {
			return false
		}
		if err != nil {
			g.add(p, err)
			return false
		}
		defer child.Close()
		var cst fsat.Stat
		if err := child.Stat(&cst); err != nil {
			g.add(p, err)
			return false
		}
		g.add(p, act(it, child, p, &cst))
		return cst.IsDir()
	}, nil, func(p string, err error) { g.add(p, err) })
	g.add(path, err)
}

// final follows the links that the node of a match may be, and gives the
// directory and name of what they lead to. Every step is judged; missing is set
// if the last link dangles.
func (r *run) final(m match) (at spot, name string, st fsat.Stat, missing bool, err error) {
	at, name = m.at, m.name
	from := owner{at.st.UID, at.real, false}
	path := m.path
	for links := 0; ; links++ {
		if links > maxLinks {
			return at, name, st, false, &linkLoopError{m.path}
		}
		found, err := lookup(at, name, &st)
		if err != nil || !found {
			return at, name, st, !found && err == nil, err
		}
		if at.unsafe == nil {
			at.unsafe = from.unsafeTo(st.UID, path)
		}
		if !st.IsSymlink() {
			return at, name, st, false, nil
		}
		target, err := at.dir.Readlink(name)
		if err != nil {
			return at, name, st, false, err
		}
		from = owner{st.UID, path, true}
		if at, name, err = r.leadsTo(at, from, target, path); err != nil {
			var miss *missingError
			return at, name, st, errors.As(err, &miss), dropMissing(err)
		}
		path = join(at.real, name)
		if strings.Contains(strings.Trim(target, "/"), "/") {
			from = owner{at.st.UID, at.real, false}
		}
	}
}

func dropMissing(err error) error {
	var miss *missingError
	if errors.As(err, &miss) {
		return nil
	}
	return err
}

// leadsTo walks all but the last component of a link's target.
func (r *run) leadsTo(at spot, from owner, target, path string) (spot, string, error) {
	if strings.HasPrefix(target, "/") {
		at.place = r.walk.root
		if at.unsafe == nil {
			at.unsafe = from.unsafeTo(at.st.UID, "/")
		}
		from = owner{at.st.UID, "/", false}
	}
	parts := strings.FieldsFunc(target, func(c rune) bool { return c == '/' })
	name := "."
	if n := len(parts); n > 0 && parts[n-1] != "." && parts[n-1] != ".." {
		name, parts = parts[n-1], parts[:n-1]
	}
	links := 0
	for _, part := range parts {
		if part == "." {
			continue
		}
		next, err := r.walk.step(at, from, part, join(at.real, part), &links)
		if err != nil {
			return at, name, err
		}
		at, from = next, owner{next.st.UID, next.real, false}
	}
	return at, name, nil
}

// writeFile is w: the argument goes into a file that exists, of any type; links
// are followed as far as the way is safe.
func (r *run) writeFile(it *Item, m match) error {
	if err := m.safe(); err != nil {
		return err
	}
	at, name, st, missing, err := r.final(m)
	if err != nil || missing {
		return err
	}
	if at.unsafe != nil {
		return at.unsafe
	}
	if st.IsDir() {
		return fmt.Errorf("%s: cannot write the argument into a directory: %w", m.path, syscall.EISDIR)
	}
	// What is there already is written all the same, as the reference does (a
	// file in /sys may act on it), but it is no change.
	same := st.IsRegular() && !it.Mod.Plus && r.beginsWith(at, name, it.Content)
	n, err := at.dir.OpenWrite(name, it.Mod.Plus)
	if err != nil {
		return err
	}
	defer n.Close()
	if len(it.Content) > 0 {
		if err := n.Write(it.Content, it.Mod.Plus, false); err != nil {
			return err
		}
		act := ActWrite
		if it.Mod.Plus {
			act = ActAppend
		}
		if !same {
			r.changed(it, act, m.path, "", fmt.Sprintf("%d bytes", len(it.Content)))
		}
	}
	return r.permsOn(it, n, m.path, true, 0)
}

func (r *run) beginsWith(at spot, name string, content []byte) bool {
	n, err := at.dir.OpenNode(name)
	if err != nil {
		return false
	}
	defer n.Close()
	begins, _ := n.Begins(content)
	return begins
}

// adjustDir is e: owner and mode of directories that exist; links are followed.
func (r *run) adjustDir(it *Item, m match) error {
	if err := m.safe(); err != nil {
		return err
	}
	at, name, st, missing, err := r.final(m)
	if err != nil {
		return err
	}
	if at.unsafe != nil {
		return at.unsafe
	}
	if missing {
		return nil
	}
	if !st.IsDir() {
		r.debug(it, m.path, (&errWrongType{m.path, st.Mode, "a directory"}).Error())
		return nil
	}
	if atAutofs(at, name, &st) {
		return errAutofs
	}
	return r.permsAt(it, at, name, m.path, &st, true)
}

// targetExists says whether the target of an L? line is there, as seen from
// where the link would be.
func (r *run) targetExists(it *Item) (bool, error) {
	at := spot{place: r.walk.root}
	if !strings.HasPrefix(it.Argument, "/") {
		dir := it.Path[:max(strings.LastIndexByte(it.Path, '/'), 1)]
		var err error
		if at, err = r.walk.dirAt(dir, false); err != nil {
			return false, dropMissing(err)
		}
	}
	at, name, err := r.leadsTo(at, owner{}, it.Argument, it.Path)
	if err != nil {
		return false, dropMissing(err)
	}
	var st fsat.Stat
	return lookup(at, name, &st) // a link that dangles is a target
}
