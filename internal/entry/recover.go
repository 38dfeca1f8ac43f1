package entry

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/stale"
)

// recover clears up after a run of ours that was killed: a file that it had not
// given its name yet, or a directory into which it had taken what it was about to
// remove. That is judged once more where it lies, since moving it would make it
// seem new, and gets its name again if it is not stale.
func (r *run) recover(ctx context.Context, dir *fsat.Dir, name, shown string) error {
	if name == mounts.StagingName || !r.exclusively(ctx) {
		return nil // package runfs removes that one; others may be of a run that is under way
	}
	var st fsat.Stat
	if err := dir.Stat(name, &st); err != nil || st.UID != r.res.Situation.UID {
		return nil
	}
	if !st.IsDir() {
		return r.leftover(ctx, dir, name, shown, kindOfOwn(&st), false)
	}
	box, err := dir.OpenDir(name)
	if err != nil {
		return nil
	}
	defer box.Close()
	names, err := box.Names()
	if err != nil {
		return nil
	}
	for _, inner := range names {
		if err := r.takeBack(ctx, dir, box, inner, shown+"/"+inner); err != nil {
			return err
		}
	}
	if r.o.DryRun {
		return nil
	}
	if err := dir.Rmdir(name); err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !fsat.NotExist(err) {
		r.without("removing %s, left by a run that was killed: %v", shown, err)
	}
	return nil
}

// kindOfOwn is what a file without its name yet is judged as: by being there.
func kindOfOwn(st *fsat.Stat) stale.Kind {
	if st.IsRegular() {
		return stale.Lock
	}
	return stale.Guess
}

// takeBack removes one entry of such a directory or gives it its name again.
func (r *run) takeBack(ctx context.Context, dir, box *fsat.Dir, name, shown string) error {
	var st fsat.Stat
	if err := box.Stat(name, &st); err != nil {
		return nil
	}
	kind, _ := kindOf(box, name, typeOf(&st), true)
	if kind != stale.Guess {
		if err := r.leftover(ctx, box, name, shown, kind, false); err != nil {
			return err
		}
		if fsat.NotExist(box.Stat(name, &st)) {
			return nil
		}
	}
	r.told(Step{Op: "move", Path: shown, Text: fmt.Sprintf("give %s its name again", shown), Why: "a run that was killed had taken it aside"})
	if r.o.DryRun {
		return nil
	}
	if err := rename(box, name, dir); err != nil {
		r.failed(err)
	}
	return nil
}

// rename moves an entry to another directory under its name, unless that is taken.
func rename(from *fsat.Dir, name string, to *fsat.Dir) error {
	err := linux.Renameat2(from.Fd(), name, to.Fd(), name, linux.RENAME_NOREPLACE)
	if err == nil || !fsat.Absent(err) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	if err := to.LinkFrom(name, from, name); err != nil {
		return err
	}
	return from.Unlink(name)
}
