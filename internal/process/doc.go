// Package process is floor 2: what /proc tells about processes, this run of the
// machine or container, and the memory it may use. Everything goes through a
// [Proc], a descriptor of a procfs, so that nothing depends on /proc being
// mounted yet, and parsers take bytes or a reader.
//
// # Identity
//
// A boot id alone is no identity of a container: it is the same after the
// container is started again, and changes when it is restored from a checkpoint.
// [Identity] adds the start time of the PID namespace's init. REALTIME minus
// BOOTTIME stands beside them, because every comparison of a file's time with a
// process's start is void once somebody has set the clock.
//
// # One process
//
// A number is no process: it is given again, /proc has directories for threads,
// a zombie is there and dead, and a zombie whose other threads live is not.
// [Proc.Ident] tells these apart and holds the process by a pidfd where it can.
// [Record] is what a PID file says; one of our own names the process so that no
// other can be meant. Judging a record (is that process alive, is the file
// stale?) needs to know whose numbers they are, and is not done here.
//
// # Who uses a directory
//
// [Proc.Users] looks at every process: working directory, root, executable,
// descriptors, mappings. Its answer has three parts: who holds something there,
// who else is alive, and what could not be seen. The third part decides: a
// process whose descriptors we may not read counts as one that holds something.
//
// # What a process belongs to, and what it does
//
// [Proc.Membership] names its service and container by the names of its control
// groups, [Proc.Started] says when it began. [Proc.Thread] says in which system
// call a thread sleeps, and how often it has slept so far: where that number is the
// same in two looks, it has slept in between. [Dir] is a process's directory held
// open, for what is asked often.
//
// # Many processes
//
// [Dir] looks things up from a process's own directory, which is cheaper than from
// the top. What is read of a process may have to wait for what that waits for:
// [Each] leaves behind what takes too long.
//
// # When it fails
//
//	/proc not mounted        Open makes a procfs of its own; without the privilege an error
//	hidepid=, masked /proc   Identity fails, Users says "incomplete" and why
//	a process that vanishes  is left out: what is gone holds nothing
//	a thread with its own descriptor table (CLONE_FILES undone) is not seen
//
// # When not to use it
//
// To signal a process by an id from [Proc.Users]: it may be another process by
// then. Use [Ident.Signal].
package process
