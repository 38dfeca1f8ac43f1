package specifier

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"
)

func files(m map[string]string) func(string) (io.ReadCloser, error) {
	return func(p string) (io.ReadCloser, error) {
		if s, ok := m[p]; ok {
			return io.NopCloser(strings.NewReader(s)), nil
		}
		return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
	}
}

func resolver(env map[string]string, etc map[string]string) *Resolver {
	return &Resolver{
		Open: files(etc), System: files(map[string]string{
			"/proc/sys/kernel/random/boot_id": "4cf42e22-fe34-485a-af44-da9609ca8cc5\n",
			"/proc/sys/kernel/osrelease":      "6.1.0-test\n",
		}),
		Getenv:    func(k string) string { return env[k] },
		UserName:  func(uint32) (string, error) { return "alice", nil },
		GroupName: func(uint32) (string, error) { return "staff", nil },
		Home:      func(uint32) (string, error) { return "/home/alice", nil },
	}
}

// Each result was measured on systemd-tmpfiles 262.1.
func TestExpand(t *testing.T) {
	dir := t.TempDir()
	osr := map[string]string{
		"/usr/lib/os-release": "ID=foo\nVERSION_ID=\"1.2\"\nBUILD_ID=bb\n# x\nVARIANT_ID='v v'\nIMAGE_ID=ii\n",
		"/etc/machine-id":     "0123456789ABCDEF0123456789abcdef\n",
	}
	for _, tt := range []struct {
		in, want     string
		env          map[string]string
		user, rooted bool
	}{
		{in: "plain", want: "plain"},
		{in: "a%%b%", want: "a%b%"},
		{in: "%-%.", want: "%-%."},
		{in: "%b", want: "4cf42e22fe34485aaf44da9609ca8cc5"},
		{in: "%v", want: "6.1.0-test"},
		{in: "%o %w %B %W %M [%A]", want: "foo 1.2 bb v v ii []"},
		{in: "%m", want: "0123456789abcdef0123456789abcdef"},
		{in: "%t %S %C %L %D", want: "/run /var/lib /var/cache /var/log /usr/share"},
		{in: "%u %U %g %G", want: "root 0 root 0"},
		{in: "%T %V", want: "/tmp /var/tmp"},
		{in: "%T %V", want: dir + " " + dir, env: map[string]string{"TMPDIR": "/nonexistent", "TEMP": dir}},
		{in: "%T", want: "/tmp", env: map[string]string{"TMPDIR": dir}, rooted: true},
		{in: "%T", want: "/tmp", env: map[string]string{"TMPDIR": "rel"}},
		{in: "%h", want: "/a/../b", env: map[string]string{"HOME": "/a/../b"}},
		{in: "%C", want: "/h/.cache", env: map[string]string{"HOME": "/h", "XDG_CACHE_HOME": "rel"}, user: true},
		{in: "%C", want: "/c", env: map[string]string{"HOME": "/h", "XDG_CACHE_HOME": "/c"}, user: true},
		{in: "%S %L %D", want: "/h/.local/state /h/.local/state/log /h/.local/share", env: map[string]string{"HOME": "/h"}, user: true},
		{in: "%t", want: "/r/", env: map[string]string{"XDG_RUNTIME_DIR": "/r/"}, user: true},
	} {
		r := resolver(tt.env, osr)
		r.User, r.Rooted = tt.user, tt.rooted
		if got, err := r.Expand(tt.in, 4095); err != nil || got != tt.want {
			t.Errorf("Expand(%q) with %v = %q, %v; want %q", tt.in, tt.env, got, err, tt.want)
		}
	}
}

func TestFailures(t *testing.T) {
	for _, tt := range []struct {
		in   string
		etc  map[string]string
		user bool
		want error
	}{
		{in: "x%z", want: ErrUnknown},
		{in: "%1", want: ErrUnknown},
		{in: "%o", want: ErrUnresolvable},
		{in: "%m", want: ErrUnresolvable},
		{in: "%m", etc: map[string]string{"/etc/machine-id": ""}, want: ErrUnresolvable},
		{in: "%m", etc: map[string]string{"/etc/machine-id": "uninitialized\n"}, want: ErrUnresolvable},
		{in: "%m", etc: map[string]string{"/etc/machine-id": strings.Repeat("0", 32)}, want: ErrUnresolvable},
		{in: "%m", etc: map[string]string{"/etc/machine-id": "garbage\n"}, want: errMachineID},
		{in: "%m", etc: map[string]string{"/etc/machine-id": "01234567-89ab-cdef-0123-456789abcdef\n"}, want: errMachineID},
		{in: "%t", user: true, want: ErrUnresolvable},
		{in: strings.Repeat("%D", 1000), want: ErrTooLong},
		{in: strings.Repeat("x", 4096), want: ErrTooLong},
	} {
		r := resolver(nil, tt.etc)
		r.User = tt.user
		if got, err := r.Expand(tt.in, 4095); !errors.Is(err, tt.want) {
			t.Errorf("Expand(%.20q) with %v = %q, %v; want %v", tt.in, tt.etc, got, err, tt.want)
		}
	}
}

func TestHomeWithoutEnvironment(t *testing.T) {
	want := "/home/alice"
	switch os.Getuid() {
	case 0:
		want = "/root"
	case 65534:
		want = "/"
	}
	if got, err := resolver(nil, nil).Expand("%h", 0); err != nil || got != want {
		t.Errorf("%%h = %q, %v; want %q", got, err, want)
	}
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{"", "%", "%%", "%b%o%m", "a%hb", "%\x00", "%é", strings.Repeat("%D", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := resolver(map[string]string{"HOME": "/h"}, map[string]string{"/etc/os-release": "ID=x\n"})
		got, err := r.Expand(s, 256)
		if err == nil && len(got) > 256 {
			t.Errorf("%d bytes from %q", len(got), s)
		}
		if !strings.Contains(s, "%") && len(s) <= 256 && got != s {
			t.Errorf("%q became %q", s, got)
		}
	})
}
