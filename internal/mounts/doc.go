// Package mounts is floor 2: the mount table, and file systems that are built
// where nobody can see them and then moved in.
//
// # The table
//
// [Parse] reads /proc/PID/mountinfo from any reader. A mount is identified by
// its id within one table, a file system by its device number; a path identifies
// neither, because mounts stack.
//
// # Building
//
//	b, err := mounts.Build(spec, staging)      // a tmpfs that is attached nowhere
//	defer b.Close()
//	... make files below b.Fd() ...
//	b.AttachTmpfs("lock", lockSpec, nil)       // a tmpfs of its own inside
//	b.AttachClone("secrets", oldRun, "secrets")// a mount that would be hidden, with all below it
//	err = b.MoveTo(root, "run")                // and now everybody sees all of it
//
// MoveTo is one system call. Before it no process sees anything, after it every
// process sees all; a crash before it leaves nothing (the detached way) or an
// unfinished staging mount that the next Build removes (the legacy way).
//
// There are three ways, and each is chosen by trying:
//
//  1. fsopen, fsmount, and move_mount onto the detached mount itself (the kernel
//     lets a mount be attached to a detached one since about 6.15);
//  2. the same, and where attaching to a detached mount is refused with EINVAL,
//     the tree is put together in a mount namespace that one thread makes for
//     itself, and cloned out of it with open_tree. Nothing shows in the caller's
//     namespace here either;
//  3. mount(2), where the calls above are absent: the tree is put together on a
//     staging directory and moved with MS_MOVE. The staging mount is private and
//     lies below a directory of mode 0700, so only root can look into it.
//
// A mount that would be hidden is carried with a recursive clone: in a user
// namespace the kernel refuses to move or plainly bind mounts it has locked
// (EINVAL), and allows the recursive bind.
//
// # When it fails
//
//	EPERM          no CAP_SYS_ADMIN over the mount namespace; way 3 fails with it too
//	EINVAL         an option that this kernel does not know: dropped and reported
//	               when it is marked optional, an error with the kernel's log else
//	ENOSPC         /proc/sys/fs/mount-max is reached, or the tmpfs has no inode left
//	EBUSY, EROFS   the staging directory cannot be used: [ErrNoStaging] when none can
//
// # When not to use it
//
// To change a file system that is there: see [Reconfigure]. To look into another
// process's namespace: this package acts in the caller's own.
package mounts
