package posixacl

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var errUnknown = errors.New("unknown name")

// daemon is user and group 1, as on every Debian; nobody else has a name.
func daemon(name string) (uint32, error) {
	if name == "daemon" {
		return 1, nil
	}
	return 0, errUnknown
}

var names = Lookup{User: daemon, Group: daemon}

// testdata/acl_from_text.txt holds generated texts, quoted, and behind a tab
// what acl_from_text(3) and acl_to_any_text(3) of libacl 2.3.1 make of them, or !.
func TestParseTextAgreesWithLibacl(t *testing.T) {
	data, err := os.ReadFile("testdata/acl_from_text.txt")
	if err != nil {
		t.Fatal(err)
	}
	short := strings.NewReplacer("user:", "u:", "group:", "g:", "mask:", "m:", "other:", "o:")
	n := 0
	for line := range strings.Lines(string(data)) {
		quoted, want, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		text, err := strconv.Unquote(quoted)
		if err != nil {
			t.Fatal(quoted, err)
		}
		n++
		a, err := parseText(text, names)
		got := a.String()
		if err != nil {
			got = "!"
		}
		if want = short.Replace(want); got != want {
			t.Errorf("parseText(%q) = %s (%v), libacl: %s", text, got, err, want)
		}
	}
	if n < 200 {
		t.Errorf("only %d texts in the table", n)
	}
}

// What systemd-tmpfiles 262.1 makes of an argument.
func TestParse(t *testing.T) {
	for _, c := range []struct {
		arg, access, def string
		err              error
	}{
		{"u:1:rwx", "u:1:rwx", "", nil},
		{"user:daemon:rw", "u:1:rw-", "", nil},
		{"u:1:xwr", "u:1:rwx", "", nil},
		{"u:1:-r", "u:1:r--", "", nil},
		{"u:1:-", "u:1:---", "", nil},
		{"o::r,m::w,g:1:x,g::-,u:2:r,u:1:rw,u::rwx", "u::rwx,u:1:rw-,u:2:r--,g::---,g:1:--x,m::-w-,o::r--", "", nil},
		{"u:1:rwx,u:1:r", "u:1:rwx,u:1:r--", "", nil},
		{",u:1:rwx,,g:1:r,", "u:1:rwx,g:1:r--", "", nil},
		{" u :1:rwx , g:1:r", "u:1:rwx,g:1:r--", "", nil},
		{"u:1:r # why,g:1:r", "u:1:r--", "", nil},
		{"u:1:rX,d:u:2:rX,u:3:x", "u:1:r-X,u:3:--x", "u:2:r-x", nil},
		{"default:g::rx,d:o::-", "", "g::r-x,o::---", nil},
		{"", "", "", nil},
		{",,", "", "", nil},
		{"u:-1:r", "u:65535:r--", "", nil},
		{"u:0x10:r,u:010:r", "u:8:r--,u:16:r--", "", nil},
		{"u:4294967294:r", "u:4294967294:r--", "", nil},
		{"u:4294967296:r", "", "", ErrID},
		{"u:99999999999999999999:r", "", "", ErrID},
		{"u:nosuch:r", "", "", errUnknown},
		{"g:no such:r", "", "", errUnknown},
		{`u:1:r\`, "", "", ErrSyntax},
		{`u:1:r\x2cu:2:r`, "", "", ErrSyntax},
		{"u:1:rwx g:1:r", "", "", ErrSyntax},
		{"u:1:7", "", "", ErrSyntax},
		{"u:1:rrr", "", "", ErrSyntax},
		{"u:1:rxX", "", "", ErrSyntax},
		{"u:1:rwxr", "", "", ErrSyntax},
		{"u:1:", "", "", ErrSyntax},
		{"u:1: r", "", "", ErrSyntax},
		{"u:1", "", "", ErrSyntax},
		{"o:r", "", "", ErrSyntax},
		{"o:1:r", "", "", ErrSyntax},
		{"m:1:r", "", "", ErrSyntax},
		{"d:d:u:1:r", "", "", ErrSyntax},
		{"D:u:1:r", "", "", ErrSyntax},
		{"X:1:r", "", "", ErrSyntax},
		{"USER:1:r", "", "", ErrSyntax},
		{"us:1:r", "", "", ErrSyntax},
		{"default:", "", "", ErrSyntax},
		{"#comment", "", "", ErrSyntax},
	} {
		s, err := Parse(c.arg, names)
		if !errors.Is(err, c.err) || s.Access.String() != c.access || s.Default.String() != c.def {
			t.Errorf("Parse(%q) = %s | %s, %v, want %s | %s, %v", c.arg, s.Access, s.Default, err, c.access, c.def, c.err)
		}
		var e *Error
		if err != nil && (!errors.As(err, &e) || e.Entry == "") {
			t.Errorf("Parse(%q): %#v names no entry", c.arg, err)
		}
	}
}

func TestParseWithoutLookup(t *testing.T) {
	if _, err := Parse("u:root:r", Lookup{}); !errors.Is(err, ErrID) {
		t.Errorf("a name without a lookup: %v, want ErrID", err)
	}
	if s, err := Parse("u:0:r,g:0:r", Lookup{}); err != nil || s.Access.String() != "u:0:r--,g:0:r--" {
		t.Errorf("numbers without a lookup: %v, %v", s.Access, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"u:1:rwX,d:g::r,m::rx", `u:a\,b:r,,`, "u:1:r #x\n,g:1:w", "u:-1:r,o::r", "u:dae\\155on:r"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		s, err := Parse(arg, names)
		if err != nil {
			return
		}
		text := s.Access.String()
		for _, e := range s.Default {
			text += ",d:" + ACL{e}.String()
		}
		again, err := Parse(text, names)
		if diff := cmp.Diff(clean(s), clean(again)); err != nil || diff != "" {
			t.Fatalf("%q, written %q, read again: %v\n%s", arg, text, err, diff)
		}
		for _, dir := range []bool{false, true} {
			for _, add := range []bool{false, true} {
				a, ok := s.AccessFor(FromMode(0640), 0640, dir, add)
				if ok != (len(s.Access) > 0) {
					t.Fatalf("%q: AccessFor says %v", arg, ok)
				}
				back, err := Decode(a.Encode())
				if err != nil || ok && !back.Equal(a) {
					t.Fatalf("%q: %v encoded and decoded: %v, %v", arg, a, back, err)
				}
			}
		}
	})
}

// clean drops what the text cannot carry: that an X has no x left to be one.
func clean(s Spec) Spec {
	for i := range s.Access {
		s.Access[i].CondExec = s.Access[i].CondExec && s.Access[i].Perm&Execute != 0
	}
	if len(s.Access) == 0 {
		s.Access = nil
	}
	if len(s.Default) == 0 {
		s.Default = nil
	}
	s.Access.Sort()
	return s
}
