package difftest

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
)

// A Node is one entry of a tree, to be made or as it was found. Its text form is
//
//	TYPE PATH MODE UID:GID [KEY=VALUE]...
//
// with TYPE one of d f l p s c b h (h is a further hard link, target= the first)
// and the keys content, target, dev, mtime, atime, acl, dacl, flags, lock, live
// and x.NAME for an extended attribute. PATH and values may be Go-quoted.
type Node struct {
	Type         byte
	Path         string
	Mode         uint32
	UID, GID     int
	Content      string
	Target       string
	Major, Minor uint32
	// Mtime and Atime are offsets from the start of the suite in seconds; 0 is
	// "now" and not set.
	Mtime, Atime int64
	Xattrs       map[string]string
	Flags        uint32
	Lock, Live   bool
}

// String is the text form.
func (n Node) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%c %s %04o %d:%d", n.Type, word(n.Path), n.Mode, n.UID, n.GID)
	if n.Content != "" {
		fmt.Fprintf(&b, " content=%s", word(n.Content))
	}
	if n.Target != "" {
		fmt.Fprintf(&b, " target=%s", word(n.Target))
	}
	if n.Type == 'c' || n.Type == 'b' {
		fmt.Fprintf(&b, " dev=%d:%d", n.Major, n.Minor)
	}
	if n.Mtime != 0 {
		fmt.Fprintf(&b, " mtime=%ds", n.Mtime)
	}
	if n.Atime != 0 {
		fmt.Fprintf(&b, " atime=%ds", n.Atime)
	}
	names := make([]string, 0, len(n.Xattrs))
	for k := range n.Xattrs {
		names = append(names, k)
	}
	sort.Strings(names)
	for _, k := range names {
		switch k {
		case xattrACL:
			fmt.Fprintf(&b, " acl=%s", aclText(n.Xattrs[k]))
		case xattrDefaultACL:
			fmt.Fprintf(&b, " dacl=%s", aclText(n.Xattrs[k]))
		default:
			fmt.Fprintf(&b, " x.%s=%s", k, word(n.Xattrs[k]))
		}
	}
	if n.Flags != 0 {
		fmt.Fprintf(&b, " flags=0x%x", n.Flags)
	}
	if n.Lock {
		b.WriteString(" lock=1")
	}
	if n.Live {
		b.WriteString(" live=1")
	}
	return b.String()
}

func word(s string) string {
	for _, r := range s {
		if r <= ' ' || r == '"' || r == '\\' || r >= 127 {
			return strconv.Quote(s)
		}
	}
	if s == "" {
		return `""`
	}
	return s
}

// parseTree reads nodes in text form; empty lines and # comments are skipped.
func parseTree(text string) ([]Node, error) {
	var nodes []Node
	sc := bufio.NewScanner(strings.NewReader(text))
	sc.Buffer(nil, 1<<22)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		n, err := parseNode(line)
		if err != nil {
			return nil, fmt.Errorf("tree line %q: %w", line, err)
		}
		nodes = append(nodes, n)
	}
	return nodes, sc.Err()
}

func nextWord(s string) (w, rest string, err error) {
	if strings.HasPrefix(s, `"`) {
		q, err := strconv.QuotedPrefix(s)
		if err != nil {
			return "", "", err
		}
		w, err = strconv.Unquote(q)
		return w, strings.TrimLeft(s[len(q):], " "), err
	}
	w, rest, _ = strings.Cut(s, " ")
	return w, strings.TrimLeft(rest, " "), nil
}

func parseNode(line string) (n Node, err error) {
	var typ, mode, owner string
	rest := line
	for _, p := range []*string{&typ, &n.Path, &mode, &owner} {
		if *p, rest, err = nextWord(rest); err != nil {
			return n, err
		}
	}
	if len(typ) != 1 || !strings.Contains("dflpscbh", typ) || !strings.HasPrefix(n.Path, "/") {
		return n, errors.New("want TYPE /PATH MODE UID:GID")
	}
	n.Type = typ[0]
	m, err := strconv.ParseUint(mode, 8, 32)
	if err != nil {
		return n, err
	}
	n.Mode = uint32(m)
	if _, err := fmt.Sscanf(owner, "%d:%d", &n.UID, &n.GID); err != nil {
		return n, err
	}
	n.Xattrs = map[string]string{}
	for rest != "" {
		key, val, ok := strings.Cut(rest, "=")
		if !ok {
			return n, fmt.Errorf("no value in %q", rest)
		}
		if val, rest, err = nextWord(val); err != nil {
			return n, err
		}
		if err := n.set(key, val); err != nil {
			return n, fmt.Errorf("%s: %w", key, err)
		}
	}
	return n, nil
}

