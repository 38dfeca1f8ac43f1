// Package pidfile writes PID files that prove themselves, reads those of every
// program with proof, and signals the process that one names and no other.
//
// A PID file is a number, and numbers are given again. After a crash, a reboot or
// a container's restart the file of before names a process that has nothing to
// do with it, kill(pid, 0) says that it is alive, and the daemon does not start,
// or somebody else's process gets the signal.
//
// # A daemon's own file
//
//	f, err := pidfile.Create("/run/food/food.pid")
//	if errors.Is(err, pidfile.ErrHeld) { ... another one runs; the error names it ... }
//	if err != nil { ... }
//	defer f.Close()
//
// [Create] is both the file and the check that no other instance runs. It takes
// flock(2) on the file, which the kernel drops with the process however it ends, so
// no start after a crash needs anybody's help, and files of dead processes are
// taken over. The file is complete or absent: SIGKILL at any moment leaves
// nothing that is in the next start's way.
//
// The lock is flock, and not one of fcntl(2), because that is what others look
// at: pkill -L -F, flock(1), and the daemons that use BSD's libutil. A child that is
// forked shares it until it executes something: the descriptor is close-on-exec.
//
// Whoever can read the file can lock it, too, and so keep a daemon that has
// crashed from starting again. Create tells such a lock from one that a child of
// the daemon has, by how the file was opened, if it can see who locked it: as root,
// outside of containers. Elsewhere the error names the process, and a directory
// of mode 0750 keeps others out.
//
// # What stands in it
//
//	1234
//	boot-id=6c0e2dfe-0d0b-4d4a-9c1d-1f4e8f0f9a11
//	init-start=8
//	pid-namespace=4026531836
//	start=53551
//	pidfs-handle=2814487
//	lock=flock
//
// The PID stands alone on the first line, where systemd (PIDFile=), start-stop-daemon,
// OpenRC, pkill -F and shell's read look for it. No other word is digits alone,
// because some init scripts take each such word for a PID. The rest says which
// process that was: the boot, the PID namespace and when its init started (a
// container that starts again has another), when the process started, the
// number that the kernel gave it for good (Linux 6.9), and that it holds a lock.
//
// # Does it run?
//
// [Check] judges a PID file of any program and says by which evidence:
//
//	                                     Live     Stale    Unknown
//	a file of Create
//	  that very process lives              x
//	  it does not, seen from its namespace          x
//	  of a namespace that we cannot see                      x
//	a bare number
//	  no process, or a zombie                       x
//	  the id of a thread                                     x
//	  its process is older than the file   x
//	  younger, and the clock was not set            x
//	  younger, and the clock may have been set               x
//	  another PID namespace may write there                  x
//	locked by somebody                     x
//	on a network file system                                 x
//
// Only Stale is proof that it does not run.
//
// # Signals
//
// [Signal], or [Find] and the methods of [Process], hold the process by a pidfd
// first, prove then that it is the one that the file means, and send through that
// pidfd. They refuse a file that somebody else than root and the caller could have
// written: otherwise a service's user has root kill whatever it likes
// (CVE-2017-14159 and its kin). A daemon that runs as a user of its own and writes
// its file in a directory of its own is signalled as that user.
//
// # When something fails
//
//	another instance runs               Create: ErrHeld, with its PID and name
//	a bare number that may be alive     Create: ErrUncertain; Find: ErrUncertain
//	another type of file, other content ErrNoPIDFile; it is never overwritten
//	no space, no inode, EROFS, EACCES   Create: the kernel's error; what was there stays
//	no descriptors left                 EMFILE, and nothing has changed
//	the directory is not writable       Create rewrites a file that is; Close makes it empty
//	no /proc, hidepid                   Create writes the number and the lock;
//	                                    Check and Find say what they cannot see
//	no pidfds (before Linux 5.3)        Find: ErrNoPidfd. Create and Check need none
//	no flock (some network file systems) Create fails: put the file in /run
//	the file was removed or replaced    Close: ErrLost, and it stays
//	a checkpoint is restored (CRIU)     the lock speaks for the process; its file is of
//	                                    another boot
//	SIGKILL in Create                   a file ".#slashrun.NAME" may stay; the next Create
//	                                    uses and removes it
//	a child that only forked outlives the daemon, or somebody else has locked the file
//	                                    ErrHeld, which names who has the lock
//
// # When not to use it
//
// Under a supervisor (systemd with Type=notify, runit, s6, dinit, a container
// runtime) that starts the daemon as its child: it knows the process better than
// any file, and two instances are its business. As a mutex between threads or
// short scripts: package lockfile. To find out who listens on a port or socket: ask
// the kernel.
package pidfile
