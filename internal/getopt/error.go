package getopt

import "strings"

// Kind is what is wrong with an argument.
type Kind uint8

const (
	Unrecognized     Kind = iota + 1 // no such option
	Ambiguous                        // a shortened name that begins several
	MissingArgument                  // it requires a value and none follows
	UnwantedArgument                 // it takes no value and one is attached
)

// Error is a command line that does not fit the table. Programs print it behind
// their name and a colon, and end with the status for wrong usage:
//
//	systemd-tmpfiles: option '--prefix' requires an argument
type Error struct {
	Kind          Kind
	Name          string   // the option as the caller wrote it, dashes included and value not
	Possibilities []string // for Ambiguous, the options it may have meant
}

func (e *Error) Error() string {
	switch e.Kind {
	case Ambiguous:
		return "option '" + e.Name + "' is ambiguous; possibilities: " + strings.Join(e.Possibilities, ", ")
	case MissingArgument:
		return "option '" + e.Name + "' requires an argument"
	case UnwantedArgument:
		return "option '" + e.Name + "' doesn't allow an argument"
	}
	return "unrecognized option '" + e.Name + "'"
}
