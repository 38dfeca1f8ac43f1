package accounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/testenv"
)

const passwd = `# users
root:x:7:7::/elsewhere:/bin/sh
a:x:100:101:g:/home/a:/bin/a
a:x:200:201:second:/:/
same:x:100:100::/home/same:
nobody:x:99:99::/n:
low:x:65535:65535::
high:x:4294967295:1::
+nis:x:20:21::
rel:x:50:50::relative:
`

const group = "root:x:7:\ng:x:300:a\ng:x:301:\nnogroup:x:98:\nlow:x:65535:\n+nis:x:22:\n"

func rootWith(t testing.TB, files map[string]string) *inroot.Root {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		must(t, os.MkdirAll(filepath.Dir(dir+name), 0o755))
		must(t, os.WriteFile(dir+name, []byte(content), 0o644))
	}
	root, err := inroot.Open(dir)
	must(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

func both(t testing.TB) *inroot.Root {
	return rootWith(t, map[string]string{"/etc/passwd": passwd, "/etc/group": group})
}

// fake is a getent that runs the shell script, and notes each question.
func fake(t testing.TB, script string) (Getent, func() string) {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	exe := filepath.Join(dir, "getent")
	must(t, os.WriteFile(exe, []byte("#!/bin/sh\necho \"$*\" >>"+log+"\n"+script), 0o755))
	return Getent{Paths: []string{filepath.Join(dir, "absent"), dir, exe}, Timeout: time.Minute}, func() string {
		b, _ := os.ReadFile(log)
		return string(b)
	}
}

func TestLookups(t *testing.T) {
	root := both(t)
	system, inside := System(root, Getent{}), InRoot(root)
	for _, tt := range []struct {
		name          string
		system, inner string // uid, or what the error says
	}{
		{"a", "100", "100"},
		{"same", "100", "100"},
		{"root", "0", "0"},
		{"nobody", "65534", "99"},
		{"0", "0", "0"},
		{"12", "12", "12"},
		{"low", "not a valid id", "65535"},
		{"high", "not a valid id", "not a valid id"},
		{"+nis", "unknown", "20"},
		{"nis", "unknown", "unknown"},
		{"65535", "unknown", "unknown"},
		{"01", "unknown", "unknown"},
		{"", "unknown", "unknown"},
		{"a:x", "unknown", "unknown"},
		{"A", "unknown", "unknown"},
	} {
		for which, s := range map[string]*Source{tt.system: system, tt.inner: inside} {
			uid, _, _, _, err := s.User(tt.name)
			if err != nil && (!strings.Contains(err.Error(), which) || !strings.Contains(err.Error(), fmt.Sprintf("%q", tt.name)) || uid != NoID) || err == nil && fmt.Sprint(uid) != which {
				t.Errorf("User(%q) = %d, %v, want %s", tt.name, uid, err, which)
			}
			if errors.Is(err, ErrUnknown) != (which == "unknown") {
				t.Errorf("User(%q): ErrUnknown is wrong: %v", tt.name, err)
			}
		}
	}
	for _, tt := range []struct{ name, system, inner string }{
		{"g", "300", "300"}, {"root", "0", "0"}, {"nogroup", "65534", "98"}, {"low", "not a valid id", "65535"}, {"+nis", "unknown", "22"}, {"7", "7", "7"}, {"a", "unknown", "unknown"},
	} {
		for which, s := range map[string]*Source{tt.system: system, tt.inner: inside} {
			gid, err := s.Group(tt.name)
			if err != nil && (!strings.Contains(err.Error(), which) || gid != NoID) || err == nil && fmt.Sprint(gid) != which {
				t.Errorf("Group(%q) = %d, %v, want %s", tt.name, gid, err, which)
			}
		}
	}
	uid, gid, home, shell, err := inside.User("a")
	if uid != 100 || gid != 101 || home != "/home/a" || shell != "/bin/a" || err != nil {
		t.Errorf("a = %d %d %s %s %v", uid, gid, home, shell, err)
	}
	if _, gid, _, _, err := inside.User("100"); gid != NoID || err != nil {
		t.Errorf("the group of a number = %d, %v", gid, err)
	}
}

func TestByID(t *testing.T) {
	root := both(t)
	system, inside := System(root, Getent{}), InRoot(root)
	for id, want := range map[uint32][2]string{0: {"root", "root"}, 100: {"a", "a"}, 200: {"a", "a"}, 65534: {"nobody", "?"}, 99: {"nobody", "nobody"}, 20: {"?", "?"}, 1: {"?", "?"}} {
		for i, s := range []*Source{system, inside} {
			u, err := s.UserByID(id)
			if err == nil && u.Name != want[i] || err != nil && (want[i] != "?" || !errors.Is(err, ErrUnknown)) {
				t.Errorf("UserByID(%d) = %v, %v, want %s", id, u, err, want[i])
			}
		}
	}
	for id, want := range map[uint32][2]string{0: {"root", "root"}, 300: {"g", "g"}, 65534: {"nogroup", "?"}, 5: {"?", "?"}} {
		for i, s := range []*Source{system, inside} {
			g, err := s.GroupByID(id)
			if err == nil && g.Name != want[i] || err != nil && (want[i] != "?" || !errors.Is(err, ErrUnknown)) {
				t.Errorf("GroupByID(%d) = %v, %v, want %s", id, g, err, want[i])
			}
		}
	}
}

func TestNobodyCanBeTurnedOff(t *testing.T) {
	root := rootWith(t, map[string]string{"/etc/passwd": passwd, "/etc/group": group, noNobody: ""})
	s := System(root, Getent{})
	if uid, _, _, _, err := s.User("nobody"); uid != 99 || err != nil {
		t.Errorf("nobody = %d, %v", uid, err)
	}
	if gid, err := s.Group("nogroup"); gid != 98 || err != nil {
		t.Errorf("nogroup = %d, %v", gid, err)
	}
}

func TestHome(t *testing.T) {
	s := System(both(t), Getent{})
	for _, tt := range []struct {
		env  string
		uid  uint32
		want string
	}{
		{"/hh", 100, "/hh"}, {"/x/../y//z/", 0, "/x/../y/z"}, {"", 0, "/root"}, {"rel", 100, "/home/a"}, {"", 65534, "/"},
		{"", 50, "not absolute"}, {"", 12345, "unknown"},
	} {
		home, err := s.Home(func(string) (string, bool) { return tt.env, tt.env != "" }, tt.uid)
		if err != nil && !strings.Contains(err.Error(), tt.want) || err == nil && home != tt.want {
			t.Errorf("HOME=%s, uid %d: %q, %v, want %s", tt.env, tt.uid, home, err, tt.want)
		}
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	none := InRoot(rootWith(t, nil))
	if _, _, _, _, err := none.User("a"); !errors.Is(err, ErrUnknown) {
		t.Errorf("no passwd file: %v", err)
	}
	root := rootWith(t, map[string]string{"/etc/passwd/x": ""})
	must(t, syscall.Mkfifo(root.Prefix()+"/etc/group", 0o644))
	s := InRoot(root)
	if _, _, _, _, err := s.User("a"); !errors.Is(err, syscall.EISDIR) || errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), root.Path("/etc/passwd")) {
		t.Errorf("passwd is a directory: %v", err)
	}
	if _, err := s.Group("a"); err == nil || errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "FIFO") {
		t.Errorf("group is a FIFO: %v", err)
	}
	if uid, _, _, _, err := s.User("root"); uid != 0 || err != nil {
		t.Errorf("root without a file: %d, %v", uid, err)
	}
	outside := rootWith(t, map[string]string{"/passwd": "evil:x:1:1::"})
	linked := rootWith(t, map[string]string{"/etc/group": ""})
	must(t, os.Symlink(outside.Path("/passwd"), linked.Prefix()+"/etc/passwd"))
	if _, _, _, _, err := InRoot(linked).User("evil"); !errors.Is(err, ErrUnknown) {
		t.Errorf("a link led out of the root: %v", err)
	}
}

