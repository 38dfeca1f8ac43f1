// Package condition is floor 5: conditions that can be waited for. [Parse] reads
// one from text, [Wait] waits until all of them hold, or any. "slashrun wait" is a
// command line over it.
//
// # The conditions
//
//	path:PATH       something is there, links followed
//	gone:PATH       nothing is there, not even a link that leads nowhere
//	listen:PATH     a unix socket: somebody listens, or a datagram socket is bound
//	connect:PATH    a unix socket accepts a connection
//	tcp:HOST:PORT   one of the host's addresses accepts a connection
//	lock:PATH       nobody holds a lock of flock(2) or fcntl(2); no file is none
//	pidfile:PATH    the process lives, proven to be the one that the file means
//	user:NAME       /run/user/UID is a directory of the user's, mode 0700
//
// All must hold at one time: what held at first and cannot be watched is looked at
// once more at the end, and if it no longer holds the wait goes on.
//
// # How it waits
//
// One loop in ppoll(2) for everything, which sleeps without an end where the
// kernel tells of each change:
//
//	what changes                            what tells
//	an entry of a directory on the way      inotify(7) on each directory, before it
//	                                        is looked into; by the name of the entry
//	a link on the way, or its target        the same
//	a mount or an unmount                   poll(2) on /proc/self/mountinfo
//	the text of a PID file                  inotify on the file
//	the end of its process                  pidfd
//	a lock that is given up by a close      inotify on the file, then /proc/locks
//	a lock that is given up by LOCK_UN      nothing: /proc/locks, read once for all
//	listen(2), accept(2)                    nothing: asked without being woken
//	a port                                  nothing: it is tried
//
// Where nothing tells it looks after 1, 2, 4 ... 1024 ms; conditions that have the
// same pace look at the same time. No directory is held while it waits, so nothing
// keeps an unmount from working.
//
// An event brings the next look no closer to the last than 10 ms, and four times as
// long as that took: who may open a file keeps nobody busy.
//
// What counts is one lookup of the whole path by the kernel: the walk from directory
// to directory is there for the watches alone.
//
// A FUSE server, or another machine, that does not answer keeps whoever asks for ever,
// SIGKILL or not, and a thread that hangs so keeps its process from ending and from
// becoming another program. So nothing is asked that lies on FUSE, a network file
// system, or one that is not known, unless "/" does. For the rest (an overlay on
// FUSE, a name service) looks run on a goroutine of their own: once one hangs for
// 250 ms the others go on without it, on another.
//
// "Free" of a lock needs more than a read of /proc/locks without it: a read of more
// than a page is no snapshot, see lock.go.
//
// # Types
//
//   - [Condition] is data; [Parse] makes it, String gives the text back.
//   - [Options] say how long, all or any, and who wants to hear of it meanwhile.
//   - [Report] and its [Result]s are what was found, with the reason in words.
//
// # When it fails
//
//	no inotify instance, no watch left      looks every so often; Options.Note says so
//	a directory that may not be read        the same, Result.Polled says so
//	procfs, sysfs                           the same: the kernel tells of a part alone
//	FUSE, network file systems              Report.Never: they are not asked
//	no /proc                                the same; lock: Report.Never
//	the queue of events overflows           everything is looked at anew
//	no descriptors left                     an error if there is not even an eventfd;
//	                                        else a reason, and another look
//	no permission to search a directory     does not hold, neither path: nor gone:
//	no permission to write to a socket      listen: goes by sock_diag(7)
//	a PID file that is half-written         does not hold until it has a newline, or
//	                                        is as it is for 250 ms
//	a lock that other kernels or other PID  Report.Never: it is nobody's that we see,
//	namespaces may hold unseen              which is not free
//	below an automount nobody has mounted   does not hold, neither path: nor gone: nor
//	                                        lock:; nothing here triggers it
//	a link that the kernel does not follow  does not hold, neither path: nor gone:
//	more locks than fit in one read         free only if many reads agree, or if all
//	                                        descriptors were looked at
//	a PID file with a bare number that      does not hold; looked at again, 4 s apart at
//	cannot be judged                        most, as who may write there changes
//	a user who is not known                 does not hold; asked again, 8 s apart at most
//	a connection of a socket to itself      does not hold: nobody else is there
//	ctx is done                             its error
//
// # When not to use it
//
// To take a lock when it becomes free: somebody else may be faster; use package
// lockfile. To learn of each change of a directory: conditions are about now. To
// start what is waited for: connect: is the only one that wakes anybody.
package condition
