// Package seccomptest runs tests and programs under a system call filter that
// denies the newer system calls, as container runtimes do. Only tests import it.
//
// A fast path that needs a new system call must fall back where the call is
// refused. Kernels say ENOSYS to a call that they do not know; the seccomp
// profiles of container runtimes say EPERM to one that *they* do not know, and
// both mean absent. On a new kernel the fallback runs only under such a filter.
//
// # A whole package
//
//	func TestMain(m *testing.M) { seccomptest.Main(m) }
//
//	SLASHRUN_SECCOMP=eperm go test ./internal/fsat
//
// Main installs the filter that the variable names before any test begins, and
// all programs that the tests start inherit it. Setup is for a TestMain of your
// own, and goes first: nstest.Setup may follow, and works under every profile.
//
// # One test
//
//	func TestCreateWithoutOpenat2(t *testing.T) {
//		seccomptest.Run(t, seccomptest.EPERM, func(t *testing.T) { ... })
//	}
//
// A filter cannot be taken off, so Run starts the test binary again for this test
// alone; the rules are those of nstest.Run, whose package documentation has them,
// and one may be called inside of the other. All is the list to range over, with
// a subtest each: the test with every call there, and without.
//
// # Any program
//
//	go build -o denynew ./internal/seccomptest/cmd/denynew
//	denynew eperm slashrun tmpfiles --create
//
// # Profiles
//
// "eperm" and "enosys" deny every system call from number 424 on, that is all
// that came with Linux 5.1 and later: from there on the numbers are the same on
// all architectures. Among them are open_tree, move_mount, fsopen, fsconfig,
// fsmount, fspick, pidfd_open, pidfd_send_signal, close_range, openat2, faccessat2,
// mount_setattr, fchmodat2, statmount, listmount and setxattrat. clone3 is ENOSYS
// under each profile, because glibc starts no thread and no process otherwise
// (container runtimes make the same exception).
//
// "old-eperm" and "old-enosys" deny older calls as well: statx, renameat2 with
// flags, copy_file_range, memfd_create, execveat, preadv2 and pwritev2. Not every
// program lives with that: ls and stat of coreutils fail without statx.
//
// # When not to use it
//
// This is no sandbox. Calls of another architecture (32-bit programs) pass, so do
// new flags of old calls and new ioctls. For an old kernel as it is, see vmtest.
package seccomptest
