// Package runfs is floor 4: the /run mount. What it should be ([Wanted]), what
// is there ([Inspect]), what has to be done ([MakePlan], a pure function), and
// doing it ([Applier]). A plan is data: what a dry run prints is what is applied.
//
// # What is made
//
//	/run               tmpfs 0755 root, nosuid nodev, size 20 % of the smaller of RAM and
//	                   the cgroup's limit ("size=20%" is of the machine's RAM, so in a
//	                   small container the end would be the OOM killer, not ENOSPC),
//	                   nr_inodes=800k, huge=never
//	/run/slashrun      tmpfs of its own, 8 MiB: a full /run does not stop us
//	/run/slashrun/boot the boot stamp
//	/run/lock          tmpfs of its own, 5 MiB and 4096 inodes: whoever may write there
//	                   cannot fill /run. Mode 1777 in the profile debian, 0755 in plain
//	/run/user          directory 0755
//
// A new /run is built detached with all of that and with the mounts that hang
// below the old one, and appears in one system call (package mounts).
//
// A tmpfs that is there is adopted. Its content stays, and what is changed only
// ever restricts: flags are added, limits lowered, never the other way round,
// because whoever mounted it smaller or noexec had a reason. A limit given
// explicitly is set exactly. Where the mount shows a directory inside of a file
// system (a bind mount, a volume), that file system is somebody else's too and
// its limits stay.
//
// In a container ([Wanted.Container]) image and runtime decide: a tmpfs that is
// there keeps its mode, flags and limits, directories that are there keep theirs,
// and a new tmpfs holds no others inside it and gets its content by
// [Applier.Fill] before it is seen.
//
// # Occupied
//
// Mounting over a directory hides what is in it from everybody who uses it by
// name. So a directory is mounted over only where it is proven that nobody does:
//
//	found at /run                       nobody else alive  others alive   cannot tell
//	an empty directory                  mounted over       mounted over   refused
//	entries                             mounted over, and  refused        refused
//	                                    said; none deleted
//	an entry held by a process (cwd,
//	root, executable, descriptor, map)  refused            refused        refused
//	a socket that something is bound to refused            refused        refused
//	a tmpfs or ramfs                    adopted: nothing is hidden
//	another file system, mounted        refused: somebody put it there
//
// "Others" are the processes that are alive in this mount namespace beside
// ourselves, our ancestors and the kernel's threads. Entries without a holder may
// well be in use: a PID file, a lock file or a directory is used by name. With
// nobody else alive they cannot be, whatever their times say; times are never
// asked, since a clock that was set makes live files look old. This is the state
// of a machine or a container at its start, which is when boot runs. Later the
// answer is a refusal, and the way out is to run it earlier.
//
// A socket is asked by connecting to it from an unbound datagram socket, which no
// listener notices. PID 1's own FIFO /run/initctl is no holder: sysvinit's init
// makes a new one by itself when it finds another inode there.
//
// Directly before the move it is looked at once more (the same directory, as many
// entries and mounts), and directly after it whether somebody else's mount came in
// between: then ours is taken back and the whole begins again.
//
// # A /run that outlived its run
//
// The stamp says which boot and which start of the PID namespace's init a /run
// belongs to. Without one of this run, the content is from another boot, an
// earlier run of the container, or the image: that is said, and none of it counts
// as evidence of anything. In a directory it is hidden by the new mount where the
// table above allows; in an adopted tmpfs (a volume that outlived its container)
// it stays, and the new stamp carries the old identity as "survived". Nothing is
// ever deleted here: tmpfiles.d declares what a boot removes.
//
// # When it fails
//
//	no CAP_SYS_ADMIN           laid out in place, said, counted as kept
//	EPERM from mount calls     legacy mount(2); if that is refused too: in place
//	/run missing, EROFS        error: make the directory in the image
//	/run a link, a file        error; a link is never followed
//	an option unknown          left out; said and kept if it was asked for (noswap)
//	size below what is used    the kernel refuses: the old size stays, kept
//	read-only tmpfs            kept: remount it first
//	/run/lock not empty        no mount of its own (it would hide locks), kept
//	/var/run a real directory  exchanged with the link; EXDEV (overlay's lower layer),
//	                           EBUSY (mount point), EROFS, EINVAL: stays, said, kept
//	SIGKILL at any instant     before the move nothing is seen, after it all is; run it
//	                           again to finish. The legacy way may leave a staging mount
//	                           (in /dev, else in /run), which the next run removes; one
//	                           below a /run that is mounted over goes at the next boot
//	SELinux without our types  mounted without a label, said
//
// # Races that remain
//
// Between the last look and the move a process may be started and make an entry
// in the old directory: some microseconds. Two legacy runs at the same moment may
// take each other's staging mount away, and one of them fails.
//
// # When not to use it
//
// For another directory than /run, or for per-user directories: their owners and
// lifetimes differ.
package runfs
