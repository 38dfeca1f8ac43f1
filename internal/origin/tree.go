package origin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/stale"
)

// Tree is what was found below a directory.
type Tree struct {
	Path      string `json:"path"`
	PathBytes []byte `json:"path_bytes,omitempty"` // as in Report
	// Rows are everything below it, first what is stale, then what cannot be told, then
	// what is live; each in the order of the paths.
	Rows []*Report `json:"-"`
	// Stale, Live, CannotTell count the rows.
	Stale      int `json:"stale"`
	CannotTell int `json:"cannot_tell"`
	Live       int `json:"live"`
	// NotEntered are directories that were not listed, with the reason.
	NotEntered []Skipped `json:"not_entered,omitempty"`
	// Unseen says what could not be found out about any of the rows.
	Unseen []string `json:"unseen,omitempty"`
	// Failed says that something could not be looked at.
	Failed bool `json:"failed,omitempty"`
}

// Skipped is a directory that was not listed.
type Skipped struct {
	Path      string `json:"path"`
	PathBytes []byte `json:"path_bytes,omitempty"` // as in Report
	Why       string `json:"why"`
}

func skipped(at, why string) Skipped { return Skipped{at, bytesOf(at), why} }

// Tree looks at everything below the absolute path of a directory, on its own file system
// and on those that live in memory (tmpfs, ramfs, devtmpfs). Others are NotEntered. One scan of
// each kind serves all. progress, unless nil, is called now and then with the number
// of entries so far. The error is that of the directory itself, or of the context.
func (i *Inspector) Tree(ctx context.Context, dir string, progress func(entries int)) (*Tree, error) {
	s, err := i.begin(ctx, false)
	if err != nil {
		return nil, err
	}
	defer s.end()
	o, err := resolve(s.table, dir+"/") // a link is followed
	if err != nil {
		return nil, err
	}
	defer o.close()
	if o.mount != nil && ofKernel(o.mount.FSType) {
		return nil, fmt.Errorf("%s is the kernel's own %s, in which nobody leaves anything", o.path, o.mount.FSType)
	}
	t := &Tree{Path: o.path, PathBytes: bytesOf(o.path)}
	s.dir = o.path
	w := &walker{session: s, tree: t, root: o.mount, budget: maxNames, progress: progress, shown: map[*mounts.Mount]*Mount{}, ofFile: plainEvidence(), ofDirectory: directoryEvidence()}
	if err := w.list(o.node.Fd(), o.path, o.mount, 0); err != nil {
		return nil, err
	}
	for _, step := range []func() error{s.uses, w.links, s.settle, s.makers} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	t.Unseen = append(slices.Clone(s.unseen), s.why...)
	if w.changing > 0 {
		t.Unseen = append(t.Unseen, fmt.Sprintf("%d entries vanished while they were looked at", w.changing))
	}
	t.Rows = make([]*Report, len(s.subject))
	for n, x := range s.subject {
		t.Rows[n] = x.Report
		switch x.Verdict {
		case stale.Stale:
			t.Stale++
		case stale.Live:
			t.Live++
		default:
			t.CannotTell++
		}
	}
	slices.SortFunc(t.Rows, func(a, b *Report) int {
		return cmp.Or(cmp.Compare(rank(a.Verdict), rank(b.Verdict)), cmp.Compare(a.Path, b.Path))
	})
	return t, nil
}

// rank is the order of the rows.
func rank(v stale.Verdict) int {
	switch v {
	case stale.Stale:
		return 0
	case stale.Live:
		return 2
	}
	return 1
}

// walker lists a tree.
type walker struct {
	*session
	tree     *Tree
	progress func(int)
	changing int // entries that vanished
	root     *mounts.Mount
	budget   int // names that may still be looked up for links
	block    []subject
	reports  []Report
	shown    map[*mounts.Mount]*Mount

	ofFile, ofDirectory []stale.Evidence
}

// maxNames bounds how many names are looked up for all links of a tree, maxNamesOfLink
// those of one: anybody can make links that lead through tens of thousands.
const (
	maxNames       = 1 << 19
	maxNamesOfLink = 512
)

// maxDepth bounds how many directories are held open at a time.
const maxDepth = 256

