// Package sandbox is floor 5: this executable again as PID 1 of a throw-away
// user, mount and PID namespace, in which the machine is read-only and /run is
// free to be made. It is what "slashrun try" stands in.
//
// # Two sides
//
// Run is the outside: it starts /proc/self/exe (which works when the file itself
// was removed or will be hidden) with the arguments given, hands signals on and
// waits. The program started calls Enter first; from then on it is the inside:
//
//	status, err := sandbox.Run(sandbox.Program{Args: []string{"slashrun", "try", "--inside"}, ...})
//
//	in, err := sandbox.Enter()     // mounts; refuses where it is not PID 1 of such a namespace
//	... make /run ...
//	status, err := in.Exec(sandbox.Command{Args: argv, ...})
//
// An argument starts the inside, but proves nothing: Enter compares its
// namespaces with the outside's, whose descriptors it is handed, before it
// mounts anything.
//
// # What is there inside
//
//	/          a small tmpfs of our own, read-only, because the machine's "/" may
//	           belong to a user that the namespace does not know
//	/usr ...   every entry of the machine's "/", all mounts read-only and nodev
//	/dev       a tmpfs with null, zero, full, random, urandom, tty, pts and shm
//	/proc      a fresh procfs, or the outer one read-only where the kernel refuses a
//	           fresh one (see Inside.FreshProc)
//	/run       an empty directory: the caller mounts there
//
// Network, host name, abstract sockets and IPC are the machine's.
//
// # Users
//
// For root the user namespace maps every id to itself; for an ordinary user it
// maps that user alone, to 0, and chown to any other id is EINVAL. Where user
// namespaces are off, root goes without one. A program started by Exec has a
// short list of capabilities, without CAP_SYS_ADMIN in any case: it cannot make
// the machine's mounts writable again.
//
// # The end
//
// PID 1 exits when the program has ended, or when the outside is gone: it reads
// a pipe whose other end the outside holds, and the kernel closes that also on
// SIGKILL. With PID 1 every process inside is killed, and with the last process
// the mounts go. (PR_SET_PDEATHSIG fires when the *thread* that started the
// process ends, which in a Go program is any time.)
//
// # When it fails
//
//	no /proc                        an error before anything is done
//	EPERM, ENOSPC, EUSERS, EINVAL   on starting: user namespaces are off, used up,
//	                                forbidden by a filter or absent; root tries once
//	                                more without one, and else [Error] names the
//	                                sysctl or container option to change
//	EPERM, EACCES on mounting       an LSM (Ubuntu's AppArmor) lets the namespace be
//	                                made and forbids its use: the same
//	a mount that stays writable     refused: the promise cannot be kept
//	in an initramfs                 pivot_root(2) is EINVAL: the new root is moved over
//	                                the old one, as switch_root(8) does
//	a directory of "/" that cannot
//	be bound                        left out, and told in Inside.Notes
//
// # When not to use it
//
// It keeps a trial from changing the machine by mistake. It is no jail for
// hostile programs: those need a seccomp filter, a network namespace and more.
package sandbox
