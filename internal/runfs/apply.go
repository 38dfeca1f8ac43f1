package runfs

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// ErrChanged means that the target is not what was inspected any more: somebody
// else mounted something. Inspect again.
var ErrChanged = errors.New("it has changed since it was looked at")

// Applier applies plans. Told is called before each act and Noted for what turns
// out not to be as wanted; both may be nil.
type Applier struct {
	Proc   *process.Proc
	Target Target
	Told   func(Step)
	Noted  func(Note)
	// Fill, unless nil, puts content into a new /run before anybody sees it, and
	// before it is laid out: what is there then is kept. old is the directory that
	// will be hidden, carry the mounts below it, which come along by themselves.
	Fill func(old, tree *fsat.Dir, carry []Carried) error
}

func (a *Applier) tell(s Step) {
	if a.Told != nil {
		a.Told(s)
	}
}

func (a *Applier) note(path string, kept bool, format string, args ...any) {
	if a.Noted != nil {
		a.Noted(Note{path, fmt.Sprintf(format, args...), kept})
	}
}

// Apply does the steps of a plan made from s. The process's umask must be 0.
//
// It stops at the first step without which /run is of no use, and returns that
// error; the failure of another step is noted as kept. After a failure
// everything is either as before or as a step left it, and making a new plan and
// applying it goes on from there.
func (a *Applier) Apply(s *State, p *Plan) error {
	for _, step := range p.Steps {
		a.tell(step)
		err := a.step(s, step)
		if err == nil {
			continue
		}
		if step.must || errors.Is(err, ErrChanged) {
			return fmt.Errorf("cannot %s: %w", step, err)
		}
		a.note(step.Path, true, "cannot %s: %v", step, err)
	}
	return nil
}

func (a *Applier) step(s *State, step Step) error {
	switch step.Op {
	case OpSweep:
		dir, err := a.Target.Root.OpenDir(step.rel)
		if err != nil {
			return err
		}
		defer dir.Close()
		return mounts.RemoveStaging(dir.Fd())
	case OpMakeTarget:
		err := a.Target.Root.Mkdir(a.Target.Name, fsat.Attr{Mode: step.mode})
		if errors.Is(err, syscall.EEXIST) {
			return ErrChanged
		}
		if errors.Is(err, syscall.EROFS) {
			return fmt.Errorf("%w; make the directory in the image", err)
		}
		return err
	case OpMount:
		return a.mount(s, step)
	}
	run, err := a.open(s)
	if err != nil {
		return err
	}
	defer run.Close()
	return a.inside(run, step)
}

// open opens the target and makes sure that it is the directory that was
// inspected. One that was missing then, or was mounted over by a step of this
// plan, is taken as it is.
func (a *Applier) open(s *State) (*fsat.Dir, error) {
	run, err := openTarget(a.Target)
	if err != nil {
		return nil, err
	}
	var st fsat.Stat
	if err := run.Stat("", &st); err != nil {
		run.Close()
		return nil, err
	}
	if s.Kind != Missing && s.id != (identity{st.Dev, st.Ino}) {
		run.Close()
		return nil, ErrChanged
	}
	return run, nil
}

// inside does a step in the directory run, which is the root of /run, seen or
// not seen yet.
func (a *Applier) inside(run *fsat.Dir, step Step) error {
	switch step.Op {
	case OpRestrict:
		return mounts.Restrict(run.Fd(), step.tmpfs.Attr)
	case OpReconfigure:
		return a.reconfigure(run, step)
	case OpOwner:
		return owner(run, step.rel, step.mode)
	case OpMkdir:
		err := run.Mkdir(step.rel, fsat.Attr{Mode: step.mode})
		switch {
		case !errors.Is(err, syscall.EEXIST):
			return err
		case step.asIs && step.rel != ownDir:
			return nil
		}
		return owner(run, step.rel, step.mode)
	case OpMountInner:
		return a.mountInner(run, step)
	case OpStamp:
		own, err := run.OpenDir(ownDir)
		if err != nil {
			return err
		}
		defer own.Close()
		return writeStamp(own, *step.Stamp)
	}
	return fmt.Errorf("no step %q here", step.Op)
}

