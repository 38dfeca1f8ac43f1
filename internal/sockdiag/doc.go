// Package sockdiag is floor 2: what the kernel says of unix sockets. [Probe]
// tells whether a socket file is bound by anybody; [Dump] lists the sockets of
// this network namespace with the inode that each is bound to, over sock_diag(7).
//
// # The probe
//
// A connect(2) from an unbound datagram socket, through a descriptor that holds
// the inode. The kernel looks for a socket bound to that inode and compares the
// types before it queues anything (unix_find_bsd, unix_dgram_connect), so nobody
// who listens wakes:
//
//	EPROTOTYPE     a stream or seqpacket socket is bound, listening or not
//	success        a datagram socket is bound
//	ECONNREFUSED   nothing is bound, and nothing ever will be: bind(2) makes a
//	               new inode, it takes no old one
//	EACCES         no write permission on the socket file: cannot tell
//	EPERM          a datagram socket that is connected to another peer, a security
//	               module, or a filter: cannot tell
//
// It sees sockets of every network namespace, and sockets whose process is
// stopped, whose backlog is full, or that lie in the queue of another socket
// (SCM_RIGHTS). The name by which the inode was found may be renamed, linked or
// replaced meanwhile: the answer is of the inode. One moment is not covered:
// bind(2) makes the file some microseconds before it binds the socket to it, and
// in between the answer is "refused". Ask files that are just made later.
//
// # Listening or not
//
// [Greet] asks more: whether a connection would be taken, without making one. It
// connects a stream socket that has a peer already (socketpair(2)). The kernel
// finds the socket, compares the types, looks whether it listens and whether its
// queue has room, and only then sees that ours can take no connection:
//
//	EISCONN        it listens, and would take one
//	EAGAIN         it listens, and its queue is full
//	ECONNREFUSED   it does not listen (yet)
//	EPROTOTYPE     it is of another type
//
// Nothing is queued by then, so nobody wakes.
//
// # The dump
//
// It needs no permission on the file, but shows one network namespace alone: this
// one, or with [DumpIn] any other that can be entered. One that only a descriptor
// holds stays out of sight. A connection that was accepted has the file of the socket
// that listened, and the network namespace of the client; its Peer is the client's
// socket, which most often has no file, and the sockets that wait to be accepted are
// in Waiting. The numbers of sockets are unique on the machine. So a match
// proves that a socket is bound, and no match proves nothing. The kernel gives 32
// bits of the inode number and the superblock's device, which is not the st_dev
// of stat(2) on overlayfs and btrfs: take it from the mount table.
//
// # When it fails
//
//	no unix_diag in the kernel       Dump: ENOENT
//	another namespace, no privilege  DumpIn: EPERM
//	AF_NETLINK denied by a filter    Dump: EPERM, EACCES, EAFNOSUPPORT
//	no /proc mounted                 Probe: ErrNeedsProc; ProbeAt goes by the name
//
// # When not to use it
//
// To connect: a probe with the socket's own type starts the service behind it.
package sockdiag
