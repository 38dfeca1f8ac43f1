// Package locks is floor 3: who holds the locks of a file or of the machine, who
// waits for them, and whether the waiting can end; as far as the kernel tells and
// we may see.
//
// # Where it stands
//
// No single place has the answer. /proc/locks has every lock that the reader's
// PID namespace may see, with the process that took it. That process may have
// exited and left a flock with its child, OFD locks have no process there, and the
// locks of other PID namespaces are left out. fdinfo of a descriptor has the locks
// of its open file description, so all processes that share one are found, but
// only those whose descriptors we may read. [Of] (one file) and [Scan] (all) ask
// both, and Scan asks a third: in which system call a thread sleeps.
//
//	kind     /proc/locks has                   holders come from
//	FLOCK    who took it, perhaps dead          fdinfo: all who share the description
//	OFDLCK   -1                                 fdinfo, likewise
//	POSIX    the owner                          fdinfo of the owner
//	LEASE    the owner                          fdinfo
//	->       who waits; -1 for OFDLCK           /proc/PID/task/TID/syscall: the thread, its descriptor
//
// The device in these lines is that of the superblock: on overlayfs and btrfs
// stat(2) gives another. The file's mount, by its id, leads to the right one, and
// so does the lock line in fdinfo.
//
// A read(2) of /proc/locks gives some dozens of lines. If a lock comes or goes
// before the next one, others are left out or are there twice. So it is read until
// reads agree about the locks in question: two, or three where others come and go. Equal lines are not taken for one:
// two waiters for an OFD lock look the same.
//
// Which bytes a thread wants that waits in fcntl(2) is in its memory, and that is
// never read: behind the address may be a file that does not answer, and whoever
// reads there cannot be killed. Waiters who want different bytes of one file are
// told together ([Waiter].Among).
//
// # What a scan costs
//
// Where nothing is locked, a read of /proc/locks. Else, for every process, listing
// its descriptors (4 system calls) and a statx(2) for each; 3 more for a descriptor
// whose inode number is one of a locked file, and for one on overlayfs; 4 for each
// thread of a process that has a file open which somebody waits for.
//
// # Deadlocks
//
// The kernel refuses a circle of POSIX locks (EDEADLK) and lets one of flock(2) or
// OFD locks wait for ever. [Table.Deadlocks] finds circles, through processes that
// wait for a child, too ("flock a sh -c 'flock b ...'"), and tells those that are
// certain from those that may yet come undone: because a thread is awake, because
// somebody else shares the lock and may release it, because a timer is set, because
// not everybody can be seen.
//
// # When it cannot tell
//
//	the descriptors of others are not ours to read   /proc/locks names the taker: a Holder without a descriptor
//	the taker has exited, or has no process           Report.Unseen, Held.Where Unseen
//	hidepid, another PID namespace                    Incomplete says so
//	in a PID namespace below the machine's, a flock   its holders are found; who waits for it is
//	whose taker has exited                            found by its system call
//	held outside of our PID namespace                 is in no list; Scan sees that somebody waits: Held.Where Outside
//	the mount is not in our table                     Of: Incomplete says so, fdinfo alone is asked; Scan: Held.Foreign
//	locks that come and go all the time               Incomplete says so, after 16 reads that differed
//	a lock that is passed on while we look            we look again, three times in all
//	a process that hangs in execve(2)                 Incomplete: "no answer", after 2 s; the others are looked at
//	a process with very many locks                    Incomplete says that not all of it was read
//	EACCES for system calls of others      a Waiter without its thread; no deadlock is certain
//
// Reasons are counted, so that Incomplete is a few lines whatever is hidden. A
// [Report] with nothing in it says "free" only if it is not Incomplete.
//
// # When not to use it
//
// To decide whether a lock can be had: take it. What is reported is past when it
// is read.
package locks