func TestUnreadablePasswd(t *testing.T) {
	testenv.Need(t, testenv.NonRoot)
	root := both(t)
	must(t, os.Chmod(root.Prefix()+"/etc/passwd", 0))
	if _, _, _, _, err := InRoot(root).User("a"); !errors.Is(err, fs.ErrPermission) || errors.Is(err, ErrUnknown) {
		t.Errorf("unreadable passwd: %v", err)
	}
}

func TestGetent(t *testing.T) {
	g, asked := fake(t, `case "$1 $2" in
"passwd ldap"|"passwd 5000") echo 'ldap:*:5000:5001:L:/home/ldap:/bin/sh' ;;
"group ldap"|"group 5001") echo 'ldap:*:5001:' ;;
"passwd 07") echo 'seven:*:7:7::/:' ;;
"passwd odd") echo 'no line' ;;
"passwd sick") echo 'sssd is not well' >&2; exit 1 ;;
"passwd no") echo 'no:*:65535:1::/:' ;;
*) exit 2 ;;
esac
`)
	s := System(both(t), g)
	uid, gid, home, _, err := s.User("ldap")
	if uid != 5000 || gid != 5001 || home != "/home/ldap" || err != nil {
		t.Errorf("ldap = %d %d %s %v", uid, gid, home, err)
	}
	if gid, err := s.Group("ldap"); gid != 5001 || err != nil {
		t.Errorf("group ldap = %d, %v", gid, err)
	}
	if u, err := s.UserByID(5000); u.Name != "ldap" || err != nil {
		t.Errorf("5000 = %v, %v", u, err)
	}
	if g, err := s.GroupByID(5001); g.Name != "ldap" || err != nil {
		t.Errorf("group 5001 = %v, %v", g, err)
	}
	for range 3 {
		if _, _, _, _, err := s.User("nope"); !errors.Is(err, ErrUnknown) {
			t.Errorf("nope: %v", err)
		}
		s.User("ldap")
	}
	if _, _, _, _, err := s.User("07"); !errors.Is(err, ErrUnknown) {
		t.Errorf("getent took 07 for a number, and so did we: %v", err)
	}
	for name, want := range map[string]string{"odd": "no line", "sick": "sssd is not well", "no": "not a valid id"} {
		if _, _, _, _, err := s.User(name); err == nil || errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	before := asked()
	for _, name := range []string{"a", "root", "nobody", "12", "-x", "--help", ""} {
		s.User(name)
	}
	if after := asked(); after != before {
		t.Errorf("asked without need: %q", strings.TrimPrefix(after, before))
	}
	if n := strings.Count(before, "passwd nope\n"); n != 1 {
		t.Errorf("asked %d times for the same name", n)
	}
	if strings.Count(before, "passwd ldap\n") != 1 {
		t.Errorf("asked again for a name that was found: %q", before)
	}
	InRoot(both(t)).User("ldap")
	if asked() != before {
		t.Error("a source inside a root asked the name service")
	}
}

func TestGetentThatIsNotThere(t *testing.T) {
	s := System(both(t), Getent{Paths: []string{t.TempDir() + "/getent"}})
	if _, _, _, _, err := s.User("ldap"); !errors.Is(err, ErrUnknown) {
		t.Errorf("no getent: %v", err)
	}
}

// A name service that never answers, with a helper that keeps the pipe open.
func TestGetentThatHangs(t *testing.T) {
	g, asked := fake(t, "sleep 1000 & sleep 1000\n")
	g.Timeout = 50 * time.Millisecond
	s := System(both(t), g)
	for range 3 {
		_, _, _, _, err := s.User("ldap")
		if err == nil || errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "no answer after 50ms") {
			t.Fatalf("hanging getent: %v", err)
		}
	}
	if n := strings.Count(asked(), "\n"); n > 1 {
		t.Errorf("asked %d times", n)
	}
	if uid, _, _, _, err := s.User("a"); uid != 100 || err != nil {
		t.Errorf("a user of the file, while getent hangs: %d, %v", uid, err)
	}
}

