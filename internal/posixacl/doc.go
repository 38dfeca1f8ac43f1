// Package posixacl holds POSIX.1e access control lists as data: the text of
// setfacl(1) and of the tmpfiles.d `a` argument, the extended attributes that
// the kernel stores, and the arithmetic between the two. It makes no system call.
//
// # Plan and apply
//
// Parse turns an argument into a Spec, once per line of configuration. For each
// file, Spec.AccessFor and Spec.DefaultFor take what the file has now (Decode of
// its attribute, or nothing) and its mode, and return the list it shall have.
// Nothing is to be done if that equals what is there (Equal); otherwise Check it
// and store Encode of it under XattrAccess or XattrDefault.
//
// # An entry
//
//	[d:|default:]TAG:[WHO]:PERMS
//
// TAG is u or user, g or group, m or mask, o or other. WHO is a number or a
// name, and must be there for nobody but u and g. PERMS is up to three of r w x
// and -, in any order, none of r w x twice; an octal digit is not one of them. In
// place of x, X stands for "x if this is a directory or may be executed already"
// (Entry.CondExec; in a default entry it is plain x). Entries are separated by
// commas. White space and a comment behind # are taken where acl_from_text(3)
// takes them; a comment swallows the entries that follow it.
//
// # What the rules are, and where they come from
//
//   - The list of a file: the base entries u:: g:: o:: are required, a mask is
//     required beside named entries, no base entry stands twice
//     (posix_acl_valid in the kernel; Check).
//   - A missing mask is the union of g:: and the named entries that the list has
//     at that time (acl_calc_mask(3); WithMask). systemd-tmpfiles calculates it
//     before it adds the base entries, so that `a u:1:r` on a file of mode 0670
//     leaves m::r--, and its group loses the right to write. So do we.
//   - Without `+`, conditional entries come into the list after the mask was
//     calculated from the others: `a u:1:rwX,g:1:x` leaves m::--x. So do we.
//
// # What fails, and how
//
// Parse returns an *Error with the entry at fault and ErrSyntax, ErrID or the
// error of the lookup. systemd-tmpfiles tells such an error and ignores the line
// with exit status 0. Decode returns ErrEncoding. Check returns ErrInvalid, which
// is what the kernel answers with EINVAL.
//
// # When not to use it
//
// For NFSv4 or richacl lists, which have other attributes and other rules.
package posixacl
