package cli

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/prepare"
	"github.com/slashrun/slashrun/internal/sandbox"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
	"github.com/slashrun/slashrun/internal/tmpconf"
)

// tryWorld makes a small machine in the namespaces of nstest: its own /etc, /var
// and /run, and programs from the real one.
var tryWorld = nstest.Options{Root: nstest.RootEmpty, Keep: []string{"/usr", "/bin", "/sbin", "/lib", "/lib64"}}

func populate(t *testing.T, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var tryFiles = map[string]string{
	"/etc/passwd":            "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/false\n",
	"/etc/group":             "root:x:0:\nweb:x:33:\n",
	"/etc/tmpfiles.d/a.conf": "d /run/mine 0750\nd /run/web 0755 web web\nd /var/lib/not-here\nL /run/link - - - - /etc/passwd\nd /run/nobodys 0755 no-such-user\n",
	"/run/tmpfiles.d/b.conf": "d /run/from-run 01777\nC /run/copied - - - - /etc/passwd\n",
	"/var/lib/state":         "state",
	"/run/app/pid":           "1",
	"/run/lock/app":          "x",
}

// slashrun runs the command line in a process of its own.
func slashrun(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "slashrun"
	return cmd
}

// namespaces is what try needs of the machine.
var namespaces = testenv.Requirement{What: "user, mount and PID namespaces", Check: func() error {
	out, err := slashrun("try", "--no-tour", "true").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}}

func TestTryScripts(t *testing.T) {
	testenv.Need(t, namespaces)
	testscript.Run(t, testscript.Params{Dir: "testdata/try", RequireExplicitExec: true, RequireUniqueNames: true})
}

// digest is everything about a tree that can be told from outside.
func digest(t *testing.T, roots ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			st := info.Sys().(*syscall.Stat_t)
			text := fmt.Sprintf("dev %d ino %d mode %o links %d owner %d:%d size %d mtime %v ctime %v",
				st.Dev, st.Ino, st.Mode, st.Nlink, st.Uid, st.Gid, st.Size, st.Mtim, st.Ctim)
			if info.Mode().IsRegular() {
				data, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				text += fmt.Sprintf(" %x", sha256.Sum256(data))
			}
			all[path] = text
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(all) < 8 {
		t.Fatalf("the digest has %d entries: it would prove nothing", len(all))
	}
	return all
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Whatever runs inside, the machine's /etc, /var and /run, its mounts and its
// processes are as before.
func TestTryLeavesNoTrace(t *testing.T) {
	nstest.Run(t, tryWorld, func(t *testing.T) {
		populate(t, tryFiles)
		l, err := net.Listen("unix", "/run/app/socket")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		before, table := digest(t, "/etc", "/var", "/run"), readFile(t, "/proc/self/mountinfo")
		const destroy = `
			rm -rf /run/* /etc/* /var/* /tmp/*
			echo x > /etc/passwd; touch /var/new /new; chmod 777 /etc /var; mkdir -p /run/app; echo 2 > /run/app/pid
			mount -o remount,rw,bind /etc && echo x > /etc/passwd
			setsid sleep 1000 >/dev/null 2>&1 </dev/null &
			ls /run; exit 9`
		out, err := slashrun("try", "--", "sh", "-c", destroy).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 9 {
			t.Errorf("%v: %s", err, out)
		}
		if diff := cmp.Diff(before, digest(t, "/etc", "/var", "/run")); diff != "" {
			t.Errorf("the machine has changed (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(table, readFile(t, "/proc/self/mountinfo")); diff != "" {
			t.Errorf("mounts are left (-before +after):\n%s", diff)
		}
		procs, _ := filepath.Glob("/proc/[0-9]*/comm")
		for _, p := range procs {
			if name, err := os.ReadFile(p); err == nil && strings.TrimSpace(string(name)) == "sleep" {
				t.Errorf("%s is left", p)
			}
		}
		if !nstest.FreshProc() {
			t.Error("/proc does not show what is left")
		}
	})
}

func TestTryAppliesTheMachinesLines(t *testing.T) {
	for _, single := range []bool{false, true} {
		o := tryWorld
		o.SingleUser = single
		t.Run(fmt.Sprintf("single=%v", single), func(t *testing.T) {
			nstest.Run(t, o, func(t *testing.T) {
				populate(t, tryFiles)
				out, err := slashrun("try", "--", "sh", "-c", "cd /run; stat -c '%n %a %U:%G %N' *; ls /var/lib").CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				tour, listing, _ := strings.Cut(string(out), "\ncopied ")
				listing = "copied " + listing
				checkTour(t, tour)
				for _, want := range []string{"mine 750 root:root", "from-run 1777 root:root", "copied 644 root:root", "'link' -> '/etc/passwd'"} {
					if !strings.Contains(listing, want) {
						t.Errorf("no %q in %s", want, listing)
					}
				}
				if strings.Contains(listing, "app") || strings.Contains(listing, "not-here") {
					t.Errorf("what is not /run's: %s", listing)
				}
				mapped := !single && readFile(t, "/proc/self/uid_map") != "" && canChown(t)
				if mapped != strings.Contains(listing, "web 755 web:web") {
					t.Errorf("the directory of web, with all users there: %v: %s", mapped, listing)
				}
				if !mapped && !strings.Contains(tour, "this user namespace maps only uid 0 (to root):\n    /run/web (/etc/tmpfiles.d/a.conf:2)\n") {
					t.Errorf("the tour does not tell of /run/web: %s", tour)
				}
				if !strings.Contains(tour, "lines that are wrong:\n    /etc/tmpfiles.d/a.conf:5:") {
					t.Errorf("the tour does not tell of line 5: %s", tour)
				}
			})
		})
	}
}

func canChown(t *testing.T) bool {
	f := t.TempDir() + "/f"
	populate(t, map[string]string{f: ""})
	return os.Chown(f, 33, 33) == nil
}

// The same /run comes of it where the newer system calls are denied.
func TestTryWithoutNewCalls(t *testing.T) {
	for _, p := range seccomptest.All {
		t.Run(p.String(), func(t *testing.T) {
			seccomptest.Run(t, p, func(t *testing.T) {
				testenv.Need(t, namespaces)
				out, err := slashrun("try", "--", "sh", "-c", "grep -c ' /run' /proc/mounts; cat /run/slashrun/boot; echo x >/run/x").CombinedOutput()
				tour, rest, _ := strings.Cut(string(out), "\n3\n")
				if err != nil || !strings.Contains(tour, "/run           tmpfs rw,nosuid,nodev  size ") || !strings.Contains(rest, "boot_id") {
					t.Errorf("%v: %s", err, out)
				}
				checkTour(t, tour)
			})
		})
	}
}

// checkTour holds the tour's size.
func checkTour(t *testing.T, tour string) {
	t.Helper()
	lines := strings.Split(tour, "\n")
	if len(lines) > 40 {
		t.Errorf("the tour has %d lines:\n%s", len(lines), tour)
	}
	for _, line := range lines {
		if len([]rune(line)) > tourColumns {
			t.Errorf("a line of the tour has %d columns: %s", len([]rune(line)), line)
		}
		if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' }) {
			t.Errorf("a control character: %q", line)
		}
	}
}

// A /run with hundreds of entries, deep ones and hostile names among them.
func TestTryTourIsShort(t *testing.T) {
	nstest.Run(t, tryWorld, func(t *testing.T) {
		var conf strings.Builder
		for i := range 300 {
			fmt.Fprintf(&conf, "d /run/d%03d/a/b/c/d/e/f/g\nf /run/bad%03d 0644 no-such-user\n", i, i)
		}
		fmt.Fprintf(&conf, "d \"/run/0\\033[31m\\nname\"\nd /run/1%s\nL /run/2 - - - - \"\\033]0;x\\007\"\n", strings.Repeat("x", 200))
		for i := range 30 {
			fmt.Fprintf(&conf, "d \"/run/%d\\tweb%s\" 0755 33 33\n", i, strings.Repeat("y", 100))
		}
		populate(t, map[string]string{"/etc/passwd": "root:x:0:0::/root:/bin/sh\n", "/etc/group": "root:x:0:\n", "/etc/tmpfiles.d/a.conf": conf.String()})
		out, err := slashrun("try").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		checkTour(t, string(out))
		for _, want := range []string{`"0\x1b[31m\nname"/`, "xxx...", "    ... and "} {
			if !strings.Contains(string(out), want) {
				t.Errorf("no %q in the tour:\n%s", want, out)
			}
		}
		// How many is a matter of what the machine's own lines make, too.
		if !regexp.MustCompile(`(?m)^ {4}\.\.\. and [23]\d\d more$`).Match(out) {
			t.Errorf("the tour does not count what it leaves out:\n%s", out)
		}
	})
}

// On a terminal it ends in the user's shell, and its status is the shell's.
func TestTryShell(t *testing.T) {
	testenv.Need(t, namespaces, testenv.Tool("script"))
	link := t.TempDir() + "/slashrun" // for argv[0]
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(exe, link); err != nil {
		t.Fatal(err)
	}
	for _, noColour := range []string{"", "1"} {
		cmd := exec.Command("script", "-qec", link+" try", "/dev/null")
		cmd.Env = append(os.Environ(), "SHELL=/bin/sh", "TERM=xterm", "NO_COLOR="+noColour)
		cmd.Stdin = strings.NewReader("test -t 0 && echo the-run-has $(ls /run/slashrun) in it\nexit 4\n")
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 4 {
			t.Errorf("%v, want status 4: %s", err, out)
		}
		for _, want := range []string{"read-only. \"exit\" leaves.", "the-run-has boot in it"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("no %q: %s", want, out)
			}
		}
		if got := strings.Contains(string(out), "\x1b[1mTree\x1b[0m"); got != (noColour == "") {
			t.Errorf("NO_COLOR=%s: colour is %v: %q", noColour, got, out)
		}
	}
}

func TestTryArguments(t *testing.T) {
	for _, c := range []struct{ args, options, command string }{
		{"", "", ""},
		{"ls -l", "", "ls -l"},
		{"-- ls -l", "", "ls -l"},
		{"--no-tour ls --help", "--no-tour", "ls --help"},
		{"--profile debian ls", "--profile debian", "ls"},
		{"--prof debian -- --odd", "--prof debian", "--odd"},
		{"--profile=debian ls -- x", "--profile=debian", "ls -- x"},
		{"--no-tour --", "--no-tour", ""},
		{"- x", "", "- x"},
	} {
		options, command := tryArguments(strings.Fields(c.args))
		if got := strings.Join(options, " ") + "|" + strings.Join(command, " "); got != c.options+"|"+c.command {
			t.Errorf("%q: %q", c.args, got)
		}
	}
}

func TestTryEnviron(t *testing.T) {
	got := tryEnviron([]string{"A=1", "TMPDIR=/run/x", "XDG_RUNTIME_DIR=/run/user/1", "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1/bus", "B"})
	if want := []string{"A=1", "B", "TMPDIR=/dev/shm"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestTreeFit(t *testing.T) {
	leaf := func(depth, n int) (list []*treeNode) {
		for range n {
			list = append(list, &treeNode{depth: depth})
		}
		return list
	}
	deep := []*treeNode{{depth: 1, below: []*treeNode{{depth: 2, below: leaf(3, 10)}}}}
	for _, c := range []struct {
		tree  []*treeNode
		lines int
		want  int
	}{{nil, 5, 1}, {leaf(1, 50), 5, 1}, {deep, 1, 1}, {deep, 2, 2}, {deep, 11, 2}, {deep, 12, 3}} {
		if got := fit(c.tree, c.lines); got != c.want {
			t.Errorf("%d lines: depth %d, want %d", c.lines, got, c.want)
		}
	}
	if n := deep[0].size(); n != 11 {
		t.Errorf("size %d", n)
	}
}

func TestModeText(t *testing.T) {
	for mode, want := range map[uint32]string{
		syscall.S_IFDIR | 0o1777: "drwxrwxrwt", syscall.S_IFREG | 0o4755: "-rwsr-xr-x", syscall.S_IFREG | 0o6644: "-rwSr-Sr--",
		syscall.S_IFLNK | 0o777: "lrwxrwxrwx", syscall.S_IFSOCK | 0o600: "srw-------", syscall.S_IFIFO | 0o1640: "prw-r----T",
		syscall.S_IFCHR | 0o666: "crw-rw-rw-", syscall.S_IFBLK: "b---------", syscall.S_IFDIR | 0o2775: "drwxrwsr-x",
	} {
		if got := modeText(&fsat.Stat{Mode: mode}); got != want {
			t.Errorf("%o: %s, want %s", mode, got, want)
		}
	}
}

func TestTourSize(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 1023: "1023", 1024: "1K", 5 << 20: "5M", 5056700416: "4.7G", 1 << 62: "4E"} {
		if got := tourSize(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestTourReason(t *testing.T) {
	single := &tryTour{in: &sandbox.Inside{Single: true, User: 1000}}
	all := &tryTour{in: &sandbox.Inside{}}
	chown := os.NewSyscallError("fchownat", syscall.EINVAL)
	if got := single.reason(chown); !strings.Contains(got, "maps only uid 1000") {
		t.Error(got)
	}
	if got := all.reason(chown); got != "fchownat: invalid argument:" {
		t.Error(got)
	}
	if got := all.reason(os.NewSyscallError("mknodat", syscall.EPERM)); !strings.HasPrefix(got, "devices") {
		t.Error(got)
	}
	if got := all.reason(errors.New("x")); got != "could not be applied:" {
		t.Error(got)
	}
}

func TestWrapText(t *testing.T) {
	got := wrapText("aa bb cc dddddd e", 5)
	if want := []string{"aa bb", "cc", "dddddd", "e"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	(&tryTour{in: &sandbox.Inside{Notes: []string{strings.Repeat("word ", 40)}}, res: &prepare.Result{}, loaded: &tmpconf.Loaded{}}).notes(w)
	w.Flush()
	checkTour(t, strings.TrimSuffix(b.String(), "\n"))
	if !strings.Contains(b.String(), "\n  - word") || !strings.Contains(b.String(), "\n    word") {
		t.Errorf("%q", b.String())
	}
}
