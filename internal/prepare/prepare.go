// Package prepare is floor 6: "make this /run ready", the job that a boot, a
// container's entry point and a sandbox share. It puts the stages in order and
// has no knowledge of mounts (runfs) or of tmpfiles.d (injected) itself.
//
// # Stages
//
//	early   the /run mount with its layout and boot stamp. Needs neither /usr
//	        nor /var, and no /proc either.
//	hand    an initramfs moves the finished mount into the next root.
//	late    the legacy links in /var, then tmpfiles.d.
//
// Each stage is planned from what is there and then applied, so running again
// does what is left and nothing else: there is no other way to recover from a
// kill, and none is needed.
//
// # When it fails
//
//	*runfs.OccupiedError    nothing was done in that stage
//	another error           the stage stopped; /run is as it was or complete
//	Result.Kept()           done, and some things are not as wanted: each is a note
//
// # When not to use it
//
// Where something else owns /run (systemd as PID 1): it makes its own before
// anything of ours could run, and what is left is tmpfiles.
package prepare

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/slashrun/slashrun/internal/feature"
	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/runfs"
)

// TmpfilesRunner applies tmpfiles.d with --create --remove --boot. clean is
// false where some lines could not be applied, which it has told by itself; an
// error means that it could not run at all.
type TmpfilesRunner func(ctx context.Context, dryRun bool) (clean bool, err error)

// Size is an amount of memory as a person gives it.
type Size struct {
	Bytes   uint64 // used where Percent is 0
	Percent uint64 // of the smaller of RAM and the cgroup's limit
}

// Options say what to make ready.
type Options struct {
	Root     *fsat.Dir // the directory that stands for "/"
	RootPath string    // how messages call it; empty for "/"
	Name     string    // the entry of it that becomes /run

	Early, Late bool
	NewRoot     *fsat.Dir // hand over to this root, after the early stage; nil for no
	NewRootPath string

	Profile  runfs.Profile
	Size     *Size   // nil for the default
	Inodes   *uint64 // the same
	LockSize *uint64
	NoExec   bool
	NoSwap   bool
	InPlace  bool

	DryRun   bool
	Tmpfiles TmpfilesRunner // nil leaves tmpfiles.d out

	// Told is called before each act, or for each planned act in a dry run; Noted
	// for everything worth telling. Both may be nil.
	Told  func(runfs.Step)
	Noted func(runfs.Note)
}

// Result is what was planned and what became of it.
type Result struct {
	Wanted runfs.Wanted   `json:"wanted"`
	Memory process.Memory `json:"memory"`
	State  *runfs.State   `json:"found,omitempty"` // before the early stage
	Steps  []runfs.Step   `json:"steps"`
	Notes  []runfs.Note   `json:"notes"`
	// TmpfilesFailed says that some lines of tmpfiles.d could not be applied.
	TmpfilesFailed bool `json:"tmpfiles_failed,omitempty"`
	// HandedOver says that the next root had the mount already.
	HandedOver bool `json:"handed_over,omitempty"`
}

// Kept reports whether something is not as wanted and was left so.
func (r *Result) Kept() bool {
	if r.TmpfilesFailed {
		return true
	}
	for _, n := range r.Notes {
		if n.Kept {
			return true
		}
	}
	return false
}

// run is one run.
type run struct {
	o      Options
	proc   *process.Proc
	target runfs.Target
	res    *Result
}

// tries is how often the early stage begins again when something else mounts
// at the same moment.
const tries = 5

// Run makes /run ready. The process's umask must be 0. The Result is there with
// an error too.
func Run(ctx context.Context, o Options) (*Result, error) {
	r := &run{o: o, res: &Result{Steps: []runfs.Step{}, Notes: []runfs.Note{}}}
	r.target = runfs.Target{Root: o.Root, Name: o.Name, Path: path.Join("/", o.RootPath, o.Name)}
	var err error
	if r.proc, err = process.Open(); err != nil {
		return r.res, err
	}
	defer r.proc.Close()
	if o.Early {
		if err := r.early(ctx); err != nil {
			return r.res, err
		}
	}
	if o.NewRoot != nil && !r.res.HandedOver {
		if err := r.handOver(ctx); err != nil {
			return r.res, err
		}
	}
	if o.Late {
		if err := r.late(ctx); err != nil {
			return r.res, err
		}
	}
	return r.res, nil
}

func (r *run) told(s runfs.Step) {
	r.res.Steps = append(r.res.Steps, s)
	if r.o.Told != nil {
		r.o.Told(s)
	}
}