// owner gives a directory to root, with this mode. It never follows a link.
func owner(run *fsat.Dir, rel string, mode uint32) error {
	var n *fsat.Node
	if rel == "" {
		n = fsat.NodeOf(run.Fd()) // the descriptor stays run's: not closed here
	} else {
		var err error
		if n, err = run.OpenNode(rel); err != nil {
			return err
		}
		defer n.Close()
	}
	var st fsat.Stat
	if err := n.Stat(&st); err != nil {
		return err
	}
	if !st.IsDir() {
		return syscall.ENOTDIR
	}
	if st.UID != 0 || st.GID != 0 {
		if err := n.Chown(0, 0); err != nil {
			return err
		}
	}
	return n.Chmod(mode)
}

// reconfigure sets all limits in one call, and where that is refused one by one,
// so that one which the kernel refuses does not keep the others.
func (a *Applier) reconfigure(run *fsat.Dir, step Step) error {
	err := mounts.Reconfigure(run.Fd(), step.tmpfs.Options)
	if err == nil || len(step.tmpfs.Options) == 1 {
		return err
	}
	var first error
	for _, o := range step.tmpfs.Options {
		if err := mounts.Reconfigure(run.Fd(), []mounts.Option{o}); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// mountInner mounts a limited tmpfs on an empty directory. An entry that appears
// in the directory between the look and the mount would be hidden: so it is
// looked at once more afterwards, and the mount taken back.
func (a *Applier) mountInner(run *fsat.Dir, step Step) error {
	below, err := run.OpenDir(step.rel)
	if err != nil {
		return err
	}
	defer below.Close()
	if names, err := below.Names(); err != nil || len(names) > 0 {
		return errors.Join(err, errors.New("it is not empty any more"))
	}
	b, err := mounts.Build(step.tmpfs, []mounts.Staging{{Fd: run.Fd(), Path: a.Target.Path}})
	if err != nil {
		return err
	}
	defer b.Close()
	a.dropped(step.Path, b.Dropped())
	if err := b.MoveTo(run.Fd(), step.rel); err != nil {
		return err
	}
	if names, err := below.Names(); err == nil && len(names) > 0 {
		return errors.Join(errors.New("an entry appeared in it meanwhile; it goes without a limit"), linux.InDirectory(run.Fd(), func() error {
			return linux.Unmount(step.rel, syscall.MNT_DETACH|linux.UmountNoFollow)
		}))
	}
	return nil
}

func (a *Applier) dropped(path string, list []mounts.Dropped) {
	for _, d := range list {
		// huge=never is the kernel's own default; the others were asked for.
		a.note(path, d.Option.Key != "huge", "the kernel refuses the option %s: %v", d.Option.Key, d.Err)
	}
}

// mount builds the whole of a new /run and moves it in.
func (a *Applier) mount(s *State, step Step) error {
	old, err := a.open(s)
	if err != nil {
		return err
	}
	defer old.Close()
	var staging []mounts.Staging
	// /dev first: it is in memory, and what a killed run leaves there can still be
	// reached when /run has been mounted over.
	if dev, err := a.Target.Root.OpenDir("dev"); err == nil {
		defer dev.Close()
		staging = append(staging, mounts.Staging{Fd: dev.Fd(), Path: "/dev"})
	}
	staging = append(staging, mounts.Staging{Fd: old.Fd(), Path: a.Target.Path})
	b, err := mounts.Build(step.tmpfs, staging)
	if err != nil {
		return err
	}
	defer b.Close()
	tree := fsat.DirOf(b.Fd())
	if a.Fill != nil {
		if err := a.Fill(old, tree, s.Carry); err != nil {
			return err
		}
	}
	if err := a.layOut(b, tree, step.Inner); err != nil {
		return err
	}
	for _, c := range step.Carry {
		if err := carry(b, tree, old, c); err != nil {
			return fmt.Errorf("carry the mount %s along: %w", c.Rel, err)
		}
	}
	a.dropped(step.Path, b.Dropped())
	if err := a.unchanged(s); err != nil {
		return err
	}
	if err := b.MoveTo(a.Target.Root.Fd(), a.Target.Name); err != nil {
		return err
	}
	return a.onTop(s)
}

// layOut does the inner steps in a tree that nobody sees yet. The stamp goes into
// the tmpfs of its own directory before that is attached.
func (a *Applier) layOut(b mounts.Builder, tree *fsat.Dir, inner []Step) error {
	var stamp *Stamp
	own := false // our own directory is a mount
	for _, in := range inner {
		if in.Op == OpStamp {
			stamp = in.Stamp
		}
		own = own || in.Op == OpMountInner && in.rel == ownDir
	}
	for _, in := range inner {
		var err error
		switch {
		case in.Op == OpStamp && own: // done with its directory
		case in.Op == OpMountInner && in.rel == ownDir:
			err = b.AttachTmpfs(in.rel, in.tmpfs, func(fd int) error { return writeStamp(fsat.DirOf(fd), *stamp) })
		case in.Op == OpMountInner:
			err = b.AttachTmpfs(in.rel, in.tmpfs, nil)
		default:
			err = a.inside(tree, in)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", in, err)
		}
	}
	return nil
}

// unchanged looks once more right before the act: the same directory, and no
// mount or entry more.
func (a *Applier) unchanged(s *State) error {
	if s.Kind == Missing {
		return nil
	}
	run, err := a.open(s)
	if err != nil {
		return err
	}
	defer run.Close()
	var u Use
	w := content{use: &u, carry: s.Carry}
	if err := w.walk(run, ""); err != nil {
		return err
	}
	m, err := lookUp(a.Proc, run.Fd())
	if err != nil {
		return err
	}
	path, err := a.Proc.FdPath(run.Fd())
	if err != nil {
		return err
	}
	if u.Entries != s.Use.Entries || m.id != s.mountID || len(m.below(path)) != len(s.Carry) {
		return ErrChanged
	}
	return nil
}

// onTop makes sure that our mount hangs on the mount that was inspected: if
// somebody else mounted there in between, ours hides theirs, and goes again.
func (a *Applier) onTop(s *State) error {
	run, err := openTarget(a.Target)
	if err != nil {
		return err
	}
	defer run.Close()
	m, err := lookUp(a.Proc, run.Fd())
	if err != nil || m.entry == nil || s.mountID == 0 || m.entry.Parent == s.mountID {
		if err == nil && m.entry != nil {
			s.adoptIdentity(run, m.id)
		}
		return nil
	}
	err = linux.InDirectory(run.Fd(), func() error { return linux.Unmount(".", syscall.MNT_DETACH) })
	return errors.Join(ErrChanged, err)
}

// adoptIdentity makes the new mount the one that later steps expect.
func (s *State) adoptIdentity(run *fsat.Dir, mountID int) {
	var st fsat.Stat
	if run.Stat("", &st) == nil {
		s.id, s.mountID = identity{st.Dev, st.Ino}, mountID
	}
}

// carry makes a mount point as the old one is, with the directories on the way,
// and attaches a clone of the mount.
func carry(b mounts.Builder, tree, old *fsat.Dir, c Carried) error {
	parts := strings.Split(c.Rel, "/")
	from, to := old, tree
	for i, name := range parts {
		last := i == len(parts)-1
		var st fsat.Stat
		if err := from.Stat(name, &st); err != nil {
			return err
		}
		attr := fsat.Attr{UID: st.UID, GID: st.GID, Mode: st.Perm()}
		var err error
		switch {
		case last && !c.Dir:
			err = to.WriteFile(name, nil, fsat.Attr{Mode: 0o600})
		case last: // covered by the mount: its own attributes are not seen
			err = to.Mkdir(name, fsat.Attr{Mode: 0o755})
		default:
			err = to.Mkdir(name, attr)
		}
		if err != nil && !errors.Is(err, syscall.EEXIST) {
			return err
		}
		if last {
			break
		}
		nextFrom, err := from.OpenDir(name)
		if err != nil {
			return err
		}
		defer nextFrom.Close()
		nextTo, err := to.OpenDir(name)
		if err != nil {
			return err
		}
		defer nextTo.Close()
		from, to = nextFrom, nextTo
	}
	return b.AttachClone(c.Rel, from.Fd(), parts[len(parts)-1])
}
