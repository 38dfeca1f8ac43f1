package tmpfiles

import (
	"fmt"
	"slices"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
)

// chainWindow is how many directories of a walk are held at once. Below that
// depth the upper ones are closed, and opened again through ".." on the way
// back, which is believed only if it is the same inode: a tree may be deeper
// than there are descriptors.
const chainWindow = 128

// longPath is where the paths of a very deep tree stop growing. They are for
// messages alone.
const longPath = 16 << 10

// chain is the way from the top of a walk down to where it is.
type chain struct {
	levels []level
}

type level struct {
	d     directory // nil while it is closed
	st    fsat.Stat
	name  string   // in the directory above
	names []string // what is still to be visited
	path  string
}

// dir is the directory in which the walk is.
func (c *chain) dir() directory { return c.levels[len(c.levels)-1].d }

// path names an entry of it, for messages.
func (c *chain) path(name string) string {
	top := c.levels[len(c.levels)-1].path
	if len(top) > longPath {
		return top + "/.../" + name
	}
	return join(top, name)
}

// push goes down into name.
func (c *chain) push(d directory, name, path string) error {
	l := level{d: d, name: name, path: path}
	if err := d.Stat("", &l.st); err != nil {
		d.Close()
		return err
	}
	var err error
	if l.names, err = d.Names(); err != nil {
		d.Close()
		return err
	}
	slices.Sort(l.names)
	if len(path) > longPath {
		l.path = path[:longPath]
	}
	c.levels = append(c.levels, l)
	if k := len(c.levels) - chainWindow; k >= 0 && c.levels[k].d != nil {
		c.levels[k].d.Close()
		c.levels[k].d = nil
	}
	return nil
}

// pop goes up again. The directory above is opened through "..", if it had to
// be closed.
func (c *chain) pop() (name, path string, err error) {
	n := len(c.levels) - 1
	l := c.levels[n]
	c.levels = c.levels[:n]
	defer l.d.Close()
	if n == 0 || c.levels[n-1].d != nil {
		return l.name, l.path, nil
	}
	up, err := l.d.OpenDir("..")
	if err != nil {
		return l.name, l.path, err
	}
	var st fsat.Stat
	if err := up.Stat("", &st); err != nil || !st.SameInode(&c.levels[n-1].st) {
		up.Close()
		return l.name, l.path, fmt.Errorf("%s was moved away while it was walked: %w", l.path, syscall.ESTALE)
	}
	c.levels[n-1].d = up
	return l.name, l.path, nil
}

func (c *chain) close() {
	for _, l := range c.levels {
		if l.d != nil {
			l.d.Close()
		}
	}
}

// descend walks everything below d, which it closes, depth first. visit is
// called for every entry and says whether to enter it; leave, if there is one,
// for every entered directory when all below it is done, with the directory
// above in place; failed for what could not be entered. An error means that the
// walk could not go on.
func descend(d directory, path string, visit func(c *chain, name string) bool,
	leave func(c *chain, name, path string), failed func(path string, err error)) error {
	c := &chain{}
	defer c.close()
	if err := c.push(d, "", path); err != nil {
		return err
	}
	for {
		l := &c.levels[len(c.levels)-1]
		if len(l.names) == 0 {
			if len(c.levels) == 1 {
				return nil
			}
			name, p, err := c.pop()
			if err != nil {
				return err
			}
			if leave != nil {
				leave(c, name, p)
			}
			continue
		}
		name := l.names[0]
		l.names = l.names[1:]
		if !visit(c, name) {
			continue
		}
		p := c.path(name)
		sub, err := l.d.OpenDir(name)
		if err == nil {
			err = c.push(sub, name, p)
		}
		if err != nil && !fsat.NotExist(err) {
			failed(p, err)
		}
	}
}
