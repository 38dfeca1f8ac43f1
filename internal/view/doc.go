// Package view is floor 3: mount namespaces other than ours, and where an object
// shows in each of them. "Who else can reach this socket?" is asked of a file
// system and a path within it, not of a path of ours: the same object has other
// paths elsewhere, and the same path leads to other objects.
//
// # Types
//
//   - [Target] is the object: superblock, path within the file system, inode.
//   - [Views] are the namespaces with their mounts, as they were when [Open] looked.
//   - [Place] is an answer, the same for one or more namespaces of a [Namespace] each.
//
// # How
//
// The mounts of a namespace that has a process are read from /proc/PID/mountinfo:
// a mount of the target's superblock whose root is above the target shows it, at
// the mount's point and what comes below. Whether another mount lies over that
// place is found out as the kernel does it, by crossing mounts from the root on.
// Then the path is looked up below /proc/PID/root and the inode compared, for
// which no file system is asked that might not answer (openat2(2) with
// RESOLVE_CACHED; without it only where all mounts on the way are of local file
// systems).
//
// Namespaces that no process is in are listed by the kernel itself (ioctl
// NS_MNT_GET_NEXT, listmount(2), statmount(2)); where it does not, those that are
// mounted on a file are entered by a thread that ends.
//
// # When it cannot tell
//
//	other users' processes                 their mounts are read all the same, their
//	                                       namespaces have no ID and nothing is confirmed
//	hidepid=, a PID namespace below ours's Incomplete
//	before Linux 6.12, no CAP_SYS_ADMIN    a namespace without a process is found if it
//	                                       is mounted on a file; Incomplete
//	openat2(2) denied or absent            the path is walked, where all mounts are local
//	all processes of a namespace live in   their part of it is seen; Incomplete
//	a chroot
//	a network or FUSE mount on the way     not confirmed, unless it is all in memory
//	a hard link, a bind mount of a file    another path of the inode is not known, the
//	whose other name was asked for         one that was asked for is
//	the upper directory of an overlay      is another object than what the overlay shows
//	more than 32 namespaces without a      their mounts are known, nothing is confirmed;
//	process                                Incomplete
//	more than 200,000 mounts elsewhere     the namespaces behind them are Incomplete
//	more than 256 places                   the last of the list says how many More
//	a process that does not answer         Incomplete
//	our own descriptors run out            an error; in the listing of namespaces without
//	                                       a process Incomplete
//
// # When not to use it
//
// To reach the object: what is told was so when it was looked at. And for our own
// mount table, which package mounts reads.
package view
