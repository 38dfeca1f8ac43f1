// Package quoting splits configuration lines into words and resolves C
// escapes, in the dialect that tmpfiles.d(5) and unit files use.
//
// A word ends at unquoted white space: space, tab, newline, carriage return
// (vertical tab and form feed belong to a word). Quotes may begin and end
// anywhere in a word, so a"b c"'d' is the one word "ab cd". A backslash means
// the same inside both kinds of quotes and outside of them, other than in a
// shell.
//
// # Escapes
//
//	\a \b \f \n \r \t \v     the control characters of C
//	\\ \" \'                 the character itself
//	\s                       a space
//	\xHH                     the byte with that value, exactly two hex digits
//	\OOO                     the byte with that value, exactly three octal digits
//	\uXXXX \UXXXXXXXX        a code point, as UTF-8
//
// An escape may not make a NUL byte (no path, name or xattr could carry it), a
// surrogate, or an octal value above 377; \U, but not \u, also refuses the
// noncharacters (FDD0 to FDEF, and the last two of each plane). Bytes above 7F
// pass through untouched, whether they are UTF-8 or not.
//
// # When it fails
//
// Every error is an *Error with the byte offset of the culprit in the input
// and one of three causes: ErrEscape, ErrTrailingBackslash, ErrUnbalanced.
//
// # When not to use it
//
// For shell words (/etc/default, os-release): there a backslash inside single
// quotes is literal, and $ expands. For white space alone: strings.Fields.
package quoting
