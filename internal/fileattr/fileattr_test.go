package fileattr

import (
	"errors"
	"testing"
)

// What systemd-tmpfiles 262.1 says to an argument: the flags it would set on a
// directory ("Would try to set file attributes"), or the line is refused (65).
func TestParse(t *testing.T) {
	for _, c := range []struct {
		arg   string
		value uint32
		mask  uint32
		err   error
	}{
		{"a", 0x20, 0x20, nil},
		{"A", 0x80, 0x80, nil},
		{"c", 0x4, 0x4, nil},
		{"C", 0x800000, 0x800000, nil},
		{"d", 0x40, 0x40, nil},
		{"D", 0x10000, 0x10000, nil},
		{"e", 0x80000, 0x80000, nil},
		{"i", 0x10, 0x10, nil},
		{"j", 0x4000, 0x4000, nil},
		{"P", 0x20000000, 0x20000000, nil},
		{"s", 0x1, 0x1, nil},
		{"S", 0x8, 0x8, nil},
		{"t", 0x8000, 0x8000, nil},
		{"T", 0x20000, 0x20000, nil},
		{"u", 0x2, 0x2, nil},
		{"+ia", 0x30, 0x30, nil},
		{"-ia", 0, 0x30, nil},
		{"ii", 0x10, 0x10, nil},
		{"=", 0, 0x208bc0ff, nil},
		{"=i", 0x10, 0x208bc0ff, nil},
		{"aAcCdDeijPsStTu", 0x208bc0ff, 0x208bc0ff, nil},
		{"", 0, 0, ErrEmpty},
		{"+", 0, 0, ErrEmpty},
		{"-", 0, 0, ErrEmpty},
		{"q", 0, 0, ErrLetter},
		{"=q", 0, 0, ErrLetter},
		{"+-i", 0, 0, ErrLetter},
		{"=-", 0, 0, ErrLetter},
		{"i ", 0, 0, ErrLetter},
		{"i,a", 0, 0, ErrLetter},
		{"F", 0, 0, ErrLetter},
		{"E", 0, 0, ErrLetter},
		{"%U", 0, 0, ErrLetter},
		{"\\x69", 0, 0, ErrLetter},
	} {
		got, err := Parse(c.arg)
		if got.Value != c.value || got.Mask != c.mask || !errors.Is(err, c.err) {
			t.Errorf("Parse(%q) = %#x of %#x, %v, want %#x of %#x, %v", c.arg, got.Value, got.Mask, err, c.value, c.mask, c.err)
		}
	}
}

func TestErrorNamesTheLetter(t *testing.T) {
	for arg, want := range map[string]string{
		"+iq": `unknown file attribute "q" in "+iq", want a letter of aAcCdDeijPsStTu`,
		"+":   `no attribute is given in "+", want letters of aAcCdDeijPsStTu`,
	} {
		if _, err := Parse(arg); err == nil || err.Error() != want {
			t.Errorf("Parse(%q): %v, want %s", arg, err, want)
		}
	}
}

func TestApply(t *testing.T) {
	const unlisted = 0x40000000 // FS_CASEFOLD_FL has no letter
	for _, c := range []struct {
		arg  string
		old  uint32
		dir  bool
		want uint32
	}{
		{"+i", unlisted | Append, false, unlisted | Append | Immutable},
		{"-a", unlisted | Append | NoDump, false, unlisted | NoDump},
		{"=", unlisted | Append | NoDump | DirSync, true, unlisted},
		{"=A", unlisted | Append, false, unlisted | NoAtime},
		{"DA", 0, true, DirSync | NoAtime},
		{"DA", 0, false, NoAtime},
	} {
		change, err := Parse(c.arg)
		if err != nil {
			t.Fatal(err)
		}
		if got := change.Apply(c.old, c.dir); got != c.want {
			t.Errorf("%s on %#x (directory: %v) = %#x, want %#x", c.arg, c.old, c.dir, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"+ia", "-aAcCdDeijPsStTu", "=", "=i", "q", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(c.String()); again != c || err != nil {
			t.Fatalf("%q = %+v, written %q, read again %+v, %v", s, c, c.String(), again, err)
		}
		if got := c.Apply(^uint32(0), true) &^ All; got != ^uint32(0)&^All {
			t.Fatalf("%q touches a flag without a letter: %#x", s, got)
		}
	})
}
