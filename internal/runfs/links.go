package runfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
)

// Link is a legacy name: an entry of /var that leads into /run.
type Link struct {
	Name   string   // in /var: "run"
	Target string   // what a new link says: "/run"
	Also   []string // other texts that lead to the same place
}

// LegacyLinks are the names that FHS 3.0, 5.13 and 5.9.1 keep for programs of
// before.
func LegacyLinks() []Link {
	return []Link{
		{"run", "/run", []string{"../run", "/run/", "../run/"}},
		{"lock", "/run/lock", []string{"../run/lock", "/run/lock/", "run/lock", "/var/run/lock"}},
	}
}

// oldSuffix marks the directory that a link has taken the place of.
const oldSuffix = ".slashrun-old"

// PlanLinks plans the legacy links below the directory "var" of root; shown is
// how that directory is called in messages.
func PlanLinks(ctx context.Context, p *process.Proc, root *fsat.Dir, shown string) (*Plan, error) {
	plan := new(Plan)
	dir, err := root.OpenDir("var")
	if err != nil {
		if fsat.NotExist(err) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
			plan.note(shown, true, "it is no directory (%v): the legacy links are left out", err)
			return plan, nil
		}
		return nil, fmt.Errorf("%s: %w", shown, err)
	}
	defer dir.Close()
	for _, l := range LegacyLinks() {
		if err := plan.link(ctx, p, dir, shown, l); err != nil {
			return nil, fmt.Errorf("%s/%s: %w", shown, l.Name, err)
		}
	}
	return plan, nil
}

func (p *Plan) link(ctx context.Context, proc *process.Proc, dir *fsat.Dir, shown string, l Link) error {
	path := shown + "/" + l.Name
	var st fsat.Stat
	err := dir.Stat(l.Name, &st)
	switch {
	case fsat.NotExist(err):
		p.Steps = append(p.Steps, Step{Op: OpLink, Path: path, Target: l.Target, rel: l.Name})
		return nil
	case err != nil:
		return err
	case st.IsSymlink():
		text, err := dir.Readlink(l.Name)
		if err != nil {
			return err
		}
		if text != l.Target && !slices.Contains(l.Also, text) {
			p.note(path, true, "it is a link to %q and stays; it should lead to %s", text, l.Target)
		}
		return nil
	case !st.IsDir():
		p.note(path, true, "it is neither a directory nor a link and stays; move it away")
		return nil
	case st.MountRoot:
		p.note(path, true, "it is a mount point and stays; unmount it, and it becomes a link to %s", l.Target)
		return nil
	}
	old, err := dir.OpenDir(l.Name)
	if err != nil {
		return err
	}
	defer old.Close()
	seen, err := proc.FdPath(old.Fd())
	if err != nil {
		return err
	}
	// A rename is seen through every mount: no mount is named here.
	use := inspectUse(ctx, proc, old, seen, 0, nil, false)
	if why := use.Occupied(); len(why) > 0 {
		p.note(path, true, "it is a directory in use and stays: %s", strings.Join(why, "; "))
		return nil
	}
	if use.Entries > 0 {
		p.note(path, false, "%s will be kept in %s", use.content(), path+oldSuffix)
	}
	p.Steps = append(p.Steps, Step{Op: OpExchange, Path: path, Target: l.Target, rel: l.Name})
	return nil
}

// ApplyLinks does the steps of a plan of PlanLinks. Nothing here is worth
// stopping for: what fails is noted as kept.
func (a *Applier) ApplyLinks(plan *Plan, shown string) error {
	if len(plan.Steps) == 0 {
		return nil
	}
	dir, err := a.Target.Root.OpenDir("var")
	if err != nil {
		return fmt.Errorf("%s: %w", shown, err)
	}
	defer dir.Close()
	for _, step := range plan.Steps {
		a.tell(step)
		switch step.Op {
		case OpLink:
			err = dir.MakeSpecial(step.rel, fsat.Special{Type: syscall.S_IFLNK, Target: step.Target}, fsat.Attr{})
		case OpExchange:
			err = a.exchange(dir, step)
		}
		if err != nil {
			a.note(step.Path, true, "cannot %s: %v; its content is as it was", step, err)
		}
	}
	return nil
}

// exchange makes the link under the name that the directory is to have
// afterwards, and swaps the two in one system call: whoever looks finds the
// directory or the link, never nothing. Killed in between, the next run finds
// the link under that name and goes on.
func (a *Applier) exchange(dir *fsat.Dir, step Step) error {
	name, err := a.aside(dir, step)
	if err != nil {
		return err
	}
	if err := linux.Renameat2(dir.Fd(), name, dir.Fd(), step.rel, linux.RENAME_EXCHANGE); err != nil {
		dir.Unlink(name)
		return explainExchange(err)
	}
	if err := dir.Rmdir(name); err != nil {
		a.note(step.Path, false, "what was in it is in %s%s now", strings.TrimSuffix(step.Path, step.rel), name)
	}
	return nil
}

// aside makes the link beside the directory: run.slashrun-old, and with a number
// where a directory of that name is kept from an earlier time.
func (a *Applier) aside(dir *fsat.Dir, step Step) (string, error) {
	name := step.rel + oldSuffix
	for i := 1; i < 100; i++ {
		err := linux.Symlinkat(step.Target, dir.Fd(), name)
		if err == nil {
			return name, nil
		}
		if !errors.Is(err, syscall.EEXIST) {
			return "", err
		}
		if text, err := dir.Readlink(name); err == nil && text == step.Target {
			return name, nil // of a killed run
		}
		name = fmt.Sprintf("%s%s.%d", step.rel, oldSuffix, i)
	}
	return "", fmt.Errorf("%s%s and a hundred more like it are there; remove them", step.rel, oldSuffix)
}

func explainExchange(err error) error {
	switch {
	case errors.Is(err, syscall.EXDEV):
		return fmt.Errorf("%w (a directory of an overlay's lower layer cannot be renamed: make the link in the image)", err)
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("%w (something is mounted on it: unmount that first)", err)
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOSYS), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%w (this file system or kernel cannot exchange two names: move the directory away by hand)", err)
	}
	return err
}
