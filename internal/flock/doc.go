// Package flock is floor 4: a lock as flock(1) of util-linux takes it, on a file, a
// directory or a descriptor that was inherited. It is what "slashrun lock" does
// between its command line and its command.
//
// # Types
//
//   - [Options] are what the lock is to be.
//   - [Open], [OpenName] and [OfDescriptor] give a [File], not locked yet.
//   - [File.Lock] takes the lock as a [Wait] says; [File.Unlock] gives it up.
//   - [Look] finds who holds it, for a message, as a [File.Request] asks.
//   - [ParseOffset] and [ParseSeconds] read numbers as flock(1) does.
//
// # How it differs from package lockfile
//
// That one is for daemons and refuses what flock(1) allows: symbolic links,
// directories, devices, files of which only reading is permitted. This one takes
// what is there. In common are that a lock is on the file which is at the path when
// it is granted, the turnstile of fair mode, and that a wait keeps its place.
//
// # How it waits
//
// One thread sleeps in the kernel's queue, in one system call, from the moment when
// the lock could not be had at once. Time limit and reports run beside it, on other
// threads. At the end of the limit the sleeper is interrupted, by a SIGWINCH, which
// gets a handler without SA_RESTART only then, and it is seen what it came back with:
// the lock, or nothing. So nothing can be granted after [ErrTimeout], on a descriptor
// that others have too, and would stay with them.
//
// # Who is in the queue of fair mode
//
// The turnstile is a lock too. On a descriptor that was inherited it would stay with
// whoever handed that down when a signal ends us in the queue, and nobody else would
// ever get in. So OfDescriptor opens the file once more for it, through /proc, and
// refuses Fair where that cannot be.
//
// SIGURG, the one signal that Go's runtime has to have a handler for, is blocked on
// the thread that sleeps, because after a handler has run the kernel makes the
// thread queue again, at the end. [child.Found.Plain] takes the other handlers away.
// SIGSTOP and SIGCONT, a freezer or a debugger have the same effect, on every
// program, and nothing helps.
//
// # When it fails
//
//	held, and no wait was wanted     ErrHeld
//	the wait ended                   ErrTimeout
//	the file cannot be opened        the error of open(2); ENOENT, EACCES, EROFS, ENOSPC, EMFILE
//	no permission to write           enough for flock(2) on a local file system; Fair and an
//	                                 exclusive record lock say EACCES or EBADF
//	NFS: exclusive, opened for       EBADF or EIO from the kernel; the file is opened for
//	reading                          writing once, if that is permitted
//	the file is removed meanwhile    who waits goes on until the holder of the old one lets
//	                                 go, and then locks the new one
//	a file system without stable     after 1,000 attempts the lock is kept without
//	inode numbers                    knowing that it is on the file at the path
//	a FIFO                           the opening waits for a writer, before the limit of the
//	                                 wait begins, as in flock(1); NoWait, names and a file
//	                                 that is opened anew do not wait
//	a file system that does not      at the limit we end all the same; on a descriptor that
//	answer holds up the sleeper      was inherited we wait for it, as flock(1) does
//	descriptor 0, 1, 2 was closed    ErrClosed: the runtime has opened /dev/null there
//	a name in a directory of others  OpenName refuses, and says why
//	no /proc                         locks as ever; Look fails, and so does Fair with a
//	                                 descriptor: ErrNoQueue
//	a process hangs in the kernel    Look may hang, and cannot be killed: it is for a process
//	                                 that can be left
//	/run/lock is not fit for names   OpenRootName has a directory of its own for root
//
// # When not to use it
//
// In a daemon: package lockfile. To go on after a wait that timed out: package
// lockfile, whose waits end with a context.
package flock
