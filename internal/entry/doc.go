// Package entry is floor 6: what happens in a container between its start and
// its command, in the place of an entry point's mkdir, chown and rm. /run gets
// the directories that the image declares, loses what is proven to be of an
// earlier run, and the command gets the environment that is true.
//
// # Stages
//
// Each stage looks, plans, tells its steps and then does them; a dry run stops
// before the doing. What a stage could not do is one entry of [Result.Without],
// and the next stage goes on.
//
//	situation   PID 1 or not, whose PID namespace, which rights, what is on /run
//	run         a new tmpfs on /run with the image's content and the layout of
//	            package runfs, or /run as it is
//	stale       sockets, FIFOs, PID files and locks below /run and where the
//	            caller names: those proven stale go
//	tmpfiles    tmpfiles.d, injected by the caller
//	units       RuntimeDirectory= of the units that the caller names
//	session     XDG_RUNTIME_DIR
//
// Running it again does what is left: there is no other recovery from a kill. A
// new /run is built where nobody sees it and appears complete.
//
// # /run
//
//	found                            rights to mount   what is done
//	a directory of the root          yes               tmpfs over it, content copied up
//	the same                         no                kept as it is
//	a directory, others alive, or
//	held by a process                any               kept as it is
//	a directory whose mount is
//	shared with other namespaces     any               kept as it is: ours would show there
//	a tmpfs (of the runtime)         any               kept as it is
//	another file system (a volume)   any               kept as it is
//
// A mount is made only as part of a PID namespace of our own in which nobody but
// we and our ancestors is alive: a container at its start. [Options.Mode] says
// otherwise where that is wanted.
//
// Copied up are directories, links and regular files with owner, mode, times and
// extended attributes, holes and hard links. Sockets, FIFOs and devices are not,
// nor what the proofs call stale. Mounts below /run come along; of several on one
// place the uppermost does.
//
// # What fails and what is said
//
//	what was asked for by name (a unit, an exclusive place,
//	a mode) and cannot be had                                an error: the command is not started
//	everything else                                          Result.Without, and on it goes
//	the context ends                                         its error, between two acts
//
// Where /proc is not mounted, and CAP_SYS_ADMIN is missing to make a procfs that
// nobody else sees, nothing can be proven: nothing is mounted and nothing removed.
//
// # Paths
//
// Whoever owns a directory can put a link into it. What the caller names to be
// removed, or to be exclusively ours, is walked without links but those that root
// alone can have made; below /run no link is followed at all. A file that holds
// something else than a PID is content and never a leftover.
//
// Outside of a PID namespace of our own, and where an init system runs on the mount
// on /run, /run is the machine's: only what was asked for is done there.
//
// # When not to use it
//
// On a machine of its own: package prepare. Where systemd becomes PID 1: it
// mounts /run and applies tmpfiles.d itself ([Options.Systemd]).
package entry