func (r *run) noted(n runfs.Note) {
	r.res.Notes = append(r.res.Notes, n)
	if r.o.Noted != nil {
		r.o.Noted(n)
	}
}

func (r *run) applier() *runfs.Applier {
	return &runfs.Applier{Proc: r.proc, Target: r.target, Told: r.told, Noted: r.noted}
}

// take tells a plan's notes, and in a dry run its steps.
func (r *run) take(p *runfs.Plan) {
	for _, n := range p.Notes {
		r.noted(n)
	}
	if r.o.DryRun {
		for _, s := range p.Steps {
			r.told(s)
		}
	}
}

// wanted turns the options into numbers.
func (r *run) wanted() error {
	var err error
	if r.res.Memory, err = r.proc.Memory(); err != nil {
		return fmt.Errorf("cannot find out how much memory there is: %w", err)
	}
	memory := r.res.Memory.Smaller()
	w := runfs.Default(memory, r.o.Profile)
	if s := r.o.Size; s != nil {
		w.Size = runfs.Limit{Value: s.Bytes, Exact: true}
		if s.Percent != 0 {
			w.Size.Value = runfs.Percent(memory, s.Percent)
		}
	}
	if r.o.Inodes != nil {
		w.Inodes = runfs.Limit{Value: *r.o.Inodes, Exact: true}
	}
	if r.o.LockSize != nil {
		w.LockSize = *r.o.LockSize
	}
	w.NoExec, w.NoSwap, w.InPlace = r.o.NoExec, r.o.NoSwap, r.o.InPlace
	r.res.Wanted = w
	return nil
}

func (r *run) newRootTarget() runfs.Target {
	return runfs.Target{Root: r.o.NewRoot, Name: r.o.Name, Path: path.Join("/", r.o.NewRootPath, r.o.Name)}
}

func (r *run) early(ctx context.Context) error {
	if r.o.NewRoot != nil {
		done, err := runfs.HandedOver(ctx, r.proc, r.newRootTarget())
		if err != nil {
			return err
		}
		if done {
			r.res.HandedOver = true
			r.noted(runfs.Note{Path: r.newRootTarget().Path, Text: "the mount is there already"})
			return nil
		}
	}
	var err error
	for range tries {
		if err = r.earlyOnce(ctx, nil); !errors.Is(err, runfs.ErrChanged) {
			break
		}
	}
	return err
}

// earlyOnce makes the mount as w wants it, nil for what the options say.
func (r *run) earlyOnce(ctx context.Context, w *runfs.Wanted) error {
	s, err := runfs.Inspect(ctx, r.proc, r.target)
	if err != nil {
		return err
	}
	if r.res.State == nil {
		r.res.State = s
	}
	if w == nil { // after the look at the mounts, of which it makes use
		if err := r.wanted(); err != nil {
			return err
		}
		w = &r.res.Wanted
	}
	plan, err := runfs.MakePlan(s, *w)
	if err != nil {
		return err
	}
	r.take(plan)
	if r.o.DryRun {
		return nil
	}
	err = r.applier().Apply(s, plan)
	if feature.Absent(err) && !w.InPlace && (s.Kind == runfs.Directory || s.Kind == runfs.Missing) {
		// CAP_SYS_ADMIN, but not over this mount namespace, or a security module.
		r.noted(runfs.Note{Path: r.target.Path, Kept: true, Text: fmt.Sprintf(
			"it stays a plain directory: %v; allow mounting, or ask for --in-place", err)})
		inPlace := *w
		inPlace.InPlace = true
		return r.earlyOnce(ctx, &inPlace)
	}
	return err
}

func (r *run) handOver(ctx context.Context) error {
	to := r.newRootTarget()
	plan, err := runfs.PlanHandOver(ctx, r.proc, r.target, to)
	if err != nil {
		return err
	}
	r.take(plan)
	if r.o.DryRun {
		return nil
	}
	return r.applier().HandOver(plan, to)
}

func (r *run) late(ctx context.Context) error {
	shown := path.Join("/", r.o.RootPath, "var")
	plan, err := runfs.PlanLinks(ctx, r.proc, r.o.Root, shown)
	if err != nil {
		return err
	}
	r.take(plan)
	if !r.o.DryRun {
		if err := r.applier().ApplyLinks(plan, shown); err != nil {
			return err
		}
	}
	if r.o.Tmpfiles == nil {
		return nil
	}
	clean, err := r.o.Tmpfiles(ctx, r.o.DryRun)
	r.res.TmpfilesFailed = !clean
	return err
}
