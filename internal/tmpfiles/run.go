package tmpfiles

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
)

// Options are what a run needs besides the configuration.
type Options struct {
	// Root is the directory that stands for "/". Nothing above it is touched,
	// and links are resolved inside of it.
	Root *fsat.Dir
	// Ops is the set of operations.
	Ops Op
	// DryRun makes no change: it finds out and reports exactly the changes
	// that would be made.
	DryRun bool
	Report Reporter
	// HardlinksProtected is the sysctl fs.protected_hardlinks. Where it is off,
	// owner and mode of a file with several links are left alone.
	HardlinksProtected bool
	// ForceSubvolume is $SYSTEMD_TMPFILES_FORCE_SUBVOL; nil if it is not set.
	ForceSubvolume *bool
	// Workers is how many goroutines clean; 0 is one for each core.
	Workers int
	// Progress, unless nil, is called a few times a second while a clean-up
	// takes long, by one goroutine at a time.
	Progress func(Stats)
}

// run is one application of a configuration.
type run struct {
	ctx    context.Context
	cfg    *Config
	opt    Options
	walk   *walker
	shadow *shadow // dry runs
	clean  *cleaner
	// creating says that failures of lines with `-` are tolerated.
	creating bool

	mu    sync.Mutex // guards first and failures during clean-up
	first error
	count int
}

// Result is what became of a run.
type Result struct {
	// First is the first failure; nil if everything is as the lines want it.
	First error
	// Failures is how many lines failed.
	Failures int
}

// Resource says that the first failure was a lack of resources, which the
// reference reports as exit status 1 instead of 73.
func (r Result) Resource() bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(r.First, e) {
			return true
		}
	}
	return false
}

// Apply runs the configuration: purge, then remove and clean, then create; in
// each phase plain paths before patterns, in the order of their first lines. A
// failure does not stop it. The process's umask must be 0. A cancelled context
// ends it between two lines, and inside of a clean-up between two directories.
func (c *Config) Apply(ctx context.Context, opt Options) (Result, error) {
	r := &run{ctx: ctx, cfg: c, opt: opt}
	var root directory = realDir{opt.Root}
	if opt.DryRun {
		r.shadow = newShadow()
		root = r.shadow.root(opt.Root)
	}
	var err error
	if r.walk, err = newWalker(root); err != nil {
		return Result{}, err
	}
	r.walk.make = r.makeParent
	defer r.walk.forget()
	c.link()
	for _, phase := range []Op{opt.Ops & Purge, opt.Ops & (Remove | Clean), opt.Ops & Create} {
		if phase == 0 {
			continue
		}
		for _, t := range []*table{&c.plain, &c.globs} {
			for _, g := range t.order {
				if err := ctx.Err(); err != nil {
					return Result{r.first, r.count}, err
				}
				r.group(g, phase)
			}
		}
		r.walk.forget()
	}
	return Result{r.first, r.count}, ctx.Err()
}

// group applies the lines of one path: what is created needs its parent first,
// what is removed or cleaned its children.
func (r *run) group(g *group, op Op) {
	if op&Create != 0 && g.parent != nil {
		r.group(g.parent, op&Create)
	}
	if down := op & (Remove | Clean | Purge); down != 0 {
		for _, c := range g.children {
			r.group(c, down)
		}
	}
	todo := op &^ g.done
	if todo == 0 {
		return
	}
	g.done |= op
	for _, it := range g.items {
		r.item(it, todo)
		r.walk.settle()
	}
}

func (r *run) item(it *Item, op Op) {
	r.creating = op&Create != 0
	if r.creating {
		r.fail(it, r.create(it), it.Mod.MayFail)
	}
	if op&Remove != 0 {
		r.fail(it, r.remove(it), false)
	}
	if op&Clean != 0 {
		r.fail(it, r.cleanItem(it), false)
	}
	if op&Purge != 0 {
		r.fail(it, r.purge(it), false)
	}
}

