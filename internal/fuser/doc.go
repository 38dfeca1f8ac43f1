// Package fuser is floor 4: who uses an inode now. It is named after fuser(1),
// and answers for one inode as for all of a file system with one look at /proc.
//
// # Types
//
//   - [Object], [Device] name what is asked about; [Identify] makes an Object.
//   - [Scan] looks, and gives an [Index].
//   - [Use] is one answer: which process, how, through which descriptor.
//
// An inode is known by the numbers of stat(2), and never by a path: a file that
// was renamed, linked, deleted or mounted over is found all the same, and so is
// one that is used from another mount namespace.
//
// # How
//
//	open       /proc/PID/fd, fdinfo for the mode; threads with a table of their own
//	locked     fdinfo of the open descriptors, and /proc/locks for all others
//	mapped     /proc/PID/maps; where that names other numbers (overlayfs, btrfs) the
//	           links of /proc/PID/map_files
//	cwd, root  /proc/PID/cwd, /proc/PID/root
//	exe        /proc/PID/exe
//	bound, listening, accepted, connected, connecting
//	           sock_diag(7) in every network namespace that can be entered says
//	           which socket, and /proc/PID/fd ("socket:[N]") whose
//
// Processes that are forked while we look are looked at too. What is read is past
// when it is read: a process that opens the file after it was looked at is not
// found, as with fuser(1) and lsof(8).
//
// # What hangs
//
// A link in /proc/PID/fd may lead to a file system that does not answer any more
// (a dead NFS server, a FUSE daemon that is stopped), and a process's maps may be
// locked for as long as it waits for one. FUSE is never asked (AT_STATX_DONT_SYNC;
// without statx(2) nothing is that is not on a local mount of its process), because
// no signal frees who waits for it. All else is done on a thread that is left behind
// when one step takes longer than [Options.Patience]. What was not looked at is
// counted in [Index.Incomplete]; a file system that answered the caller's stat(2) is
// not the one.
//
// # When it cannot tell
//
//	processes of other users (no ptrace rights)  Incomplete, with how many
//	hidepid=, a PID namespace below the machine's Incomplete
//	a process that does not answer                Incomplete, with how many
//	one that ends while we look                   what it left to a child is found there
//	no /proc                                      process.Open fails
//	no statx(2) (a filter)                        only local mounts are looked at: see above
//	no kcmp(2) (a filter, no CAP_SYS_PTRACE)      the threads are looked at one by one, 64 of a process
//	a network namespace that we may not enter     Incomplete, with how many
//	one that only its sockets keep alive          Incomplete, with how many sockets; a
//	                                              socket file there seems to have no users
//	more than 1,024 of them                       Incomplete, with how many
//	no sock_diag (a filter, no unix_diag)         Incomplete; descriptors of the file are found
//	descriptors in flight (SCM_RIGHTS)            Incomplete, with how many; a socket in flight
//	                                              is a Use of PID 0
//	a datagram of no bytes that carries some      not told: its queue looks empty
//	mappings on overlayfs, not root               found from Linux 6.7 on; else Incomplete
//	our own descriptors or memory run out         an error: there is no answer
//
// Never seen: files that the kernel itself holds (swap, loop devices, process
// accounting), and those that a process registered with io_uring and then closed.
//
// # When not to use it
//
// To decide that something is stale: nobody using a file is no proof that nobody
// will. See package stale. And before unmounting: the kernel says EBUSY by itself.
package fuser
