// Package getopt parses a command line as getopt_long(3) does, for the
// commands that stand in for an existing program.
//
// # Why not package flag
//
// Scripts call systemd-tmpfiles and flock in every form getopt_long takes, and
// package flag takes few of them: `--cr` for --create, `-nE` for -n -E, `-w5`
// or `--wait 5` or `--wait=5`, an option behind an operand, `--` before an
// operand that begins with a dash. A stand-in that refuses one of them breaks
// a package's installation script.
//
// # The rules
//
//   - --name=value, or --name value if the option requires a value. An optional
//     value must be attached: --name=value, -nvalue.
//   - A long name may be shortened as long as one option is meant. A name given in
//     full always wins over those that it begins. Options that share their Short
//     letter and Arg are one option with several names.
//   - Short options may be bundled; the first that takes a value takes the rest of
//     the bundle, or the next argument if there is no rest.
//   - Options may stand behind operands (GNU's permutation), unless
//     StopAtOperand is set, as it must be where an operand is a command to run.
//     The variable POSIXLY_CORRECT is not looked at.
//   - "--" ends the options; "-" alone is an operand.
//
// A Parser yields one option at a time, so that --help is acted on before a
// mistake behind it is seen, as the originals do. Its errors are *Error, worded
// as systemd-tmpfiles 262 words them. Parse is the short form where the order
// does not matter. The table of Options is the single source of the help text
// (WriteHelp) and of shell completion (Flag, Option).
//
// # When not to use it
//
// The project's own commands have no history to be compatible with and use
// package flag.
package getopt
