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
// ours, an upper layer that is in sight, more of the same file system elsewhere, a
// running systemd in /run, a chroot, a procfs that hides processes.
//
// A mount other than "/" is never taken for a container's own: engines give
// volumes, emptyDirs and host paths to several containers, and none tells which.
//
// # Verdicts
//
//	                        exclusive        ours             local        network
//	socket, bound           live             live             live         live
//	socket, nobody bound    stale            stale (1)        stale (1)    cannot tell
//	PID: no such process    stale            stale            cannot tell  cannot tell
//	PID: a process          -                live, stale (2)  cannot tell  cannot tell
//	PID: us or an ancestor  stale (3)        stale (2)        cannot tell  cannot tell
//	no PID in the file      stale (4)        cannot tell      cannot tell  cannot tell
//	own PID file, same run  by PID and start time             the same     cannot tell
//	own PID file, other run stale            stale (5)        cannot tell  cannot tell
//	locked by anybody       live             live             live         cannot tell
//	lock file without PID   stale (4)        cannot tell      cannot tell  cannot tell
//	FIFO                    stale (4)        cannot tell      cannot tell  cannot tell
//	empty directory, named  stale (4)        cannot tell      cannot tell  cannot tell
//
//	(1) once it is a second old: bind(2) makes the file first. Below the upper layer
//	    of somebody's overlay: cannot tell, a socket is bound to the overlay's inode
//	(2) stale if the file is older than this run, or the process started more than a
//	    second after the file was written and the boot stamp, which must be older
//	    than the process, shows that the clock was not set since
//	(3) if the file is older than this run; else it may be of this run
//	(4) if it is older than this run and no process alive has it open
//	(5) of another boot, or of a PID namespace in which nobody is alive; by the
//	    pidfs handle where it has one
//
// From which PID namespace we look makes the difference between the second and
// third column. The initial one shows every process, so there a file system is
// "ours" unless a process of another PID namespace has the place in its mount
// table, or a process's table cannot be read. From any other namespace there may
// be processes that nothing shows, so there only the root of the container and what
// the user or this run vouches for is.
//
// # Older than this run
//
// On exclusive ground the only living processes are we and our ancestors, and
// what they have made is not of the run before: an entry point may make a FIFO, or
// write its own PID, and then start us. So what is used by its name must be older
// than the PID namespace's first process. Both times are of different clocks, one
// of which can be set: the time at which this namespace's procfs was mounted, by
// either clock, shows whether it was. Two ticks (20 ms) between the end of one run
// and the start of the next are needed to tell them apart.
//
// The boot id tells no run from another: it is the same after a container is
// started again. A process that was restored from a checkpoint is younger than its
// own files; CRIU puts it into a time namespace, and there no age proves anything.
//
// # When it fails
//
//	no write permission on a socket     cannot tell, unless sock_diag lists it
//	a file that cannot be read          cannot tell
//	hidepid, a masked or foreign /proc  not exclusive; bare PIDs cannot be told
//	no boot stamp, clock set            start times prove nothing
//	read-only mount                     the verdict stands, Remove is EROFS
//	no inode or space left              Remove works in directories that only we may write
//	a socket seen below an overlay      cannot tell
//	no descriptors or memory left       an error, or cannot tell
//	FAT, read-only images               times too coarse or none: no age is proven
//	something changed since the look    ErrChanged, and it stays
//	vanished before the look            fs.ErrNotExist
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
// see each other. That nobody enters new PID and mount namespaces inside of a
// container, puts a new /proc in the place of the old one by hand, and starts us
// there, while the rest of the container goes on. That a local file system is not
// exported by this machine to others which keep PID files there, nor shown a second
// time by a file system of FUSE, whose sockets are other inodes; nor, outside of
// the directories of container engines, by an overlay that only processes have
// which we may not see (those of others, for an ordinary user).
//
// # When not to use it
//
// For abstract sockets, which have no file. For System V and POSIX IPC. To find
// out who uses a whole tree: see package process.
package stale
