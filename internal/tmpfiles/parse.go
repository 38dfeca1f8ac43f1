package tmpfiles

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/slashrun/slashrun/internal/quoting"
	"github.com/slashrun/slashrun/internal/specifier"
)

// Env is what a line refers to besides itself. The functions may be called once
// for every line; they cache by themselves.
type Env struct {
	Boot     bool // lines with `!` count
	Graceful bool // unknown users and groups are no error
	Include  []string
	Exclude  []string

	// Expand replaces specifiers; a result of more than limit bytes is an
	// error, 0 is no limit. See package specifier for the kinds of errors.
	Expand func(s string, limit int) (string, error)
	// User and Group resolve names and numbers. accounts.ErrUnknown is what
	// --graceful forgives.
	User, Group func(string) (uint32, error)
	// Credential reads one; fs.ErrNotExist skips the line.
	Credential func(string) ([]byte, error)
	// SourceExists says whether the source of a C line is there.
	SourceExists func(string) bool
}

// LineError is what is wrong with a line.
type LineError struct {
	Source Source
	Field  string // "type", "path", "mode", "user", "group", "age", "argument", or "" for the line
	Text   string // the field as written
	Line   string // the whole line as written
	Err    error
	// Fatal errors stop the run where the file was named on the command line
	// (exit status 1); the others make the line ignored and the exit status 65.
	Fatal bool
}

func (e *LineError) Error() string {
	var b strings.Builder
	b.WriteString(e.Source.String())
	b.WriteString(": ")
	if e.Field != "" {
		b.WriteString(e.Field)
		if e.Text != "" {
			b.WriteString(" ")
			b.WriteString(strconv.Quote(shorten(e.Text)))
		}
		b.WriteString(": ")
	}
	b.WriteString(e.Err.Error())
	return b.String()
}

func (e *LineError) Unwrap() error { return e.Err }

func shorten(s string) string {
	if len(s) > 120 {
		return s[:117] + "..."
	}
	return s
}

// errSkip makes a line not count, without an error.
var errSkip = errors.New("line skipped")

// Notice is something that a person should know and that is no error.
type Notice struct {
	Source  Source
	Message string
}

func (n Notice) String() string { return n.Source.String() + ": " + n.Message }

// lineParser parses the lines of one file.
type lineParser struct {
	env    *Env
	notice func(Source, string)
	skip   func(Source, string) // why a line does not count; for --explain and debugging
}

// fields are the first six fields of a line and the raw rest.
type fields struct {
	action, path, mode, user, group, age string
	argument                             string
}

func splitFields(line string) (f fields, n int, err error) {
	dst := [...]*string{&f.action, &f.path, &f.mode, &f.user, &f.group, &f.age}
	rest := line
	for i, d := range dst {
		word, r, ok, err := quoting.Word(rest, quoting.Fields)
		if err != nil {
			return f, i, err
		}
		if !ok {
			return f, i, nil
		}
		*d, rest = word, r
	}
	f.argument = rest
	return f, len(dst), nil
}

func emptyOrDash(s string) bool { return s == "" || s == "-" }

// parse makes an Item of a line; errSkip means that the line does not count.
func (p *lineParser) parse(src Source, line string) (*Item, error) {
	f, n, err := splitFields(line)
	if err != nil {
		return nil, &LineError{Source: src, Err: err}
	}
	if n < 2 {
		return nil, &LineError{Source: src, Err: errors.New("a line needs at least a type and a path")}
	}
	it := &Item{Source: src}
	bad := func(field, text string, err error) (*Item, error) {
		return nil, &LineError{Source: src, Field: field, Text: text, Err: err}
	}
	if err := parseAction(it, f.action); err != nil {
		return bad("type", f.action, err)
	}
	if it.Mod.Boot && !p.env.Boot {
		p.skip(src, "only counts with --boot")
		return nil, errSkip
	}
	if it.Path, err = p.env.Expand(f.path, pathMax); err != nil {
		return nil, p.expandError(src, "path", f.path, err)
	}
	if rest, ok := strings.CutPrefix(it.Path, "/var/run/"); ok && strings.Trim(rest, "/") != "" {
		it.Path = "/run/" + rest
		p.notice(src, "path is below the legacy directory /var/run, taking "+it.Path+"; please update the line")
	}
	if !strings.HasPrefix(it.Path, "/") {
		return bad("path", it.Path, errors.New("not absolute"))
	}
	it.Path = simplify(it.Path)
	if !emptyOrDash(f.argument) {
		it.Argument, it.HasArg = f.argument, true
	}
	if err := checkArgument(it); err != nil {
		return bad("argument", it.Argument, err)
	}
	if err := p.typedArgument(it); err != nil {
		return bad("argument", it.Argument, err)
	}
	if !included(it.Path, p.env.Include, p.env.Exclude) {
		p.skip(src, "outside --prefix, or inside --exclude-prefix")
		return nil, errSkip
	}
	if err := p.argument(it); err != nil {
		return nil, err
	}
	if err := p.owners(it, f); err != nil {
		return nil, err
	}
	return it, nil
}

