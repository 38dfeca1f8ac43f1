package condition

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/slashrun/slashrun/internal/resolve"
)

// Kind is the word before the first colon of a condition.
type Kind string

// The kinds; the package documentation says when each holds.
const (
	Path    Kind = "path"
	Gone    Kind = "gone"
	Listen  Kind = "listen"
	Connect Kind = "connect"
	TCP     Kind = "tcp"
	Lock    Kind = "lock"
	PIDFile Kind = "pidfile"
	User    Kind = "user"
)

// Kinds are all kinds, each with the form of its operand.
var Kinds = [...]struct {
	Kind    Kind
	Operand string
}{
	{Path, "PATH"}, {Gone, "PATH"}, {Listen, "PATH"}, {Connect, "PATH"}, {TCP, "HOST:PORT"},
	{Lock, "PATH"}, {PIDFile, "PATH"}, {User, "NAME"},
}

// Condition is one thing to wait for. Parse makes it.
type Condition struct {
	Kind Kind
	// Operand is what stands behind the kind's colon: a path, or the name of a user.
	Operand string
	// Host and Port are those of TCP. Host is a name or an address without brackets.
	Host string
	Port uint16
}

// String is what Parse reads as the same condition.
func (c Condition) String() string { return string(c.Kind) + ":" + c.Operand }

// Parse reads KIND:OPERAND. It looks at nothing but the text.
func Parse(text string) (Condition, error) {
	word, operand, ok := strings.Cut(text, ":")
	c := Condition{Operand: operand}
	for _, k := range Kinds {
		if ok && string(k.Kind) == word {
			c.Kind = k.Kind
			if err := c.check(); err != nil {
				return Condition{}, fmt.Errorf("%q: %w", text, err)
			}
			return c, nil
		}
	}
	return Condition{}, fmt.Errorf("%q is no condition: %s", text, guess(text))
}

// guess says what may have been meant.
func guess(text string) string {
	_, port, ok := cutPort(text)
	switch _, err := parsePort(port); {
	case strings.HasPrefix(text, "/"), strings.HasPrefix(text, "./"):
		return "path:" + text + " waits until it is there"
	case ok && err == nil:
		return "tcp:" + text + " waits until connections are accepted there"
	}
	var b strings.Builder
	for i, k := range Kinds {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(k.Kind) + ":" + k.Operand)
	}
	return "there are " + b.String()
}

var errEmptyPath = errors.New("the path is empty")

func (c *Condition) check() error {
	if strings.IndexByte(c.Operand, 0) >= 0 {
		return errors.New("it holds a NUL byte, which no path and no name can")
	}
	switch c.Kind {
	case TCP:
		return c.checkTCP()
	case User:
		// What passwd(5) cannot hold. A number is the user's id.
		if c.Operand == "" || strings.ContainsAny(c.Operand, ":/\n") {
			return errors.New("that is no name of a user")
		}
		return nil
	case Listen, Connect:
		if abstract(c.Operand) && (len(c.Operand) == 1 || len(c.Operand) > maxAbstract) {
			return fmt.Errorf("an abstract socket has a name of 1 to %d bytes behind the @ (a file is ./@...)", maxAbstract-1)
		}
	}
	if c.Operand == "" {
		return errEmptyPath
	}
	return nil
}

// maxAbstract is the room of sun_path, unix(7), the leading NUL included.
const maxAbstract = 108

// abstract reports whether a socket's name is an abstract one.
func abstract(name string) bool { return strings.HasPrefix(name, "@") }

func (c *Condition) checkTCP() error {
	host, port, ok := cutPort(c.Operand)
	if !ok {
		return errors.New("the port is missing: tcp:HOST:PORT")
	}
	var err error
	if c.Port, err = parsePort(port); err != nil {
		return err
	}
	if host == "" {
		return fmt.Errorf("the host is missing: tcp:127.0.0.1:%s is this machine", port)
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		if a, err := netip.ParseAddr(inner); !ok || err != nil || !a.Is6() {
			return fmt.Errorf("%q is no IPv6 address in brackets", host)
		}
		c.Host = inner
		return nil
	}
	if strings.Contains(host, ":") {
		return fmt.Errorf("an IPv6 address stands in brackets: tcp:[%s]:%s", host, port)
	}
	c.Host = host
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if strings.Trim(host, "0123456789.") == "" { // 10.0.0.256 is no name that anybody can have
		return fmt.Errorf("%q is no IPv4 address", host)
	}
	return resolve.ValidName(host)
}

// cutPort cuts at the last colon.
func cutPort(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '+' {
		return 0, fmt.Errorf("%q is no port: a number from 1 to 65535", s)
	}
	return uint16(n), nil
}
