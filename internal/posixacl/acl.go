package posixacl

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Tag is the kind of an entry, with the numbers of linux/posix_acl.h. Their
// order is the order in which the kernel wants the entries.
type Tag uint16

const (
	UserObj  Tag = 0x01 // u::, the owner
	User     Tag = 0x02 // u:WHO:
	GroupObj Tag = 0x04 // g::, the owning group
	Group    Tag = 0x08 // g:WHO:
	Mask     Tag = 0x10 // m::, the upper bound for User, GroupObj and Group
	Other    Tag = 0x20 // o::
)

// Perm is a set of permissions, with the numbers of a mode's last octal digit.
type Perm uint8

const (
	Read    Perm = 4
	Write   Perm = 2
	Execute Perm = 1
)

// NoID is the ID of entries that name nobody.
const NoID = ^uint32(0)

// Entry is one entry. The zero value is no valid one.
type Entry struct {
	Tag  Tag
	ID   uint32 // uid or gid for User and Group, NoID for the others
	Perm Perm
	// CondExec says that the entry was written with X. Perm then holds
	// Execute, and Spec.AccessFor drops it where the condition is not met.
	CondExec bool
}

func (e Entry) named() bool { return e.Tag == User || e.Tag == Group }

func (e Entry) same(o Entry) bool { return e.Tag == o.Tag && (!e.named() || e.ID == o.ID) }

// ACL is a list of entries. Its methods do not change it, except Sort.
type ACL []Entry

// ErrInvalid is a list that the kernel would refuse.
var ErrInvalid = errors.New("invalid ACL")

// FromMode is the list that says what the permission bits of mode say. For a
// file with a mask, the group bits of its mode are the mask, not g::.
func FromMode(mode uint32) ACL {
	return ACL{
		{Tag: UserObj, ID: NoID, Perm: Perm(mode >> 6 & 7)},
		{Tag: GroupObj, ID: NoID, Perm: Perm(mode >> 3 & 7)},
		{Tag: Other, ID: NoID, Perm: Perm(mode & 7)},
	}
}

// Mode returns the permission bits that the kernel gives a file with this
// access list. only is true if the list says nothing beyond them, so that the
// kernel stores no attribute (posix_acl_equiv_mode in the kernel).
func (a ACL) Mode() (mode uint32, only bool) {
	only = true
	var group, mask uint32
	for _, e := range a {
		switch e.Tag {
		case UserObj:
			mode |= uint32(e.Perm) << 6
		case GroupObj:
			group = uint32(e.Perm) << 3
		case Other:
			mode |= uint32(e.Perm)
		case Mask:
			mask, only = uint32(e.Perm)<<3, false
		default:
			only = false
		}
	}
	if a.has(Mask) {
		group = mask
	}
	return mode | group, only
}

func (a ACL) has(tag Tag) bool {
	return slices.ContainsFunc(a, func(e Entry) bool { return e.Tag == tag })
}

// Sort puts the entries into the order that the kernel wants: by tag, then by
// ID. Entries with the same tag and ID keep their order.
func (a ACL) Sort() {
	slices.SortStableFunc(a, func(x, y Entry) int {
		if c := cmp.Compare(x.Tag, y.Tag); c != 0 || !x.named() {
			return c
		}
		return cmp.Compare(x.ID, y.ID)
	})
}

// Equal reports whether both lists have the same entries in the same order.
func (a ACL) Equal(b ACL) bool { return slices.Equal(a, b) }

// Merge returns a with the entries of add: one of the same tag and ID is
// replaced (the first, if there are several), a new one is added. Sorted.
func (a ACL) Merge(add ACL) ACL {
	out := slices.Clone(a)
	for _, e := range add {
		if i := slices.IndexFunc(out, e.same); i >= 0 {
			out[i] = e
		} else {
			out = append(out, e)
		}
	}
	out.Sort()
	return out
}

