// Package exectest tests slashrun exec from outside, as the entry point of images:
// those of the directory examples, built from their Containerfiles and run by
// podman. It has tests alone.
//
// A scene is a service of the examples in one kind of container: rootful, rootless,
// with a read-only root, any user, a tmpfs on /run, a volume that another container
// uses. It is started, killed hard (SIGKILL for all of it at once) and started
// again on the same root, 20 times. Before each kill leftovers are planted beside
// those that the service leaves by itself: PID files that name a process which will
// be alive, sockets that nobody is bound to, locks. Every start must answer a real
// request. TestRootful/without has the same services without slashrun, and what each
// of them says then.
//
// Not every service is in every scene, to save time. With SLASHRUN_SCENES=all in the
// environment it is.
package exectest
