package difftest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/testenv"
)

// packageCases are the tmpfiles.d files of each fetched package, and of all
// together, in a tree whose passwd and group have the users that the lines name.
// The commands go one after the other in the life of a machine: boot, the same
// again (nothing may change), cleaning, removal of the packages.
func packageCases(t *testing.T) []*Case {
	dir := filepath.Join(testenv.DepsDir(), "tmpfiles.d")
	packages, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) < 100 {
		t.Fatalf("%d packages in %s, want at least 100", len(packages), dir)
	}
	all := map[string]string{}
	var cases []*Case
	for _, p := range packages {
		files, err := filepath.Glob(filepath.Join(dir, p.Name(), "*.conf"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no files, %v", p.Name(), err)
		}
		conf := map[string]string{}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			conf[filepath.Base(f)] = string(b)
			all[filepath.Base(f)] = string(b)
		}
		cases = append(cases, packageCase(p.Name(), conf))
	}
	return append(cases, packageCase("all packages", all))
}

func packageCase(name string, conf map[string]string) *Case {
	c := &Case{Name: name}
	users, groups := map[string]bool{}, map[string]bool{}
	args := slices.Sorted(maps.Keys(conf))
	for _, file := range args {
		text := conf[file]
		c.Nodes = append(c.Nodes, Node{Type: 'f', Path: "/usr/lib/tmpfiles.d/" + file, Mode: 0o644, Content: text})
		for _, line := range strings.Split(text, "\n") {
			f := strings.Fields(line)
			if len(f) < 5 || strings.HasPrefix(f[0], "#") {
				continue
			}
			users[strings.TrimLeft(f[3], ":")] = true
			groups[strings.TrimLeft(f[4], ":")] = true
			aclUsers(f, users, groups)
		}
	}
	passwd, group := "root:x:0:0::/root:/bin/sh\n", "root:x:0:\n"
	id := 300
	for _, u := range sorted(users) {
		if isName(u) {
			passwd += fmt.Sprintf("%s:x:%d:%d::/:/bin/false\n", u, id, id)
			id++
		}
	}
	for _, g := range sorted(groups) {
		if isName(g) {
			group += fmt.Sprintf("%s:x:%d:\n", g, id)
			id++
		}
	}
	c.Nodes = append(c.Nodes,
		Node{Type: 'f', Path: "/etc/passwd", Mode: 0o644, Content: passwd},
		Node{Type: 'f', Path: "/etc/group", Mode: 0o644, Content: group},
		// Something for the globs, links and ages of these files to meet.
		Node{Type: 'f', Path: "/tmp/old", Mode: 0o644, Mtime: -100 * 86400, Atime: -100 * 86400},
		Node{Type: 'f', Path: "/var/tmp/old", Mode: 0o644, Mtime: -100 * 86400, Atime: -100 * 86400},
		Node{Type: 'f', Path: "/tmp/.X0-lock", Mode: 0o444},
		Node{Type: 'd', Path: "/var/log", Mode: 0o755},
		Node{Type: 'd', Path: "/var/cache", Mode: 0o755},
		Node{Type: 'd', Path: "/usr/share/factory/etc", Mode: 0o755},
		Node{Type: 'f', Path: "/usr/share/factory/etc/issue", Mode: 0o644, Content: "x"},
	)
	c.Cmds = [][]string{{"--create", "--remove", "--boot"}, {"--create"}, {"--create"}, {"--remove"}, {"--clean"}, append([]string{"--purge"}, args...)}
	return c
}

// aclUsers notes the users and groups that an ACL argument names.
func aclUsers(fields []string, users, groups map[string]bool) {
	if len(fields) < 7 || !strings.ContainsAny(fields[0][:1], "aA") {
		return
	}
	for _, e := range strings.Split(fields[6], ",") {
		e = strings.TrimPrefix(strings.TrimPrefix(e, "default:"), "d:")
		if f := strings.Split(e, ":"); len(f) == 3 && f[1] != "" {
			if f[0][0] == 'u' {
				users[f[1]] = true
			} else {
				groups[f[1]] = true
			}
		}
	}
}

// sorted gives the names in order, so that both sides have the same ids.
func sorted(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }

func isName(s string) bool {
	return s != "" && s != "-" && s != "root" && !strings.ContainsAny(s[:1], "0123456789#")
}

func TestRealPackages(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Dep(reference), testenv.Dep("tmpfiles.d"))
	say := t.Errorf
	if !referenceIs262(t) {
		say = t.Logf
	}
	cases := packageCases(t)
	p := newPool(t, runtime.NumCPU(), false, executables(t))
	p.each(2*len(cases), func(w *worker, i int) {
		c := *cases[i/2]
		c.Root = i%2 == 1
		side := ours
		if c.Root {
			side = oursAsPeer
		}
		diff, want, got, err := differs(w, &c, theReference, side)
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			return
		}
		if diff != "" && accepted(&c, want, got) == "" {
			say("%s", report(&c, diff, want, got))
		}
	})
}
