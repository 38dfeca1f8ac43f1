// Package glob matches path names against shell patterns the way the C library
// does it, byte for byte, in the C locale.
//
// Two C functions are the model, because configuration files were written
// against them:
//
//   - fnmatch(3) with FNM_PATHNAME|FNM_PERIOD: [Match], [Compile] and [Set].
//     The pattern governs a whole path, a slash is matched by a slash alone.
//   - glob(3) with GLOB_BRACE|GLOB_NOSORT: [ExpandBraces] and [Components].
//     The pattern is cut at its slashes, and a directory walk of the caller
//     matches one component after the other.
//
// The rules, from glob(7) and fnmatch(3):
//
//   - any run of bytes, the empty one too, but no slash
//     ?        one byte, but no slash
//     [a-c]    one byte of the set; [!a-c] and [^a-c] one that is not in it
//     [[:alpha:]] [[=a=]] [[.a.]]  classes of the C locale, single bytes
//     \x       the byte x
//
// A period at the start of a component is matched by a period alone, not by
// *, ? or a bracket expression. A bracket that is never closed is an ordinary
// byte; a backslash at the very end matches nothing. Braces mean something to
// [ExpandBraces] only: for fnmatch(3) they are ordinary.
//
// Where glibc departs from the text of the manual, this package follows glibc:
// a period after "\/" is not a leading one, "*\/" matches nothing, "*?[.]" does
// not match the period of "a.", and "[xa-[:alpha:]]" ends at another bracket
// for x than for a. Tests compare both functions with the C library.
//
// Everything here is pure: no system call, no global state, no allocation
// in a match. [Pattern], [Component], [Set] and [Cursor] are immutable and safe
// for concurrent use. A match never backtracks further than the last star, so
// its cost is at most len(pattern)*len(name). Compiling a pattern is linear,
// but quadratic in the number of brackets that are never closed: bound what
// comes from outside by PATH_MAX before it gets here.
//
// When not to use it: for user interfaces that promise regular expressions,
// "**", or case folding; and for locales with collation, which the init of a
// machine does not have.
package glob
