package condition

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/resolve"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]Condition{
		"path:/a:b":             {Kind: Path, Operand: "/a:b"},
		"path:a b\n":            {Kind: Path, Operand: "a b\n"},
		"gone:.":                {Kind: Gone, Operand: "."},
		"listen:@x":             {Kind: Listen, Operand: "@x"},
		"lock:@x":               {Kind: Lock, Operand: "@x"},
		"user:me":               {Kind: User, Operand: "me"},
		"user:1000":             {Kind: User, Operand: "1000"},
		"tcp:db:5432":           {Kind: TCP, Operand: "db:5432", Host: "db", Port: 5432},
		"tcp:my_db.example.:1":  {Kind: TCP, Operand: "my_db.example.:1", Host: "my_db.example.", Port: 1},
		"tcp:10.0.0.1:65535":    {Kind: TCP, Operand: "10.0.0.1:65535", Host: "10.0.0.1", Port: 65535},
		"tcp:[::1]:80":          {Kind: TCP, Operand: "[::1]:80", Host: "::1", Port: 80},
		"tcp:[fe80::1%eth0]:80": {Kind: TCP, Operand: "[fe80::1%eth0]:80", Host: "fe80::1%eth0", Port: 80},
	} {
		c, err := Parse(text)
		if err != nil || c != want || c.String() != text {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	}
	for text, want := range map[string]string{
		"":                                    `"" is no condition: there are path:PATH, gone:PATH, `,
		"/run/x":                              "path:/run/x waits until it is there",
		"./x":                                 "path:./x waits",
		"db:5432":                             "tcp:db:5432 waits until connections are accepted there",
		"unit:nginx.service":                  "there are path:PATH",
		"Path:/x":                             "there are path:PATH",
		"path:":                               "the path is empty",
		"listen:":                             "the path is empty",
		"connect:@":                           "an abstract socket has a name",
		"listen:@" + strings.Repeat("x", 108): "an abstract socket has a name",
		"path:a\x00b":                         "NUL byte",
		"user:":                               "no name of a user",
		"user:a/b":                            "no name of a user",
		"tcp:db":                              "the port is missing",
		"tcp:db:":                             `"" is no port`,
		"tcp:db:0":                            `"0" is no port`,
		"tcp:db:+5":                           `"+5" is no port`,
		"tcp:db:65536":                        `"65536" is no port`,
		"tcp:db:http":                         `"http" is no port`,
		"tcp::80":                             "tcp:127.0.0.1:80 is this machine",
		"tcp:::1:80":                          "tcp:[::1]:80",
		"tcp:[10.0.0.1]:80":                   "no IPv6 address in brackets",
		"tcp:[::1:80":                         "no IPv6 address in brackets",
		"tcp:10.0.0.256:80":                   `"10.0.0.256" is no IPv4 address`,
		"tcp:a..b:80":                         "is no part of a name",
		"tcp:http://x:80":                     "stands in brackets",
		"tcp:a/b:80":                          "a character that no host's name has",
	} {
		if c, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v, want %q", text, c, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"path:/x", "tcp:[::1]:80", "tcp:db:5432", "user:me", "listen:@x", "tcp:[fe80::1%a]:1", "gone::", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text)
		if err != nil {
			if c != (Condition{}) {
				t.Errorf("%+v with %v", c, err)
			}
			return
		}
		again, err := Parse(c.String())
		if err != nil || again != c || c.String() != text {
			t.Errorf("%q: %+v, %v", text, again, err)
		}
		if c.Kind == TCP {
			if _, err := netip.ParseAddr(c.Host); err != nil && resolve.ValidName(c.Host) != nil || c.Port == 0 {
				t.Errorf("%+v", c)
			}
		} else if c.Operand == "" || c.Host != "" {
			t.Errorf("%+v", c)
		}
	})
}
