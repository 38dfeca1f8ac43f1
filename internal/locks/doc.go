// Package locks is floor 3: who holds the locks of a file, as far as the kernel
// tells and we may see.
//
// # Where it stands
//
// No single place has the answer. /proc/locks has every lock that the reader's
// PID namespace may see, with the process that took it. That process may have
// exited and left a flock with its child, OFD locks have no process there, and the
// locks of other PID namespaces are left out. fdinfo of a descriptor has the locks
// of its open file description, so all processes that share one are found, but
// only those whose descriptors we may read. [Of] asks both:
//
//	kind     /proc/locks has                   holders come from
//	FLOCK    who took it, perhaps dead          fdinfo: all who share the description
//	OFDLCK   -1                                 fdinfo, likewise
//	POSIX    the owner                          fdinfo of the owner
//	->       who waits; -1 for OFDLCK           /proc/locks
//
// The device in these lines is that of the superblock: on overlayfs and btrfs
// stat(2) gives another. The file's mount, by its id, leads to the right one.
//
// # When it cannot tell
//
//	the descriptors of others are not ours to read   /proc/locks names the taker: a Holder without a descriptor
//	the taker has exited, or has no process           Unseen
//	hidepid, another PID namespace                    Incomplete says so
//	in a PID namespace below the machine's, a flock   its holders are found; who waits for it is
//	whose taker has exited                            not in /proc/locks, nor is the lock
//	the mount is not in our table                     Incomplete says so; fdinfo alone is asked
//
// A [Report] with nothing in it says "free" only if it is not Incomplete.
//
// # When not to use it
//
// To decide whether a lock can be had: take it. What is reported is past when it
// is read.
package locks
