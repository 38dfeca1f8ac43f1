package entry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/runfs"
)

// tries is how often it begins again when somebody else mounts at the same moment.
const tries = 5

// slashRun makes the mount where that is right, and keeps /run as it is where not.
func (r *run) slashRun(ctx context.Context) error {
	why := r.whyNot()
	if why == "" {
		err := runfs.ErrChanged
		for i := 0; i < tries && errors.Is(err, runfs.ErrChanged); i++ {
			why, err = r.tryMount(ctx)
		}
		switch {
		case errors.Is(err, runfs.ErrChanged):
			why = "others mount there at the same time"
		case err != nil || why == "":
			return err
		}
	}
	return r.keep(why)
}

// whyNot says why nothing may be mounted on /run, as far as that is known without
// a look at it.
func (r *run) whyNot() string {
	switch sit := &r.res.Situation; {
	case r.o.Mode == InPlace:
		return "nothing is to be mounted"
	case !sit.CanMount:
		return "mounting needs CAP_SYS_ADMIN, which this process does not have"
	case r.proc == nil:
		return sit.Proc
	case r.o.Mode == Auto && !sit.Namespace:
		return "this is not a PID namespace of its own, so no container's start"
	}
	return ""
}

// tryMount mounts a tmpfs where there is a directory that nobody uses; why says
// why not.
func (r *run) tryMount(ctx context.Context) (why string, err error) {
	s, err := runfs.Inspect(ctx, r.proc, r.target())
	if err != nil {
		return err.Error(), ctx.Err()
	}
	r.state = s
	switch s.Kind {
	case runfs.Tmpfs:
		return "it is a tmpfs", nil
	case runfs.Ramfs, runfs.Foreign:
		return "a " + s.FSType + " is mounted there, which is somebody's decision", nil
	}
	if r.o.Mode == Auto {
		switch u := s.Use; {
		case s.Shared:
			return "the mount around it is shared with other mount namespaces, where a new one would show up", nil
		case len(u.Others) > 0:
			return fmt.Sprintf("process %d (%s) is alive beside us, so this is no container's start", u.Others[0].PID, u.Others[0].Comm), nil
		case len(u.Incomplete) > 0:
			return "cannot tell who uses it: " + u.Incomplete[0], nil
		}
	}
	r.res.Situation.Run = string(s.Kind)
	return r.mount(ctx, s)
}

// keep leaves /run as it is, since image and runtime decide what it is. One that
// is missing is made.
func (r *run) keep(why string) error {
	t := r.target()
	kind, err := r.kind()
	if err != nil {
		kind, why = "unknown", err.Error()
		if r.o.Mode != Tmpfs {
			r.without("looking at %s: %v", t.Path, err)
			return nil
		}
	}
	r.res.Situation.Run = string(kind)
	if r.o.Mode == Tmpfs && kind != runfs.Tmpfs {
		return fmt.Errorf("a tmpfs on %s was asked for, and cannot be had: %s", t.Path, why)
	}
	if kind == runfs.Missing {
		r.told(Step{Op: "mkdir", Path: t.Path, Text: "make the directory " + t.Path + ", mode 0755"})
		if r.o.DryRun {
			return nil
		}
		if err := t.Root.Mkdir(t.Name, fsat.Attr{UID: fsat.KeepID, GID: fsat.KeepID, Mode: 0o755}); err != nil {
			r.failed(err)
		}
		return nil
	}
	if kind == notDirectory {
		at, err := r.o.Root.Resolve("/run/")
		if err != nil || !at.Exists() {
			r.without("%s: it is no directory, and no link to one; make it a directory in the image", t.Path)
			return nil
		}
		at.Close()
	}
	if kind == runfs.Tmpfs || kind == runfs.Foreign {
		r.machines()
	}
	r.told(Step{Op: "keep", Path: t.Path, Left: true, Text: "keep " + t.Path + " as it is", Why: why})
	if kind == runfs.Tmpfs && r.o.Size != 0 {
		return r.resize()
	}
	return nil
}

// inits are what init systems have in a /run that they run on.
var inits = [...]string{"/run/systemd/system", "/run/openrc/softlevel", "/run/initctl", "/run/runit", "/run/dinitctl"}

// machines finds out whether the mount on /run is one that an init system runs
// on: the machine's own, bound in, or of a mount namespace that was copied. Then
// nothing is done there but what was asked for.
func (r *run) machines() {
	for _, name := range inits {
		at, err := r.o.Root.Resolve(name)
		if err == nil && at.Exists() {
			at.Close()
			r.res.Situation.Machines = true
			r.told(Step{Op: "note", Path: name, Left: true, Text: "do in /run what options ask for, and no more", Why: "an init system runs on it: " + name + " is there"})
			return
		}
	}
}

// notDirectory is a file at /run, or a link.
const notDirectory runfs.Kind = "no directory"

// kind is what is at /run, found out with two calls: most starts ask no more.
func (r *run) kind() (runfs.Kind, error) {
	t := r.target()
	dir, err := t.Root.OpenDir(t.Name)
	if fsat.NotExist(err) {
		return runfs.Missing, nil
	}
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return notDirectory, nil
	}
	if err != nil {
		return "", err
	}
	defer dir.Close()
	var st, above fsat.Stat
	if err := errors.Join(dir.Stat("", &st), t.Root.Stat("", &above)); err != nil {
		return "", err
	}
	if !st.MountRoot && (st.MountRootKnown || st.Dev == above.Dev) {
		return runfs.Directory, nil
	}
	switch magic, err := linux.Fstatfs(dir.Fd()); {
	case err != nil:
		return "", err
	case magic == linux.TmpfsMagic:
		return runfs.Tmpfs, nil
	case magic == linux.RamfsMagic:
		return runfs.Ramfs, nil
	}
	return runfs.Foreign, nil
}

// resize gives a tmpfs of the runtime the size that was asked for.
func (r *run) resize() error {
	if r.proc == nil {
		r.without("the size of /run: %s", r.res.Situation.Proc)
		return nil
	}
	s, err := runfs.InspectInPlace(r.proc, r.target())
	if err != nil {
		r.without("the size of /run: %v", err)
		return nil
	}
	plan, err := runfs.MakePlan(s, runfs.Wanted{Profile: runfs.Plain, Container: true, Size: runfs.Limit{Value: r.o.Size, Exact: true}})
	if err != nil {
		return err
	}
	plan.Steps = slices.DeleteFunc(plan.Steps, func(s runfs.Step) bool { return s.Op != runfs.OpReconfigure })
	r.tellNotes(plan)
	if r.o.DryRun {
		r.tellPlan(plan)
		return nil
	}
	return r.applier().Apply(s, plan)
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
	r.tellNotes(plan)
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
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.Is(err, runfs.ErrChanged):
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
	var copying *copyError
	return !errors.As(err, &copying) &&
		(errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.ENOSYS))
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

func (r *run) applier() *runfs.Applier {
	return &runfs.Applier{Proc: r.proc, Target: r.target(), Told: r.tellStep, Noted: r.tellNote}
}

func (r *run) tellNotes(p *runfs.Plan) {
	for _, n := range p.Notes {
		r.tellNote(n)
	}
}

func (r *run) tellPlan(p *runfs.Plan) {
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
