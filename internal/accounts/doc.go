// Package accounts turns names of users and groups into numbers and back, in a
// static program: it reads passwd(5) and group(5) itself, and asks getent(1) for
// what only the name service switch knows (LDAP, sssd, systemd's dynamic users).
//
// # Types
//
//   - [ParseUsers] and [ParseGroups] read the two files from any io.Reader.
//   - [Source] answers for one system. [System] is the machine itself; [InRoot] is
//     another system's tree, of which the files are all that counts (--root=).
//   - [ParseID] is the one place that says which numbers are ids.
//
// # Order of a lookup by name
//
//	                                       System          InRoot
//	1. a number (ParseID)                  yes             yes
//	2. "root"                              0               0
//	3. "nobody", group "nogroup"           65534           no
//	4. the file                            yes             yes
//	5. getent                              if installed    no
//
// 3 does not look at the files, so that every process of the machine gives the
// same answer; /etc/systemd/dont-synthesize-nobody turns it off, as it does for
// systemd. Names that start with + or - are directives of the compat service and
// no accounts; InRoot takes them for accounts all the same, as systemd-tmpfiles
// does. The order was found by running systemd-tmpfiles 262 on files that disagree.
//
// # When something fails
//
//	a file that is absent            is empty
//	a file that cannot be read       an error with its path, from every lookup that needs it
//	a line that is malformed         is passed over, as by the C library
//	a name or number nowhere found   ErrUnknown
//	an id of a file that is no id    ErrInvalidID (4294967295 means "do not change" to
//	                                 chown(2); 65535 was that once, and System refuses it)
//	getent fails, or takes too long  an error that is not ErrUnknown: nobody can tell. It is
//	                                 not asked again after it took too long.
//
// Each file is read once, at the first lookup that needs it, and each answer of
// getent is kept: a Source is a snapshot for one run. Make a new one to look again.
// A Source is safe for concurrent use; a slow getent holds up only lookups that
// need it.
//
// # When not to use it
//
// For passwords and logins, which are PAM's. For the complete list of users, which
// a name service may refuse to give.
package accounts
