package entry

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/runfs"
)

// tries is how often it begins again when somebody else mounts at the same moment.
const tries = 5

// slashRun makes the mount where that is right, and the layout.
func (r *run) slashRun(ctx context.Context) error {
	if r.proc == nil {
		if r.o.Mode == Tmpfs {
			return fmt.Errorf("a tmpfs on /run was asked for, and cannot be had: %s", r.res.Situation.Proc)
		}
		r.without("the layout of /run: %s", r.res.Situation.Proc)
		return nil
	}
	var err error
	for range tries {
		if err = r.runOnce(ctx); !errors.Is(err, runfs.ErrChanged) {
			break
		}
	}
	return err
}

// runOnce mounts a tmpfs, or finds out why not and lays out what is there.
func (r *run) runOnce(ctx context.Context) error {
	state, why, err := r.inspect(ctx)
	if err != nil {
		if r.o.Mode == Tmpfs {
			return fmt.Errorf("a tmpfs on /run was asked for, and cannot be had: %w", err)
		}
		r.without("the layout of /run: %v", err)
		return nil
	}
	r.res.Situation.Run, r.state = string(state.Kind), state
	if why == "" && (state.Kind == runfs.Directory || state.Kind == runfs.Missing) {
		if why, err = r.mount(ctx, state); err != nil || why == "" {
			return err
		}
		if state, err = runfs.InspectInPlace(r.proc, r.target()); err != nil {
			return err
		}
		r.state = state
	}
	if r.o.Mode == Tmpfs && state.Kind != runfs.Tmpfs {
		return fmt.Errorf("a tmpfs on /run was asked for, and cannot be had: %s", why)
	}
	if why != "" && state.Kind != runfs.Tmpfs {
		r.told(Step{Op: "keep", Path: state.Path, Left: true, Text: "keep " + state.Path + " as it is", Why: why})
	}
	return r.layOut(state)
}

// inspect looks at /run. why says why nothing may be mounted on it.
func (r *run) inspect(ctx context.Context) (s *runfs.State, why string, err error) {
	sit := &r.res.Situation
	switch {
	case r.o.Mode == InPlace:
		why = "nothing is to be mounted"
	case !sit.CanMount:
		why = "mounting needs CAP_SYS_ADMIN, which this process does not have"
	case r.o.Mode == Auto && !sit.Namespace:
		why = "this is not a PID namespace of its own, so no container's start"
	}
	if why != "" {
		s, err = runfs.InspectInPlace(r.proc, r.target())
		return s, why, err
	}
	if s, err = runfs.Inspect(ctx, r.proc, r.target()); err != nil || s.Kind != runfs.Directory {
		if err == nil && s.Kind == runfs.Foreign {
			why = "a " + s.FSType + " is mounted there, which is somebody's decision"
		}
		return s, why, err
	}
	if r.o.Mode == Auto {
		switch u := s.Use; {
		case s.Shared:
			why = "the mount around it is shared with other mount namespaces, where a new one would show up"
		case len(u.Others) > 0:
			why = fmt.Sprintf("process %d (%s) is alive beside us, so this is no container's start", u.Others[0].PID, u.Others[0].Comm)
		case len(u.Incomplete) > 0:
			why = "cannot tell who uses it: " + u.Incomplete[0]
		}
	}
	return s, why, nil
}

// mount puts a new tmpfs on /run; why says why that could not be.
func (r *run) mount(ctx context.Context, s *runfs.State) (why string, err error) {
	w, err := r.wanted()
	if err != nil {
		return err.Error(), nil
	}
	plan, err := runfs.MakePlan(s, w)
	if err != nil {
		return err.Error(), nil
	}
	a := r.applier()
	c := &copier{told: r.told, shown: s.Path, keep: r.notStale(ctx)}
	a.Fill = func(old, tree *fsat.Dir, carry []runfs.Carried) error {
		c.carry = carry
		return c.run(ctx, old, tree)
	}
	if r.o.DryRun {
		r.tellPlan(plan)
		r.res.Situation.Fresh = true
		return "", r.wouldCopy(ctx, c, s)
	}
	err = a.Apply(s, plan)
	switch {
	case err == nil:
		r.res.Situation.Fresh = true
		for _, t := range c.lost {
			r.without("%s", t)
		}
		return "", nil
	case errors.Is(err, runfs.ErrChanged), ctx.Err() != nil:
		return "", err
	}
	if !refused(err) {
		r.without("%v", err)
	}
	return err.Error(), nil
}

// refused says that the kernel, a security module or a filter forbids mounting:
// many containers are like that, and it is nothing to tell each time.
func refused(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.ENOSYS)
}

// wouldCopy tells what a new /run would take over.
func (r *run) wouldCopy(ctx context.Context, c *copier, s *runfs.State) error {
	if s.Kind != runfs.Directory {
		return nil
	}
	old, err := r.root.OpenDir("run")
	if err != nil {
		return err
	}
	defer old.Close()
	c.carry, c.dry = s.Carry, true
	return c.run(ctx, old, nil)
}

func (r *run) wanted() (runfs.Wanted, error) {
	w := runfs.Wanted{Profile: runfs.Plain, Container: true}
	if r.o.Size != 0 {
		w.Size = runfs.Limit{Value: r.o.Size, Exact: true}
	} else {
		memory, err := r.proc.Memory()
		if err != nil {
			return w, fmt.Errorf("cannot find out how much memory there is: %w", err)
		}
		w.Size.Value = runfs.Percent(memory.Smaller(), runfs.DefaultPercent)
	}
	w.Inodes.Value = runfs.DefaultInodes
	return w, nil
}

// layOut makes the directories that every /run has, where we are root. Other
// users need not have them, and would make them theirs; and outside of a PID
// namespace of its own /run is the machine's.
func (r *run) layOut(s *runfs.State) error {
	if r.res.Situation.UID != 0 || !r.res.Situation.Namespace {
		return nil
	}
	w := runfs.Wanted{Profile: runfs.Plain, Container: true, InPlace: true}
	if s.Kind == runfs.Tmpfs && r.o.Size != 0 {
		w.InPlace, w.Size = false, runfs.Limit{Value: r.o.Size, Exact: true}
	}
	plan, err := runfs.MakePlan(s, w)
	if err != nil {
		return err
	}
	if r.o.DryRun {
		r.tellPlan(plan)
		return nil
	}
	err = r.applier().Apply(s, plan)
	if errors.Is(err, runfs.ErrChanged) {
		return err
	}
	if err != nil {
		r.without("the layout of /run: %v", err)
	}
	return nil
}

func (r *run) applier() *runfs.Applier {
	return &runfs.Applier{Proc: r.proc, Target: r.target(), Told: r.tellStep, Noted: r.tellNote}
}

func (r *run) tellPlan(p *runfs.Plan) {
	for _, n := range p.Notes {
		r.tellNote(n)
	}
	for _, s := range p.Steps {
		r.tellStep(s)
	}
}

func (r *run) tellStep(s runfs.Step) {
	r.told(Step{Op: string(s.Op), Path: s.Path, Text: s.String()})
	for _, in := range s.Inner {
		r.told(Step{Op: string(in.Op), Path: in.Path, Text: in.String() + ", before it is seen"})
	}
}

func (r *run) tellNote(n runfs.Note) {
	if n.Kept {
		r.without("%s", n)
	} else {
		r.told(Step{Op: "note", Path: n.Path, Left: true, Text: n.String()})
	}
}
