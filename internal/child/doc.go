// Package child hands this process over to a command: it becomes the command, or
// stays as the init process over it. It is the last part of "slashrun exec", and
// takes the place of tini and gosu.
//
// # Types
//
//   - [Find] looks at how this process was started. It is called first, before a Go
//     program has changed anything.
//   - [LookupUser] turns NAME:GROUP into a [User] by the image's own files.
//   - [Command] is what to run, as whom, with what taken away.
//   - [Become] is execve(2): the command has this process's number and its signals.
//   - [Hold] and [Init.Run] stay: they start the command, forward signals, reap, and
//     return its status.
//
// Both ways end in the same sequence on one thread, since credentials, capabilities
// and the signal mask belong to threads (credentials(7), capabilities(7)): bounding
// set, groups, group id, user id, capabilities, a check that all of it happened and
// that root does not come back, no_new_privs, parent-death signal, umask, ignored
// signals, signal mask, execve(2). With Init that thread forks, and ends after it;
// this process stays as it was, so it can signal and reap whatever the command
// becomes.
//
// # What the command finds
//
//	descriptors      0, 1, 2 and what was inherited; ours are close-on-exec
//	closed 0, 1, 2   open on /dev/null: the Go runtime does that when it starts, so
//	                 that no file of anybody ends up there
//	open files limit as found (the runtime raises it, execve by package syscall
//	                 restores it)
//	signal mask      as found, but for HUP, INT, QUIT, ABRT, TERM, CHLD, PROF, URG, SYS,
//	                 32 to 34 and faults: the runtime unblocks them before anybody can
//	                 look, so they are unblocked, unless all others were blocked
//	ignored signals  as found for HUP and INT (nohup), CONT, TSTP, TTIN and TTOU; what
//	                 all others were the runtime has overwritten: they are at their
//	                 default, SIGPIPE too
//	death signal     as found after Become, though a change of user clears it; with
//	                 Init it stays this process's, which forwards it
//	umask, working   as found
//	directory
//
// # Init
//
// As the first process of a PID namespace, else as a subreaper (prctl(2)), it
//
//   - starts the command in a process group of its own, in the foreground of the
//     terminal if this process had it;
//   - forwards every signal that a Go program can have, to the command or to its
//     group. TERM, INT, HUP, QUIT, USR1, USR2, WINCH, PWR, 37 and 38 (SIGRTMIN+3
//     and +4) reach it also where they come after Hold and before the command is
//     there; others are lost then. Of one signal that comes several times before it
//     is forwarded one is, real-time signals too. SIGPROF, SIGURG, 32 to 34 and those of faults (SIGSEGV) do nothing;
//   - reaps every process that becomes its child;
//   - returns when the command has ended, and what is left then gets no signal from
//     it: the kernel ends the rest of a PID namespace, and a subreaper's orphans
//     pass to the next one above. tini and dumb-init do the same.
//
// A stopped command stays stopped until somebody continues it; the init does not
// stop with it. An init that is killed with SIGKILL can forward nothing: in a PID
// namespace all processes end with it, and under a subreaper the command lives on.
//
// # When it fails
//
//	before the command      *Error with status 125: a user that is unknown or that this
//	                        process may not become (with the reason), a NUL byte
//	no such command         127, with PATH as it was searched
//	its interpreter or      127, with the name of what is missing: execve(2) says ENOENT
//	loader is missing       for the program that is there
//	no permission, noexec,  126, with which of them
//	a directory
//	unknown format          126: no shell is tried (execvp(3) would), with what to add
//	no more processes       126, EAGAIN: limits are told
//
// After Become has failed the thread may have another user already, so there is
// nothing to go back to. Run may be followed by nothing else either.
//
// # When not to use it
//
// To run a helper and go on: that is os/exec. To supervise: an Init restarts
// nothing.
package child
