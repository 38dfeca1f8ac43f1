package posixacl

import (
	"encoding/hex"
	"errors"
	"testing"
)

func list(t *testing.T, text string) ACL {
	t.Helper()
	a, err := parseText(text, names)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// What systemd-tmpfiles 262.1 sets: "Setting access ACL ... on", shown by
// SYSTEMD_LOG_LEVEL=debug, for files with the list and the mode given.
func TestAccessFor(t *testing.T) {
	for _, c := range []struct {
		arg, old string
		mode     uint32
		dir, add bool
		want     string
	}{
		{arg: "u:1:rwx", mode: 0640, want: "u::rw-,u:1:rwx,g::r--,m::rwx,o::---"},
		{arg: "u::rwx", mode: 0640, want: "u::rwx,g::r--,o::---"},
		{arg: "u:1:---", mode: 0640, want: "u::rw-,u:1:---,g::r--,m::---,o::---"},
		{arg: "m::rwx", mode: 0640, want: "u::rw-,g::r--,m::rwx,o::---"},
		{arg: "g:1000:rw,m::r", mode: 0640, want: "u::rw-,g::r--,g:1000:rw-,m::r--,o::---"},
		{arg: "u:1:rwx,u::r,g::r,o::r", mode: 0640, want: "u::r--,u:1:rwx,g::r--,m::rwx,o::r--"},
		{arg: "u:1:rX", mode: 0640, want: "u::rw-,u:1:r--,g::r--,m::r--,o::---"},
		{arg: "u:1:rX", mode: 0740, want: "u::rwx,u:1:r-x,g::r--,m::r-x,o::---"},
		{arg: "u:1:rX", mode: 0640, dir: true, want: "u::rw-,u:1:r-x,g::r--,m::r-x,o::---"},
		{arg: "u::X", mode: 0640, want: "u::---,g::r--,o::---"},
		{arg: "m::X", mode: 0640, want: "u::rw-,g::r--,m::---,o::---"},
		{arg: "u:1:rwX,g:1:x", mode: 0640, want: "u::rw-,u:1:rwx,g::r--,g:1:--x,m::--x,o::---"},
		{arg: "u:1:rX", old: "u::rw-,u:2:x,g::r,m::x,o::-", mode: 0610, want: "u::rw-,u:1:r--,g::--x,m::r--,o::---"},
		{arg: "u:1:rX", old: "u::rw-,u:2:x,g::r,m::x,o::-", mode: 0610, add: true, want: "u::rw-,u:1:r-x,u:2:--x,g::r--,m::--x,o::---"},
		{arg: "u:1:w", mode: 0640, add: true, want: "u::rw-,u:1:-w-,g::r--,m::rw-,o::---"},
		{arg: "u:1:w,o::r", old: "u::rw-,u:1:r,g::r,m::r,o::-", mode: 0640, add: true, want: "u::rw-,u:1:-w-,g::r--,m::r--,o::r--"},
	} {
		s, err := Parse(c.arg, names)
		if err != nil {
			t.Fatal(err)
		}
		before := s.Access.String()
		got, ok := s.AccessFor(list(t, c.old), c.mode, c.dir, c.add)
		if !ok || got.String() != c.want {
			t.Errorf("%q on %q %o (dir %v, add %v)\n got %s\nwant %s", c.arg, c.old, c.mode, c.dir, c.add, got, c.want)
		}
		if err := got.Check(); err != nil {
			t.Errorf("%q: %v", c.arg, err)
		}
		if s.Access.String() != before {
			t.Errorf("%q: AccessFor changed the Spec to %s", c.arg, s.Access)
		}
	}
	if _, ok := (Spec{Default: FromMode(0)}).AccessFor(nil, 0, true, false); ok {
		t.Error("AccessFor without access entries is ok")
	}
}

func TestDefaultFor(t *testing.T) {
	for _, c := range []struct {
		arg, old string
		add      bool
		want     string
	}{
		{arg: "d:u:1:rwX", want: "u::rwx,u:1:rwx,g::r-x,m::rwx,o::r-x"},
		{arg: "d:u::rwx,d:g::rx,d:o::-", want: "u::rwx,g::r-x,o::---"},
		{arg: "d:u:1:r", add: true, want: "u::rwx,u:1:r--,g::r-x,m::r--,o::r-x"},
		{arg: "d:u:1:r", old: "u::r,u:2:w,g::x,m::w,o::-", add: true, want: "u::r--,u:1:r--,u:2:-w-,g::--x,m::-w-,o::---"},
		{arg: "d:u:1:r", old: "u::r,u:2:w,g::x,m::w,o::-", want: "u::rwx,u:1:r--,g::r-x,m::r--,o::r-x"},
	} {
		s, err := Parse(c.arg, names)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := s.DefaultFor(list(t, c.old), 0755, c.add); !ok || got.String() != c.want {
			t.Errorf("%q on %q (add %v)\n got %s\nwant %s", c.arg, c.old, c.add, got, c.want)
		}
	}
	if _, ok := (Spec{Access: FromMode(0)}).DefaultFor(nil, 0, false); ok {
		t.Error("DefaultFor without default entries is ok")
	}
}

func TestModeIsWhatTheKernelShows(t *testing.T) {
	for text, want := range map[string]struct {
		mode uint32
		only bool
	}{
		"u::rwx,g::rx,o::r":            {0754, true},
		"u::rw,g::rwx,m::r,o::-":       {0640, false},
		"u::rw,u:1:rwx,g::r,m::x,o::-": {0610, false},
	} {
		if mode, only := list(t, text).Mode(); mode != want.mode || only != want.only {
			t.Errorf("%s: mode %o, only %v, want %o, %v", text, mode, only, want.mode, want.only)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, good := range []string{"u::r,g::r,o::r", "u::r,u:1:r,u:1:w,g::r,m::r,o::r"} {
		if err := list(t, good).Check(); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	bad := map[string]ACL{
		"empty":         {},
		"base missing":  list(t, "u::r,g::r"),
		"base twice":    list(t, "u::r,u::r,g::r,o::r"),
		"mask missing":  list(t, "u::r,u:1:r,g::r,o::r"),
		"nobody":        list(t, "u::r,u:4294967295:r,g::r,m::r,o::r"),
		"unsorted":      {FromMode(0)[2], FromMode(0)[1], FromMode(0)[0]},
		"unknown tag":   append(ACL{{Tag: 3}}, FromMode(0)...),
		"unknown perms": {{Tag: UserObj, Perm: 8}},
	}
	for name, a := range bad {
		if err := a.Check(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

// The bytes that setfacl -m u:1:rw leaves on a file of mode 0640.
const fromSetfacl = "02000000" + "01000600ffffffff" + "0200060001000000" + "04000400ffffffff" + "10000600ffffffff" + "20000000ffffffff"

func TestEncodeAndDecode(t *testing.T) {
	want := "u::rw-,u:1:rw-,g::r--,m::rw-,o::---"
	raw, err := hex.DecodeString(fromSetfacl)
	if err != nil {
		t.Fatal(err)
	}
	a, err := Decode(raw)
	if err != nil || a.String() != want {
		t.Errorf("Decode = %s, %v, want %s", a, err, want)
	}
	if got := hex.EncodeToString(list(t, want).Encode()); got != fromSetfacl {
		t.Errorf("Encode = %s, want %s", got, fromSetfacl)
	}
	if a, err := Decode(nil); len(a) != 0 || err != nil {
		t.Errorf("Decode of nothing = %v, %v", a, err)
	}
	for name, b := range map[string][]byte{
		"half a header":   raw[:3],
		"half an entry":   raw[:9],
		"version 1":       {1, 0, 0, 0},
		"big permissions": {2, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0, 0},
	} {
		if _, err := Decode(b); !errors.Is(err, ErrEncoding) {
			t.Errorf("%s: %v, want ErrEncoding", name, err)
		}
	}
}

func TestTextWithNames(t *testing.T) {
	name := func(tag Tag, id uint32) string {
		if tag == User && id == 1 {
			return "daemon"
		}
		return ""
	}
	if got, want := list(t, "u:1:r,u:2:w,g:1:x").Text(name), "u:daemon:r--,u:2:-w-,g:1:--x"; got != want {
		t.Errorf("Text = %s, want %s", got, want)
	}
}

func FuzzDecode(f *testing.F) {
	raw, _ := hex.DecodeString(fromSetfacl)
	f.Add(raw)
	f.Add([]byte{2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := Decode(b)
		if err != nil || len(a) == 0 {
			return
		}
		if again, err := Decode(a.Encode()); err != nil || !again.Equal(a) {
			t.Fatalf("%x = %v, again %v, %v", b, a, again, err)
		}
		_ = a.Check()
		a.Merge(FromMode(0750)).WithMask().WithBase(0)
	})
}
