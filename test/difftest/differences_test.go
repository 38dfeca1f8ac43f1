package difftest

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/testenv"
)

// differences are the accepted ones, by the id under which
// docs/tmpfiles-differences.md says why. A predicate looks at the case and at one
// step of both results and is as narrow as it can be; what it does not know is a
// bug of ours.
var differences = map[string]func(c *Case, want, got Step) bool{
	"stray-directories":      strayDirectories,
	"acl-users-in-root":      aclUsersInRoot,
	"write-leaves-root":      writeLeavesRoot,
	"removal-leaves-root":    removalLeavesRoot,
	"copy-into-itself":       copyIntoItself,
	"unsafe-removal":         unsafeRemoval,
	"links-of-others":        linksOfOthers,
	"replace-before-refusal": replaceBeforeRefusal,
	"capability-rootid":      capabilityRootid,
	"age-of-a-link":          ageOfALink,
	"unread-directory":       func(*Case, Step, Step) bool { return false }, // see TestCleanOfUnreadable
	"unread-configuration":   func(*Case, Step, Step) bool { return false }, // see TestBadLuck
	"depth-of-a-tree":        func(*Case, Step, Step) bool { return false }, // see TestDeepTrees
	"dry-run-knows-the-run":  func(*Case, Step, Step) bool { return false }, // not compared: nothing is changed
}

// accepted returns the id of the accepted difference that explains the first step
// that differs: what comes after it follows from it.
func accepted(c *Case, want, got []Step) string {
	for i := range want {
		if compare(&Case{Cmds: c.Cmds[:1], Output: c.Output}, want[i:i+1], got[i:i+1]) == "" {
			continue
		}
		for _, id := range slices.Sorted(maps.Keys(differences)) {
			if differences[id](c, want[i], got[i]) || c.Root && differences[id](c, innerUsers(want[i], got[i]), got[i]) {
				return id
			}
		}
		return ""
	}
	return ""
}

// changed gives the nodes that only the reference has, and those that only ours
// has, by path.
func changed(want, got Step) (ref, own map[string]Node) {
	index := func(s Step) map[string]Node {
		m := map[string]Node{}
		for _, n := range s.Tree {
			m[n.Path] = n
		}
		return m
	}
	ref, own = index(want), index(got)
	for p, n := range ref {
		o, ok := own[p]
		n.Atime, o.Atime = 0, 0
		if ok && o.String() == n.String() {
			delete(ref, p)
			delete(own, p)
		}
	}
	return ref, own
}

// strayDirectories: the reference has said something, and left parents of its
// own (0755 of root) with nothing in them, which are not there with ours. Their
// parent was touched by that.
func strayDirectories(c *Case, want, got Step) bool {
	if want.Exit != got.Exit || want.Stderr == "" {
		return false
	}
	ref, own := changed(want, got)
	stray := 0
	for p, n := range ref {
		if o, ok := own[p]; ok {
			n.Mtime, n.Atime, o.Mtime, o.Atime = 0, 0, 0, 0
			if n.Type != 'd' || n.String() != o.String() {
				return false
			}
			delete(own, p)
			continue
		}
		// Its group and bits can come from a setgid parent.
		if n.Type != 'd' || n.UID != 0 || n.Mode&0o777 != 0o755 {
			return false
		}
		stray++
	}
	return stray > 0 && len(own) == 0
}

// aclUsersInRoot: with --root the reference asks the machine for the users and
// groups of ACLs, and not the root's files. It is the only difference.
func aclUsersInRoot(c *Case, want, got Step) bool {
	if !c.Root {
		return false
	}
	return compare(&Case{Cmds: c.Cmds[:1]}, []Step{innerUsers(want, got)}, []Step{got}) == ""
}

