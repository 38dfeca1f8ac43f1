package tmpfiles

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/slashrun/slashrun/internal/fileattr"
	"github.com/slashrun/slashrun/internal/filecaps"
	"github.com/slashrun/slashrun/internal/fsat"
)

const xattrCaps = "security.capability"

// knownCaps are the capabilities of this kernel, which "all" stands for.
var knownCaps = sync.OnceValue(func() filecaps.Set {
	if data, err := os.ReadFile("/proc/sys/kernel/cap_last_cap"); err == nil {
		if last, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil {
			return filecaps.UpTo(last)
		}
	}
	const checkpointRestore = 40 // CAP_CHECKPOINT_RESTORE, linux/capability.h since 5.9
	return filecaps.UpTo(checkpointRestore)
})

// parseCaps parses the argument of k and K. One that cannot be parsed is told,
// and the line does nothing, as in the reference.
func (p *lineParser) parseCaps(it *Item) {
	spec, err := filecaps.Parse(it.Argument, knownCaps())
	if err != nil {
		p.notice(it.Source, fmt.Sprintf("argument %q: cannot parse the capabilities, ignoring them: %v", shorten(it.Argument), err))
		return
	}
	it.Caps = &spec
}

// setCaps gives a regular file the capabilities of the line; other types have
// none (capabilities(7)).
func (r *run) setCaps(it *Item, n inode, path string, st *fsat.Stat) error {
	if it.Caps == nil || !st.IsRegular() {
		return nil
	}
	if r.hardlinked(st) {
		return errHardlinked
	}
	var old filecaps.Caps
	value, err := n.Getxattr(xattrCaps)
	switch {
	case err == nil:
		if old, err = filecaps.Decode(value); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	case unsupported(err):
		r.debug(it, path, "file system has no file capabilities")
		return nil
	case !errors.Is(err, syscall.ENODATA):
		return err
	}
	want := it.Caps.For(old, it.Mod.Plus)
	if want == old && value != nil {
		return nil
	}
	data, err := want.Encode()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := n.Setxattr(xattrCaps, data); err != nil {
		return fmt.Errorf("%s: capabilities %s: %w", path, want, err)
	}
	r.changed(it, ActCaps, path, old.String(), want.String())
	return nil
}

// parseAttributes parses the argument of h and H.
func parseAttributes(it *Item) (err error) {
	it.Attr, err = fileattr.Parse(it.Argument)
	return err
}

// setAttributes sets the inode flags of the line on a regular file or
// directory. Of several flags those that the file system knows are set, one by
// one if need be; what it refuses is told and is no error, as in the reference.
func (r *run) setAttributes(it *Item, n inode, path string, st *fsat.Stat) error {
	if it.Attr.Mask == 0 {
		return nil
	}
	if !st.IsRegular() && !st.IsDir() {
		return fmt.Errorf("%s is %s: only regular files and directories have file attributes", path, typeName(st.Mode))
	}
	old, err := n.Flags()
	if unsupported(err) {
		r.debug(it, path, "file system has no file attributes")
		return nil
	}
	if err != nil {
		return err
	}
	want := it.Attr.Apply(old, st.IsDir())
	if want == old {
		return nil
	}
	if err := n.SetFlags(want); err != nil {
		if err = setBitwise(n, old, want); err != nil {
			r.opt.Report.Problem(&Problem{Path: path, Source: it.Source, Tolerated: true,
				Err: fmt.Errorf("%s: cannot set all of the file attributes %s: %w", path, it.Attr, err)})
		}
	}
	now, err := n.Flags()
	if err == nil && now != old {
		r.changed(it, ActFlags, path, fileattr.Letters(old), fileattr.Letters(now))
	}
	return nil
}

// setBitwise sets flag after flag, and returns the first refusal.
func setBitwise(n inode, old, want uint32) (first error) {
	cur := old
	for bit := uint32(1); bit != 0; bit <<= 1 {
		if (old^want)&bit == 0 {
			continue
		}
		if err := n.SetFlags(cur ^ bit); err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		cur ^= bit
	}
	return first
}