func (n *Node) set(key, val string) (err error) {
	switch key {
	case "content":
		n.Content = val
	case "target":
		n.Target = val
	case "dev":
		_, err = fmt.Sscanf(val, "%d:%d", &n.Major, &n.Minor)
	case "mtime":
		n.Mtime, err = parseOffset(val)
	case "atime":
		n.Atime, err = parseOffset(val)
	case "acl":
		n.Xattrs[xattrACL], err = aclBytes(val)
	case "dacl":
		n.Xattrs[xattrDefaultACL], err = aclBytes(val)
	case "flags":
		var v uint64
		v, err = strconv.ParseUint(val, 0, 32)
		n.Flags = uint32(v)
	case "lock":
		n.Lock = true
	case "live":
		n.Live = true
	default:
		name, ok := strings.CutPrefix(key, "x.")
		if !ok {
			return errors.New("unknown key")
		}
		n.Xattrs[name] = val
	}
	return err
}

func parseOffset(s string) (int64, error) {
	if s == "" {
		return 0, errors.New("empty offset")
	}
	unit := map[byte]int64{'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'y': 31557600}[s[len(s)-1]]
	v, err := strconv.ParseInt(s[:len(s)-1], 10, 64)
	if unit == 0 {
		err = errors.New("unknown unit in " + s)
	}
	return v * unit, err
}

const (
	xattrACL        = "system.posix_acl_access"
	xattrDefaultACL = "system.posix_acl_default"
)

// aclText renders the attribute value (linux/posix_acl_xattr.h): version 2, then
// tag, permissions and id of each entry.
func aclText(v string) string {
	b := []byte(v)
	if len(b) < 4 || (len(b)-4)%8 != 0 || binary.LittleEndian.Uint32(b) != 2 {
		return "hex:" + hex.EncodeToString(b)
	}
	var out []string
	for b = b[4:]; len(b) > 0; b = b[8:] {
		tag, perm, id := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])
		p := ""
		for i, c := range "rwx" {
			if perm&(4>>i) != 0 {
				p += string(c)
			} else {
				p += "-"
			}
		}
		switch tag {
		case 1:
			out = append(out, "u::"+p)
		case 2:
			out = append(out, fmt.Sprintf("u:%d:%s", id, p))
		case 4:
			out = append(out, "g::"+p)
		case 8:
			out = append(out, fmt.Sprintf("g:%d:%s", id, p))
		case 16:
			out = append(out, "m::"+p)
		case 32:
			out = append(out, "o::"+p)
		default:
			out = append(out, fmt.Sprintf("?%d:%d:%s", tag, id, p))
		}
	}
	return strings.Join(out, ",")
}

