package resolve

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Config is what resolv.conf(5) says.
type Config struct {
	// Servers are at most 3 name servers, in order; without any it is the one of
	// this machine, 127.0.0.1.
	Servers []netip.Addr
	// Search are the domains that a short name is tried with.
	Search []string
	// Ndots is how many dots a name has that is tried as it is first, 0 to 15.
	Ndots int
	// Timeout is how long one server may take, 1 to 30 seconds.
	Timeout time.Duration
	// Attempts is how often the list of servers is gone through, 1 to 5.
	Attempts int
}

// Limits of resolv.conf(5): MAXNS, and what the options are capped at.
const (
	maxServers  = 3
	maxNdots    = 15
	maxTimeout  = 30
	maxAttempts = 5
	maxSearch   = 32
)

// Default is the configuration of a machine without resolv.conf.
func Default() Config {
	return Config{Servers: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, Ndots: 1, Timeout: 5 * time.Second, Attempts: 2}
}

// ParseConfig reads resolv.conf(5). Lines that it does not know are passed over,
// as every resolver does. The error is the reader's.
func ParseConfig(r io.Reader) (Config, error) {
	c := Default()
	c.Servers = nil
	s := bufio.NewScanner(r)
	for s.Scan() {
		line := s.Text()
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil && len(c.Servers) < maxServers {
				c.Servers = append(c.Servers, a.Unmap())
			}
		case "domain", "search": // the last one counts
			c.Search = nil
			for _, d := range f[1:] {
				if d = strings.Trim(d, "."); d != "" && len(c.Search) < maxSearch {
					c.Search = append(c.Search, d)
				}
				if f[0] == "domain" {
					break
				}
			}
		case "options":
			c.options(f[1:])
		}
	}
	if len(c.Servers) == 0 {
		c.Servers = Default().Servers
	}
	return c, s.Err()
}

func (c *Config) options(list []string) {
	for _, o := range list {
		key, value, _ := strings.Cut(o, ":")
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			continue
		}
		switch key {
		case "ndots":
			c.Ndots = min(n, maxNdots)
		case "timeout":
			c.Timeout = time.Duration(min(max(n, 1), maxTimeout)) * time.Second
		case "attempts":
			c.Attempts = min(max(n, 1), maxAttempts)
		}
	}
}

// Names are the full names that name may stand for, in the order in which they
// are asked, each with a dot at its end. A name that ends in a dot is one already.
func (c *Config) Names(name string) []string {
	if strings.HasSuffix(name, ".") {
		return []string{name}
	}
	var list []string
	asIs := strings.Count(name, ".") >= c.Ndots
	if asIs {
		list = append(list, name+".")
	}
	for _, d := range c.Search {
		if full := name + "." + d + "."; ValidName(full) == nil {
			list = append(list, full)
		}
	}
	if !asIs {
		list = append(list, name+".")
	}
	return list
}

// Hosts returns the addresses that hosts(5) gives to name, nil without any. The
// error is the reader's.
func Hosts(r io.Reader, name string) ([]netip.Addr, error) {
	name = strings.TrimSuffix(name, ".")
	var list []netip.Addr
	s := bufio.NewScanner(r)
	for s.Scan() {
		line, _, _ := strings.Cut(s.Text(), "#")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		for _, n := range f[1:] {
			if strings.EqualFold(strings.TrimSuffix(n, "."), name) {
				if a, err := netip.ParseAddr(f[0]); err == nil {
					list = append(list, a.Unmap())
				}
				break
			}
		}
	}
	return list, s.Err()
}

// Local returns the loopback addresses if name is localhost or below it.
func Local(name string) []netip.Addr {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name != "localhost" && !strings.HasSuffix(name, ".localhost") {
		return nil
	}
	return []netip.Addr{netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}
}

// maxName is the longest name with the dot at its end: RFC 1035, 2.3.4 allows 255
// bytes with the length of each label and the end.
const maxName = 254

// ValidName says what keeps name from being the name of a host: empty, too long, a
// label of none or more than 63 bytes, a character that no host's name has. The
// underscore is allowed, as containers are called with it.
func ValidName(name string) error {
	name = strings.TrimSuffix(name, ".")
	if name == "" {
		return fmt.Errorf("the name is empty")
	}
	if len(name)+1 > maxName {
		return fmt.Errorf("the name has %d characters, more than %d", len(name), maxName-1)
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return fmt.Errorf("%.64q is no part of a name, which has 1 to 63 characters", label)
		}
		for _, b := range []byte(label) {
			if !(b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '-' || b == '_') {
				return fmt.Errorf("%q holds a character that no host's name has", label)
			}
		}
	}
	return nil
}
