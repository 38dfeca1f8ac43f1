package resolve

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseConfig(t *testing.T) {
	text := `# made by hand
nameserver 10.0.0.53 ; the first
nameserver not-an-address
nameserver fe80::1%eth0
nameserver 10.0.0.54
nameserver 10.0.0.55
domain example.net
search example.org. corp.example.org
options ndots:2 timeout:0 attempts:99 rotate ndots:x edns0
`
	c, err := ParseConfig(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Servers: []netip.Addr{netip.MustParseAddr("10.0.0.53"), netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("10.0.0.54")},
		Search:  []string{"example.org", "corp.example.org"}, Ndots: 2, Timeout: time.Second, Attempts: 5,
	}
	if fmt.Sprint(c) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", c, want)
	}
	if c, err := ParseConfig(strings.NewReader("")); err != nil || fmt.Sprint(c) != fmt.Sprint(Default()) {
		t.Errorf("of nothing: %v, %v", c, err)
	}
	for name, names := range map[string][]string{
		"db":     {"db.example.org.", "db.corp.example.org.", "db."},
		"a.b":    {"a.b.example.org.", "a.b.corp.example.org.", "a.b."},
		"a.b.c":  {"a.b.c.", "a.b.c.example.org.", "a.b.c.corp.example.org."},
		"a.b.c.": {"a.b.c."},
	} {
		if d := cmp.Diff(names, want.Names(name)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestHosts(t *testing.T) {
	text := "127.0.0.1 localhost\n::1 localhost ip6\n# 10.0.0.9 db\n10.0.0.1\tDB db.example.org. db # the first\n10.0.0.2 other db\nx db\n::ffff:10.0.0.3 db\n"
	got, err := Hosts(strings.NewReader(text), "db")
	if err != nil || fmt.Sprint(got) != "[10.0.0.1 10.0.0.2 10.0.0.3]" {
		t.Errorf("%v, %v", got, err)
	}
	if got, _ := Hosts(strings.NewReader(text), "DB.example.ORG."); fmt.Sprint(got) != "[10.0.0.1]" {
		t.Error(got)
	}
	if got, _ := Hosts(strings.NewReader(text), "nobody"); got != nil {
		t.Error(got)
	}
	if got := Local("Db.LocalHost."); len(got) != 2 || Local("localhost.example.org") != nil || Local("notlocalhost") != nil {
		t.Error(got)
	}
}

func TestValidName(t *testing.T) {
	long := strings.Repeat(strings.Repeat("a", 63)+".", 3)
	for _, s := range []string{"a", "a.", "my_app-1", "xn--bcher-kva.example", long + strings.Repeat("a", 61)} {
		if err := ValidName(s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"", ".", "a..b", ".a", "a b", "a/b", "bücher", "a\x00", strings.Repeat("a", 64), long + strings.Repeat("a", 63)} {
		if err := ValidName(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

// record appends a resource record whose owner is a pointer to the question, or an
// own name.
func record(b []byte, owner string, typ Type, data []byte) []byte {
	if owner == "" {
		b = append(b, 0xc0, headerSize)
	} else {
		b = append(b, Query(0, owner, typ)[headerSize:headerSize+len(owner)+2]...)
	}
	e := binary.BigEndian
	b = e.AppendUint16(b, uint16(typ))
	b = e.AppendUint16(b, classIN)
	b = e.AppendUint32(b, 60)
	b = e.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

func answer(id uint16, name string, t Type, flags uint16, records int) []byte {
	b := Query(id, name, t)
	binary.BigEndian.PutUint16(b[2:], flagAnswer|flags)
	binary.BigEndian.PutUint16(b[6:], uint16(records))
	return b
}

func TestAnswer(t *testing.T) {
	four := []byte{10, 0, 0, 1}
	six := append(make([]byte, 15), 1)
	canonical := Query(0, "real.example.", A)[headerSize : headerSize+14]
	chain := record(answer(7, "db.", A, 0, 3), "", cname, canonical)
	chain = record(chain, "real.example", A, four)
	chain = record(chain, "Stranger.example", A, []byte{6, 6, 6, 6})
	for what, c := range map[string]struct {
		msg  []byte
		typ  Type
		want string
		err  error
	}{
		"an address":          {record(answer(7, "DB", A, 0, 1), "", A, four), A, "{0 [10.0.0.1] false}", nil},
		"IPv6":                {record(answer(7, "db", AAAA, 0, 1), "", AAAA, six), AAAA, "{0 [::1] false}", nil},
		"a canonical name":    {chain, A, "{0 [10.0.0.1] false}", nil},
		"no such name":        {answer(7, "db", A, NoSuchName, 0), A, "{3 [] false}", nil},
		"cut off":             {record(answer(7, "db", A, flagTruncated, 5), "", A, four), A, "{0 [10.0.0.1] true}", nil},
		"refused, no echo":    {[]byte{0, 7, 0x80, Refused, 0, 0, 0, 0, 0, 0, 0, 0}, A, "{5 [] false}", nil},
		"another id":          {answer(8, "db", A, 0, 0), A, "", ErrOther},
		"another name":        {answer(7, "dc", A, 0, 0), A, "", ErrOther},
		"another type":        {answer(7, "db", AAAA, 0, 0), A, "", ErrOther},
		"a question":          {Query(7, "db", A), A, "", ErrOther},
		"nothing":             {nil, A, "", ErrOther},
		"fewer records":       {answer(7, "db", A, 0, 1), A, "", ErrMessage},
		"a record of 3 bytes": {record(answer(7, "db", A, 0, 1), "", A, four[:3]), A, "{0 [] false}", nil},
		"a pointer to itself": {append(answer(7, "db", A, 0, 1), 0xc0, 20, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0), A, "", ErrMessage},
	} {
		a, err := ParseAnswer(c.msg, 7, "db", c.typ)
		if !errors.Is(err, c.err) || err == nil && fmt.Sprint(a) != c.want {
			t.Errorf("%s: %v, %v", what, a, err)
		}
	}
	if q := Query(7, "db.example", A); string(q[headerSize:]) != "\x02db\x07example\x00\x00\x01\x00\x01" {
		t.Errorf("%q", q)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(record(answer(7, "db.", A, 0, 1), "", A, []byte{1, 2, 3, 4}))
	f.Add(record(answer(7, "db.", A, flagTruncated, 2), "", cname, []byte{0xc0, 12}))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAnswer(b, 7, "db", A)
		if err != nil && (a.Addrs != nil || !errors.Is(err, ErrOther) && !errors.Is(err, ErrMessage)) {
			t.Errorf("%v, %v", a, err)
		}
		for _, addr := range a.Addrs {
			if !addr.Is4() {
				t.Error(addr)
			}
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add("nameserver 10.0.0.1\nsearch a b\noptions ndots:3\n", "db")
	f.Add("1.2.3.4 db db.\n", "db.")
	f.Fuzz(func(t *testing.T, text, name string) {
		c, err := ParseConfig(strings.NewReader(text))
		if err == nil && (len(c.Servers) == 0 || len(c.Servers) > 3 || c.Ndots > 15 || c.Attempts < 1 || c.Timeout < time.Second) {
			t.Errorf("%+v", c)
		}
		Hosts(strings.NewReader(text), name)
		if ValidName(name) != nil {
			return
		}
		for _, full := range append(c.Names(name), name) {
			q := Query(1, full, A)
			binary.BigEndian.PutUint16(q[2:], flagAnswer)
			if _, err := ParseAnswer(q, 1, full, A); err != nil {
				t.Errorf("%q: %v", full, err)
			}
		}
	})
}
