package posixacl

import "slices"

// Spec is the argument of one `a`, `a+`, `A` or `A+` line.
type Spec struct {
	Access  ACL // may hold CondExec entries; sorted
	Default ACL // for directories; sorted
}

// Empty reports whether the argument had no entry at all.
func (s Spec) Empty() bool { return len(s.Access) == 0 && len(s.Default) == 0 }

// split takes the conditional entries out of the access list.
func (s Spec) split() (plain, conditional ACL) {
	for _, e := range s.Access {
		if e.CondExec {
			conditional = append(conditional, e)
		} else {
			plain = append(plain, e)
		}
	}
	return plain, conditional
}

// AccessFor returns the access list for a file whose access list is now old
// and whose permission bits are mode; old is nil if the file has no attribute.
// With add (`a+`), the entries of old stay that s does not replace. ok is false
// if s has no access entries: then there is nothing to set.
func (s Spec) AccessFor(old ACL, mode uint32, isDir, add bool) (_ ACL, ok bool) {
	if len(s.Access) == 0 {
		return nil, false
	}
	if len(old) == 0 {
		old = FromMode(mode)
	}
	plain, conditional := s.split()
	if !add {
		plain = plain.WithMask()
	}
	exec := isDir || executable(old, add) || plain.anyExecute()
	set := slices.Clone(plain)
	for _, e := range conditional {
		if !exec {
			e.Perm &^= Execute
		}
		e.CondExec = false
		set = append(set, e)
	}
	set.Sort()
	if add {
		set = old.Merge(set)
	}
	return set.WithMask().WithBase(mode), true
}

// executable decides an X by the list that a file has. Without add the named
// entries are about to go, and do not count. The mask never does.
func executable(old ACL, add bool) bool {
	return slices.ContainsFunc(old, func(e Entry) bool {
		return e.Perm&Execute != 0 && e.Tag != Mask && (add || !e.named())
	})
}

func (a ACL) anyExecute() bool {
	return slices.ContainsFunc(a, func(e Entry) bool { return e.Perm&Execute != 0 })
}

// DefaultFor returns the default list for a directory whose default list is
// now old (nil if it has none) and whose permission bits are mode. ok is false if
// s has no default entries. Files have no default list: do not ask for them.
func (s Spec) DefaultFor(old ACL, mode uint32, add bool) (_ ACL, ok bool) {
	if len(s.Default) == 0 {
		return nil, false
	}
	set := s.Default
	if add {
		set = old.Merge(set)
	}
	return set.WithMask().WithBase(mode), true
}
