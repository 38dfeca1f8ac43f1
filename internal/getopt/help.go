package getopt

import (
	"io"
	"strings"
	"unicode/utf8"
)

// helpWidth is the width in columns that help text is wrapped to, the width of
// a terminal that nobody resized.
const helpWidth = 80

// Label is the option's left column in a help text: "-n --dry-run",
// "   --prefix=PATH", "-E", "   --color[=WHEN]".
func (o *Option) Label() string {
	value := o.ValueName
	if value == "" {
		value = "VALUE"
	}
	var b strings.Builder
	if o.Short != 0 {
		b.WriteString("-" + string(o.Short))
	} else {
		b.WriteString("  ")
	}
	if o.Long != "" {
		b.WriteString(" --" + o.Long)
	}
	switch {
	case o.Arg == OptionalArg:
		b.WriteString("[=" + value + "]")
	case o.Arg == RequiredArg && o.Long == "":
		b.WriteString(" " + value)
	case o.Arg == RequiredArg:
		b.WriteString("=" + value)
	}
	return b.String()
}

// WriteHelp writes a line for each option that has a Help, wrapped to 80
// columns with the second column aligned over all of options. To print several
// sections with one alignment, pass the whole table as align.
func WriteHelp(w io.Writer, options, align []Option) error {
	column := 0
	for _, table := range [][]Option{options, align} {
		for i := range table {
			if table[i].Help != "" {
				column = max(column, utf8.RuneCountInString(table[i].Label()))
			}
		}
	}
	var b strings.Builder
	for i := range options {
		o := &options[i]
		if o.Help == "" {
			continue
		}
		label := o.Label()
		b.WriteString("  " + label + strings.Repeat(" ", column-utf8.RuneCountInString(label)))
		wrap(&b, o.Help, 2+column)
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// wrap writes text word by word from column indent on.
func wrap(b *strings.Builder, text string, indent int) {
	at := indent
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		if at > indent && at+1+n > helpWidth {
			b.WriteString("\n" + strings.Repeat(" ", indent))
			at = indent
		}
		b.WriteString(" " + word)
		at += 1 + n
	}
}
