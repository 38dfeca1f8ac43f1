// Package unit is floor 3: unit files as systemd.unit(5) and systemd.syntax(7)
// describe them, looked up below a root.
//
// # Types
//
//   - [Parse] reads one file from any reader: assignments with section, file and
//     line, and what is wrong with it.
//   - [Name] is a unit's name with its prefix, instance and type.
//   - [Load] finds a unit by name: the file, its drop-ins, masks, aliases, the
//     template of an instance. A [Unit] is the assignments of all of that in the
//     order in which they count.
//   - [Unit.Service] is what a service says of its runtime directories and its
//     user. Nothing else is interpreted.
//
// # What counts
//
//	/etc, /run, /usr/local/lib, /usr/lib, /lib + /systemd/system    the first file
//	a link to /dev/null, an empty file                              masked: [ErrMasked]
//	a link to another unit's file in these directories              an alias: that unit
//	NAME.d, TEMPLATE@.d, PREFIX-.d of each directory, then TYPE.d   drop-ins, by file name;
//	                                                                of two of one name the first
//	KEY=                                                            resets a list
//
// The tests compare this with systemd 252, whose systemd-analyze prints what it
// understood.
//
// # When it fails
//
//	no such unit               [ErrNotFound] with the directories that were searched
//	a section header without ] the rest of that file is not known: an error for the
//	                           unit's own file, a Problem for a drop-in
//	a line of 1 MiB or more    the same
//	any other wrong line       a Problem; the line does not count, the others do
//
// # When not to use it
//
// For tmpfiles.d and other *.conf files: package conffiles. To run a service.
package unit