func parseAction(it *Item, action string) error {
	if action == "" {
		return errors.New("is empty")
	}
	it.Type = Type(action[0])
	m := &it.Mod
	for i := 1; i < len(action); i++ {
		var flag *bool
		switch action[i] {
		case '!':
			flag = &m.Boot
		case '+':
			flag = &m.Plus
		case '-':
			flag = &m.MayFail
		case '=':
			flag = &m.Replace
		case '~':
			flag = &m.Base64
		case '^':
			flag = &m.Credential
		case '$':
			flag = &m.Purge
		case '?':
			flag = &m.IfTarget
		default:
			return fmt.Errorf("unknown modifier %q", action[i])
		}
		if *flag {
			return fmt.Errorf("modifier %q twice", action[i])
		}
		*flag = true
	}
	return nil
}

// checkArgument applies the rules about which types and modifiers go together.
func checkArgument(it *Item) error {
	t := it.Type
	if !t.in(plainTypes) && !t.in(globTypes) {
		return fmt.Errorf("unknown line type %q", byte(t))
	}
	switch {
	case it.Mod.Purge && !t.in(purgeTypes):
		return fmt.Errorf("modifier '$' does not go with line type %q, which --purge never removes", byte(t))
	case it.Mod.IfTarget && t != 'L':
		return fmt.Errorf("modifier '?' does not go with line type %q, only with 'L'", byte(t))
	case it.Mod.Base64 && t.in(noBase64):
		return fmt.Errorf("modifier '~' (base64) does not go with line type %q", byte(t))
	case it.HasArg && t.in(noArgTypes):
		return fmt.Errorf("line type %q takes no argument: use '-'", byte(t))
	case !it.HasArg && t.in(needArgTypes):
		return fmt.Errorf("line type %q needs an argument", byte(t))
	}
	return nil
}

// simplify drops doubled and trailing slashes and "." components; ".." stays,
// and is refused when the path is used.
func simplify(p string) string {
	if !strings.Contains(p, "..") {
		return path.Clean(p)
	}
	parts := strings.Split(p, "/")
	out := parts[:0]
	for _, s := range parts {
		if s != "" && s != "." {
			out = append(out, s)
		}
	}
	return "/" + strings.Join(out, "/")
}

// hasPrefixPath is path_startswith: whole components only.
func hasPrefixPath(p, prefix string) bool {
	prefix = simplify(prefix)
	if prefix == "/" {
		return true
	}
	return strings.HasPrefix(p, prefix) && (len(p) == len(prefix) || p[len(prefix)] == '/')
}

func included(p string, include, exclude []string) bool {
	for _, e := range exclude {
		if hasPrefixPath(p, e) {
			return false
		}
	}
	for _, i := range include {
		if hasPrefixPath(p, i) {
			return true
		}
	}
	return len(include) == 0
}

