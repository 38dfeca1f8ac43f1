// Package stale is floor 4: the proofs. It decides of PID files, sockets, FIFOs,
// lock files and directories whether they are live, stale, or whether that cannot
// be told, with the evidence as data, and removes what is proven stale.
//
// [New] makes a [Judge], [Judge.Look] a [Finding]; [Finding.Remove] is the only
// thing here that changes anything. Only positive proof gives [Stale]; where
// evidence is missing the verdict is [CannotTell], which is the zero value.
//
// # Ground
//
// What proves depends on the place that an object lies in. The mount table and
// the PID namespace tell:
//
//	exclusive   the root mount of a container, a mount that this run made, or a
//	            directory that the user named, with nobody alive in our PID
//	            namespace but us and our ancestors: what is older than this run was
//	            left behind
//	ours        the same with others alive; or a file system of the machine, seen
//	            from the initial PID namespace, that no process of another PID
//	            namespace has in sight: the PIDs in its files are numbers of ours
//	local       any other local file system (a volume, a host path): a PID may be
//	            of a namespace that we cannot see, only sockets and files of our own
//	            format prove anything
//	network     nfs, cifs, 9p, virtiofs, most of fuse: another kernel uses it, and
//	            what the kernel here says proves nothing. A list of local types
//	            decides, not one of network types
//
// "/" is a container's if the PID namespace is not the initial one, "/" is an
// overlay of its own or a directory inside of a file system, and nothing speaks
// for a mount namespace that was copied from a machine's or another container's:
// devtmpfs and other file systems that only machines have, a second /proc below
// ours, an upper layer that is in sight, a running systemd in /run, a chroot, a
// procfs that hides processes.
//
// # Verdicts
//
//	                        exclusive        ours             local        network
//	socket, bound           live             live             live         live
//	socket, nobody bound    stale            stale (1)        stale (1)    cannot tell
//	PID: no such process    stale            stale            cannot tell  cannot tell
//	PID: another process    -                stale (2)        cannot tell  cannot tell
//	PID: alive              -                live             cannot tell  cannot tell
//	PID: us or an ancestor  stale (3)        stale (2)        cannot tell  cannot tell
//	PID file, no PID in it  stale (3)        cannot tell      cannot tell  cannot tell
//	own PID file, same run  by PID and start time, everywhere
//	own PID file, other run stale            stale            cannot tell  cannot tell
//	locked by anybody       live             live             live         -
//	lock file without PID   stale (3)        cannot tell      cannot tell  cannot tell
//	FIFO                    stale (3)        cannot tell      cannot tell  cannot tell
//	empty directory, named  stale (3)        cannot tell      cannot tell  cannot tell
//
//	(1) once it is a second old: bind(2) makes the file first
//	(2) if it started more than a second after the file was written, and the boot
//	    stamp shows that the clock was not set
//	(3) if it is older than this run and nobody alive has it open
//
// # Older than this run
//
// On exclusive ground the only living processes are we and our ancestors, and
// what they have made is not of the run before: an entry point may make a FIFO, or
// write its own PID, and then start us. So what is used by its name must be older
// than the PID namespace's first process. Both times are of different clocks, one
// of which can be set; the time at which this namespace's procfs was mounted, by
// either clock, shows whether it was.
//
// # When it fails
//
//	no write permission on a socket     cannot tell, unless sock_diag lists it
//	a file that cannot be read          cannot tell
//	hidepid, a masked or foreign /proc  not exclusive; bare PIDs cannot be told
//	no boot stamp, clock set            start times prove nothing
//	read-only mount                     the verdict stands, Remove is EROFS
//	no inode or space left              Remove works in directories that only we may write
//	something changed since the look    ErrChanged, and it stays
//	SIGKILL in Remove                   a directory .#slashrun.* may stay, with the proven entry
//
// # Races that remain
//
// A daemon that opened its old PID file and has not yet written to it or locked
// it, when it is removed, writes to a file without a name. What is put under the
// name between the last look and the move, microseconds, is out of sight until it
// is put back. A user who may write to the directory can rename what we work on;
// nothing but the proven inode is ever removed.
//
// # What is trusted
//
// Options.Exclusive, as far as the other users of the place go. That a container
// has its root tree for itself: two containers told to run on the same tree do not
// see each other. That a local file system is not exported by this machine to
// others which keep PID files there. A process restored from a checkpoint has
// another start time than its PID file says, and counts as another one.
//
// # When not to use it
//
// For abstract sockets, which have no file. For System V and POSIX IPC. To find
// out who uses a whole tree: see package process.
package stale
