// Package pkgdb is floor 3: which package of the distribution a path belongs to,
// read directly from the databases of dpkg and apk, below a root handle. No
// program is started, nothing is locked, nothing written.
//
// # Types
//
//   - [Open] makes a [DB] of a root directory; nothing is read yet.
//   - [DB.Look] answers for one path or for a hundred thousand of them in one pass
//     over the databases: an [Answer] with the [Owner]s of each.
//
// # What is read
//
//	dpkg   /var/lib/dpkg/info/NAME[:ARCH].list   one path a line, directories too
//	       /var/lib/dpkg/diversions              three lines each: from, to, by whom
//	       /var/lib/dpkg/status                  the version of what was found
//	       /var/lib/dpkg/status.d/NAME           images without dpkg ("distroless"):
//	       /var/lib/dpkg/status.d/NAME.md5sums   a stanza, and the files
//	apk    /lib/apk/db/installed,                records of P:name V:version A:arch,
//	       /usr/lib/apk/db/installed             F:directory and R:file below it
//
// The databases spell a path as the package does. On a system where /lib is a link
// to usr/lib a file is found by either spelling, and so it is below /var/run and
// /sbin (links in the root are looked up once). A diverted file belongs to the
// package whose file it is, wherever it was moved (dpkg-divert(1)).
//
// # When it fails
//
//	no database                an empty Answer; Databases says which were there
//	a file that may not be     told in Incomplete; what the others say counts
//	read, or vanishes
//	a line that is too long,   skipped: it is no path that could be asked for
//	garbage, NUL bytes
//	a database cut off         what was read counts
//	a package without stanza   an Owner without Version
//
// Only a context that ended is an error.
//
// # When not to use it
//
// To find out whether a file is as the package brought it: nothing is compared. For
// rpm, pacman and xbps, whose databases are not read. For what a maintainer script
// made: that is in no database.
package pkgdb