// list looks at the entries of the directory that fd, an O_PATH descriptor, holds.
func (w *walker) list(fd int, at string, on *mounts.Mount, depth int) error {
	if depth > maxDepth {
		w.skip(at, fmt.Errorf("it lies %d directories deep", depth))
		return nil
	}
	in, err := fsat.OpenForListing(fd, ".")
	if err != nil {
		if depth == 0 {
			return fmt.Errorf("%s: %w", at, inroot.Errno(err))
		}
		w.skip(at, err)
		return nil
	}
	dir := fsat.DirOf(in)
	defer dir.Close()
	var below []string
	buf := make([]byte, 32<<10)
	for {
		n, err := linux.Getdents(in, buf)
		if n == 0 && err == nil || fsat.NotExist(err) { // ENOENT: it was removed
			break
		}
		if err != nil {
			w.skip(at, err)
			break
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
		for e := range fsat.Entries(buf[:n]) {
			name := string(e.Name)
			enter, err := w.entry(dir, at, name, on)
			if err != nil {
				return err
			}
			if enter {
				below = append(below, name)
			}
		}
	}
	slices.Sort(below)
	for _, name := range below {
		if err := w.enter(dir, at, name, on, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) skip(at string, err error) {
	w.tree.Failed = true
	w.tree.NotEntered = append(w.tree.NotEntered, skipped(at, inroot.Errno(err).Error()))
}

func join(dir, name string) string {
	if dir == "/" {
		return dir + name
	}
	return dir + "/" + name
}

// entry looks at one entry, and says whether it is a directory to be entered.
func (w *walker) entry(dir *fsat.Dir, above, name string, on *mounts.Mount) (enter bool, err error) {
	if n := len(w.subject); w.progress != nil && n%256 == 0 {
		w.progress(n)
	}
	at := join(above, name)
	if m := w.table.silent[at]; m != nil {
		w.silent(at, m, typeOfSilent(dir.Fd(), name, m))
		return false, nil
	}
	var st fsat.Stat
	id, err := w.table.stat(dir.Fd(), name, &st)
	if fsat.NotExist(err) {
		w.changing++
		return false, nil
	}
	if err != nil {
		x := w.row(at)
		x.Type, x.err, x.Error = Unknown, err, inroot.Errno(err).Error()
		x.decide(stale.CannotTell, stale.NoPermission, x.Error)
		w.tree.Failed = true
		return false, nil
	}
	m, silent := w.table.mount(id, at, on)
	if silent { // mounted since the table was read
		w.silent(at, m, typeOfSilent(dir.Fd(), name, m))
		return false, nil
	}
	x := w.row(at)
	w.describe(x.Report, &st)
	x.Mount = w.mountShown(m, at)
	if err := w.rate(x, dir, name); err != nil {
		return false, err
	}
	if st.IsDir() && w.elsewhere(m, on) {
		w.otherwise(at, m)
		return false, nil
	}
	return st.IsDir() && (m == nil || !ofKernel(m.FSType)), nil
}

// elsewhere reports whether m, that a directory on the mount on leads to, is left out of the walk:
// disks and the roots of containers are mounted below /run, too, and are not what is
// asked for.
func (w *walker) elsewhere(m, on *mounts.Mount) bool {
	if m == nil || on == nil || m.ID == on.ID || ofKernel(m.FSType) {
		return false
	}
	if r := w.root; r != nil && r.Major == m.Major && r.Minor == m.Minor {
		return false
	}
	switch m.FSType {
	case "tmpfs", "ramfs", "devtmpfs":
		return false
	}
	return true
}

func (w *walker) otherwise(at string, m *mounts.Mount) {
	w.tree.NotEntered = append(w.tree.NotEntered, skipped(at, fmt.Sprintf("another file system (%s) is mounted here: name it to look into it", m.FSType)))
}

// row adds a row for a path.
func (w *walker) row(at string) *subject {
	if len(w.block) == 0 { // many at a time
		w.block, w.reports = make([]subject, 256), make([]Report, 256)
	}
	x := &w.block[0]
	x.Report = &w.reports[0]
	w.block, w.reports = w.block[1:], w.reports[1:]
	x.setPath(at)
	w.subject = append(w.subject, x)
	return x
}

// silent adds a row for a mount that is not asked anything.
func (w *walker) silent(at string, m *mounts.Mount, typ Type) {
	x := w.row(at)
	x.Type, x.Mount = typ, mountOf(m, at)
	x.decide(stale.Live, Mounted, article(m.FSType)+" is mounted here")
	w.tree.NotEntered = append(w.tree.NotEntered, skipped(at, (&silentError{at: at, mount: m}).Error()))
}

// mountShown is mountOf, one for all rows of a mount.
func (w *walker) mountShown(m *mounts.Mount, at string) *Mount {
	switch {
	case m == nil:
		return nil
	case m.Point == at:
		return mountOf(m, at)
	case w.shown[m] == nil:
		w.shown[m] = mountOf(m, at)
	}
	return w.shown[m]
}

// enter goes into a directory that was listed.
func (w *walker) enter(dir *fsat.Dir, above, name string, on *mounts.Mount, depth int) error {
	at := join(above, name)
	d, err := dir.OpenNode(name) // O_DIRECTORY would trigger an automount that came meanwhile
	switch {
	case fsat.NotExist(err):
		w.changing++
		return nil
	case err != nil:
		w.skip(at, err)
		return nil
	}
	defer d.Close()
	var st fsat.Stat
	id, err := w.table.stat(d.Fd(), "", &st)
	if err != nil {
		w.skip(at, err)
		return nil
	}
	m, silent := w.table.mount(id, at, on)
	if silent {
		w.tree.NotEntered = append(w.tree.NotEntered, skipped(at, (&silentError{at: at, mount: m}).Error()))
		return nil
	}
	switch {
	case !st.IsDir():
		w.changing++
		return nil
	case w.elsewhere(m, on): // mounted since it was listed
		w.otherwise(at, m)
		return nil
	}
	return w.list(d.Fd(), at, m, depth+1)
}

// What is said of everything that has no kind of its own. Whoever appends copies.
func plainEvidence() []stale.Evidence {
	list := []stale.Evidence{{Proof: stale.WrongType, Text: "nothing but a user tells whether a file of this name is in use"}}
	return list[:1:1]
}

func directoryEvidence() []stale.Evidence {
	list := []stale.Evidence{{Proof: stale.UsedByName, Text: "a directory is not stale by itself; what is in it may be"}}
	return list[:1:1]
}

// rate judges a row as far as that takes a look at the entry itself.
func (w *walker) rate(x *subject, dir *fsat.Dir, name string) error {
	switch {
	case x.Mount != nil && x.Mount.Here:
		x.decide(stale.Live, Mounted, mountedText(x.Mount))
		return nil
	case x.Type == Directory:
		x.Evidence = w.ofDirectory
		return nil
	case x.Type == Symlink:
		w.treeLink(x, dir, name)
		return nil
	case x.Type == File:
		x.kind = kindByName(name)
		if x.kind == stale.Guess {
			x.Evidence = w.ofFile
			return nil
		}
	}
	if w.judge == nil {
		x.decide(stale.CannotTell, stale.NoPermission, "without /proc nothing can be proven")
		return nil
	}
	return w.judged(x, dir, name)
}

// treeLink says where a link leads. What is there has a row of its own, or is
// elsewhere.
func (w *walker) treeLink(x *subject, dir *fsat.Dir, name string) {
	target, err := dir.Readlink(name)
	if err != nil {
		x.decide(stale.CannotTell, Vanished, "where it leads: "+inroot.Errno(err).Error())
		return
	}
	x.Link = &Link{Target: target, TargetBytes: bytesOf(target)}
	to := target
	if !path.IsAbs(to) {
		to = path.Dir(x.Path) + "/" + to
	}
	limit := min(w.budget, maxNamesOfLink)
	o, err := resolveTo(w.table, to, true, &limit)
	w.budget -= min(w.budget, maxNamesOfLink) - limit
	switch {
	case err == nil:
		x.Link.setReal(o.path)
		o.close()
		x.decide(stale.CannotTell, Leads, "it leads to "+x.Link.Real)
	case errors.Is(err, syscall.ENOENT):
		x.Link.Broken = "nothing is there"
		w.linkVerdict(x)
	default:
		x.Link.Broken = err.Error()
		w.linkVerdict(x)
	}
}

// links finds the rows that links lead to.
func (w *walker) links() error {
	var byPath map[string]*subject
	for _, x := range w.subject {
		if x.Link == nil || x.Link.Real == "" {
			continue
		}
		if byPath == nil {
			byPath = make(map[string]*subject, len(w.subject))
			for _, y := range w.subject {
				byPath[y.Path] = y
			}
		}
		x.leads = byPath[x.Link.Real]
	}
	return nil
}
