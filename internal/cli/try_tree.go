package cli

import (
	"bufio"
	"cmp"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/accounts"
	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/linux"
)

// treeNode is an entry of a tree to be shown.
type treeNode struct {
	name   string
	depth  int
	st     fsat.Stat
	target string // of a link
	below  []*treeNode
}

// maxNodes is how many entries are read for the tour; a /run has some hundred.
const maxNodes = 10000

// readTree reads what is below dir.
func readTree(dir *fsat.Dir, depth int, budget *int) []*treeNode {
	names, err := dir.Names()
	if err != nil {
		return nil
	}
	slices.Sort(names)
	var list []*treeNode
	for _, name := range names {
		if *budget--; *budget < 0 {
			break
		}
		n := &treeNode{name: name, depth: depth}
		if dir.Stat(name, &n.st) != nil {
			continue
		}
		switch {
		case n.st.IsSymlink():
			n.target, _ = linux.Readlinkat(dir.Fd(), name)
		case n.st.IsDir():
			if d, err := dir.OpenDir(name); err == nil {
				n.below = readTree(d, depth+1, budget)
				d.Close()
			}
		}
		list = append(list, n)
	}
	return list
}

// fit says down to which depth a tree can be shown in so many lines; 1 in any
// case.
func fit(tree []*treeNode, lines int) int {
	perDepth := map[int]int{}
	deepest := 1
	var walk func([]*treeNode)
	walk = func(list []*treeNode) {
		for _, n := range list {
			perDepth[n.depth]++
			deepest = max(deepest, n.depth)
			walk(n.below)
		}
	}
	walk(tree)
	sum := perDepth[1]
	for d := 2; d <= deepest; d++ {
		if sum += perDepth[d]; sum > lines {
			return d - 1
		}
	}
	return deepest
}

// size is the number of entries below n.
func (n *treeNode) size() int {
	sum := 0
	for _, b := range n.below {
		sum += 1 + b.size()
	}
	return sum
}

// tree shows /run with owners and modes.
func (t *tryTour) tree(w *bufio.Writer) {
	dir, err := fsat.OpenDir("/run")
	if err != nil {
		return
	}
	defer dir.Close()
	budget := maxNodes
	tree := readTree(dir, 1, &budget)
	names := ownerNames()
	var root fsat.Stat
	if dir.Stat("", &root) != nil {
		return
	}
	depth := fit(tree, treeLines)
	top := &treeNode{name: "/run", st: root}
	rows := []*treeNode{top}
	var walk func([]*treeNode)
	walk = func(list []*treeNode) {
		for _, n := range list {
			rows = append(rows, n)
			if n.depth < depth {
				walk(n.below)
			}
		}
	}
	walk(tree)
	hidden := 0
	if len(rows) > treeLines+2 {
		hidden = len(rows) - treeLines - 1
		rows = rows[:treeLines+1]
	}
	width := 0
	owners := map[*treeNode]string{}
	for _, n := range rows {
		owners[n] = names(n.st.UID, n.st.GID)
		width = max(width, len(owners[n]))
	}
	w.WriteByte('\n')
	t.head(w, "Tree")
	for _, n := range rows {
		line := fmt.Sprintf("  %s %-*s  %s%s", modeText(&n.st), width, owners[n], strings.Repeat("  ", n.depth), Quote(n.name))
		switch {
		case n.target != "":
			line += " -> " + Quote(n.target)
		case n.st.IsDir() && n.depth > 0:
			line += "/"
			if n.depth == depth && len(n.below) > 0 {
				line += " (" + strconv.Itoa(n.size()) + " inside)"
			}
		}
		fmt.Fprintln(w, cut(line, nil))
	}
	if hidden > 0 {
		fmt.Fprintf(w, "  ... and %d more\n", hidden)
	}
}

// ownerNames returns a function for "user:group".
func ownerNames() func(uid, gid uint32) string {
	root, err := inroot.Open("")
	if err != nil {
		return func(uid, gid uint32) string { return fmt.Sprintf("%d:%d", uid, gid) }
	}
	users := accounts.System(root, accounts.DefaultGetent())
	return func(uid, gid uint32) string {
		u, _ := users.UserByID(uid)
		g, _ := users.GroupByID(gid)
		return Quote(cmp.Or(u.Name, strconv.FormatUint(uint64(uid), 10))) + ":" + Quote(cmp.Or(g.Name, strconv.FormatUint(uint64(gid), 10)))
	}
}

// modeText is a mode as ls -l shows it.
func modeText(st *fsat.Stat) string {
	perm := st.Perm()
	b := []byte(fs.FileMode(perm & 0o777).String()) // "-rwxr-xr-x"
	b[0] = map[uint32]byte{
		syscall.S_IFDIR: 'd', syscall.S_IFLNK: 'l', syscall.S_IFSOCK: 's', syscall.S_IFIFO: 'p',
		syscall.S_IFCHR: 'c', syscall.S_IFBLK: 'b', syscall.S_IFREG: '-',
	}[st.Type()]
	special := func(bit uint32, at int, with, without byte) {
		if perm&bit == 0 {
			return
		}
		if b[at] == 'x' {
			b[at] = with
		} else {
			b[at] = without
		}
	}
	special(syscall.S_ISUID, 3, 's', 'S')
	special(syscall.S_ISGID, 6, 's', 'S')
	special(syscall.S_ISVTX, 9, 't', 'T')
	return string(b)
}
