// Package vmtest runs a test, or a whole boot, in a virtual machine: for PID 1,
// device nodes, cgroup v2, hand-over from an initramfs, reboots, and kernels other
// than the one that the tests run on. Only tests import it.
//
// # One test
//
//	func TestMain(m *testing.M) { vmtest.Main(m) }
//
//	func TestTmpfsOptions(t *testing.T) {
//		for _, k := range vmtest.Kernels {
//			t.Run(string(k), func(t *testing.T) {
//				vmtest.Run(t, vmtest.Options{Kernel: k}, func(t *testing.T) { ... })
//			})
//		}
//	}
//
// Run boots the kernel with the test binary as /init of an initramfs. There PID 1
// mounts what Linux programs expect, starts the test binary once more for this
// test alone, and powers off. The rules are those of nstest.Run, whose package
// documentation has them: what stands before Run happens twice, failures, skips,
// panics and logs come out, and coverage counters too. A boot takes about 4 s and
// one processor under emulation, so put several subtests into one Run.
//
// The function runs as root, in the initial namespaces, with all capabilities. It
// finds an initramfs as / (writable; pivot_root does not work on it), /proc, /sys,
// cgroup2 with all controllers on /sys/fs/cgroup, devtmpfs, devpts and /dev/shm,
// and a tmpfs on /run, which may be unmounted. There are no programs but those of
// Options.Files. The package's testdata, and go.mod, are at the paths that they
// have outside, and its directory is the working directory.
//
// # A whole boot
//
//	r := vmtest.Boot(t, vmtest.Machine{
//		Kernel: vmtest.Trixie,
//		Init:   "/path/of/a/static/program", // becomes /init
//		Disk:   vmtest.NewDisk(t, tree, 64<<20),  // becomes /dev/nvme0n1
//	})
//	if r.End != vmtest.PoweredOff || r.Exit != 0 { t.Fatal(r) }
//
// Init may be a Go program, which takes MountAPI, SendExit, PowerOff and Restart of this
// package for PID 1's chores, or a shell: busybox-static is one, and on the test
// machines. Result prints with the end of the console, so r is a good argument to
// t.Fatal. Boot the same Disk again to see what a reboot leaves.
//
// # How a machine talks
//
// The console is ttyS0. The second serial line, /dev/ttyS1, is for results. Any
// process may write lines to it, which become Result.Output; a line that begins
// with "vmtest:" is a frame in JSON:
//
//	echo 'vmtest:{"exit":3}' >/dev/ttyS1     Result.Exit (the last one counts)
//
// The end is told from QEMU's events and the console, not guessed: PoweredOff,
// Rebooted (the machine stops there; boot again), Panicked (the kernel; also when
// PID 1 ends), TimedOut and Crashed (QEMU itself).
//
// # What it needs
//
// qemu-system-x86_64 and the kernels that test/deps.d/kernels.sh fetches; "make
// test-deps" sees to both. KVM is never used, because there are machines on which
// /dev/kvm is there and fails. The machine is x86-64, and so must be the test
// binary; if it is dynamically linked, its libraries go along.
//
// # When not to use it
//
// For anything that namespaces can do: nstest is a hundred times faster.
package vmtest
