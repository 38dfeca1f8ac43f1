// Package fsat works on files by descriptor: a directory is held, and names
// are looked up in it one at a time, never following a link. It is what makes
// it impossible for another user to redirect an operation by exchanging a
// directory for a link between two system calls.
//
// # Types
//
//   - [Dir] is a held directory (O_PATH). Its methods take one name, never a
//     path with a slash.
//   - [Node] is a held inode of any type (O_PATH): what is stat'ed through it is
//     what is then changed through it, whatever happens to its name.
//   - [Stat] is what statx(2) says of an inode.
//
// # What it promises
//
// A file made by [Dir.WriteFile] is complete or absent: it is written as an
// unnamed file (O_TMPFILE) and linked, or under a temporary name and renamed.
// A directory made by [Dir.Mkdir] appears with its owner and mode. A
// replaced node ([Dir.ReplaceWith]) is exchanged in one rename(2).
//
// # When the kernel lacks a call
//
//	call                     since   absent, or denied by seccomp (EPERM)
//	statx                    4.11    newfstatat; no birth time, mount roots by st_dev
//	fchmodat2                6.6     chmod of /proc/self/fd/N; without /proc fchmod of the reopened inode
//	/proc/self/fd (xattrs)   any     without /proc, directories are reopened for fsetxattr, the rest fails with ErrNeedsProc
//	O_TMPFILE                fs      a temporary name, renamed with RENAME_NOREPLACE
//	renameat2                fs      linkat + unlinkat where replacing is not allowed
//
// Which one works is found out by the first call, not by the kernel's version.
//
// # When not to use it
//
// For files that only root can touch, package os is simpler. Paths that come
// from a person (a configuration file named on a command line) are opened with
// os.Open: whoever named them is trusted with what they lead to.
package fsat
