package runfs

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/sockdiag"
)

// Use is what is known about who uses a directory of the file system around it.
type Use struct {
	Entries     int               `json:"entries"`                // that are content: neither mount points nor the way to one
	Names       []string          `json:"names,omitempty"`        // the first of them
	LiveSockets []string          `json:"live_sockets,omitempty"` // something is bound to them
	Holders     []process.Holder  `json:"holders,omitempty"`
	Others      []process.Process `json:"others,omitempty"` // alive beside us and our ancestors
	Incomplete  []string          `json:"incomplete,omitempty"`
}

// shown is how many names a message carries.
const shown = 5

// Occupied gives the reasons for which the directory counts as in use, none
// where it is proven that nobody uses it. See the package documentation.
func (u *Use) Occupied() []string {
	var why []string
	for _, h := range u.Holders {
		why = append(why, fmt.Sprintf("process %d (%s) has %s there: %s", h.PID, h.Comm, h.How, h.Path))
	}
	for _, s := range u.LiveSockets {
		why = append(why, "something is bound to the socket "+s)
	}
	if u.Entries > 0 && len(u.Others) > 0 {
		o := u.Others[0]
		why = append(why, fmt.Sprintf("it holds %s, and process %d (%s) is alive, which may use them by name", u.content(), o.PID, o.Comm))
	}
	for _, i := range u.Incomplete {
		why = append(why, "cannot tell: "+i)
	}
	if len(why) > shown {
		why = append(why[:shown], fmt.Sprintf("and %d more reasons", len(why)-shown))
	}
	return why
}

func (u *Use) content() string {
	names := strings.Join(u.Names, ", ")
	if u.Entries > len(u.Names) {
		names += ", ..."
	}
	if u.Entries == 1 {
		return "1 entry (" + names + ")"
	}
	return fmt.Sprintf("%d entries (%s)", u.Entries, names)
}

func inspectUse(ctx context.Context, p *process.Proc, dir *fsat.Dir, path string, mountID int, carry []Carried, shared bool) Use {
	var u Use
	w := content{use: &u, carry: carry}
	if err := w.walk(dir, ""); err != nil {
		u.Incomplete = append(u.Incomplete, err.Error())
	}
	users := p.Users(ctx, path, mountID, shared, w.seen == 0 && len(carry) == 0)
	u.Others, u.Incomplete = users.Others, append(u.Incomplete, users.Incomplete...)
	for _, h := range users.Holders {
		// sysvinit's init makes and opens its FIFO before anything else runs, and
		// looks again and again whether it is still the same inode: it makes a new
		// one in the new /run (initctl(5), check_init_fifo).
		if h.PID == 1 && strings.TrimSuffix(h.Path, " (deleted)") == path+"/initctl" {
			continue
		}
		u.Holders = append(u.Holders, h)
	}
	if shared && u.Entries > 0 {
		// Outside of the initial PID namespace there are processes that we cannot
		// see, and a shared mount shows up with them too.
		if !p.Initial() {
			u.Incomplete = append(u.Incomplete, "the mount around it is shared, and processes outside of this PID namespace may see it")
		}
	}
	return u
}

// content counts what is below a directory, and asks each socket whether
// anything is bound to it.
type content struct {
	use   *Use
	carry []Carried
	seen  int // entries of any kind
}

func (c *content) walk(dir *fsat.Dir, rel string) error {
	names, err := dir.Names()
	if err != nil {
		return fmt.Errorf("cannot list %s: %w", "./"+rel, err)
	}
	c.seen += len(names)
	for _, name := range names {
		if err := c.entry(dir, name, strings.TrimPrefix(rel+"/"+name, "/")); err != nil {
			return err
		}
	}
	return nil
}

func (c *content) entry(dir *fsat.Dir, name, rel string) error {
	if rel == mounts.StagingName || slices.ContainsFunc(c.carry, func(m Carried) bool { return m.Rel == rel }) {
		return nil
	}
	var st fsat.Stat
	if err := dir.Stat(name, &st); err != nil {
		if fsat.NotExist(err) {
			return nil
		}
		return fmt.Errorf("%s: %w", rel, err)
	}
	way := slices.ContainsFunc(c.carry, func(m Carried) bool { return strings.HasPrefix(m.Rel, rel+"/") })
	if !way && !ours(rel, &st) {
		c.use.Entries++
		if len(c.use.Names) < shown {
			c.use.Names = append(c.use.Names, rel)
		}
	}
	switch {
	case st.IsDir():
		d, err := dir.OpenDir(name)
		if err != nil {
			return fmt.Errorf("%s: %w", rel, err)
		}
		defer d.Close()
		return c.walk(d, rel)
	case st.Type() == syscall.S_IFSOCK:
		live, err := sockdiag.ProbeAt(dir.Fd(), name)
		if err != nil {
			c.use.Incomplete = append(c.use.Incomplete, fmt.Sprintf("whether anything is bound to the socket %s: %v", rel, err))
		} else if live {
			c.use.LiveSockets = append(c.use.LiveSockets, rel)
		}
	}
	return nil
}

// ours are the directories that a new /run has anyway, and what a killed run may
// have left under a temporary name.
func ours(rel string, st *fsat.Stat) bool {
	switch rel {
	case "lock", "user", ownDir:
		return st.IsDir()
	}
	return strings.HasPrefix(rel, fsat.TempPrefix)
}
