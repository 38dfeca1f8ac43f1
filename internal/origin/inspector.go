package origin

import (
	"cmp"
	"context"
	"errors"
	"path"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/accounts"
	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/fuser"
	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/pkgdb"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/runfs"
	"github.com/slashrun/slashrun/internal/stale"
	"github.com/slashrun/slashrun/internal/tmpconf"
	"github.com/slashrun/slashrun/internal/tmpfiles"
)

// Options says where an Inspector looks.
type Options struct {
	// Proc is the procfs, which stays the caller's; nil where there is none: then
	// users, mounts and proofs are unseen, and reports say so.
	Proc *process.Proc
	// NoProc is why there is no procfs.
	NoProc error
	// Root is the directory that configuration, unit files and package databases
	// are read below; empty is the system's own.
	Root string
	// Run is where the run-time directory is, "/run".
	Run string
}

// Inspector finds out where things come from. Its methods are for one goroutine at a
// time: what one look has read the next uses again, for as long as the Inspector
// lives.
type Inspector struct {
	o    Options
	root *inroot.Root
	boot *stale.Stamp
	// unseen is what every report cannot tell.
	unseen []string

	users    *accounts.Source
	config   func() (*tmpfiles.Config, []string)
	units    *units
	packages *pkgdb.DB
	owners   map[string][]pkgdb.Owner
	names    map[uint32]string // of users
	groups   map[uint32]string
}

// Open makes an Inspector. What it needs of the system is read when it is first asked
// for.
func Open(ctx context.Context, o Options) (*Inspector, error) {
	if o.Run == "" {
		o.Run = "/run"
	}
	root, err := inroot.Open(o.Root)
	if err != nil {
		return nil, err
	}
	i := &Inspector{o: o, root: root, packages: pkgdb.Open(root), owners: map[string][]pkgdb.Owner{}, names: map[uint32]string{}, groups: map[uint32]string{}}
	getent := accounts.DefaultGetent()
	getent.Never = func() {} // no process is started for a name
	i.users = accounts.System(root, getent)
	if o.Root != "" {
		i.users = accounts.InRoot(root)
	}
	i.config = sync.OnceValues(i.load)
	if o.Proc == nil {
		why := "/proc is not mounted"
		if o.NoProc != nil {
			why = o.NoProc.Error()
		}
		i.unseen = append(i.unseen, "who uses it, its mount and whether it is stale: "+why)
		return i, nil
	}
	i.boot = i.stamp()
	return i, nil
}

// Close releases what the Inspector holds.
func (i *Inspector) Close() { i.root.Close() }

// stamp is the boot stamp of this run, nil without one that can be trusted.
func (i *Inspector) stamp() *stale.Stamp {
	run, err := fsat.OpenDir(i.o.Run)
	if err != nil {
		return nil
	}
	defer run.Close()
	s, made, err := runfs.FindStamp(run)
	if err != nil || s == nil || made == 0 {
		return nil
	}
	if now, err := i.o.Proc.Identity(); err != nil || !s.SameRun(now) {
		return nil
	}
	return &stale.Stamp{Identity: s.Identity, Made: made}
}

// load reads the configuration of tmpfiles.d; what is wrong with single lines is no
// matter here.
func (i *Inspector) load() (*tmpfiles.Config, []string) {
	loaded, err := tmpconf.Load(tmpconf.Options{
		Root: i.o.Root, Boot: true, Graceful: true, KeepSkipped: true, Asked: func() {},
		Getenv: func(string) (string, bool) { return "", false },
	})
	if err != nil {
		return tmpfiles.NewConfig(), []string{"tmpfiles.d: " + err.Error()}
	}
	var why []string
	for _, w := range loaded.Warnings {
		if len(why) < maxReasons {
			why = append(why, "tmpfiles.d: "+w.Error())
		}
	}
	return loaded.Config, why
}

// maxReasons bounds lists of what could not be seen.
const maxReasons = 8

// unitsOf reads the unit files once.
func (i *Inspector) unitsOf(ctx context.Context) (*units, error) {
	if i.units == nil {
		u, err := readUnits(ctx, i.root, i.users)
		if err != nil {
			return nil, err
		}
		i.units = u
	}
	return i.units, nil
}

// Look reports on the absolute paths. A path that cannot be looked at has a Report
// with an error; the error of Look is of the context alone.
func (i *Inspector) Look(ctx context.Context, paths ...string) ([]*Report, error) {
	s, err := i.begin(ctx, true)
	if err != nil {
		return nil, err
	}
	defer s.end()
	list := make([]*Report, 0, len(paths))
	for _, p := range paths {
		list = append(list, s.path(p, 0))
	}
	if err := s.finish(); err != nil {
		return nil, err
	}
	return list, nil
}

