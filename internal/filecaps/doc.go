// Package filecaps holds file capabilities as data: the text of the `k` lines
// of tmpfiles.d(5), the extended attribute security.capability that the kernel
// stores, and the arithmetic between the two. It makes no system call.
//
// # Plan and apply
//
// Parse turns an argument into a Spec, once per line of configuration. For each
// file, Spec.For returns the capabilities that it shall have from those that it
// has (Decode of its attribute; the zero Caps if there is none). Nothing is to
// be done if the two are equal and the attribute is there; otherwise store
// Encode of the result.
//
// # The text
//
// White space separates the clauses, quotes and backslashes being taken as
// package quoting takes them (but no C escapes). A clause is either rootuid=UID,
// the owner of the user namespaces in which the capabilities hold, or
//
//	[NAMES](+|-|=)FLAGS
//
// NAMES are separated by commas: cap_chown in any case of its letters, a number
// from 0 to 62 (decimal, 0x, 0o, 0b or with a leading 0), or "all", which is
// also meant where no name is given. FLAGS are any of e, i and p.
//
//   - + sets the flags and - clears them.
//   - = sets the flags that follow it and, with `k+`, clears the others on the
//     file. It does not take back what an earlier clause set: "cap_chown=p
//     cap_chown=" is cap_chown=p. In this systemd-tmpfiles differs from
//     cap_from_text(3), and we do as it does; so too with several signs in one
//     clause (cap_chown=p+e), which are an error.
//
// The kernel keeps one effective bit for a file, so either no capability is
// effective or exactly those are that are permitted or inheritable. Any other
// result is ErrEffective, when a file is at hand and not before.
//
// # What fails, and how
//
// Parse returns an *Error with the clause at fault and ErrSyntax, ErrName, ErrUID
// or an error of package quoting; systemd-tmpfiles tells such an error and
// ignores the line with exit status 0. Encode returns ErrEffective (there: exit
// status 73), Decode ErrEncoding.
//
// # When not to use it
//
// For the capabilities of a process, which have two sets more.
package filecaps
