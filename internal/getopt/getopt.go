package getopt

import (
	"strings"
	"unicode/utf8"
)

// ArgKind says whether an option takes a value.
type ArgKind uint8

const (
	NoArg       ArgKind = iota // --name; a value is an error
	RequiredArg                // --name=value, --name value, -nvalue, -n value
	OptionalArg                // --name or --name=value, -n or -nvalue
)

// Option is one row of a command's table.
type Option struct {
	Long      string  // name without its dashes; "" if there is only a Short
	Short     rune    // 0 if there is only a Long
	Arg       ArgKind // whether it takes a value
	Help      string  // one sentence for the help text, without a full stop; "" hides the option there
	ValueName string  // what the value is called in the help text, "PATH"; "" reads "VALUE"
	Whole     bool    // Long cannot be shortened, nor makes it what another option is shortened to ambiguous
}

// Name is how the option is written without a value: "--long", or "-s" if it
// has no long name.
func (o *Option) Name() string {
	if o.Long != "" {
		return "--" + o.Long
	}
	return "-" + string(o.Short)
}

// Parser walks over the arguments of one command. It keeps the slices it was
// given and changes neither.
type Parser struct {
	// StopAtOperand ends the options at the first operand, for commands like
	// flock whose operands are a command line of their own.
	StopAtOperand bool

	options  []Option
	args     []string // not looked at yet
	bundle   string   // what is left of an argument like -nE
	operands []string

	opt      *Option
	value    string
	hasValue bool
	err      error
}

// New makes a Parser over args, which begin behind the name of the command.
func New(options []Option, args []string) *Parser {
	return &Parser{options: options, args: args}
}

// Next goes to the next option. It returns false at the end of the arguments
// and at the first error: see Err.
func (p *Parser) Next() bool {
	p.opt, p.value, p.hasValue = nil, "", false
	if p.err != nil {
		return false
	}
	if p.bundle != "" {
		p.err = p.short()
		return p.err == nil
	}
	for len(p.args) > 0 {
		arg := p.args[0]
		switch {
		case arg == "--":
			p.operands = append(p.operands, p.args[1:]...)
			p.args = nil
			return false
		case len(arg) < 2 || arg[0] != '-':
			if p.StopAtOperand {
				p.operands = append(p.operands, p.args...)
				p.args = nil
				return false
			}
			p.operands = append(p.operands, arg)
			p.args = p.args[1:]
			continue
		}
		p.args = p.args[1:]
		if arg[1] == '-' {
			p.err = p.long(arg[2:])
		} else {
			p.bundle = arg[1:]
			p.err = p.short()
		}
		return p.err == nil
	}
	return false
}

// Option is the row of the table that Next found, or nil if it found none.
func (p *Parser) Option() *Option { return p.opt }

// Value is the value of the option that Next found; ok is false if it has
// none, which is not the same as an empty one (--prefix=).
func (p *Parser) Value() (value string, ok bool) { return p.value, p.hasValue }

// Err is the *Error that made Next return false, or nil at the end of the
// arguments.
func (p *Parser) Err() error { return p.err }

// Operands are the arguments that are no options, in order. They are complete
// once Next returned false without an error.
func (p *Parser) Operands() []string { return p.operands }

func (p *Parser) long(arg string) error {
	name, value, attached := strings.Cut(arg, "=")
	opt, err := p.find(name)
	if err != nil {
		return err
	}
	switch {
	case attached && opt.Arg == NoArg:
		return &Error{Kind: UnwantedArgument, Name: "--" + name}
	case attached:
		p.value, p.hasValue = value, true
	case opt.Arg == RequiredArg:
		if len(p.args) == 0 {
			return &Error{Kind: MissingArgument, Name: "--" + name}
		}
		p.value, p.hasValue = p.args[0], true
		p.args = p.args[1:]
	}
	p.opt = opt
	return nil
}

// find resolves a long name, which may be shortened.
func (p *Parser) find(name string) (*Option, error) {
	var found []*Option
	ambiguous := false
	for i := range p.options {
		o := &p.options[i]
		if o.Long == "" || name == "" || !strings.HasPrefix(o.Long, name) {
			continue
		}
		if o.Long == name {
			return o, nil
		}
		if o.Whole {
			continue
		}
		found = append(found, o)
		if first := found[0]; o != first && (o.Short == 0 || o.Short != first.Short || o.Arg != first.Arg) {
			ambiguous = true
		}
	}
	switch {
	case len(found) == 0:
		return nil, &Error{Kind: Unrecognized, Name: "--" + name}
	case ambiguous:
		e := &Error{Kind: Ambiguous, Name: "--" + name}
		for _, o := range found {
			e.Possibilities = append(e.Possibilities, o.Name())
		}
		return nil, e
	}
	return found[0], nil
}

// short takes one letter off the bundle.
func (p *Parser) short() error {
	letter, size := utf8.DecodeRuneInString(p.bundle)
	name := "-" + p.bundle[:size]
	rest := p.bundle[size:]
	p.bundle = ""
	opt := p.letter(letter)
	if opt == nil || letter == utf8.RuneError {
		return &Error{Kind: Unrecognized, Name: name}
	}
	switch {
	case opt.Arg == NoArg:
		p.bundle = rest
	case rest != "":
		p.value, p.hasValue = rest, true
	case opt.Arg == RequiredArg:
		if len(p.args) == 0 {
			return &Error{Kind: MissingArgument, Name: name}
		}
		p.value, p.hasValue = p.args[0], true
		p.args = p.args[1:]
	}
	p.opt = opt
	return nil
}

func (p *Parser) letter(r rune) *Option {
	for i := range p.options {
		if o := &p.options[i]; o.Short != 0 && o.Short == r {
			return o
		}
	}
	return nil
}

// Match is one option as Parse found it.
type Match struct {
	Option   *Option
	Value    string
	HasValue bool
}

// Parse takes all of args at once: the options in order, and the operands.
// The error is an *Error.
func Parse(options []Option, args []string) ([]Match, []string, error) {
	p := New(options, args)
	var matches []Match
	for p.Next() {
		matches = append(matches, Match{p.opt, p.value, p.hasValue})
	}
	if p.err != nil {
		return nil, nil, p.err
	}
	return matches, p.operands, nil
}
