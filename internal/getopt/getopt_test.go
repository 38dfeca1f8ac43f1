package getopt

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var tmpfiles = []Option{
	{Long: "create", Help: "Create and adjust files and directories"},
	{Long: "clean", Help: "Clean up files and directories"},
	{Long: "remove", Help: "Remove files and directories marked for removal"},
	{Long: "purge", Help: "Delete files and directories marked for creation in specified configuration files (careful!)"},
	{Long: "cat-config"},
	{Long: "help", Short: 'h', Help: "Show this help"},
	{Long: "prefix", Arg: RequiredArg, ValueName: "PATH", Help: "Only apply rules with the specified prefix"},
	{Short: 'E', Help: "Ignore rules prefixed with /dev, /proc, /run, /sys"},
	{Long: "image", Arg: RequiredArg, ValueName: "PATH"},
	{Long: "image-policy", Arg: RequiredArg, ValueName: "POLICY"},
	{Long: "replace", Arg: RequiredArg, ValueName: "PATH"},
	{Long: "dry-run", Short: 'n', Help: "Just print what would be done"},
	{Long: "wait", Short: 'w', Arg: RequiredArg, ValueName: "SECS"},
	{Long: "wanted", Short: 'w', Arg: RequiredArg, ValueName: "SECS"},
	{Long: "color", Short: 'c', Arg: OptionalArg, ValueName: "WHEN"},
	{Long: "dryer", Whole: true},
}

// flatten writes what was parsed as one line: options with their values, a
// bar, operands.
func flatten(m []Match, operands []string) string {
	var parts []string
	for _, x := range m {
		s := x.Option.Name()
		if x.HasValue {
			s += "=" + x.Value
		}
		parts = append(parts, s)
	}
	return strings.TrimSpace(strings.Join(parts, " ") + " | " + strings.Join(operands, " "))
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", "|"},
		{"--create --clean", "--create --clean |"},
		{"--cr --dry", "--create --dry-run |"},
		{"--dryer --dr", "--dryer --dry-run |"},
		{"--drye", "unrecognized option '--drye'"},
		{"--prefix=/a --prefix /b --prefi=/c", "--prefix=/a --prefix=/b --prefix=/c |"},
		{"--prefix= --create", "--prefix= --create |"},
		{"--prefix --create", "--prefix=--create |"},
		{"--prefix -- x", "--prefix=-- | x"},
		{"--prefix=a=b", "--prefix=a=b |"},
		{"--image x", "--image=x |"},
		{"--image-p x", "--image-policy=x |"},
		{"a --create b -n c", "--create --dry-run | a b c"},
		{"-nE -hn", "--dry-run -E --help --dry-run |"},
		{"-nw5 -w 6 -Ew=7", "--dry-run --wait=5 --wait=6 -E --wait==7 |"},
		{"--wa 5", "--wait=5 |"},
		{"-c red -cred --color --color red --color=red", "--color --color=red --color --color --color=red | red red"},
		{"- --create -- --clean -- -n", "--create | - --clean -- -n"},
		{"--foo", "unrecognized option '--foo'"},
		{"--foo=bar", "unrecognized option '--foo'"},
		{"--=x", "unrecognized option '--'"},
		{"---", "unrecognized option '---'"},
		{"-x", "unrecognized option '-x'"},
		{"-nx", "unrecognized option '-x'"},
		{"-é", "unrecognized option '-é'"},
		{"-\xff", "unrecognized option '-\xff'"},
		{"--prefix", "option '--prefix' requires an argument"},
		{"--prefi", "option '--prefi' requires an argument"},
		{"-w", "option '-w' requires an argument"},
		{"--create=x", "option '--create' doesn't allow an argument"},
		{"--remov=1", "option '--remov' doesn't allow an argument"},
		{"--dry-run=", "option '--dry-run' doesn't allow an argument"},
		{"--c", "option '--c' is ambiguous; possibilities: --create, --clean, --cat-config, --color"},
		{"--re=bar", "option '--re' is ambiguous; possibilities: --remove, --replace"},
	} {
		m, operands, err := Parse(tmpfiles, strings.Fields(c.args))
		got := flatten(m, operands)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.args, got, c.want)
		}
	}
}

// --help before a mistake is acted on, and the mistake is never seen.
func TestParserYieldsOptionsBeforeALaterError(t *testing.T) {
	p := New(tmpfiles, []string{"--help", "--bogus"})
	if !p.Next() || p.Option().Long != "help" || p.Err() != nil {
		t.Fatalf("first option = %v, %v", p.Option(), p.Err())
	}
	var e *Error
	if p.Next() || p.Option() != nil || !errors.As(p.Err(), &e) || e.Kind != Unrecognized {
		t.Errorf("second option = %v, %v, want Unrecognized", p.Option(), p.Err())
	}
	if p.Next() {
		t.Error("Next goes on after an error")
	}
}

func TestStopAtOperand(t *testing.T) {
	p := New(tmpfiles, []string{"-n", "/lock", "--create", "--", "-x"})
	p.StopAtOperand = true
	n := 0
	for p.Next() {
		n++
	}
	if diff := cmp.Diff([]string{"/lock", "--create", "--", "-x"}, p.Operands()); diff != "" || n != 1 || p.Err() != nil {
		t.Errorf("%d options, error %v, operands (-want +got):\n%s", n, p.Err(), diff)
	}
}

func TestWriteHelp(t *testing.T) {
	var b strings.Builder
	if err := WriteHelp(&b, tmpfiles, nil); err != nil {
		t.Fatal(err)
	}
	want := `     --create      Create and adjust files and directories
     --clean       Clean up files and directories
     --remove      Remove files and directories marked for removal
     --purge       Delete files and directories marked for creation in specified
                   configuration files (careful!)
  -h --help        Show this help
     --prefix=PATH Only apply rules with the specified prefix
  -E               Ignore rules prefixed with /dev, /proc, /run, /sys
  -n --dry-run     Just print what would be done
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("help (-want +got):\n%s", diff)
	}
	for o, want := range map[Option]string{
		{Long: "color", Short: 'c', Arg: OptionalArg, ValueName: "WHEN"}: "-c --color[=WHEN]",
		{Short: 'w', Arg: RequiredArg}:                                   "-w VALUE",
	} {
		if got := o.Label(); got != want {
			t.Errorf("label = %q, want %q", got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"--cr\n-nE\nx\n--\n-y", "-w\n5", "--prefix=a", "-\xff", "--=", "--c"} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, s string, stop bool) {
		args := strings.Split(s, "\n")
		p := New(tmpfiles, args)
		p.StopAtOperand = stop
		n := 0
		for p.Next() {
			n++
			if _, ok := p.Value(); p.Option().Arg == NoArg && ok || p.Option().Arg == RequiredArg && !ok {
				t.Fatalf("%q: value of %s: %v", args, p.Option().Name(), ok)
			}
		}
		if n > len(s) || len(p.Operands()) > len(args) {
			t.Fatalf("%q: %d options, %d operands", args, n, len(p.Operands()))
		}
		if p.Err() != nil && p.Err().Error() == "" {
			t.Fatal("error without a text")
		}
	})
}
