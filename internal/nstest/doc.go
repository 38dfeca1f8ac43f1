// Package nstest runs tests in Linux namespaces of their own, so that a test may
// mount, write to /run and start processes, and the machine that it runs on
// never notices. Only tests import it.
//
//	func TestMain(m *testing.M) { nstest.Main(m) }
//
//	func TestMountsRun(t *testing.T) {
//		nstest.Run(t, nstest.Options{}, func(t *testing.T) {
//			// Here /run is an empty tmpfs, and nobody outside can see it.
//			os.Mkdir("/run/lock", 0o1777)
//		})
//	}
//
// # What Run does
//
// Run starts the test binary again, in new user, mount, PID, IPC and UTS
// namespaces (and a network namespace on request), with -test.run naming the
// calling test alone. A first process, PID 1, arranges the mounts, checks them
// and starts a second, which runs TestMain and the test again; there Run calls
// the function instead of starting anything. So of the calling test
//
//   - what stands before Run happens twice, outside and inside;
//   - the function happens inside only;
//   - what stands after Run happens outside only.
//
// A test may call Run several times, also with different options; each call is
// a process of its own. Values do not travel between the two sides: the function
// sees what the test computed inside. It may call Run again, or the Run of another
// kit, for a process inside of the process.
//
// The log of the inner test appears in the outer test's; failing, skipping,
// panicking, calling os.Exit, being killed and running past the deadline all
// end the outer test accordingly. -test.v, -test.short, -test.timeout, -test.skip
// and a subtest pattern of -test.run take effect inside, and so do coverage
// counters under go test -cover.
//
// Setting up costs about 20 ms. A package whose every test wants to be inside
// calls MainInside instead of Main and pays once; its tests then share one /run.
//
// # What is there inside
//
//	/          the machine's tree, every mount of it read-only (see Root)
//	/run /tmp  empty tmpfs, nosuid and nodev, mode 0755 and 1777; $TMPDIR is /tmp,
//	           so t.TempDir is on tmpfs, and user.* xattrs work from Linux 6.6
//	/dev       a tmpfs with null, zero, full, random, urandom, tty, a devpts and shm.
//	           The machine's nodes are bound one by one, on read-only mounts, or made
//	           with mknod: nobody can chmod the machine's /dev/null from here
//	/proc      a fresh procfs for the new PID namespace; /proc/sys, sysrq-trigger
//	           and the like read-only. Where the machine forbids a fresh one (a
//	           container with a masked /proc) the machine's stays: see FreshProc
//
// The test binary, the module's directory and Options.Keep stay visible, read-only,
// where they would be hidden by one of these. $HOME and the Go caches are
// read-only: build programs before Run, not inside.
//
// All processes die with the test binary, even when that is killed with SIGKILL:
// PID 1 holds the end of a pipe and exits when it is closed, and the kernel then
// kills the namespace. (PR_SET_PDEATHSIG would fire when the *thread* that
// started the process exits, which in Go is any time.)
//
// # Users
//
// As root the inner user namespace maps every user and group to itself: chown to
// any of them works, mknod and trusted.* xattrs do not, since they need the
// initial user namespace. Run as an ordinary user maps that user alone, to 0:
// chown to anybody else is EINVAL. Options.SingleUser gives root the same view.
// Options.Real, for root only, stays in the present user namespace: everything
// works that works for root, so take it only for what needs it.
//
// # What stops a mistake
//
// Nothing is mounted unless the kernel itself says that this is not the machine's
// namespace: the mount and PID namespaces differ from those of the process
// outside (compared through descriptors that it hands down), the mount
// namespace belongs to the new user namespace (ioctl NS_GET_USERNS), and after
// the change no mount propagates to or from a peer (/proc/self/mountinfo). Before
// the test starts every mount that was there must be read-only, and /run must be
// another file system than outside. An environment variable starts the second
// stage, but it proves nothing and is not trusted; it is also removed, so
// programs that the test runs do not inherit it.
//
// # Missing rights
//
// Where user namespaces are switched off, or where an LSM lets unshare succeed
// and then denies mount (Ubuntu's AppArmor), Run ends the test as package testenv
// has it: a skip that names what is missing, a failure in CI.
//
// # With other TestMains
//
// Setup is the part of Main that matters. A TestMain of your own calls it first:
//
//	func TestMain(m *testing.M) {
//		nstest.Setup()
//		testscript.Main(m, commands) // testscript inspects os.Args[0]
//	}
//
// # When not to use it
//
// A test that only needs a directory takes t.TempDir and passes a descriptor of
// it as the root. Tests of device nodes, PID 1, cgroup v2 or another kernel are
// for vmtest.
package nstest
