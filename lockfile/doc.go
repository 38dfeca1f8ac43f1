// Package lockfile takes locks on files for daemons and tools: one instance at
// a time, one writer or many readers, one user of a serial line.
//
//	l, err := lockfile.Open("/run/food/lock", nil)
//	if err != nil { ... }
//	defer l.Close()
//	if err := l.TryLock(); errors.Is(err, lockfile.ErrHeld) {
//		return fmt.Errorf("another instance is running: %w", err)
//	}
//
// # Which lock for what
//
//	Flock    flock(2). One instance, a critical section, "flock FILE COMMAND" of
//	         shell scripts. Take this one unless something speaks against it.
//	OFD      fcntl(2) F_OFD_SETLK on the whole file. Where other programs use
//	         lockf(3) or fcntl(2) record locks on it (mail spools, databases):
//	         these and flock do not see one another.
//	UUCP     a file LCK..ttyS0 with a process id in it, TryUUCP. For serial lines,
//	         because minicom, pppd, gpsd and others agree on it; for nothing else:
//	         it outlives its holder, nobody can wait for it, and an id of another
//	         PID namespace proves nothing.
//
// Traditional record locks themselves (F_SETLK) are not here: they are lost when
// any descriptor of the file is closed anywhere in the process, in a library too.
// That includes the closing of a Lock, so do not hold one on the same file.
//
// # What is promised
//
//   - A lock that Lock, RLock or a Try returned is on the file that is at the path
//     at that moment: it is compared by device and inode after the lock is
//     granted, and where the file was removed or replaced meanwhile the new one
//     is locked instead. So locks hold out against programs that remove theirs.
//   - No file is removed unless Options.Remove is set, and then only while the
//     exclusive lock on it is held. Prefer to leave it: an empty file in /run costs
//     nothing.
//   - A wait keeps its place among those who sleep in the kernel's queue: nothing
//     polls. The thread sleeps until the lock is granted or the context ends.
//   - A lock that is granted at the moment when the context ends is reported as
//     taken, or was not taken. It never stays behind.
//   - The program's own signals and handlers are left as they are.
//
// # Waiting and signals
//
// To the thread that waits all signals are blocked, because after a handler has
// run the kernel makes the thread queue again, at the end. Excepted are SIGURG,
// which ends a wait early (Go's runtime uses it among its threads, and a spurious
// one is harmless by its documentation), and those that the runtime and the C
// library send to every thread for setuid(2) and its like. So the place in the
// queue is lost by a SIGURG that is sent to the whole process, by such a
// system call for all threads, and by SIGSTOP and SIGCONT, a freezer or a
// debugger, which nothing can help. The lock is not.
//
// # Fairness
//
// Those who sleep for an exclusive lock are woken in the order in which they came.
// But the kernel only wakes the first of them, it does not hand the lock over: who
// asks before that one runs gets it. So a program that locks again as soon as it
// has released may overtake a waiter many times. And shared holders who overlap
// never leave the file free: they keep a writer waiting for as long as they like.
//
// Options.Fair is for both. Who has to wait first waits for a turnstile, an OFD
// lock on one byte far behind the end of the same file, then for the lock with the
// turnstile in hand, and gives that back. Who finds the turnstile taken waits
// behind it, or is refused if it only tries. So all who wait are in one queue,
// readers and writers, and nobody passes the one at its head except those who had
// looked at the turnstile just before. Behind the head the order is that of the
// kernel again: who comes at the very moment when the turnstile changes hands may
// go before some who sleep there.
//
// It costs one system call more, and two more for a wait, needs permission to
// write to the file, and binds only those who take part: a flock(1) that does not
// know of the turnstile still excludes and is excluded, and overtakes.
//
// # Changing from shared to exclusive
//
// There is no such method. The kernel does not do it atomically either: flock(2)
// gives the first lock up, and another may get in between. Unlock, lock again, and
// look again at what the lock protects.
//
// # When it fails
//
//	held, and Try was called       ErrHeld
//	the context ends               context.Canceled or context.DeadlineExceeded
//	no permission to write         the file is opened for reading; an exclusive OFD lock, Fair, or flock on NFS then say so
//	no permission at all           fs.ErrPermission
//	no file, read-only file system EROFS from Open
//	a full file system             ENOSPC from Open, where the file is missing
//	no descriptors left            EMFILE; a wait needs two more, and fails before it begins
//	link, directory, FIFO, device  ErrNotRegular; a FIFO or device is not opened
//	ENOLCK                         no memory for locks, or a network file system without its lock service
//	the file is removed by others  unnoticed while held: ask Check; who waits goes on until the holder
//	                               of the old file lets go, and then locks the new one
//	SIGURG is ignored              Lock with a context that can end refuses to wait
//	SIGKILL of the holder          the kernel releases, unless a child has the descriptor (Dup)
//	UUCP: the holder is dead       removed and taken, if that is proven
//	UUCP: it cannot be told        *HeldError with the reason; nothing is removed
//
// # When not to use it
//
// Between goroutines of one process: sync.Mutex. For thousands of waits at a time
// in one process: each takes an OS thread. On a network file system that
// several machines mount: flock is local to a machine on some, and held for ever
// by a machine that died on others. For a file in a directory where others
// may write (/run/lock on Debian): any of them can hold your lock; take a
// directory of your own below /run. As a proof that a daemon lives: see package
// pidfile. The package is for Linux on 64-bit machines.
package lockfile
