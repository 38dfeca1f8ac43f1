package difftest

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
)

// gen makes one case from a seed. Names come from a small pool, so that lines
// meet the tree and each other; most lines are well-formed, so that most cases
// reach the file system; ages and times are far apart, and the times that cannot
// be set (ctime, btime) are always "now".
type gen struct {
	r     *rand.Rand
	c     *Case
	paths []string
}

func generate(seed uint64) *Case {
	g := &gen{r: rand.New(rand.NewPCG(seed, 0x736c617368)), c: &Case{Name: fmt.Sprintf("seed %d", seed)}}
	g.c.Root = g.r.IntN(2) == 0
	g.tree()
	g.configuration()
	g.command()
	return g.c
}

func (g *gen) chance(percent int) bool { return g.r.IntN(100) < percent }

func pick[T any](g *gen, of ...T) T { return of[g.r.IntN(len(of))] }

var names = []string{"a", "b", "c", "a1", ".h", "x y", "ü", "d", "e.tmp"}

func (g *gen) path() string {
	if len(g.paths) > 0 && g.chance(55) {
		return pick(g, g.paths...)
	}
	p := pick(g, "/t", "/t", "/t", "/t", "/run", "/var/tmp", "/var/run")
	for range 1 + g.r.IntN(3) {
		p += "/" + pick(g, names...)
	}
	return p
}

var owners = [][2]int{{0, 0}, {0, 0}, {0, 0}, {1000, 1000}, {1001, 1001}, {150, 151}, {0, 50}, {2000, 2000}}

func (g *gen) time() int64 {
	const h, d = 3600, 86400
	return pick[int64](g, 0, 0, -h, -3*d, -3*d, -30*d, -30*d, -400*d, 10*d)
}

func (g *gen) tree() {
	kinds := map[string]byte{}
	for range g.r.IntN(14) {
		p := g.path()
		if kinds[p] != 0 || !g.parentsAreDirs(p, kinds) {
			continue
		}
		o := pick(g, owners...)
		n := Node{Path: p, UID: o[0], GID: o[1], Xattrs: map[string]string{}, Mtime: g.time(), Atime: g.time()}
		switch k := g.r.IntN(100); {
		case k < 38:
			n.Type, n.Mode = 'd', pick[uint32](g, 0o755, 0o755, 0o700, 0o777, 0o1777, 0o2775, 0o555, 0)
			if g.chance(8) {
				n.Xattrs[xattrDefaultACL], _ = aclBytes("u::rwx,u:1000:r-x,g::r-x,m::rwx,o::---")
			}
		case k < 72:
			n.Type, n.Mode = 'f', pick[uint32](g, 0o644, 0o644, 0o600, 0o755, 0o444, 0o1644, 0o4755, 0o2755, 0)
			n.Content = pick(g, "", "one\n", "old content", strings.Repeat("x", 5000))
			n.Lock = g.chance(4)
		case k < 84:
			n.Type, n.Target = 'l', g.target()
		case k < 89:
			n.Type, n.Mode = 'p', pick[uint32](g, 0o644, 0o600, 0o666)
		case k < 93:
			n.Type, n.Mode = 's', pick[uint32](g, 0o755, 0o666)
			n.Live = g.chance(30) && len(p) < 60
		case k < 95:
			n.Type, n.Mode, n.Major, n.Minor = 'c', 0o660, 1, pick[uint32](g, 3, 5)
		case k < 96:
			n.Type, n.Mode, n.Major, n.Minor = 'b', 0o660, 7, 200
		default:
			if f := g.someFile(); f != "" {
				n = Node{Type: 'h', Path: p, Target: f}
			} else {
				n.Type, n.Mode = 'f', 0o644
			}
		}
		if (n.Type == 'd' || n.Type == 'f') && g.chance(8) {
			n.Xattrs["user.k"] = "v1"
		}
		if (n.Type == 'd' || n.Type == 'f') && g.chance(6) {
			n.Xattrs[xattrACL], _ = aclBytes(pick(g, "u::rw-,u:1001:r--,g::r--,m::r--,o::r--", "u::rwx,g::r-x,g:50:rwx,m::rwx,o::---"))
		}
		kinds[p] = n.Type
		g.paths = append(g.paths, p)
		g.c.Nodes = append(g.c.Nodes, n)
	}
}