// WithMask returns a with the mask that acl_calc_mask(3) calculates, if it has
// named entries and no mask; otherwise a itself.
func (a ACL) WithMask() ACL {
	if a.has(Mask) || !slices.ContainsFunc(a, Entry.named) {
		return a
	}
	out := append(slices.Clone(a), Entry{Tag: Mask, ID: NoID, Perm: a.groupClass()})
	out.Sort()
	return out
}

// groupClass is the union of the entries that a mask limits.
func (a ACL) groupClass() (p Perm) {
	for _, e := range a {
		if e.named() || e.Tag == GroupObj {
			p |= e.Perm
		}
	}
	return p
}

// WithBase returns a with those of u:: g:: o:: that it lacks, from the
// permission bits of mode; a itself if it has all three.
func (a ACL) WithBase(mode uint32) ACL {
	out := a
	for _, e := range FromMode(mode) {
		if !a.has(e.Tag) {
			out = append(slices.Clip(out), e)
		}
	}
	if len(out) > len(a) {
		out.Sort()
	}
	return out
}

// Check reports with ErrInvalid why the kernel would refuse the list: entries
// out of order, a base entry missing or twice, named entries without a mask, the
// ID -1, or permissions beyond rwx (posix_acl_valid in the kernel).
func (a ACL) Check() error {
	var last, seen Tag
	for _, e := range a {
		text := e.text(nil)
		switch {
		case e.Tag == 0 || e.Tag > Other || e.Tag&(e.Tag-1) != 0:
			return fmt.Errorf("%w: tag %#x is unknown", ErrInvalid, uint16(e.Tag))
		case e.Perm > Read|Write|Execute:
			return fmt.Errorf("%w: permissions %#x of %s are unknown", ErrInvalid, uint8(e.Perm), text)
		case e.named() && e.ID == NoID:
			return fmt.Errorf("%w: %s: the ID 4294967295 is nobody's", ErrInvalid, text)
		case e.Tag < last:
			return fmt.Errorf("%w: %s is out of order", ErrInvalid, text)
		case e.Tag == last && !e.named():
			return fmt.Errorf("%w: %s: there may be one entry of this kind only", ErrInvalid, text)
		}
		last = e.Tag
		seen |= e.Tag
	}
	switch base := UserObj | GroupObj | Other; {
	case seen&base != base:
		return fmt.Errorf("%w: one of u:: g:: o:: is missing in %q", ErrInvalid, a.String())
	case seen&(User|Group) != 0 && seen&Mask == 0:
		return fmt.Errorf("%w: named entries without a mask in %q", ErrInvalid, a.String())
	}
	return nil
}

// String writes the list in setfacl's short form with numeric IDs,
// "u::rw-,u:1000:r--,g::r--,m::r--,o::---". A conditional x is written X.
func (a ACL) String() string { return a.Text(nil) }

// Text is String with the names that name finds. It may return "" for an ID
// without one.
func (a ACL) Text(name func(tag Tag, id uint32) string) string {
	var b strings.Builder
	for i, e := range a {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(e.text(name))
	}
	return b.String()
}

func (e Entry) text(name func(Tag, uint32) string) string {
	tag := "?"
	switch e.Tag {
	case UserObj, User:
		tag = "u"
	case GroupObj, Group:
		tag = "g"
	case Mask:
		tag = "m"
	case Other:
		tag = "o"
	}
	who := ""
	if e.named() {
		if name != nil {
			who = name(e.Tag, e.ID)
		}
		if who == "" {
			who = strconv.FormatUint(uint64(e.ID), 10)
		}
	}
	perm := []byte("---")
	for i, p := range [...]Perm{Read, Write, Execute} {
		if e.Perm&p != 0 {
			perm[i] = "rwx"[i]
		}
	}
	if e.CondExec && e.Perm&Execute != 0 {
		perm[2] = 'X'
	}
	return tag + ":" + who + ":" + string(perm)
}
