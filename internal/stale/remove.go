package stale

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
)

var (
	// ErrNotStale: the finding does not say that it is stale.
	ErrNotStale = errors.New("not proven to be stale")
	// ErrChanged: it is not any more what was found, or not any more proven.
	ErrChanged = errors.New("changed since it was looked at")
)

// Remove removes what the finding proved to be stale, and nothing else, ever:
// identity and proof are found out again, then the entry is moved to where nobody
// else can change it, and there both are found out once more. What turns out to
// be something else is put back under its name.
//
// ErrChanged says that something else is there now, or something came to use it;
// ErrNotStale that there was no proof. Other errors are the kernel's: EROFS,
// EACCES, EBUSY for a mount point.
func (f *Finding) Remove(ctx context.Context) error {
	if f.Verdict != Stale || f.judge == nil {
		return fmt.Errorf("%s: %w", f.Path, ErrNotStale)
	}
	if err := f.remove(ctx); err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	return nil
}

func (f *Finding) remove(ctx context.Context) error {
	node, err := f.dir.OpenNode(f.name)
	if err != nil {
		if fsat.NotExist(err) {
			return fmt.Errorf("%w: %w", ErrChanged, err)
		}
		return err
	}
	defer node.Close()
	a, err := newAside(f.dir, f.name)
	if err != nil {
		return err
	}
	defer a.close()
	o := &object{node: node, dir: f.dir, name: f.name, last: true}
	again := &Finding{Path: f.Path, asked: f.Kind}
	if err := f.judge.judge(ctx, again, o); err != nil {
		return err
	}
	if again.Identity != f.Identity {
		return fmt.Errorf("%w: another %s is there now", ErrChanged, again.Identity.Type)
	}
	if again.Verdict != Stale {
		return fmt.Errorf("%w: it is %q now: %s", ErrChanged, again.Verdict, again.Why())
	}
	if err := a.take(); err != nil {
		if o.st.IsDir() && errors.Is(err, syscall.EXDEV) { // of an overlay's lower layer
			return f.dir.Rmdir(f.name) // only ever an empty directory
		}
		return err
	}
	if err := f.proveAside(ctx, a, o); err != nil {
		return errors.Join(err, a.putBack(o.st.IsDir()))
	}
	return a.unlink(o.st.IsDir())
}

// proveAside finds out whether what was taken aside is the held node of o, and is
// still stale.
func (f *Finding) proveAside(ctx context.Context, a *aside, o *object) error {
	var taken, held fsat.Stat
	if err := a.dir.Stat(a.name, &taken); err != nil {
		return err
	}
	if err := o.node.Stat(&held); err != nil {
		return err
	}
	if !taken.SameInode(&held) || taken.Type() != held.Type() {
		return fmt.Errorf("%w: it was exchanged", ErrChanged)
	}
	// The move was a change of ours: its time is not the object's.
	act := &object{node: o.node, dir: a.dir, name: a.name, act: true, last: true, ctime: o.st.Ctime}
	last := &Finding{Path: f.Path, asked: f.Kind}
	err := f.judge.judge(ctx, last, act)
	a.hold = act.hold
	if err != nil {
		return err
	}
	if last.Verdict != Stale {
		return fmt.Errorf("%w: it is %q now: %s", ErrChanged, last.Verdict, last.Why())
	}
	return nil
}

// aside is an entry that was taken out of its directory, into one where nobody
// but our own user can do anything to it, so that what was checked there is what
// is removed: unlinkat(2) takes a name, and in the directory itself its owner
// could put another inode under it in the last moment.
type aside struct {
	from   *fsat.Dir
	origin string
	dir    *fsat.Dir // ours alone, or from itself
	name   string    // of the entry in dir
	box    string    // name of dir in from, "" if dir is from
	hold   []int     // descriptors with locks that last until the end
}

