package child

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/accounts"
	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

const (
	passwd = "root:x:0:0::/root:/bin/sh\nalice:x:4321:4322::/home/alice:/bin/sh\nbare:x:4400:4400:::\n1234:x:4500:4500::/home/n:\n"
	group  = "root:x:0:\nadm:x:4:alice,bob\nalice:x:4322:\nwheel:x:10:bob\naudio:x:29:bob,alice\nsame:x:4322:alice\nbroken:x:nan:alice\nalic:x:77:alicex, xalice\n"
)

func TestLookupUser(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(dir+"/etc/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := inroot.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for spec, want := range map[string]any{
		"alice":       User{Name: "alice", UID: 4321, GID: 4322, Groups: []uint32{4322, 4, 29}, Home: "/home/alice"},
		"4321":        User{Name: "alice", UID: 4321, GID: 4322, Groups: []uint32{4322, 4, 29}, Home: "/home/alice"},
		"alice:adm":   User{Name: "alice", UID: 4321, GID: 4, Groups: []uint32{4}, Home: "/home/alice"},
		"alice:7":     User{Name: "alice", UID: 4321, GID: 7, Groups: []uint32{7}, Home: "/home/alice"},
		"77:88":       User{UID: 77, GID: 88, Groups: []uint32{88}, Home: "/"},
		"bare":        User{Name: "bare", UID: 4400, GID: 4400, Groups: []uint32{4400}, Home: "/"},
		"root":        User{Name: "root", Groups: []uint32{0}, Home: "/root"},
		"77":          "name one, 77:GID",
		"nobody-here": "unknown",
		"alice:none":  "unknown",
		"":            "is no user",
		":adm":        "is no user",
		"alice:":      "is no user",
		"a:b:c":       "is no user",
		"4294967295":  "",
		"-1":          "unknown",
	} {
		u, err := LookupUser(accounts.InRoot(root), spec)
		switch want := want.(type) {
		case User:
			if err != nil {
				t.Errorf("%q: %v", spec, err)
			} else if diff := cmp.Diff(want, *u); diff != "" {
				t.Errorf("%q: (-want +got)\n%s", spec, diff)
			}
		case string:
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %+v, %v; want an error with %q", spec, u, err, want)
			}
		}
	}
}

func TestEnviron(t *testing.T) {
	got := (&User{Home: "/home/a"}).Environ([]string{"A=1", "HOME=/root", "HOMER=x", "HOME=/"})
	if want := []string{"A=1", "HOMER=x", "HOME=/home/a"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// onImage makes /etc/passwd and /etc/group of this mount namespace ours.
func onImage(t *testing.T) {
	t.Helper()
	for name, text := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile("/tmp/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("/tmp/"+name, "/etc/"+name, "", syscall.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
}

// credentials of /proc/self/status.
var credentials = []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"}

func TestUserLikePeers(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Tool("setpriv"), testenv.Tool("gosu"))
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		onImage(t)
		gosu, err := testenv.LookTool("gosu")
		if err != nil {
			t.Fatal(err)
		}
		status := func(t *testing.T, argv ...string) map[string]string {
			t.Helper()
			cmd := exec.CommandContext(t.Context(), argv[0], append(argv[1:], "/bin/cat", "/proc/self/status")...)
			if argv[0] == "/proc/self/exe" {
				cmd.Args[0] = "exec"
			}
			code, out, errs := run(t, cmd)
			if code != 0 {
				t.Fatalf("%q: status %d\n%s", argv, code, errs)
			}
			f := statusFields(out, credentials...)
			groups := strings.Fields(f["Groups"]) // sorted by some
			slices.Sort(groups)
			f["Groups"] = strings.Join(groups, " ")
			return f
		}
		for _, c := range []struct {
			name, user string
			flags      []string
			setpriv    []string
			gosu       bool
		}{
			{"name", "alice", nil, []string{"--reuid=4321", "--regid=4322", "--init-groups"}, true},
			{"number", "4321", nil, []string{"--reuid=4321", "--regid=4322", "--init-groups"}, true},
			{"group", "alice:audio", nil, []string{"--reuid=4321", "--regid=29", "--groups=29"}, true},
			{"numbers", "77:88", nil, []string{"--reuid=77", "--regid=88", "--groups=88"}, true},
			{"root", "root", nil, []string{"--reuid=0", "--regid=0", "--groups=0"}, true},
			{"no_new_privs", "alice", []string{"-nnp"}, []string{"--reuid=4321", "--regid=4322", "--init-groups", "--no-new-privs"}, false},
			{"bounding set", "alice", []string{"-bounding"}, []string{"--reuid=4321", "--regid=4322", "--init-groups", "--bounding-set=-all"}, false},
			{"root without bounding set", "0:0", []string{"-bounding"}, []string{"--reuid=0", "--regid=0", "--groups=0", "--bounding-set=-all"}, false},
		} {
			for mode, flags := range modes {
				t.Run(c.name+"/"+mode, func(t *testing.T) {
					argv := slices.Concat([]string{"/proc/self/exe"}, flags, c.flags, []string{"-user", c.user, "--"})
					got := status(t, argv...)
					if diff := cmp.Diff(status(t, append([]string{"setpriv"}, c.setpriv...)...), got); diff != "" {
						t.Errorf("(-setpriv +ours)\n%s", diff)
					}
					if !c.gosu {
						return
					}
					want := status(t, gosu, c.user)
					// The supplementary groups of gosu 1.14 lack the primary one.
					delete(want, "Groups")
					delete(got, "Groups")
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("(-gosu +ours)\n%s", diff)
					}
				})
			}
		}
		t.Run("every capability given", func(t *testing.T) {
			for mode, flags := range modes {
				got := status(t, slices.Concat([]string{"setpriv", "--inh-caps=+all", "--ambient-caps=+all", program(t, "exec")}, flags, []string{"-user", "alice", "--"})...)
				for _, k := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
					if got[k] != "0000000000000000" {
						t.Errorf("%s: %s is %s", mode, k, got[k])
					}
				}
			}
		})
		t.Run("every capability given, bounding set", func(t *testing.T) {
			for mode, flags := range modes {
				got := status(t, slices.Concat([]string{"setpriv", "--inh-caps=+all", "--ambient-caps=+all", program(t, "exec")}, flags, []string{"-bounding", "--"})...)
				for _, k := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"} {
					if got[k] != "0000000000000000" {
						t.Errorf("%s: %s is %s", mode, k, got[k])
					}
				}
			}
		})
		t.Run("groups of the container's user", func(t *testing.T) {
			for _, c := range []struct{ groups, kept string }{{"--groups=0,4,4322", "kept: [0 4 4322]"}, {"--groups=4322,29,4", ""}} {
				code, out, errs := run(t, exec.CommandContext(t.Context(), "setpriv", "--reuid=4321", "--regid=4322", c.groups, "--inh-caps=-all",
					program(t, "exec"), "-user", "alice", "--", "/bin/echo", "executed"))
				if code != 0 || out != "executed\n" || strings.HasPrefix(errs, "kept") != (c.kept != "") || !strings.Contains(errs, c.kept) {
					t.Errorf("status %d, %q %q; want %q", code, out, errs, c.kept)
				}
			}
		})
		t.Run("home", func(t *testing.T) {
			_, out, _ := run(t, execCommand(t, "-user", "alice", "--", "/bin/sh", "-c", "echo $HOME"))
			if out != "/home/alice\n" {
				t.Errorf("HOME=%s", out)
			}
		})
		t.Run("init stays root", func(t *testing.T) {
			_, out, errs := run(t, execCommand(t, "-init", "-user", "alice", "--", "/bin/sh", "-c", "stat -c %u /proc/$PPID /proc/$$"))
			if out != "0\n4321\n" {
				t.Errorf("%q %s", out, errs)
			}
		})
	})
}