// parentsAreDirs says whether p can be made: what is above it is nothing or a
// directory.
func (g *gen) parentsAreDirs(p string, kinds map[string]byte) bool {
	if strings.HasPrefix(p, "/var/run") {
		return false
	}
	for i := 1; i < len(p); i++ {
		if p[i] == '/' {
			if k := kinds[p[:i]]; k != 0 && k != 'd' {
				return false
			}
		}
	}
	for q := range kinds {
		if strings.HasPrefix(q, p+"/") {
			return false
		}
	}
	return true
}

func (g *gen) someFile() string {
	for _, n := range g.c.Nodes {
		if n.Type == 'f' {
			return n.Path
		}
	}
	return ""
}

func (g *gen) target() string {
	return pick(g, "a", "../b", "/t/a", "/t/b", "/nowhere", ".", "/run", "loop", "/dev/null", g.path())
}

// -- lines

func (g *gen) field(v string, orDash int) string {
	if g.chance(orDash) {
		return "-"
	}
	return v
}

func (g *gen) mode() string {
	m := pick(g, "0755", "0700", "644", "0640", "1777", "2755", "4755", "07777", "0", "0222")
	return g.field(pick(g, "", "", "", "", "", "", "~", ":", ":~", "~:")+m, 35)
}

func (g *gen) owner() (string, string) {
	u := pick(g, "root", "alice", "bob", "svc", "1000", "0", "12345", "nobody")
	v := pick(g, "root", "alice", "staff", "svc", "1001", "0", "54321", "adm")
	if g.chance(2) {
		u = pick(g, "nosuchuser", "-1", "4294967295", "65535", "al ice", "99999999999")
	}
	return g.field(pick(g, "", "", "", "", ":")+u, 40), g.field(pick(g, "", "", "", "", ":")+v, 40)
}

func (g *gen) age() string {
	by := pick(g, "m:", "mM:", "a:", "aAmM:", "M:", "", "b:", "c:", "C:", "am:", "A:")
	span := pick(g, "10m", "1d", "2w", "1y", "0", "5d12h", "1.5d", "86400", "1 d", "infinity", "2M", "90min")
	return g.field(pick(g, "", "", "", "~")+by+span, 30)
}

func (g *gen) pathField(glob bool) string {
	p := g.path()
	if glob && g.chance(45) {
		i := strings.LastIndexByte(p, '/')
		p = p[:i+1] + pick(g, "*", "?", "[ab]", "{a,b}", "a*", ".*", "{a,.h}", "[!a]*", "*/*", "*.tmp")
		if g.chance(20) {
			p = "/t/*/" + pick(g, "a", "*", "b*")
		}
	}
	if g.chance(4) {
		p += pick(g, "/", "//", "/.", "/..", "/../a")
	}
	if g.chance(3) {
		p = strings.Replace(p, "/a", pick(g, "//a", "/./a", "/%%a", "/%u", "/%H", "/%q", "/\\x61", "/%m"), 1)
	}
	switch {
	case strings.ContainsAny(p, " ") || g.chance(5):
		if g.chance(50) {
			return `"` + p + `"`
		}
		return "'" + p + "'"
	}
	return p
}

func (g *gen) content() string {
	return pick(g, "-", "hello", "two words", `tab\there`, `line\n`, "%u %U", "%%", "with trailing ", `\x41\102`, `"quoted"`, "%v", `\\`, "")
}