// newAside makes a new directory of mode 0700 for the entry. Where there is no
// room for one (a full /run is what people want to clean), a temporary name does
// if the directory is closed to others.
func newAside(from *fsat.Dir, name string) (*aside, error) {
	a := &aside{from: from, origin: name, name: name, box: fsat.TempName()}
	err := linux.Mkdirat(from.Fd(), a.box, 0o700)
	if err != nil {
		if noRoom(err) && closed(from) {
			a.dir, a.box, a.name = from, "", fsat.TempName()
			return a, nil
		}
		return nil, fmt.Errorf("it cannot be taken aside: %w", err)
	}
	if a.dir, err = openBox(from, a.box); err != nil {
		from.Rmdir(a.box) // fails, as it must, if it is not the empty one of ours
		return nil, err
	}
	return a, nil
}

// take moves the entry aside.
func (a *aside) take() error {
	err := linux.Renameat2(a.from.Fd(), a.origin, a.dir.Fd(), a.name, 0)
	if fsat.NotExist(err) {
		err = fmt.Errorf("%w: %w", ErrChanged, err)
	}
	return err
}

func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EMLINK)
}

// closed reports whether nobody but our user and root may change the directory's
// entries. The group's bits are the mask of an ACL.
func closed(d *fsat.Dir) bool {
	var st fsat.Stat
	return d.Stat("", &st) == nil && st.Perm()&0o022 == 0 && (st.UID == 0 || st.UID == linux.Geteuid())
}

// openBox opens the directory that was just made, and refuses another one that
// somebody put there.
func openBox(from *fsat.Dir, name string) (*fsat.Dir, error) {
	d, err := from.OpenDir(name)
	if err != nil {
		return nil, err
	}
	var st fsat.Stat
	err = d.Stat("", &st)
	if err == nil && (st.UID != linux.Geteuid() || st.Perm()&0o077 != 0) {
		err = fmt.Errorf("%w: the directory for what is removed was exchanged", ErrChanged)
	}
	if err == nil {
		var names []string
		if names, err = d.Names(); err == nil && len(names) > 0 {
			err = fmt.Errorf("%w: the directory for what is removed was exchanged", ErrChanged)
		}
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// unlink removes the entry, and the box.
func (a *aside) unlink(dir bool) error {
	var err error
	if dir {
		err = a.dir.Rmdir(a.name)
	} else {
		err = a.dir.Unlink(a.name)
	}
	if err != nil {
		return errors.Join(err, a.putBack(dir))
	}
	return nil
}

// putBack gives the entry its name again. If somebody took the name meanwhile,
// the entry stays beside it under a name of ours, and the error tells it.
func (a *aside) putBack(dir bool) error {
	err := moveBack(a.dir, a.name, a.from, a.origin, dir)
	if err == nil {
		return nil
	}
	if a.box == "" {
		return fmt.Errorf("what was there could not be given its name again, and is %s now: %w", a.name, err)
	}
	other := fsat.TempName()
	if err2 := moveBack(a.dir, a.name, a.from, other, dir); err2 != nil {
		return fmt.Errorf("what was there could not be given its name again, and is in %s now: %w", a.box, errors.Join(err, err2))
	}
	return fmt.Errorf("what was there could not be given its name again, and is %s now: %w", other, err)
}

// moveBack renames without replacing what is there.
func moveBack(from *fsat.Dir, name string, to *fsat.Dir, as string, dir bool) error {
	err := linux.Renameat2(from.Fd(), name, to.Fd(), as, linux.RENAME_NOREPLACE)
	if err == nil || !fsat.Absent(err) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	if dir { // a directory replaces nothing but an empty directory
		return linux.Renameat2(from.Fd(), name, to.Fd(), as, 0)
	}
	if err := to.LinkFrom(as, from, name); err != nil {
		return err
	}
	return from.Unlink(name)
}

// close lets go of the locks and removes the box if it is empty.
func (a *aside) close() {
	for _, fd := range a.hold {
		linux.Close(fd)
	}
	if a.box != "" {
		a.dir.Close()
		a.from.Rmdir(a.box)
	}
}
