package conffiles

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// Style says how Cat prints.
type Style struct {
	// Brief leaves out comments and empty lines (--tldr).
	Brief bool
	// Color marks file names, comments and trailing backslashes by escape
	// sequences of ECMA-48. For terminals.
	Color bool
}

const (
	blue    = "\x1b[0;1;34m"
	magenta = "\x1b[0;1;35m"
	grey    = "\x1b[0;1;90m"
	red     = "\x1b[0;1;31m"
	normal  = "\x1b[0m"
)

// Cat prints the files of l in their order, each under a comment with its path.
// Without colour it prints what systemd-tmpfiles 262 prints.
//
// A file that cannot be read does not stop the rest; the errors are joined. A
// file that is gone meanwhile is left out. An error of w ends it.
func Cat(w io.Writer, l *List, style Style) error {
	c := catter{w: bufio.NewWriter(w), style: style}
	var errs []error
	first := true
	for _, f := range l.Files {
		if f.Replacement {
			continue
		}
		r, err := f.Open()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !first {
			c.w.WriteString("\n")
		}
		first = false
		if err := c.file(f, r); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f.Path, err))
		}
		r.Close()
	}
	if err := c.w.Flush(); err != nil {
		return err
	}
	return errors.Join(errs...)
}

type catter struct {
	w     *bufio.Writer
	style Style
	lines *Lines
}

// put writes s in a colour, with a newline.
func (c *catter) put(color, s string) {
	if c.style.Color {
		s = color + s + normal
	}
	c.w.WriteString(s)
	c.w.WriteByte('\n')
}

func (c *catter) file(f *File, r io.Reader) error {
	if f.Empty {
		c.put(magenta, "# "+f.Path+" is a mask.")
		return nil
	}
	if f.Target != "" {
		c.put(blue, "# "+f.Path+" -> "+f.Target)
	} else {
		c.put(blue, "# "+f.Path)
	}
	if c.lines == nil {
		c.lines = NewLines(r)
	}
	c.lines.Reset(r)
	for {
		line, err := c.lines.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		c.line(line)
	}
}

func (c *catter) line(line []byte) {
	text := bytes.TrimLeft(line, " \t\n\r")
	switch {
	case len(text) > 0 && bytes.IndexByte([]byte("#;\n"), text[0]) >= 0:
		if !c.style.Brief {
			c.put(grey, string(line))
		}
	case c.style.Brief && (len(text) == 0 || string(text) == `\`):
	case c.style.Color && trailingBackslash(line):
		c.w.Write(line[:len(line)-1])
		c.put(red, `\`)
	default:
		c.w.Write(line)
		c.w.WriteByte('\n')
	}
}

// trailingBackslash reports whether line ends in a backslash that no other one
// quotes.
func trailingBackslash(line []byte) bool {
	n := len(line) - len(bytes.TrimRight(line, `\`))
	return n%2 == 1
}