func (g *gen) arg(typ byte, mods string) string {
	switch typ {
	case 'f', 'F', 'w':
		if strings.Contains(mods, "^") {
			return pick(g, "cred", "missing", "b64")
		}
		if strings.Contains(mods, "~") {
			return pick(g, base64.StdEncoding.EncodeToString([]byte("bin\x00ary")), "SGVsbG8=", "!!!", "SGVsbG8")
		}
		if c := g.content(); typ != 'w' || c != "-" && c != "" || g.chance(10) {
			return c
		}
		return "text"
	case 'L':
		return pick(g, g.target(), g.path(), "-", "%t/x", "relative/x")
	case 'C':
		return pick(g, g.path(), g.path(), "/t", "-", "/etc/passwd", "t/a")
	case 'c':
		return pick(g, "1:3", "1:5", "1:9", "5:1")
	case 'b':
		return pick(g, "7:200", "7:201")
	case 't', 'T':
		return pick(g, "user.k=v2", `user.q="a b" user.z=1`, "user.e=", "user.s=%u", `user.x=\x41`, "trusted.t=1", "bad", "user.k='q'")
	case 'h', 'H':
		return pick(g, "+A", "=", "-A", "+d", "=d", "+S", "d", "A", "+Z", "Ad")
	case 'a', 'A':
		return pick(g, "u:alice:rwx", "u:alice:rX", "g:staff:r--", "user:1001:rw-,group:adm:r", "d:u:bob:rwx", "default:g:staff:rX,u:alice:r", "m::r--,u:bob:rwx", "u::rw,g::r,o::-,u:bob:r", "o::rwx", "u:nosuch:r", "bad:acl")
	case 'k', 'K':
		return pick(g, "cap_net_raw+ep", "cap_setuid=ep", "=", "cap_chown,cap_fowner+p", "all=p", "cap_setuid-ep", "bogus+x", "cap_net_raw=eip rootuid=1000")
	}
	if g.chance(2) {
		return "unwanted"
	}
	return "-"
}

func (g *gen) line() string {
	typ := pick(g, strings.Split("d d d d d D D e v q Q f f f f+ F w w+ p p+ L L L+ L? c c+ b C C C+ x X r r R z z Z Z m t T h H a a+ A k k+ K", " ")...)
	mods := ""
	for _, m := range []struct {
		letter  string
		percent int
	}{{"!", 6}, {"-", 6}, {"=", 8}, {"$", 10}} {
		if g.chance(m.percent) {
			mods += m.letter
		}
	}
	if strings.Contains("fFw", typ[:1]) && g.chance(12) {
		mods += pick(g, "~", "^", "~^")
	}
	if strings.Contains(mods, "$") && !strings.Contains("fFdDvqQpLcbCwe", typ[:1]) && g.chance(90) {
		mods = strings.ReplaceAll(mods, "$", "")
	}
	if g.chance(1) {
		mods += pick(g, "!!", "?", "*", "+")
	}
	glob := strings.Contains("wexXrRzZmtThHaAkK", typ[:1])
	u, v := g.owner()
	age := "-"
	if strings.Contains("dDevqQCxXrR", typ[:1]) || g.chance(3) {
		age = g.age()
	}
	if strings.Contains(age, " ") {
		age = `"` + age + `"`
	}
	path, arg := g.pathField(glob), g.arg(typ[0], mods)
	if typ[0] == 'C' && intoItself(path, arg) {
		arg = "/etc/passwd"
	}
	line := strings.Join([]string{typ + mods, path, g.mode(), u, v, age, arg}, pick(g, " ", " ", "  ", "\t"))
	switch g.r.IntN(60) {
	case 0:
		return strings.Join(strings.Fields(line)[:1+g.r.IntN(5)], " ")
	case 1:
		return "  " + line + "   "
	case 2:
		return strings.Replace(line, "/t", "t", 1)
	case 3:
		return pick(g, "# comment", "", "   ", "; not a comment", `d "/t/unclosed`, "y /t/a", "d", `d /t/\q`, "d /t/%j", "d /t/%i 0755", "d /t/a 0999", "d /t/a 77777", "d /t/a - - - 1x", "d /t/a - - - zz:1d")
	}
	return line
}