// innerUsers gives the result of the reference with the inner number in every ACL
// entry that ours has with it, so that another difference beside it is seen.
func innerUsers(want, got Step) Step {
	inner := strings.NewReplacer("u:1000:", "u:2000:", "g:1000:", "g:2000:", "u:150:", "u:250:", "g:151:", "g:251:")
	ref, own := changed(want, got)
	want.Tree = slices.Clone(want.Tree)
	for i, n := range want.Tree {
		if _, differs := ref[n.Path]; !differs {
			continue
		}
		o := own[n.Path]
		n.Xattrs = maps.Clone(n.Xattrs)
		for _, name := range []string{xattrACL, xattrDefaultACL} {
			if _, has := n.Xattrs[name]; !has {
				continue
			}
			e, f := strings.Split(aclText(n.Xattrs[name]), ","), strings.Split(aclText(o.Xattrs[name]), ",")
			for j, entry := range e {
				if in := inner.Replace(entry); !slices.Contains(f, entry) && slices.Contains(f, in) {
					e[j] = in
				}
			}
			// Entries stand in order of the number, which may be another now.
			slices.Sort(e)
			slices.Sort(f)
			if slices.Equal(e, f) {
				n.Xattrs[name] = o.Xattrs[name]
			}
		}
		want.Tree[i] = n
	}
	return want
}

// writeLeavesRoot: with --root a "w" line through an absolute link writes outside
// of the root with the reference, and inside with ours.
func writeLeavesRoot(c *Case, want, got Step) bool {
	if !c.Root || !strings.Contains(configOf(c), "w") {
		return false
	}
	ref, own := changed(want, got)
	if len(ref) == 0 { // one of them had nothing to write to
		return len(own) == 0 && want.Exit == 0 && got.Exit == 73 && strings.Contains(got.Stderr, ": openat: ")
	}
	for p := range ref {
		inner, outer := p, p
		if strings.HasPrefix(p, altRoot+"/") {
			outer = strings.TrimPrefix(p, altRoot)
		} else {
			inner = altRoot + p
		}
		_, a := ref[inner]
		_, b := ref[outer]
		_, d := own[inner]
		if !a || !b || !d {
			return false
		}
	}
	return true
}

// removalLeavesRoot: with --root a line that goes through an absolute link removes
// what is outside of the root with the reference, and what is inside with ours.
func removalLeavesRoot(c *Case, want, got Step) bool {
	if !c.Root || !removes(c) || want.Exit != got.Exit {
		return false
	}
	var targets []string
	for _, n := range c.Nodes {
		if n.Type == 'l' && strings.HasPrefix(n.Target, "/") && strings.Contains(configOf(c), n.Path+"/") {
			targets = append(targets, n.Target+"/")
		}
	}
	ref, own := changed(want, got)
	removed := 0
	for p, n := range ref {
		if o, ok := own[p]; ok { // what something was removed from
			n.Mtime, n.Atime, o.Mtime, o.Atime = 0, 0, 0, 0
			if n.Type != 'd' || n.String() != o.String() {
				return false
			}
			delete(own, p)
			continue
		}
		inner, ok := strings.CutPrefix(p, altRoot)
		if !ok || !belowOneOf(inner, targets) {
			return false
		}
		removed++
	}
	for p := range own {
		if !belowOneOf(p, targets) {
			return false
		}
	}
	return removed+len(own) > 0
}

func belowOneOf(p string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return strings.HasPrefix(p, d) })
}

// removes says whether a command of the case removes.
func removes(c *Case) bool {
	for _, args := range c.Cmds {
		if slices.ContainsFunc(args, func(a string) bool { return a == "--clean" || a == "--remove" || a == "--purge" }) {
			return true
		}
	}
	return false
}

// linksOfOthers: ours refuses a link that belongs to an ordinary user and leads
// to what belongs to somebody else, where the reference follows.
func linksOfOthers(c *Case, want, got Step) bool {
	return (want.Exit == got.Exit || want.Exit == 0 && got.Exit == 73) && strings.Contains(got.Stderr, "unsafe path: the link ") && !strings.Contains(want.Stderr, "unsafe")
}