// fail reports and counts a failure of a line.
func (r *run) fail(it *Item, err error, tolerated bool) {
	if err == nil {
		return
	}
	if errors.Is(err, errAutofs) {
		r.debug(it, it.Path, err.Error())
		return
	}
	var reported *reportedError
	if !errors.As(err, &reported) {
		r.problem(it, it.Path, err, tolerated)
	} else {
		err = reported.first
	}
	if tolerated {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	if r.first == nil {
		r.first = err
	}
}

func (r *run) problem(it *Item, path string, err error, tolerated bool) {
	if !strings.Contains(err.Error(), path) {
		err = fmt.Errorf("%s: %w", path, err)
	}
	r.opt.Report.Problem(&Problem{Path: path, Source: it.Source, Err: err, Tolerated: tolerated})
}

// reportedError stands for failures on several paths of one line that have been
// reported one by one.
type reportedError struct{ first error }

func (e *reportedError) Error() string { return e.first.Error() }
func (e *reportedError) Unwrap() error { return e.first }

// gather reports the failures of the paths that a line matches, and goes on.
type gather struct {
	r     *run
	it    *Item
	first error
}

func (g *gather) add(path string, err error) {
	if err == nil || errors.Is(err, errAutofs) {
		return
	}
	var reported *reportedError
	if errors.As(err, &reported) {
		err = reported.first
	} else {
		g.r.problem(g.it, path, err, g.it.Mod.MayFail && g.r.creating)
	}
	if g.first == nil {
		g.first = err
	}
}

func (g *gather) err() error {
	if g.first == nil {
		return nil
	}
	return &reportedError{g.first}
}

func (r *run) debug(it *Item, path, why string) {
	if r.opt.Report.Verbose() {
		r.opt.Report.Debug(it.Source, path, why)
	}
}

func (r *run) changed(it *Item, act Action, path, from, to string) {
	if r.opt.Report.Changes() {
		r.opt.Report.Change(Change{Action: act, Path: path, From: from, To: to, Line: it.Source.String()})
	}
}

// errNotNormalized refuses paths that go up: where they lead depends on links.
var errNotNormalized = errors.New("path contains \"..\": write it without")

func normalized(p string) bool {
	return !strings.Contains(p, "/../") && !strings.HasSuffix(p, "/..")
}

// parent holds the directory in which a plain path lies, making what is missing
// of it, and refuses an unsafe way there.
func (r *run) parent(it *Item) (spot, string, error) {
	if !normalized(it.Path) {
		return spot{}, "", errNotNormalized
	}
	dir, name := path.Split(it.Path)
	if name == "" {
		return spot{}, "", errors.New("the root directory itself cannot be created")
	}
	if it.Mod.Replace {
		if err := r.clearWay(it, path.Clean(dir)); err != nil {
			return spot{}, "", err
		}
	}
	at, err := r.walk.dirAt(path.Clean(dir), true)
	if err != nil {
		return spot{}, "", err
	}
	if at.unsafe != nil {
		return spot{}, "", at.unsafe
	}
	return at, name, nil
}

// makeParent makes a directory on the way, 0755 whatever a setgid parent or a
// default ACL would make of it, as the reference does. Where
// the next step would be refused, because the directory that it lies in is
// another user's, nothing is made at all.
func (r *run) makeParent(at spot, name, path string) error {
	if err := fsat.ValidName(name); err != nil {
		return err
	}
	if uid := linux.Geteuid(); at.st.UID != 0 && at.st.UID != uid {
		return &UnsafeError{Path: at.real, Owner: at.st.UID, Next: path + ", which would be made", Other: uid}
	}
	if err := at.dir.Mkdir(name, fsat.Attr{UID: fsat.KeepID, GID: fsat.KeepID, Mode: 0755}); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if r.opt.Report.Changes() {
		r.opt.Report.Change(Change{Action: ActMkdir, Path: path, To: "0755"})
	}
	return nil
}