// argument expands, defaults and decodes the argument of the types that carry
// text: f F w L C, and the values of t T.
func (p *lineParser) argument(it *Item) error {
	bad := func(err error) error {
		return &LineError{Source: it.Source, Field: "argument", Text: it.Argument, Err: err}
	}
	if it.HasArg && !it.Mod.Base64 {
		text := it.Argument
		if err := p.expandArgument(it); err != nil {
			return p.expandError(it.Source, "argument", text, err)
		}
	}
	switch it.Type {
	case 'L', 'C':
		if !it.HasArg {
			it.Argument, it.HasArg = simplify("/usr/share/factory"+it.Path), true
		}
	}
	if it.Type == 'C' {
		if !strings.HasPrefix(it.Argument, "/") {
			return bad(errors.New("source path is not absolute"))
		}
		it.Argument = simplify(it.Argument)
		if !p.env.SourceExists(it.Argument) {
			p.skip(it.Source, "copy source "+it.Argument+" does not exist")
			return errSkip
		}
	}
	if err := p.credential(it); err != nil {
		return err
	}
	if it.Content == nil && it.HasArg {
		it.Content = []byte(it.Argument)
	}
	if it.Mod.Base64 && it.HasArg {
		data, err := decodeBase64(it.Content)
		if err != nil {
			return &LineError{Source: it.Source, Field: "argument", Text: it.Argument, Err: err, Fatal: true}
		}
		it.Content = data
	}
	return nil
}

// pathMax is the longest text that specifiers may expand to, PATH_MAX without
// its NUL byte; for the content of files too, as in the reference.
const pathMax = 4095

// expandError judges a failure of Expand: a specifier that is not known yet
// skips the line, one that does not exist makes it invalid, anything else stops
// an explicit file.
func (p *lineParser) expandError(src Source, field, text string, err error) error {
	if errors.Is(err, specifier.ErrUnresolvable) {
		p.skip(src, err.Error())
		return errSkip
	}
	var quote *quoting.Error
	invalid := errors.Is(err, specifier.ErrUnknown) || errors.Is(err, specifier.ErrBadText) || errors.As(err, &quote)
	return &LineError{Source: src, Field: field, Text: text, Err: err, Fatal: !invalid}
}

func (p *lineParser) expandArgument(it *Item) (err error) {
	switch it.Type {
	case 'f', 'F', 'w', 'L', 'C':
		plain, err := quoting.Unescape(it.Argument)
		if err != nil {
			return err
		}
		it.Argument, err = p.env.Expand(plain, pathMax)
		return err
	case 't', 'T':
		for i := range it.Xattrs {
			x := &it.Xattrs[i]
			if x.Name, err = p.env.Expand(x.Name, 0); err != nil {
				return err
			}
			if x.Value, err = p.env.Expand(x.Value, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *lineParser) credential(it *Item) error {
	if !it.Mod.Credential {
		return nil
	}
	fatal := func(err error) error {
		return &LineError{Source: it.Source, Field: "argument", Text: it.Argument, Err: err, Fatal: true}
	}
	if !it.HasArg {
		return fatal(errors.New("modifier '^' needs the name of a credential"))
	}
	if !validCredential(it.Argument) {
		return fatal(errors.New("not a valid name of a credential"))
	}
	data, err := p.env.Credential(it.Argument)
	if errors.Is(err, fs.ErrNotExist) {
		p.skip(it.Source, "credential "+it.Argument+" is not set")
		return errSkip
	}
	if err != nil {
		return fatal(err)
	}
	it.Content = data
	if it.Content == nil {
		it.Content = []byte{}
	}
	return nil
}

// validCredential: a file name, of the characters that systemd.exec(5) allows.
func validCredential(name string) bool {
	if name == "" || name == "." || name == ".." || len(name) > 255 {
		return false
	}
	for i := 0; i < len(name); i++ {
		if c := name[i]; c == '/' || c < 0x20 || c >= 0x7f || c == ':' {
			return false
		}
	}
	return true
}

// decodeBase64 ignores white space, as the reference does; padding is required.
func decodeBase64(data []byte) ([]byte, error) {
	clean := make([]byte, 0, len(data))
	for _, c := range data {
		if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			clean = append(clean, c)
		}
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(clean)))
	n, err := base64.StdEncoding.Strict().Decode(out, clean)
	if err != nil {
		return nil, errors.New("not valid base64")
	}
	return out[:n], nil
}
