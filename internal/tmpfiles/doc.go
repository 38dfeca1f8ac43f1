// Package tmpfiles reads tmpfiles.d(5) lines and makes them true. It stands in
// for systemd-tmpfiles 262: the same lines, the same order, the same result.
//
// # Parse, plan, apply
//
// [Config.Read] parses lines into plain [Item]s, in two tables: plain paths and
// patterns. [Config.Apply] applies them to a root directory handle. There is
// one engine for doing and for telling: in a dry run it works on a shadow of
// the file system (shadow.go), in which acts are remembered and found again but
// not done. So a dry run reports exactly the [Change]s that a run would make,
// and a run that would change nothing reports none.
//
// # Order
//
// Purge, then remove and clean, then create. In each phase plain paths come
// before patterns, both in the order in which their first line came. On one
// path the lines that own it come first, then by type letter. Create runs the
// nearest configured ancestor first; the others run the children first.
//
// # Safe paths
//
// A path is walked one component at a time from the root handle, each held by
// descriptor (walk.go). From a node that root does not own, the next one must
// have the same owner, links included: else its owner could lead us anywhere.
// Such a way is refused ([UnsafeError]) before anything is made below it. Links
// resolve inside the root. The last component is not followed, but by w and e,
// whose links are judged like any other.
//
// # Cleaning
//
// Clean, remove and purge share one walk (cleanwalk.go). What has a line of its
// own, of whatever type, is left alone, and so is what is mounted, locked by
// flock(2), sticky, a device, or a socket that somebody has bound. Directories
// are locked while they are worked in and get their times back. Several workers
// share a walk; the result does not depend on them. A tree may be of any depth:
// upper directories are closed and opened again through "..", which has to be
// the same inode.
//
// What goes by age is looked at again, by name, right before it goes: it must be
// the inode that was judged, and still old. If somebody exchanges it in the
// moment after that, the new one goes; only a lock on the directory prevents
// that (unlink(2) takes a name, not an inode).
//
// # What is promised if the machine stops at any instant, or a call fails
//
//   - A file made by f, F, f+ or C is complete, with its owner and mode, or not
//     there. So is a tree that C copies to a free name.
//   - A directory that is to belong to somebody else appears with owner and
//     mode. One that belongs to the caller is made by one call.
//   - L+, p+, c+ and b+ replace a node in one rename(2); a directory has to be
//     removed first, so after a crash it may be partly gone.
//   - f+ and w change a file in place, as they are meant to: first the new
//     content is written, then what lies behind it is cut off.
//   - Between chmod and chown of an existing node it never has more rights than
//     both the old and the new mode give.
//   - Running again finishes what was begun. A node under a temporary name
//     (.#slashrun.*) may be left behind; nothing mistakes it for anything else.
//
// # Failures
//
//	what                                     outcome
//	line that cannot be parsed               ignored, told with file:line and field; status 65
//	unknown user or group                    the same; with --graceful the owner is left alone
//	specifier that cannot be resolved here   the line is skipped, status 0
//	same path, other wish                    the later line is ignored with a notice, status 0
//	unsafe way                               refused, nothing made or removed; status 73
//	EMFILE, ENFILE, ENOMEM first             told; status 1
//	any other failed call                    told, the rest goes on; status 73
//	failed on create, line with `-`          told, status 0
//	name vanished between two calls          as if it had not been there
//	type changed between two calls           ESTALE, nothing done to the other node
//	entry cannot be looked at, on clean      it stays, told, status 0
//	entry is locked, in use, or cannot tell  it stays, told in verbose mode, status 0
//	directory is not empty, after clean      it stays, status 0
//	automount point                          skipped: triggering it could hang a boot
//
// # When not to use it
//
// It is the engine, without a command line, logging or search of directories:
// that is internal/cli and internal/conffiles.
package tmpfiles
