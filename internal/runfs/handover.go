package runfs

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// HandedOver reports whether the target to is a tmpfs with the stamp of this run
// already: then there is nothing left to do, and a new /run beside it would be
// wrong.
func HandedOver(ctx context.Context, p *process.Proc, to Target) (bool, error) {
	s, err := Inspect(ctx, p, to)
	if err != nil {
		return false, err
	}
	return s.Kind == Tmpfs && s.Stamp != nil && s.Stamp.SameRun(s.Run), nil
}

// PlanHandOver plans to move the finished /run of an initramfs into the root that
// comes next. What the directory there holds is hidden: it is of a system that
// does not run yet. A mount there is refused, since somebody made it on purpose.
func PlanHandOver(ctx context.Context, p *process.Proc, from, to Target) (*Plan, error) {
	s, err := Inspect(ctx, p, to)
	if err != nil {
		return nil, err
	}
	plan := new(Plan)
	switch s.Kind {
	case Missing:
		plan.Steps = append(plan.Steps, makeTarget(s))
	case Directory:
		if s.Use.Entries > 0 {
			plan.note(to.Path, false, "%s on the new root will be hidden below the mount; nothing is deleted", s.Use.content())
		}
		if len(s.Carry) > 0 {
			plan.note(to.Path, true, "the mount %s below it will be hidden", s.Carry[0].Rel)
		}
	default:
		return nil, &OccupiedError{to.Path, []string{fmt.Sprintf("a %s is mounted there already, and it is not ours of this boot", s.FSType)}}
	}
	plan.Steps = append(plan.Steps, Step{Op: OpMove, Path: from.Path, Target: to.Path, must: true})
	return plan, nil
}

// HandOver applies a plan of PlanHandOver: one move of the mount with all that
// hangs below it. Descriptors and sockets in it stay what they are.
func (a *Applier) HandOver(plan *Plan, to Target) error {
	for _, step := range plan.Steps {
		a.tell(step)
		var err error
		switch step.Op {
		case OpMakeTarget:
			err = to.Root.Mkdir(to.Name, fsat.Attr{Mode: step.mode})
			if errors.Is(err, syscall.EEXIST) {
				err = nil
			}
		case OpMove:
			err = a.move(to)
		}
		if errors.Is(err, syscall.EROFS) {
			err = fmt.Errorf("%w; make the directory in the image of the new root", err)
		}
		if err != nil {
			return fmt.Errorf("cannot %s: %w", step, err)
		}
	}
	return nil
}

func (a *Applier) move(to Target) error {
	run, err := openTarget(a.Target)
	if err != nil {
		return err
	}
	defer run.Close()
	// openTarget refuses a link that was put there since it was looked at.
	dir, err := openTarget(to)
	if err != nil {
		return err
	}
	dir.Close()
	err = mounts.Move(run.Fd(), to.Root.Fd(), to.Name)
	if errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("%w; either %s is no mount, or the mount it hangs on is shared: mount --make-private that one", err, a.Target.Path)
	}
	return err
}
