package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/slashrun/slashrun/internal/accounts"
	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/specifier"
	"github.com/slashrun/slashrun/internal/unit"
)

// anything stands for a part of a path that only a running unit knows: the instance
// of a template, the user of a user manager. No unit file can hold this byte.
const anything = "\x01"

// declared is one path that a unit says it makes.
type declared struct {
	unit, key string
	value     string // as it is written
	file      string
	line      int
	user      bool // of a user's manager
}

// units are the paths that all installed unit files declare.
type units struct {
	exact    map[string][]declared
	patterns []pattern
	problems []string
	// known are the instances that have a file, a mask or drop-ins of their own: what their
	// template says stands in exact then, as far as it is true of them.
	known map[instance]bool
}

// instance is one of a template, of the system's manager or the users'.
type instance struct {
	name string
	user bool
}

// pattern is a path with anything in it.
type pattern struct {
	path string
	declared
	before string // what path begins with
}

// manager is one kind of service manager.
type manager struct {
	dirs    []string
	runtime string // its runtime directory, %t
	user    bool
}

func managers() []manager {
	return []manager{
		// What generators and systemd-run(1) made of other configuration counts, too
		// (systemd.unit(5), "Unit File Load Path").
		{dirs: slices.Concat([]string{"/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient", "/run/systemd/generator.early"}, unit.Dirs(),
			[]string{"/etc/systemd/system.attached", "/run/systemd/system.attached", "/run/systemd/generator", "/run/systemd/generator.late"}), runtime: "/run"},
		{dirs: []string{"/etc/systemd/user", "/run/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user", "/lib/systemd/user"},
			runtime: "/run/user/" + anything, user: true},
	}
}

// readUnits reads all unit files below a root.
func readUnits(ctx context.Context, root *inroot.Root, users *accounts.Source) (*units, error) {
	u := &units{exact: map[string][]declared{}, known: map[instance]bool{}}
	for _, m := range managers() {
		spec := specifiers(root, users, m)
		seen := map[string]bool{}
		for _, name := range u.names(root, m.dirs) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			n, err := unit.ParseName(name)
			if err != nil || n.String() != name {
				continue
			}
			if n.At && n.Instance == "" {
				n.Instance = anything
			} else if n.At {
				u.known[instance{name, m.user}] = true
			}
			loaded, err := unit.Load(root, n, m.dirs)
			switch {
			case errors.Is(err, unit.ErrMasked), errors.Is(err, unit.ErrNotFound):
				continue
			case err != nil:
				u.problem("%v", err)
				continue
			}
			if id := loaded.Name.String(); !seen[id] { // else an alias
				seen[id] = true
				r := reader{units: u, unit: loaded, spec: spec, runtime: m.runtime, user: m.user}
				r.read()
			}
		}
	}
	return u, nil
}

func (u *units) problem(format string, args ...any) {
	if len(u.problems) < maxReasons {
		u.problems = append(u.problems, "the unit files: "+strings.ReplaceAll(fmt.Sprintf(format, args...), anything, ""))
	}
}

// names are those of the units in the directories that may declare a path.
func (u *units) names(root *inroot.Root, dirs []string) []string {
	seen := map[string]bool{}
	var list []string
	var visited []uint64
	for _, d := range dirs {
		at, err := root.Resolve(d)
		if err != nil {
			u.problem("%v", err)
			continue
		}
		if !at.Exists() || slices.Contains(visited, at.Stat.Ino) { // /lib is often /usr/lib
			at.Close()
			continue
		}
		visited = append(visited, at.Stat.Ino)
		names, err := fsat.DirOf(at.Fd).Names()
		at.Close()
		if err != nil {
			u.problem("%s: %v", root.Path(d), err)
			continue
		}
		for _, n := range names {
			if unit, ok := strings.CutSuffix(n, ".d"); ok && strings.Contains(n, "@") && !strings.Contains(n, "@.") {
				n = unit // an instance that has drop-ins
			}
			switch path.Ext(n) {
			case ".service", ".socket", ".mount":
				if !seen[n] {
					seen[n] = true
					list = append(list, n)
				}
			}
		}
	}
	slices.Sort(list)
	return list
}

// specifiers expand what is not about a unit's name.
func specifiers(root *inroot.Root, users *accounts.Source, m manager) *specifier.Resolver {
	none := func(string) string { return "" }
	getenv := none
	if m.user {
		getenv = func(name string) string {
			if name == "XDG_RUNTIME_DIR" {
				return m.runtime
			}
			return ""
		}
	}
	return &specifier.Resolver{
		Rooted: !m.user, User: m.user, Getenv: getenv,
		Open:   func(p string) (io.ReadCloser, error) { return asReader(root.OpenFile(p)) },
		System: func(p string) (io.ReadCloser, error) { return asReader(root.OpenFile(p)) },
		UserName: func(id uint32) (string, error) {
			known, err := users.UserByID(id)
			return known.Name, err
		},
		GroupName: func(id uint32) (string, error) {
			known, err := users.GroupByID(id)
			return known.Name, err
		},
		Home: func(uid uint32) (string, error) {
			return users.Home(func(string) (string, bool) { return "", false }, uid)
		},
	}
}