func TestGetentThatFloods(t *testing.T) {
	g, _ := fake(t, "yes x | head -c 3000000\n")
	if _, _, _, _, err := System(both(t), g).User("ldap"); err == nil || errors.Is(err, ErrUnknown) || len(err.Error()) > 500 {
		t.Errorf("flooding getent: %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	g, asked := fake(t, "echo \"$2:*:5000:5000::/:\"\n")
	s := System(both(t), g)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				for name, want := range map[string]uint32{"a": 100, "ldap": 5000, "root": 0} {
					if uid, _, _, _, err := s.User(name); uid != want || err != nil {
						t.Errorf("%s = %d, %v", name, uid, err)
					}
				}
				if gid, err := s.Group("g"); gid != 300 || err != nil {
					t.Errorf("g = %d, %v", gid, err)
				}
			}
		})
	}
	wg.Wait()
	if asked() != "passwd ldap\n" {
		t.Errorf("asked %q", asked())
	}
}

// The machine's own getent, for its answers are what we parse.
func TestRealGetent(t *testing.T) {
	testenv.Need(t, testenv.Tool("getent"))
	s := System(rootWith(t, nil), DefaultGetent())
	u, err := s.UserByID(1)
	if err != nil {
		t.Fatalf("user 1: %v", err)
	}
	uid, _, home, _, err := s.User(u.Name)
	if uid != 1 || home != u.Home || err != nil {
		t.Errorf("%s = %d %s, %v", u.Name, uid, home, err)
	}
	if _, err := s.Group("no such group here"); !errors.Is(err, ErrUnknown) {
		t.Errorf("no such group: %v", err)
	}
}

