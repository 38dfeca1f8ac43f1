// Package podtest runs containers in tests: what is PID 1 of one, what its /run is
// like, with podman's default capabilities and seccomp profile. Only tests import
// it, in a package whose TestMain is nstest's.
//
//	func TestMain(m *testing.M) { nstest.Main(m) }
//
//	func TestAsPID1(t *testing.T) {
//		prog := build(t) // outside: a static program
//		podtest.Run(t, podtest.Options{Rootless: true, Keep: []string{filepath.Dir(prog)}, Env: []string{"PROG=" + prog}},
//			func(t *testing.T, p *podtest.Podman) {
//				tree := t.TempDir()
//				copyFile(t, os.Getenv("PROG"), tree+"/slashrun")
//				image := p.Import(t, tree)
//				r := p.Run(t, "--read-only", image, "/slashrun", "boot")
//				if r.Status != 0 { t.Error(r) }
//			})
//	}
//
// Run's function is in the namespaces of nstest.Run (Real, RootOverlay, Net), whose
// rules hold: values do not travel into it, so paths come by the environment or are
// computed from scratch inside. An image is made from a directory tree, so nothing
// is downloaded; one static program is enough. A container takes about 0.3 s.
//
// # How it is kept apart
//
// Podman's storage, configuration, lock files and run-time directories are on the
// private /tmp and /run. Cgroups are off: /sys/fs/cgroup is a cgroup2 mount that is
// read-only and has nothing in it for podman to change, and crun is started with
// --cgroups=disabled, so this works on machines with cgroup v1, v2 and both, and
// memory limits are no subject for these tests (see vmtest). Images are in the vfs
// driver, which every file system can hold.
//
// Rootless means that podman is started by nobody, whose 65536 subordinate IDs
// stand in a private copy of /etc/subuid: in the container 0 is nobody, 1 is
// 200000, and so on. Rootful and rootless need root outside, all the same, to make
// this world.
//
// # What /run is in a container
//
// By default a directory of the image, with .containerenv bound in. With
// --read-only, --tmpfs=/run or --systemd=always it is a tmpfs, with the image's
// files copied up unless the mount says notmpcopyup. A second "podman start" of
// one container finds what the first left; use Podman with "create" and "start".
//
// # When not to use it
//
// What needs no runtime is for nstest, which is faster and needs no root.
package podtest