// unsafeRemoval: clean, remove and purge judge no owners on the way in the
// reference.
func unsafeRemoval(c *Case, want, got Step) bool {
	ref, _ := changed(want, got)
	for _, n := range ref {
		// What the reference has and ours not are times of directories alone.
		if n.Type != 'd' {
			return false
		}
	}
	sameExit := want.Exit == got.Exit || want.Exit == 0 && got.Exit == 73
	return removes(c) && sameExit && strings.Contains(got.Stderr, "unsafe path")
}

// replaceBeforeRefusal: with "=" the reference replaces a component, and then
// finds that a later one is "..", which it refuses.
func replaceBeforeRefusal(c *Case, want, got Step) bool {
	ref, _ := changed(want, got)
	return want.Exit == got.Exit && len(ref) > 0 && strings.Contains(want.Stderr, `".." is not a valid filename`) && strings.Contains(want.Stderr, "Wrong file type")
}

// copyIntoItself: the reference copies until names are too long.
func copyIntoItself(c *Case, want, got Step) bool {
	for _, n := range want.Tree {
		if n.Type == '?' {
			return true
		}
	}
	return false
}

// capabilityRootid: k+ on a file whose capabilities have no root id (version 2)
// gives it one of uninitialised memory (version 3).
func capabilityRootid(c *Case, want, got Step) bool {
	const name = "security.capability"
	ref, own := changed(want, got)
	for p, n := range ref {
		o := own[p]
		r, g := n.Xattrs[name], o.Xattrs[name]
		if len(r) != 24 || r[3] != 3 || r[20:] == "\x00\x00\x00\x00" || len(g) < 20 || r[4:20] != g[4:20] || strings.Contains(configOf(c), "rootuid") {
			return false
		}
	}
	return len(ref) > 0
}

// ageOfALink: the reference keeps links that an r or R line with an age names (and
// no glob), and nothing else is another.
func ageOfALink(c *Case, want, got Step) bool {
	if want.Exit != got.Exit {
		return false
	}
	named := map[string]bool{}
	for line := range strings.Lines(configOf(c)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[0][0] != 'r' && f[0][0] != 'R' || f[5] == "-" {
			continue
		}
		if c.Root {
			f[1] = altRoot + f[1]
		}
		named[f[1]] = true
	}
	ref, own := changed(want, got)
	links := 0
	for p, n := range ref {
		switch o, ok := own[p]; {
		case !ok && n.Type == 'l' && named[p]:
			links++
		case ok && n.Type == 'd': // what a link was removed from
			n.Mtime, n.Atime, o.Mtime, o.Atime = 0, 0, 0, 0
			if n.String() != o.String() {
				return false
			}
			delete(own, p)
		default:
			return false
		}
	}
	return links > 0 && len(own) == 0
}

// configOf is all configuration text of a case.
func configOf(c *Case) string {
	text := c.Stdin
	for _, n := range c.Nodes {
		if strings.Contains(n.Path, "tmpfiles.") {
			text += n.Content
		}
	}
	for _, args := range c.Cmds {
		text += strings.Join(args, "\n")
	}
	return text
}

func TestEveryDifferenceHasItsReason(t *testing.T) {
	root, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", "tmpfiles-differences.md"))
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^## ([a-z0-9-]+)$`).FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, m[1])
		if differences[m[1]] == nil {
			t.Errorf("%s is in docs/tmpfiles-differences.md and has no predicate here", m[1])
		}
	}
	for id := range differences {
		if !slices.Contains(documented, id) {
			t.Errorf("%s has a predicate and no section in docs/tmpfiles-differences.md", id)
		}
	}
	files, err := filepath.Glob("testdata/corpus/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		c, err := readCorpus(f)
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		for _, id := range c.differs() {
			if differences[id] == nil {
				t.Errorf("%s refers to %s, which is no difference", f, id)
			}
		}
	}
}