func aclBytes(text string) (string, error) {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range strings.Split(text, ",") {
		f := strings.Split(e, ":")
		if len(f) != 3 {
			return "", fmt.Errorf("entry %q", e)
		}
		tag := map[string]uint16{"u": 1, "g": 4, "m": 16, "o": 32}[f[0]]
		id := uint64(0xffffffff)
		if f[1] != "" {
			tag *= 2
			var err error
			if id, err = strconv.ParseUint(f[1], 10, 32); err != nil {
				return "", err
			}
		}
		var perm uint16
		for i, c := range "rwx" {
			if strings.ContainsRune(f[2], c) {
				perm |= 4 >> i
			}
		}
		b = binary.LittleEndian.AppendUint16(b, tag)
		b = binary.LittleEndian.AppendUint16(b, perm)
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	return string(b), nil
}

// build makes the nodes below root, in order, parents that are missing as 0755.
// It returns what must stay open while the case runs: locks and live sockets.
func build(root string, nodes []Node, start time.Time) (release func(), err error) {
	var open []func()
	release = func() {
		for _, f := range open {
			f()
		}
	}
	for _, n := range nodes {
		path := root + n.Path
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return release, err
		}
		if err := n.make(root, path); err != nil {
			return release, fmt.Errorf("making %s: %w", n, err)
		}
		if n.Live {
			os.Remove(path)
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
			if err != nil {
				return release, err
			}
			l.SetUnlinkOnClose(false)
			open = append(open, func() { l.Close() })
		}
		if n.Lock {
			fd, err := linux.Openat(atFDCWD, path, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
			if err != nil {
				return release, err
			}
			if err := linux.TryFlock(fd); err != nil {
				return release, err
			}
			open = append(open, func() { linux.Close(fd) })
		}
	}
	for _, n := range slices.Backward(nodes) {
		if err := n.finish(root+n.Path, start); err != nil {
			return release, fmt.Errorf("finishing %s: %w", n, err)
		}
	}
	return release, nil
}

func (n *Node) make(root, path string) error {
	var err error
	switch n.Type {
	case 'd':
		if err = os.Mkdir(path, 0o700); errors.Is(err, os.ErrExist) {
			err = nil
		}
	case 'f':
		os.Remove(path)
		err = os.WriteFile(path, []byte(n.Content), 0o600)
	case 'l':
		if err = os.Symlink(n.Target, path); err == nil {
			return os.Lchown(path, n.UID, n.GID)
		}
	case 'h':
		return os.Link(root+n.Target, path)
	case 'p':
		err = linux.Mknodat(atFDCWD, path, syscall.S_IFIFO|0o600, 0)
	case 's':
		err = linux.Mknodat(atFDCWD, path, syscall.S_IFSOCK|0o600, 0)
	case 'c':
		err = linux.Mknodat(atFDCWD, path, syscall.S_IFCHR|0o600, linux.Makedev(n.Major, n.Minor))
	case 'b':
		err = linux.Mknodat(atFDCWD, path, syscall.S_IFBLK|0o600, linux.Makedev(n.Major, n.Minor))
	}
	if err != nil {
		return err
	}
	if err := os.Lchown(path, n.UID, n.GID); err != nil {
		return err
	}
	if err := linux.Chmod(path, n.Mode); err != nil {
		return err
	}
	for k, v := range n.Xattrs {
		if err := linux.Setxattr(path, k, []byte(v), 0); err != nil {
			return err
		}
	}
	return nil
}

// finish sets what making a later node would disturb: times, and flags such as
// immutable.
func (n *Node) finish(path string, start time.Time) error {
	if n.Mtime != 0 || n.Atime != 0 {
		m, a := start, start
		if n.Mtime != 0 {
			m = start.Add(time.Duration(n.Mtime) * time.Second)
		}
		if n.Atime != 0 {
			a = start.Add(time.Duration(n.Atime) * time.Second)
		}
		if err := linux.Utimensat(atFDCWD, path, a.UnixNano(), m.UnixNano()); err != nil {
			return err
		}
	}
	if n.Flags != 0 {
		return changeFlags(path, func(v uint32) uint32 { return v | n.Flags })
	}
	return nil
}

const atFDCWD = -100

func changeFlags(path string, change func(uint32) uint32) error {
	fd, err := linux.Openat(atFDCWD, path, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer linux.Close(fd)
	v, err := linux.GetFlags(fd)
	if err != nil {
		return err
	}
	return linux.SetFlags(fd, change(v))
}

// flagsOfInterest leaves out what the file system itself sets (linux/fs.h):
// extents, inline data, huge file, and the index of a hashed directory.
const flagsOfInterest = ^uint32(0x80000 | 0x10000000 | 0x40000 | 0x1000)

// digest reads the tree below root, sorted by path, without the names in skip
// (paths below root).
func digest(root string, skip map[string]bool, start time.Time) ([]Node, error) {
	var nodes []Node
	first := map[[2]uint64]string{}
	var walk func(rel string) error
	walk = func(rel string) error {
		entries, err := os.ReadDir(root + rel)
		if err != nil {
			return err
		}
		slices.SortFunc(entries, func(a, b os.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
		for _, e := range entries {
			p := strings.TrimSuffix(rel, "/") + "/" + e.Name()
			if skip[p] {
				continue
			}
			n, err := readNode(root, p, first, start)
			if errors.Is(err, syscall.ENAMETOOLONG) {
				nodes = append(nodes, Node{Type: '?', Path: rel, Target: "deeper than a path can name"})
				return nil
			}
			if err != nil {
				return err
			}
			nodes = append(nodes, n)
			if n.Type == 'd' {
				if err := walk(p); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return nodes, walk("/")
}

func readNode(root, p string, first map[[2]uint64]string, start time.Time) (Node, error) {
	path := root + p
	var st syscall.Stat_t
	if err := linux.Fstatat(atFDCWD, path, 0x100 /* AT_SYMLINK_NOFOLLOW */, &st); err != nil {
		return Node{}, err
	}
	n := Node{Path: p, Mode: st.Mode & 0o7777, UID: int(st.Uid), GID: int(st.Gid), Xattrs: map[string]string{}}
	n.Type = map[uint32]byte{syscall.S_IFDIR: 'd', syscall.S_IFREG: 'f', syscall.S_IFLNK: 'l', syscall.S_IFIFO: 'p',
		syscall.S_IFSOCK: 's', syscall.S_IFCHR: 'c', syscall.S_IFBLK: 'b'}[st.Mode&syscall.S_IFMT]
	n.Mtime, n.Atime = offset(st.Mtim, start), offset(st.Atim, start)
	if n.Type != 'd' && st.Nlink > 1 {
		id := [2]uint64{uint64(st.Dev), st.Ino}
		if f := first[id]; f != "" {
			return Node{Type: 'h', Path: p, Target: f}, nil
		}
		first[id] = p
	}
	var err error
	switch n.Type {
	case 'l':
		n.Mode = 0
		n.Target, err = os.Readlink(path)
		return n, err
	case 'c', 'b':
		r := uint64(st.Rdev)
		n.Major, n.Minor = uint32(r>>8&0xfff|r>>32&^0xfff), uint32(r&0xff|r>>12&^0xff)
		return n, nil
	case 'p', 's':
		return n, nil
	}
	fd, err := linux.Openat(atFDCWD, path, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW|syscall.O_NOATIME|syscall.O_CLOEXEC, 0)
	if err != nil {
		return n, err
	}
	defer linux.Close(fd)
	if v, err := linux.GetFlags(fd); err == nil {
		n.Flags = v & flagsOfInterest
	}
	if err := readXattrs(fd, &n); err != nil {
		return n, err
	}
	if n.Type == 'f' {
		b, err := os.ReadFile(path)
		if err != nil {
			return n, err
		}
		n.Content = string(b)
	}
	return n, nil
}

func readXattrs(fd int, n *Node) error {
	buf := make([]byte, 64<<10)
	l, err := linux.Flistxattr(fd, buf)
	if errors.Is(err, syscall.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range strings.Split(strings.TrimRight(string(buf[:l]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		v := make([]byte, 64<<10)
		k, err := linux.Fgetxattr(fd, name, v)
		if err != nil {
			return err
		}
		n.Xattrs[name] = string(v[:k])
	}
	return nil
}

// offset is seconds since start, 0 for anything within half an hour of it: the
// suite itself is shorter, and what it touches is "now".
func offset(ts syscall.Timespec, start time.Time) int64 {
	s := int64(ts.Sec) - start.Unix()
	if s > -1800 && s < 1800 {
		return 0
	}
	return s
}

// wipe removes everything below root but the paths in keep and what leads there.
func wipe(root string, keep map[string]bool) error {
	var walk func(rel string) error
	walk = func(rel string) error {
		entries, err := os.ReadDir(root + rel)
		if err != nil {
			return err
		}
		for _, e := range entries {
			p := strings.TrimSuffix(rel, "/") + "/" + e.Name()
			if keep[p] {
				continue
			}
			leads := false
			for k := range keep {
				leads = leads || strings.HasPrefix(k, p+"/")
			}
			if leads && e.IsDir() {
				if err := walk(p); err != nil {
					return err
				}
				continue
			}
			if os.RemoveAll(root+p) == nil {
				continue
			}
			// Something below is immutable or append-only.
			filepath.WalkDir(root+p, func(q string, d os.DirEntry, err error) error {
				if err == nil && (d.IsDir() || d.Type().IsRegular()) {
					changeFlags(q, func(uint32) uint32 { return 0 })
				}
				return nil
			})
			changeFlags(root+rel, func(uint32) uint32 { return 0 })
			if err := os.RemoveAll(root + p); err != nil {
				return err
			}
		}
		return nil
	}
	return walk("/")
}
