package filecaps

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

var kernel = UpTo(40)

func TestAsTheReferenceDoes(t *testing.T) {
	for _, c := range kCases {
		var old Caps
		if c.old != "" {
			spec, err := Parse(c.old, kernel)
			if err != nil {
				t.Fatal(c.old, err)
			}
			old = spec.For(Caps{}, false)
		}
		got := "ignored"
		spec, err := Parse(c.arg, kernel)
		if err == nil {
			var value []byte
			if value, err = spec.For(old, c.add).Encode(); err == nil {
				got = hex.EncodeToString(value)
			} else if errors.Is(err, ErrEffective) {
				got = "refused"
			}
		}
		if got != c.want {
			t.Errorf("%q on %q (add: %v)\n got %s (%v)\nwant %s", c.arg, c.old, c.add, got, err, c.want)
		}
	}
}

func TestRootUIDStaysWithAdd(t *testing.T) {
	old := Caps{Permitted: 1, RootUID: 1000}
	for arg, want := range map[string]Caps{
		"cap_kill+p": {Permitted: 0x21, RootUID: 1000},
		"rootuid=5":  {Permitted: 1, RootUID: 5},
		"rootuid=0":  {Permitted: 1},
	} {
		spec, err := Parse(arg, kernel)
		if got := spec.For(old, true); got != want || err != nil {
			t.Errorf("k+ %s = %+v, %v, want %+v", arg, got, err, want)
		}
	}
}

func TestErrorNamesTheClause(t *testing.T) {
	for arg, want := range map[string]struct {
		err    error
		clause string
	}{
		"cap_chown+p bogus":   {ErrSyntax, "bogus"},
		"cap_chown+x":         {ErrSyntax, "cap_chown+x"},
		"cap_kill,cap_foo=p":  {ErrName, "cap_kill,cap_foo=p"},
		"=p rootuid=-1":       {ErrUID, "rootuid=-1"},
		"=p rootuid=0x10":     {ErrUID, "rootuid=0x10"},
		"rootuid=65535":       {ErrUID, "rootuid=65535"},
		"rootuid=99999999999": {ErrUID, "rootuid=99999999999"},
		"63+p":                {ErrName, "63+p"},
	} {
		_, err := Parse(arg, kernel)
		var e *Error
		if !errors.Is(err, want.err) || !errors.As(err, &e) || e.Clause != want.clause {
			t.Errorf("Parse(%q): %v, want %v in %q", arg, err, want.err, want.clause)
		}
	}
}

func TestAllIsWhatTheKernelKnows(t *testing.T) {
	for last, want := range map[int]Set{-1: 0, 0: 1, 40: 0x1ffffffffff, MaxCap: 1<<63 - 1, 100: 1<<63 - 1} {
		if got := UpTo(last); got != want {
			t.Errorf("UpTo(%d) = %#x, want %#x", last, uint64(got), uint64(want))
		}
	}
	spec, err := Parse("=p", UpTo(37))
	if got := spec.For(Caps{}, false); got.Permitted != 1<<38-1 || err != nil {
		t.Errorf("=p with 38 capabilities = %#x, %v", uint64(got.Permitted), err)
	}
}

func TestNames(t *testing.T) {
	if len(names) != LastCap+1 || Name(LastCap) != "cap_checkpoint_restore" || Name(13) != "cap_net_raw" || Name(62) != "62" || Name(-1) != "-1" {
		t.Errorf("names: %s, %s, %s, %s", Name(LastCap), Name(13), Name(62), Name(-1))
	}
	seen := map[string]bool{}
	for i := range names {
		n, ok := Number(strings.ToUpper(names[i]))
		if n != i || !ok || seen[names[i]] {
			t.Errorf("Number(%q) = %d, %v, want %d, once", names[i], n, ok, i)
		}
		seen[names[i]] = true
	}
}

func TestString(t *testing.T) {
	for want, c := range map[string]Caps{
		"=":                     {},
		"rootuid=7":             {RootUID: 7},
		"cap_chown,cap_kill=ep": {Permitted: 0x21, Effective: 0x21},
		"cap_chown=ep cap_kill=ei 50=p rootuid=1000": {Permitted: 1 | 1<<50, Inheritable: 0x20, Effective: 0x21, RootUID: 1000},
	} {
		if got := c.String(); got != want {
			t.Errorf("String = %q, want %q", got, want)
		}
	}
}

func TestDecode(t *testing.T) {
	for text, want := range map[string]Caps{
		"010000012100000000000000":                         {Permitted: 0x21, Effective: 0x21},
		"0100000201000000200000000001000000000000":         {Permitted: 1 | 1<<40, Inheritable: 0x20, Effective: 0x21 | 1<<40},
		"0000000301000000000000000000000000000000e8030000": {Permitted: 1, RootUID: 1000},
	} {
		raw, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decode(raw); got != want || err != nil {
			t.Errorf("Decode(%s) = %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "010000", "00000002", "00000000210000000000000000000000", "00000004010000000000000000000000000000000000000000",
		"010000020100000020000000000100000000000000000000", "0000000301000000000000000000000000000000",
	} {
		raw, _ := hex.DecodeString(text)
		if got, err := Decode(raw); !errors.Is(err, ErrEncoding) {
			t.Errorf("Decode(%q) = %+v, %v, want ErrEncoding", text, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range kCases {
		f.Add(c.arg)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		spec, err := Parse(arg, kernel)
		if err != nil {
			return
		}
		c := spec.For(Caps{}, false)
		again, err := Parse(c.String(), kernel)
		if got := again.For(Caps{}, false); got != c || err != nil {
			t.Fatalf("%q = %+v, written %q, read again %+v, %v", arg, c, c, got, err)
		}
		if got := spec.For(c, true); got.Permitted != c.Permitted || got.Effective != c.Effective || got.Inheritable != c.Inheritable {
			t.Fatalf("%q is not idempotent: %+v, then %+v", arg, c, got)
		}
		if value, err := c.Encode(); err == nil {
			if got, err := Decode(value); got != c || err != nil {
				t.Fatalf("%q = %+v, decoded %+v, %v", arg, c, got, err)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"010000012100000000000000", "0000000301000000000000000000000000000000e8030000"} {
		raw, _ := hex.DecodeString(s)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b)
		if err != nil {
			return
		}
		value, err := c.Encode()
		if err != nil {
			t.Fatalf("%x = %+v cannot be encoded: %v", b, c, err)
		}
		if again, err := Decode(value); again != c || err != nil {
			t.Fatalf("%x = %+v, again %+v, %v", b, c, again, err)
		}
	})
}
