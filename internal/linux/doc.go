// Package linux is floor 0: the only importer of golang.org/x/sys/unix and the
// only place that makes raw system calls. (Constants and errno values of
// package syscall are free for everybody.)
//
// What belongs here: one thin function per system call, or per ioctl, with Go
// types for the arguments. EINTR is retried, except for close (on Linux the
// descriptor is gone either way, close(2)) and for locks that block (a signal
// is how a deadline interrupts them). Errors are *os.SyscallError around the
// errno, so errors.Is(err, syscall.ENOENT) and errors.Is(err, fs.ErrNotExist)
// work and the message names the call.
//
// What does not belong here: policy, fallbacks, feature probes, paths that
// mean something. Those are floors 1 and up.
package linux