// Securebits that keep capabilities over a change of user do not keep them here.
func TestUserWithSecurebits(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Tool("setpriv"))
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		for mode, flags := range modes {
			cmd := exec.CommandContext(t.Context(), "setpriv", slices.Concat([]string{"--securebits=+no_setuid_fixup", program(t, "exec")}, flags,
				[]string{"-user", "4321:4322", "--", "/bin/sh", "-c", "cat /proc/self/status; setpriv --dump"})...)
			code, out, errs := run(t, cmd)
			f := statusFields(out, credentials...)
			if code != 0 || f["CapPrm"] != "0000000000000000" || f["CapEff"] != f["CapPrm"] || !strings.Contains(out, "Securebits: no_setuid_fixup") {
				t.Errorf("%s: status %d, %v\n%s%s", mode, code, f, out, errs)
			}
		}
	})
}

// What cannot be had is refused, with the reason, and nothing is executed.
func TestUserRefused(t *testing.T) {
	refused := func(t *testing.T, user, want string) {
		t.Helper()
		for mode, flags := range modes {
			code, out, errs := run(t, execCommand(t, slices.Concat(flags, []string{"-user", user, "--", "/bin/echo", "executed"})...))
			if code != 125 || out != "" || !strings.Contains(errs, want) {
				t.Errorf("%s as %s: status %d, %q %q; want %q", mode, user, code, out, errs, want)
			}
		}
	}
	t.Run("single user", func(t *testing.T) {
		nstest.Run(t, nstest.Options{SingleUser: true}, func(t *testing.T) {
			refused(t, "77:88", "the user namespace forbids setgroups")
			code, out, errs := run(t, execCommand(t, "-user", "0:0", "--", "/bin/echo", "executed"))
			if code != 0 || out != "executed\n" {
				t.Errorf("as itself: status %d, %s", code, errs)
			}
		})
	})
	t.Run("unmapped", func(t *testing.T) {
		testenv.Need(t, testenv.Root)
		nstest.Run(t, nstest.Options{Real: true}, func(t *testing.T) {
			for mode, flags := range modes {
				cmd := execCommand(t, slices.Concat(flags, []string{"-user", "77:88", "--", "/bin/echo", "executed"})...)
				id := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 10}}
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: id, GidMappings: id, GidMappingsEnableSetgroups: true}
				code, out, errs := run(t, cmd)
				if code != 125 || out != "" || !strings.Contains(errs, "has no such id") {
					t.Errorf("%s: status %d, %q %q", mode, code, out, errs)
				}
			}
		})
	})
	t.Run("not root", func(t *testing.T) {
		testenv.Need(t, testenv.NonRoot)
		refused(t, "77:88", "that takes root with CAP_SETUID and CAP_SETGID")
		self := fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
		code, out, errs := run(t, execCommand(t, "-user", self, "--", "/bin/echo", "executed"))
		if code != 0 || out != "executed\n" {
			t.Errorf("as itself: status %d, %s", code, errs)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		refused(t, "nobody-has-this-name", "unknown")
	})
}
