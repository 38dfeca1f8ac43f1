// Package origin is floor 5: what a path is. Who made it, who uses it now, since when,
// on which mount it lies and in which other mount namespaces it is reached, and whether
// it is live, stale, or that cannot be told, with the proof. It brings together what
// the packages below know, and changes nothing.
//
// # Types
//
//   - [Open] makes an [Inspector]; what it needs of the system it reads when first asked.
//   - [Inspector.Look] gives a [Report] on each of some paths.
//   - [Inspector.Tree] gives a [Tree]: reports on everything below a directory, from one
//     scan of the processes, one of the sockets, one judge, one pass over the packages.
//
// Both are data, with JSON tags: unused fields are left out, times are RFC 3339. A tree
// looks at no content but that of PID files and locks, and at no other mount namespace.
//
// # Who made it
//
//	mount      it is the root of a mounted file system
//	slashrun   what we make ourselves: the boot stamp, staging names, our PID files
//	tmpfiles   a line of tmpfiles.d makes it, or copies the tree that it is in
//	unit       a directive of any installed unit file, system or user: RuntimeDirectory=,
//	           PIDFile=, ListenStream= and its like, Symlinks=, Where=, StateDirectory=...
//	           A template stands for all of its instances
//	package    a file of a package of dpkg or apk
//	process    nobody declares it: who is bound to it, or writes to it and is its owner,
//	           and the package of its program
//
// The first of them is the likeliest; a declaration is no proof that it was this one
// which made it. What is not declared is told the maker of the nearest directory above
// it that is ([Maker].Above).
//
// # Verdicts
//
// They are those of package stale, with this added: what somebody has open, mapped,
// locked or as a directory is live, and so is a mount point. Nothing overrules a proof:
// a socket that nobody is bound to is stale whoever has its file open; only of a PID file
// or lock that somebody has open no more is said than that it cannot be told. A link is live
// if what it leads to is, and never stale.
//
// # What is never done
//
// No FIFO, device or socket is opened, nothing is connected to but by the probe of
// package sockdiag, which wakes nobody; no automount is triggered; no link of the last
// component is followed without saying so. Regular files are read if their name or size
// makes them PID files or locks, and their access time is left alone where the kernel
// allows it. A file on which /proc/locks shows a lease is not opened: that would break it.
//
// A FUSE or network file system is asked nothing at all. A goroutine with a deadline
// would not do: once a server took the request and does not answer, whoever asked cannot
// even be killed (fs/fuse/dev.c, request_wait_answer), so the process would not end. What
// the kernel has in its cache is told, which is what is in use. The exception is "/": what
// that lies on has to answer, or nothing would run.
//
// # When it fails
//
//	the path is not there, or denied       a Report with Err
//	part of a tree cannot be listed        Tree.NotEntered, Tree.Failed; the rest is told
//	something vanishes meanwhile           it is left out, or "vanished"
//	other users' processes, hidepid, a     Unseen, in numbers
//	PID namespace below the machine's
//	no /proc                               no users, mounts or verdicts; Unseen says so.
//	                                       What is a FUSE file system is not known then
//	a unit file, tmpfiles.d line or        Unseen; the others count
//	package database that cannot be read
//	no openat2(2), statx(2), statmount(2)  older calls, after a look at the mount. Without
//	                                       /proc, too, the file system is asked
//	a tree deeper than 256 directories     NotEntered
//	links through more than 512 names      of a tree: not followed to the end
//
// Trusted is that the directories of configuration, unit files and package databases
// answer, as those do that programs are started from.
//
// # When not to use it
//
// To decide what to remove: stale.Judge decides anew right before the act. For file
// systems of the kernel (/proc, /sys), which Tree refuses.
package origin
