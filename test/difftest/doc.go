// Package difftest holds "slashrun tmpfiles" against the reference, the real
// systemd-tmpfiles of Debian's packages, from outside: both executables run on
// the same tree with the same configuration and command line, and the exit
// status and the whole resulting tree must be equal (type, mode, owner, content,
// ACL, extended attributes, inode flags, link targets, groups of hard links,
// device numbers, and times where they can be told from "now").
//
// # Where the cases come from
//
//   - testdata/corpus: named cases, one for every rule of the manual pages that
//     somebody could get wrong. Each states the exit status and the tree that the
//     reference left, and those of ours where an accepted difference shows
//     (measured, "go test -update" writes them), so the corpus also runs where
//     the reference is not there.
//   - a seeded generator (SLASHRUN_DIFF_CASES, SLASHRUN_DIFF_SEED).
//   - the tmpfiles.d files of more than a hundred real packages.
//
// A difference is a bug of ours, or it stands in docs/tmpfiles-differences.md
// with an id and has a predicate of that id here; a test holds the two together.
// A newer reference than 262 reports its differences and does not fail.
//
// # How a case runs
//
// A worker is the test binary again, in its own PID and mount namespaces, with a
// root of its own (a tmpfs, or an ext4 image) in which only the C library of the
// host is bound, read-only. It wipes that root, lays out the tree, runs one
// executable, reads the tree back; then the same with the other. One worker
// serves thousands of cases, so a case costs two execs and not two namespaces.
//
// The attack and fault tests beside it use the same executables from outside,
// too: see attack_test.go and fault_test.go.
package difftest
