// Package locktest tests "slashrun lock" from outside: beside the newest flock(1)
// of util-linux, which test/deps.d/util-linux.sh fetches, and beside that of
// BusyBox where it has the option.
//
// # The comparison
//
// A case is a line of shell in which $FLOCK is one program or the other. It runs
// in a fresh directory, with the lock free or held, and compared are the exit
// status, what is written to standard output, and what files are there afterwards.
// The command under the lock is mostly "./probe", a script that tells what a
// command can see: the line of the lock in /proc/locks, its descriptors, ignored
// and blocked signals, umask, limit of open files, process group. The text of
// errors is not compared.
//
// Differences that are meant stand in differences_test.go, each with the words of
// docs/lock.md that say why; one that does not occur any more fails.
//
// # The rest
//
// What flock(1) does not have (--name, --fair, --report, the order of the queue)
// and bad luck (no /proc, system calls denied, a full or read-only file system) are
// tests of their own.
package locktest