// Every name of an odd passwd and group file, resolved by us and by
// systemd-tmpfiles.
func TestInRootAgreesWithTheReference(t *testing.T) {
	const ref = "systemd-tmpfiles/usr/bin/systemd-tmpfiles"
	testenv.Need(t, testenv.Root, testenv.Dep(ref))
	odd := passwd + "  lead:x:102:103::\nshort:x:104:105\nnogid:x:106:\nneg:x:-5:1::\nplus:x:+6:7::\nlz:x:0011:12::\nsp:x: 13:1::\ntr:x:15 :16::\nbig:x:4294967296:1::\n+:\n-m:x:22:23::\n:x:26:27::\n123:x:30:31::\nwe ird:x:32:33::\n\xc3\xbc:x:34:35::\nnocolon\ncr:x:36:37::\r\ne::46:1::\nnonl:x:49:50"
	oddGroup := group + "  lead:x:102\nneg:x:-5:\nplus:x:+6\ntr:x:15 :\nbad:x\nempty:x::\nmembers:x:9:a,b\nnonl:x:49"
	root := rootWith(t, map[string]string{"/etc/passwd": odd, "/etc/group": oddGroup})
	s := InRoot(root)
	names := strings.Fields("root a same nobody low +nis nis rel lead short nogid neg plus lz sp tr big + -m 123 \xc3\xbc nocolon cr e nonl g nogroup bad empty members 0 00 01 7 +1 -1 65534 65535 65536 4294967294 4294967295 4294967296 0x10 99999999999999999999 daemon A")
	names = append(names, "we ird", " 5")
	var config strings.Builder
	for i, name := range names {
		fmt.Fprintf(&config, "f /u%d - \"%s\" - - -\nf /g%d - - \"%s\" - -\n", i, name, i, name)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(testenv.DepsDir(), ref), "--root="+root.Prefix(), "--create", "-")
	cmd.Stdin = strings.NewReader(config.String())
	cmd.Env = []string{"LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 65 {
		t.Fatalf("reference: %v\n%s", err, out)
	}
	for i, name := range names {
		var st syscall.Stat_t
		uid, _, _, _, err := s.User(name)
		switch known := syscall.Stat(fmt.Sprintf("%s/u%d", root.Prefix(), i), &st) == nil; {
		case known != (err == nil):
			t.Errorf("user %q: %v, the reference knows it: %v", name, err, known)
		case known && st.Uid != uid:
			t.Errorf("user %q = %d, the reference says %d", name, uid, st.Uid)
		}
		gid, err := s.Group(name)
		switch known := syscall.Stat(fmt.Sprintf("%s/g%d", root.Prefix(), i), &st) == nil; {
		case known != (err == nil):
			t.Errorf("group %q: %v, the reference knows it: %v", name, err, known)
		case known && st.Gid != gid:
			t.Errorf("group %q = %d, the reference says %d", name, gid, st.Gid)
		}
	}
}

func TestGetentIsNeverStarted(t *testing.T) {
	root, err := inroot.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	asked := 0
	// Were it started it would be this test binary, which knows no such database.
	s := System(root, Getent{Paths: []string{"/proc/self/exe"}, Timeout: time.Minute, Never: func() { asked++ }})
	if _, _, _, _, err := s.User("somebody"); !errors.Is(err, ErrUnknown) {
		t.Errorf("user: %v", err)
	}
	if _, err := s.Group("some"); !errors.Is(err, ErrUnknown) {
		t.Errorf("group: %v", err)
	}
	if _, _, _, _, err := s.User("root"); err != nil || asked != 2 {
		t.Errorf("root: %v; asked %d times", err, asked)
	}
}