// session is one look at some paths: it shares one scan of each kind.
type session struct {
	*Inspector
	judge   *stale.Judge // nil without a procfs
	ctx     context.Context
	table   *table
	subject []*subject
	deep    bool   // look for what takes a look at each: other namespaces, content
	dir     string // of a tree
	why     []string
	chain   []fuser.ID // the links that are being followed
}

// subject is an object with the report on it.
type subject struct {
	*Report
	at   *object // nil once it is closed, or if it was never held
	kind stale.Kind
	ours int // the process that a PID file of our own format names
	// leads is what a link leads to, where that is a row of the same tree.
	leads *subject
	// holder is the place in UsedBy, counted from 1, of who may have made it: see fill.
	holder int
}

func (i *Inspector) begin(ctx context.Context, deep bool) (*session, error) {
	t, err := readTable(i.o.Proc)
	s := &session{Inspector: i, ctx: ctx, table: t, deep: deep}
	if err != nil {
		s.why = append(s.why, "mounts: "+err.Error())
	}
	if i.o.Proc != nil {
		// One look is of one moment, as far as other processes go.
		if s.judge, err = stale.New(ctx, stale.Options{Proc: i.o.Proc, Stamp: i.boot, MayBeOld: time.Minute}); err != nil {
			return nil, err
		}
	}
	return s, ctx.Err()
}

func (s *session) end() {
	for _, x := range s.subject {
		if x.at != nil {
			x.at.close()
		}
	}
}

// maxFollowed is how many links, one behind the other, are explained.
const maxFollowed = 8

// path looks at what the path leads to, and where a link leads.
func (s *session) path(p string, depth int) *Report {
	r := &Report{Type: Unknown}
	r.setPath(p)
	o, err := resolve(s.table, p)
	var silent *silentError
	if errors.As(err, &silent) {
		o, err = s.cached(p, silent)
	}
	if o == nil {
		s.failed(r, err, silent)
		return r
	}
	x := s.add(r, o)
	if err != nil {
		r.Unseen = append(r.Unseen, err.Error())
		x.at.close()
		x.at = nil
		return r
	}
	if r.Type == Symlink {
		s.link(x, depth)
	}
	return r
}

// failed fills a report on what could not be looked at.
func (s *session) failed(r *Report, err error, silent *silentError) {
	r.err, r.Error = err, err.Error()
	if silent != nil {
		r.Mount = mountOf(silent.mount, path.Clean(r.Path))
		if r.Mount.Here { // this much is known without a question
			r.Type, r.err, r.Error = silent.typ, nil, ""
			r.Verdict = stale.Live
			r.Evidence = append(r.Evidence, stale.Evidence{Proof: Mounted, Text: article(silent.mount.FSType) + " is mounted here"})
			r.Unseen = append(r.Unseen, err.Error())
			s.subject = append(s.subject, &subject{Report: r})
		}
	}
}

// link explains a link, and what it leads to.
func (s *session) link(x *subject, depth int) {
	target, err := x.at.node.Readlink()
	if err != nil {
		x.Unseen = append(x.Unseen, "where it leads: "+err.Error())
		return
	}
	x.Link = &Link{Target: target, TargetBytes: bytesOf(target)}
	if magic(x.at, target) {
		x.Link.Broken = "the kernel's own link, whose text is no path"
		return
	}
	to := target
	if !path.IsAbs(to) {
		to = path.Dir(x.at.path) + "/" + to // not cleaned: ".." behind a link means another directory
	}
	if slices.Contains(s.chain, x.id()) {
		x.Link.Broken = "it leads to itself"
		return
	}
	s.chain = append(s.chain, x.id())
	defer func() { s.chain = s.chain[:len(s.chain)-1] }()
	if depth >= maxFollowed {
		x.Link.Broken = "too many links, one behind the other"
		return
	}
	r := s.path(to, depth+1)
	if r.err != nil {
		x.Link.Broken = r.Error
		if errors.Is(r.err, syscall.ENOENT) {
			x.Link.Broken = "nothing is there"
		}
		return
	}
	x.Link.Report = r
	x.Link.setReal(cmp.Or(r.Real, path.Clean(r.Path)))
}

// finish finds out what takes a scan, for all subjects at once.
func (s *session) finish() error {
	steps := []func() error{s.kinds, s.verdicts, s.uses, s.settle, s.makers, s.reach}
	for _, step := range steps {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		if err := step(); err != nil {
			return err
		}
	}
	for _, x := range s.subject {
		x.Unseen = append(x.Unseen, s.unseen...)
		x.Unseen = append(x.Unseen, s.why...)
	}
	return s.ctx.Err()
}