// intoItself: the reference copies a tree into itself until names are too long,
// half a minute a case.
func intoItself(path, source string) bool {
	path = strings.Trim(path, `"'`)
	return path == source || strings.HasPrefix(path, source+"/")
}

func (g *gen) configuration() {
	dirs := []string{"/etc/tmpfiles.d/", "/run/tmpfiles.d/", "/usr/local/lib/tmpfiles.d/", "/usr/lib/tmpfiles.d/"}
	var lines []string
	for range 1 + g.r.IntN(3) {
		name := pick(g, dirs...) + pick(g, "a.conf", "b.conf", "50-x.conf", "b.conf", "ignored.txt", ".hidden.conf")
		if g.chance(85) {
			name = pick(g, dirs...) + pick(g, "a.conf", "b.conf", "50-x.conf")
		}
		if g.chance(4) {
			g.addOnce(Node{Type: 'l', Path: name, Target: pick(g, "/dev/null", "/nowhere", "a.conf")})
			continue
		}
		lines = nil
		for range 1 + g.r.IntN(5) {
			l := g.line()
			lines = append(lines, l)
			if g.chance(8) {
				lines = append(lines, l)
			}
		}
		g.addOnce(Node{Type: 'f', Path: name, Mode: 0o644, Content: strings.Join(lines, "\n") + "\n"})
	}
	if g.chance(12) {
		g.c.Nodes = append(g.c.Nodes, Node{Type: 'd', Path: "/cred", Mode: 0o700},
			Node{Type: 'f', Path: "/cred/cred", Mode: 0o600, Content: "secret %u"},
			Node{Type: 'f', Path: "/cred/b64", Mode: 0o600, Content: "SGVsbG8="},
			Node{Type: 'f', Path: "/cred/tmpfiles.extra", Mode: 0o600, Content: g.line() + "\n"})
		dir := "/cred"
		if g.c.Root {
			dir = altRoot + dir
		}
		g.c.Env = append(g.c.Env, "CREDENTIALS_DIRECTORY="+dir)
	}
}

func (g *gen) addOnce(n Node) {
	for _, m := range g.c.Nodes {
		if m.Path == n.Path {
			return
		}
	}
	g.c.Nodes = append(g.c.Nodes, n)
}

func (g *gen) command() {
	var args []string
	switch k := g.r.IntN(100); {
	case k < 55:
		args = []string{"--create"}
	case k < 70:
		args = []string{"--clean"}
	case k < 80:
		args = []string{"--remove"}
	case k < 86:
		args = []string{"--create", "--remove", "--clean"}
	case k < 91:
		args = []string{"--remove", "--create"}
	default:
		args = []string{"--purge"}
	}
	if g.chance(15) {
		args = append(args, "--boot")
	}
	if g.chance(6) {
		args = append(args, pick(g, "--prefix=/t", "--exclude-prefix=/t/a", "--prefix=/t/a", "-E", "--prefix=/run", "--exclude-prefix=/t"))
	}
	if g.chance(6) {
		args = append(args, "--graceful")
	}
	switch {
	case args[0] == "--purge" || g.chance(6):
		args = append(args, pick(g, "a.conf", "b.conf", "50-x.conf", "b.conf", "missing.conf"))
	case g.chance(8):
		args = append(args, "-")
		g.c.Stdin = g.line() + "\n" + g.line() + "\n"
	case g.chance(6):
		args = append(args, "--inline", g.line(), g.line())
	case g.chance(5):
		args = append(args, "--replace="+pick(g, "/usr/lib/tmpfiles.d/a.conf", "/usr/lib/tmpfiles.d/z.conf", "/etc/tmpfiles.d/b.conf", "a.conf"), "b.conf")
	}
	g.c.Cmds = [][]string{args}
	if args[0] == "--create" && g.chance(10) {
		g.c.Cmds = append(g.c.Cmds, args)
	}
}
