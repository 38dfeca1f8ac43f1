// Package conffiles finds and prints drop-in configuration: the *.conf files of
// several directories that are read as one, as tmpfiles.d(5) describes and
// systemd-tmpfiles does it.
//
// # Rules
//
// A file hides files of the same name in directories of lower priority. What is
// left is read in the bytewise order of the names, whatever directory it is in.
//
//	in the directory                        it is            and hides others
//	a regular file, empty or not            read             yes
//	a link to a regular file                read             yes
//	a link to /dev/null (or another
//	character device; inside a root the
//	device need not exist)                  a mask           yes
//	a link to nowhere                       skipped, told    no
//	a directory, a FIFO, a socket           skipped          no
//	a name that starts with a period, or
//	does not end in .conf                   skipped          no
//
// # Types
//
// Paths are looked up in an [inroot.Root], with links resolved inside it.
//
//   - [Search] gives a [List] of [File] and [Mask] for a run without arguments, and
//     places the file that --replace= stands for.
//   - [Named] gives the [File] that an argument of the command line means.
//   - [Cat] prints a List for people (--cat-config, --tldr).
//   - [Lines] cuts what is read into lines, with the limits of the format.
//
// Nothing is read until [File.Open]; a File of a List stays usable until the
// List is closed.
//
// # When something fails
//
//	a directory that is absent                 is no error
//	a directory that cannot be read            is a warning in List.Warnings
//	a file that vanished since the search      Open fails with fs.ErrNotExist: skip it
//	an argument that names nothing             Named fails with fs.ErrNotExist
//	a line of 1 MiB or more                    Lines fails with ErrLineTooLong
//
// Errors name the path as a person would write it on the host.
//
// # When not to use it
//
// For configuration with one main file beside its drop-ins, and for directories
// that untrusted users can write to: hiding is not a permission check.
package conffiles
