package tmpfiles

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/posixacl"
)

// parseACL parses the argument of a and A. One that cannot be parsed is told,
// and the line does nothing, as in the reference: it may name a user who will
// exist later.
func (p *lineParser) parseACL(it *Item) {
	spec, err := posixacl.Parse(it.Argument, posixacl.Lookup{User: p.env.User, Group: p.env.Group})
	if err != nil {
		if p.env.Graceful {
			p.skip(it.Source, err.Error())
		} else {
			p.notice(it.Source, fmt.Sprintf("argument %q: cannot parse the ACL, ignoring it: %v", shorten(it.Argument), err))
		}
		return
	}
	it.ACL = &spec
}

// setACL gives a node the access list and, if it is a directory, the default
// list of the line. A file system without lists is no error.
func (r *run) setACL(it *Item, n inode, path string, st *fsat.Stat) error {
	if r.hardlinked(st) {
		return errHardlinked
	}
	if it.ACL == nil || st.IsSymlink() {
		return nil
	}
	old, err := readACL(n, posixacl.XattrAccess)
	if unsupported(err) {
		r.debug(it, path, "file system has no ACLs")
		return nil
	}
	if err != nil {
		return err
	}
	if acl, ok := it.ACL.AccessFor(old, st.Mode, st.IsDir(), it.Mod.Plus); ok {
		acl.Sort()
		mode, only := acl.Mode()
		same := old != nil && acl.Equal(old) || old == nil && only && mode == st.Mode&0777
		if err := r.storeACL(it, n, path, posixacl.XattrAccess, old, acl, same); err != nil {
			return ignoreUnsupported(err)
		}
	}
	if len(it.ACL.Default) == 0 || !st.IsDir() {
		return nil
	}
	var now fsat.Stat // the access list may have changed the mode
	if err := n.Stat(&now); err != nil {
		return err
	}
	if old, err = readACL(n, posixacl.XattrDefault); err != nil {
		return ignoreUnsupported(err)
	}
	if acl, ok := it.ACL.DefaultFor(old, now.Mode, it.Mod.Plus); ok {
		acl.Sort()
		return ignoreUnsupported(r.storeACL(it, n, path, posixacl.XattrDefault, old, acl, old != nil && acl.Equal(old)))
	}
	return nil
}

func ignoreUnsupported(err error) error {
	if unsupported(err) {
		return nil
	}
	return err
}

// readACL reads a list; nil if there is none.
func readACL(n inode, name string) (posixacl.ACL, error) {
	value, err := n.Getxattr(name)
	if errors.Is(err, syscall.ENODATA) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return posixacl.Decode(value)
}

func (r *run) storeACL(it *Item, n inode, path, name string, old, acl posixacl.ACL, same bool) error {
	if same {
		return nil
	}
	if err := acl.Check(); err != nil {
		return fmt.Errorf("%s: ACL %s: %w", path, acl, err)
	}
	if err := n.Setxattr(name, acl.Encode()); err != nil {
		return fmt.Errorf("%s: ACL %s: %w", path, acl, err)
	}
	prefix, from := "", ""
	if name == posixacl.XattrDefault {
		prefix = "default:"
	}
	if old != nil {
		from = prefix + old.String()
	}
	r.changed(it, ActACL, path, from, prefix+acl.String())
	return nil
}
