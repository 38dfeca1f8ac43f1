package entry

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/runfs"
	"github.com/slashrun/slashrun/internal/stale"
)

// proofs is the judge, made when the first object needs it.
func (r *run) proofs(ctx context.Context) (*stale.Judge, error) {
	if r.judge != nil || r.judgeErr != nil {
		return r.judge, r.judgeErr
	}
	o := stale.Options{Proc: r.proc}
	for _, name := range r.o.Exclusive {
		dir, _, err := r.openTrusted(name)
		if err != nil {
			r.judgeErr = fmt.Errorf("--exclusive: %w", err)
			return nil, r.judgeErr
		}
		r.held = append(r.held, dir)
		// The directory itself, whatever is put under its name meanwhile.
		o.Exclusive = append(o.Exclusive, fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	}
	if r.state == nil {
		r.state, _ = runfs.InspectInPlace(r.proc, r.target()) // without a stamp less can be proven
	}
	if s := r.state; s != nil && s.Stamp != nil && s.Stamp.SameRun(s.Run) && s.StampMade != 0 {
		o.Stamp = &stale.Stamp{Identity: s.Stamp.Identity, Made: s.StampMade}
	}
	r.judge, r.judgeErr = stale.New(ctx, o)
	return r.judge, r.judgeErr
}

// leftovers removes what an earlier run left, as far as that is proven.
func (r *run) leftovers(ctx context.Context) error {
	if r.o.KeepStale {
		return nil
	}
	if r.proc == nil {
		return r.unproven(ctx)
	}
	if len(r.o.Exclusive) > 0 {
		// What was named must be there, whether anything turns up in it or not.
		if _, err := r.proofs(ctx); err != nil {
			return err
		}
	}
	// A new /run holds nothing of before, and outside of a PID namespace of its own
	// /run is the machine's.
	if s := &r.res.Situation; s.Namespace && !s.Fresh && !s.Machines {
		if err := r.leftBelowRun(ctx); err != nil {
			return err
		}
	}
	for _, pattern := range r.o.Stale {
		last := pattern[strings.LastIndexByte(pattern, '/')+1:]
		err := r.find(pattern, func(dir *fsat.Dir, name, shown string) error {
			kind, why := kindOfNamed(dir, name, name == last)
			if kind == stale.Guess {
				r.told(Step{Op: "leave", Path: shown, Left: true, Text: "leave " + shown, Why: why})
				if name == last {
					r.without("removing %s: %s", shown, why)
				}
				return nil
			}
			return r.leftover(ctx, dir, name, shown, kind, true)
		})
		if err != nil {
			return err
		}
	}
	return r.lookAgain(ctx)
}

// newborn is a socket that nobody has, and that is too young for anybody to say
// so: bind(2) makes the file first.
type newborn struct {
	dir         *fsat.Dir // closed after the second look
	name, shown string
	named       bool
}

// youth is how long a socket counts as being made (package stale).
const youth = time.Second

// lookAgain waits until the sockets are old enough that were made just now, once
// for all of them: a service that died right after its start has left them, and
// the next one would find its address in use.
func (r *run) lookAgain(ctx context.Context) error {
	list := r.young
	r.young = nil
	defer func() {
		for _, n := range list {
			n.dir.Close()
		}
	}()
	var wait time.Duration
	for _, n := range list {
		var st fsat.Stat
		if n.dir.Stat(n.name, &st) == nil {
			age := time.Since(time.Unix(0, max(st.Mtime, st.Ctime)))
			wait = max(wait, min(youth-age, youth)+10*time.Millisecond)
		}
	}
	if wait <= 0 {
		return nil
	}
	r.told(Step{Op: "wait", Text: fmt.Sprintf("wait %v and look at %s again", wait.Round(time.Millisecond), list[0].shown),
		Why: "nothing is bound to it, but it was made just now, and bind(2) may be under way"})
	if r.o.DryRun {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
	}
	r.waited = true
	for _, n := range list {
		if err := r.leftover(ctx, n.dir, n.name, n.shown, stale.Socket, n.named); err != nil {
			return err
		}
	}
	return nil
}

// unproven tells what might be left over where nothing can be proven.
func (r *run) unproven(ctx context.Context) error {
	note := func(_ *fsat.Dir, _, shown string) error {
		r.without("removing %s: %s", shown, r.res.Situation.Proc)
		return nil
	}
	for _, pattern := range r.o.Stale {
		if err := r.find(pattern, note); err != nil {
			return err
		}
	}
	if len(r.res.Without) == 0 && !r.res.Situation.Machines {
		return r.leftBelowRun(ctx)
	}
	return nil
}

func (r *run) leftBelowRun(ctx context.Context) error {
	dir, err := r.openRun()
	if err != nil {
		return nil // told with the layout, where it matters
	}
	defer dir.Close()
	return r.below(ctx, dir, r.target().Path, false)
}

// below looks at everything below a directory, without the mounts in it. locks
// says that a file here is a lock.
func (r *run) below(ctx context.Context, dir *fsat.Dir, shown string, locks bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	list, err := entries(dir)
	var above fsat.Stat
	if err == nil && slices.ContainsFunc(list, func(e direntry) bool { return e.typ == syscall.DT_DIR || e.typ == syscall.DT_UNKNOWN }) {
		err = dir.Stat("", &above)
	}
	if err != nil {
		r.without("looking for leftovers in %s: %v", shown, err)
		return nil
	}
	for _, e := range list {
		at := shown + "/" + e.name
		switch {
		case ours(e.name):
			err = r.recover(ctx, dir, e.name, at)
		case e.typ == syscall.DT_DIR || e.typ == syscall.DT_UNKNOWN:
			var st fsat.Stat
			if dir.Stat(e.name, &st) != nil {
				continue
			}
			if !st.IsDir() {
				err = r.candidate(ctx, dir, e.name, at, typeOf(&st), locks)
				break
			}
			if st.MountRoot || !st.MountRootKnown && st.Dev != above.Dev {
				continue // somebody else's
			}
			inner, oerr := dir.OpenDir(e.name)
			if oerr != nil {
				continue
			}
			err = r.below(ctx, inner, at, at == r.target().Path+"/lock")
			inner.Close()
		default:
			err = r.candidate(ctx, dir, e.name, at, e.typ, locks)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// candidate looks at one object of /run, if it is of a kind that is left behind.
func (r *run) candidate(ctx context.Context, dir *fsat.Dir, name, shown string, typ byte, locks bool) error {
	kind, why := kindOf(dir, name, typ, locks)
	if kind == stale.Guess {
		if why != "" {
			r.told(Step{Op: "leave", Path: shown, Left: true, Text: "leave " + shown, Why: why})
		}
		return nil
	}
	if r.proc == nil {
		if len(r.res.Without) == 0 { // one is enough
			r.without("removing %s and its like: %s", shown, r.res.Situation.Proc)
		}
		return nil
	}
	return r.leftover(ctx, dir, name, shown, kind, false)
}

// kindByName says what the name of an object below /run promises, Guess where it
// tells nothing. locks says that the directory holds locks.
func kindByName(name string, typ byte, locks bool) stale.Kind {
	switch {
	case typ == syscall.DT_SOCK:
		return stale.Socket
	case typ == syscall.DT_FIFO:
		return stale.FIFO
	case typ != syscall.DT_REG:
		return stale.Guess
	case strings.HasSuffix(name, ".pid"), name == "pid":
		return stale.PIDFile
	case strings.HasPrefix(name, "LCK.."), strings.HasSuffix(name, ".lock"), strings.HasSuffix(name, ".lck"), name == "lock", locks:
		return stale.Lock
	}
	return stale.Guess
}

// kindOf says what an object below /run is for: what its name promises and its
// content does not belie. A file that holds a PID or nothing says something by
// being there; one that holds something else is content, maybe of the image,
// whatever it is called. A PID file of our own format is one by any name, while
// another that begins with a number may be anything: a port, a count.
func kindOf(dir *fsat.Dir, name string, typ byte, locks bool) (kind stale.Kind, why string) {
	kind = kindByName(name, typ, locks)
	if typ != syscall.DT_REG {
		return kind, ""
	}
	switch rec, err := record(dir, name); {
	case kind == stale.Guess && err == nil && rec.Own():
		return stale.PIDFile, ""
	case kind == stale.Guess:
		return kind, ""
	case err == nil, errors.Is(err, process.ErrEmpty), !errors.Is(err, process.ErrNoPID):
		return kind, "" // what cannot be read the proofs cannot judge either, and say so
	}
	return stale.Guess, "it holds something else than a PID, so it is no leftover by itself"
}

// kindOfNamed says what an object is for that the caller named, by a pattern with
// wildcards or in full. A file that holds something else than a PID is never a
// leftover: no proof speaks of content. In full, an empty file with an ordinary
// name and a directory may be locks; a wildcard also matches what the image brings.
func kindOfNamed(dir *fsat.Dir, name string, inFull bool) (kind stale.Kind, why string) {
	var st fsat.Stat
	if dir.Stat(name, &st) != nil {
		return stale.Guess, ""
	}
	switch kind, why = kindOf(dir, name, typeOf(&st), false); {
	case st.IsDir() && inFull:
		return stale.Directory, ""
	case st.IsDir():
		return stale.Guess, "it is a directory, which has to be named in full"
	case kind != stale.Guess || !st.IsRegular():
		return kind, why
	}
	switch _, err := record(dir, name); {
	case err == nil:
		return stale.PIDFile, ""
	case !errors.Is(err, process.ErrEmpty):
		return stale.Guess, "it holds something else than a PID, of which nothing can be proven"
	case inFull:
		return stale.Lock, ""
	}
	return stale.Guess, "it is empty and its name is no lock's, so it has to be named in full"
}

// largestRecord is beyond every PID file; what is larger is not read.
const largestRecord = 4096

func record(dir *fsat.Dir, name string) (process.Record, error) {
	var st fsat.Stat
	if err := dir.Stat(name, &st); err != nil {
		return process.Record{}, err
	}
	switch {
	case !st.IsRegular() || st.Size > largestRecord:
		return process.Record{}, process.ErrNoPID
	case st.Size == 0:
		return process.Record{}, process.ErrEmpty
	}
	n, err := dir.OpenWork(name, linux.O_RDONLY)
	if err != nil {
		return process.Record{}, err
	}
	defer n.Close()
	if err := n.Stat(&st); err != nil || !st.IsRegular() {
		return process.Record{}, errors.Join(err, process.ErrNoPID)
	}
	buf := make([]byte, largestRecord+1)
	got, err := linux.Read(n.Fd(), buf)
	if err != nil {
		return process.Record{}, err
	}
	return process.ParseRecord(buf[:got])
}

// leftover removes an object if it is proven stale. named says that the caller
// asked for it: then it is told where that cannot be proven.
func (r *run) leftover(ctx context.Context, dir *fsat.Dir, name, shown string, kind stale.Kind, named bool) error {
	judge, err := r.proofs(ctx)
	if err != nil {
		return err
	}
	f, err := judge.Look(ctx, dir, name, shown, kind)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !fsat.NotExist(err) {
			r.without("looking at %v", err)
		}
		return nil
	}
	last := stale.Proof("")
	if n := len(f.Evidence); n > 0 {
		last = f.Evidence[n-1].Proof
	}
	if !r.waited && f.Kind == stale.Socket && f.Verdict == stale.CannotTell && last == stale.JustMade {
		fd, err := linux.Dup(dir.Fd())
		if err == nil {
			r.young = append(r.young, newborn{fsat.DirOf(fd), name, shown, named})
			return nil
		}
	}
	if f.Verdict != stale.Stale {
		r.told(Step{Op: "leave", Path: shown, Left: true, Text: fmt.Sprintf("leave the %s %s, %s", f.Kind, shown, f.Verdict), Why: f.Why(), Proof: f.Evidence})
		switch {
		case f.Verdict != stale.CannotTell:
		case f.PID != 0 && last == stale.ForeignNamespace:
			// The service may refuse to start because of it, and say no more.
			r.without("removing %s: %s (name --exclusive %s if no other container uses it)", shown, f.Why(), path.Dir(shown))
		case named:
			r.without("removing %s: %s", shown, f.Why())
		}
		return nil
	}
	r.told(Step{Op: "remove", Path: shown, Text: fmt.Sprintf("remove the %s %s", f.Kind, shown), Why: f.Why(), Proof: f.Evidence})
	if r.o.DryRun {
		return nil
	}
	switch err := f.Remove(ctx); {
	case err == nil:
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, stale.ErrChanged):
		// Somebody uses it now, which is as good a reason to leave it.
		r.res.Steps[len(r.res.Steps)-1].Error = err.Error()
	default:
		r.failed(err)
	}
	return nil
}

// notStale says for the copy of a /run what of it is not content.
func (r *run) notStale(ctx context.Context) func(dir *fsat.Dir, name, shown string) (bool, string) {
	return func(dir *fsat.Dir, name, shown string) (bool, string) {
		kind, _ := kindOf(dir, name, syscall.DT_REG, path.Dir(shown) == r.target().Path+"/lock")
		if kind == stale.Guess || r.o.KeepStale {
			return true, ""
		}
		judge, err := r.proofs(ctx)
		if err != nil {
			return true, ""
		}
		f, err := judge.Look(ctx, dir, name, shown, kind)
		if err != nil || f.Verdict != stale.Stale {
			return true, ""
		}
		return false, f.Why()
	}
}

// exclusively says whether /run is proven to be nobody's but ours.
func (r *run) exclusively(ctx context.Context) bool {
	s := &r.res.Situation
	if s.Fresh || s.Exclusively || r.proc == nil || !s.Namespace {
		return s.Fresh || s.Exclusively
	}
	judge, err := r.proofs(ctx)
	if err != nil {
		return false
	}
	// What the proofs say of a directory tells what it stands on. A mount of the
	// runtime's may be a volume.
	t := r.target()
	dir, name := t.Root, t.Name
	var st fsat.Stat
	if err := dir.Stat(name, &st); err != nil || !st.IsDir() {
		return false
	}
	if st.MountRoot {
		return false
	}
	f, err := judge.Look(ctx, dir, name, t.Path, stale.Guess)
	s.Exclusively = err == nil && slices.ContainsFunc(f.Evidence, func(e stale.Evidence) bool { return e.Proof == stale.Alone })
	return s.Exclusively
}

// entry is one entry of a directory.
type direntry struct {
	name string
	typ  byte
}

// entries lists a directory with the types that the kernel tells: most entries
// need no look of their own.
func entries(dir *fsat.Dir) ([]direntry, error) {
	fd, err := fsat.OpenForListing(dir.Fd(), ".")
	if err != nil {
		return nil, err
	}
	defer linux.Close(fd)
	var list []direntry
	buf := make([]byte, 4<<10)
	for {
		n, err := linux.Getdents(fd, buf)
		if err != nil || n == 0 {
			return list, err
		}
		for e := range fsat.Entries(buf[:n]) {
			list = append(list, direntry{string(e.Name), e.Type})
		}
	}
}

// typeOf is the type of an entry whose file system does not tell it in the list.
func typeOf(st *fsat.Stat) byte { return byte(st.Type() >> 12) } // IFTODT of dirent.h