func asReader(f *inroot.File, err error) (io.ReadCloser, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

// reader takes the paths out of one unit.
type reader struct {
	units   *units
	unit    *unit.Unit
	spec    *specifier.Resolver
	runtime string
	user    bool
	dynamic bool
	found   []pattern
}

func (r *reader) read() {
	if r.unit.Name.Type == "service" {
		s := r.unit.Service(r.spec)
		r.dynamic = s.DynamicUser && !r.user // the directories are below private, systemd.exec(5)
		for _, d := range s.Directories {
			at := r.assignmentOf("RuntimeDirectory", d.Name)
			r.add(r.runtime+"/"+d.Name, at)
			if r.dynamic && s.Preserve != "no" {
				r.add(r.runtime+"/private/"+d.Name, at)
			}
			for _, l := range d.Links {
				r.add(r.runtime+"/"+l, at)
			}
		}
	}
	for i := range r.unit.Assignments {
		a := &r.unit.Assignments[i]
		r.assignment(a)
		if n := r.unit.Name; n.Prefix == "user-runtime-dir" && n.At && a.Key == "ExecStart" { // user@.service(5)
			r.add("/run/user/"+n.Instance, a)
		}
	}
	for _, p := range r.found {
		if before, _, ok := strings.Cut(p.path, anything); ok {
			p.before = before
			r.units.patterns = append(r.units.patterns, p)
		} else {
			r.units.exact[p.path] = append(r.units.exact[p.path], p.declared)
		}
	}
}

// assignmentOf is the assignment that a directory came from; the last that names it.
func (r *reader) assignmentOf(key, name string) *unit.Assignment {
	var last *unit.Assignment
	for i := range r.unit.Assignments {
		a := &r.unit.Assignments[i]
		if a.Section != "Service" || a.Key != key {
			continue
		}
		one := &unit.Unit{Name: r.unit.Name, Assignments: []unit.Assignment{*a}}
		if slices.ContainsFunc(one.Service(r.spec).Directories, func(d unit.Directory) bool { return d.Name == name }) {
			last = a
		}
	}
	return last
}

// directives are those that name a path which the manager or the service makes,
// systemd.service(5), systemd.socket(5), systemd.mount(5), systemd.exec(5). A
// relative value lies below the directory.
var directives = [...]struct{ section, key, below string }{
	{"Service", "PIDFile", "/run"},
	{"Service", "StateDirectory", "/var/lib"},
	{"Service", "CacheDirectory", "/var/cache"},
	{"Service", "LogsDirectory", "/var/log"},
	{"Socket", "ListenStream", ""},
	{"Socket", "ListenDatagram", ""},
	{"Socket", "ListenSequentialPacket", ""},
	{"Socket", "ListenFIFO", ""},
	{"Socket", "Symlinks", ""},
	{"Mount", "Where", ""},
}

// assignment takes the paths of one assignment of the directives above.
func (r *reader) assignment(a *unit.Assignment) {
	for _, d := range directives {
		if d.section != a.Section || d.key != a.Key {
			continue
		}
		if a.Value == "" { // resets the list, and any Listen resets them all
			r.found = slices.DeleteFunc(r.found, func(p pattern) bool {
				return p.key == a.Key || strings.HasPrefix(p.key, "Listen") && strings.HasPrefix(a.Key, "Listen")
			})
			return
		}
		words := []string{a.Value}
		if a.Key == "Symlinks" || strings.HasSuffix(a.Key, "Directory") {
			words = strings.Fields(a.Value)
		}
		if a.Key == "PIDFile" { // no list: the last counts
			r.found = slices.DeleteFunc(r.found, func(p pattern) bool { return p.key == a.Key })
		}
		below := d.below
		if below == "/run" {
			below = r.runtime
		}
		for _, w := range words {
			text, err := r.unit.Expand(w, r.spec)
			if err != nil {
				continue
			}
			if !strings.HasPrefix(text, "/") && below != "" && text != "" {
				text = below + "/" + text
			}
			r.add(text, a)
			if rest, ok := strings.CutPrefix(text, d.below+"/"); ok && r.dynamic && d.key != "PIDFile" {
				r.add(d.below+"/private/"+rest, a)
			}
		}
		return
	}
}

func (r *reader) add(p string, a *unit.Assignment) {
	if a == nil || !strings.HasPrefix(p, "/") {
		return
	}
	p = path.Clean(p)
	if rest, ok := strings.CutPrefix(p, "/var/run/"); ok {
		p = "/run/" + rest // as systemd takes it
	}
	name := strings.ReplaceAll(r.unit.Name.String(), anything, "")
	r.found = append(r.found, pattern{path: p, declared: declared{unit: name, key: a.Key, value: a.Value, file: a.File, line: a.Line, user: r.user}})
}

// of are the declarations of a path.
func (u *units) of(p string) []declared {
	list := u.exact[p]
	for i := range u.patterns {
		if !strings.HasPrefix(p, u.patterns[i].before) {
			continue
		}
		if inst, ok := u.patterns[i].match(p); ok {
			d := u.patterns[i].declared
			if stem, typ, at := strings.Cut(d.unit, "@"); at && inst != "" {
				d.unit = stem + "@" + inst + typ
				if u.known[instance{d.unit, d.user}] {
					continue
				}
			}
			list = append(list[:len(list):len(list)], d)
		}
	}
	return list
}

// match compares a path with the pattern, in which every anything stands for the same
// text without a slash; the text of the last is returned.
func (p *pattern) match(path string) (text string, ok bool) {
	parts := strings.Split(p.path, anything)
	rest, ok := strings.CutPrefix(path, parts[0])
	for i, part := range parts[1:] {
		if !ok {
			return "", false
		}
		end := strings.IndexByte(rest, '/')
		if end < 0 {
			end = len(rest)
		}
		if i == len(parts)-2 && !strings.Contains(part, "/") { // the last: what is behind it is a suffix
			text, ok = strings.CutSuffix(rest, part)
			return text, ok && text != "" && !strings.Contains(text, "/")
		}
		before, _, _ := strings.Cut(part, "/")
		if text, ok = strings.CutSuffix(rest[:end], before); !ok || text == "" {
			return "", false
		}
		rest, ok = strings.CutPrefix(rest[len(text):], part)
	}
	return text, ok && rest == ""
}
