package accounts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/slashrun/slashrun/internal/inroot"
)

// ErrUnknown is in the error for a name or an id that nobody knows. It is not in
// the error where the answer could not be found out.
var ErrUnknown = errors.New("unknown")

// nobody is the id of the user and the group that have no other
// (kernel: Documentation/admin-guide/sysctl/fs.rst, overflowuid).
const nobody = 65534

// Source looks up users and groups of one system. See the package documentation
// for the order, the errors, and what is kept.
type Source struct {
	root   *inroot.Root
	system bool

	users  table[User]
	groups table[Group]
	getent getent
}

// table is one file, read at the first lookup.
type table[T any] struct {
	once   sync.Once
	err    error
	byName map[string]T
	byID   map[uint32]T
}

// Getent says how System asks the name service.
type Getent struct {
	// Never, unless nil, is called where getent would be: it is not started, and
	// the name counts as unknown.
	Never func()

	// Paths are tried in order; the first that is there is run. Without any, only
	// the files are asked.
	Paths []string
	// Timeout bounds one question. Zero is 10 seconds.
	Timeout time.Duration
	// Context, unless nil, ends a question: getent is killed and waited for.
	Context context.Context
}

// DefaultGetent is getent where distributions have it. PATH is not asked: this
// runs with the privileges of the caller.
func DefaultGetent() Getent {
	return Getent{Paths: []string{"/usr/bin/getent", "/bin/getent", "/run/current-system/sw/bin/getent"}}
}

// System returns the source of the machine itself, whose root must stay open for
// as long as the Source is used.
func System(root *inroot.Root, g Getent) *Source {
	if g.Timeout == 0 {
		g.Timeout = 10 * time.Second
	}
	return &Source{root: root, system: true, getent: getent{Getent: g}}
}

// InRoot returns the source of the system whose tree is root, which must stay
// open for as long as the Source is used. No program of it is run.
func InRoot(root *inroot.Root) *Source { return &Source{root: root} }

// User returns what is known of the user called name, which may also be a number.
// Of a number nothing else is known: gid is NoID, home and shell are empty
// (UserByID looks further).
func (s *Source) User(name string) (uid, gid uint32, home, shell string, err error) {
	if id, err := ParseID(name); err == nil {
		return id, NoID, "", "", nil
	}
	u, err := s.user(name)
	if err != nil {
		return NoID, NoID, "", "", fmt.Errorf("user %q: %w", name, err)
	}
	return u.UID, u.GID, u.Home, u.Shell, nil
}

// Group returns the id of the group called name, which may also be a number.
func (s *Source) Group(name string) (gid uint32, err error) {
	if id, err := ParseID(name); err == nil {
		return id, nil
	}
	g, err := s.group(name)
	if err != nil {
		return NoID, fmt.Errorf("group %q: %w", name, err)
	}
	return g.GID, nil
}

// UserByID returns the first user with the id.
func (s *Source) UserByID(uid uint32) (User, error) {
	if uid == 0 {
		return User{Name: "root", Home: "/root", Shell: "/bin/sh"}, nil
	}
	if uid == nobody && s.synthesizesNobody() {
		return User{Name: "nobody", UID: nobody, GID: nobody, Home: "/", Shell: "/usr/sbin/nologin"}, nil
	}
	err := s.loadUsers()
	if err != nil {
		return User{}, fmt.Errorf("user %d: %w", uid, err)
	}
	u, ok := s.users.byID[uid]
	if !ok {
		if u, err = s.askUser(fmt.Sprint(uid)); err == nil && u.UID != uid {
			err = ErrUnknown
		}
	}
	if err != nil {
		return User{}, fmt.Errorf("user %d: %w", uid, err)
	}
	return u, nil
}

// GroupByID returns the first group with the id.
func (s *Source) GroupByID(gid uint32) (Group, error) {
	if gid == 0 {
		return Group{Name: "root"}, nil
	}
	if gid == nobody && s.synthesizesNobody() {
		return Group{Name: "nogroup", GID: nobody}, nil
	}
	err := s.loadGroups()
	if err != nil {
		return Group{}, fmt.Errorf("group %d: %w", gid, err)
	}
	g, ok := s.groups.byID[gid]
	if !ok {
		if g, err = s.askGroup(fmt.Sprint(gid)); err == nil && g.GID != gid {
			err = ErrUnknown
		}
	}
	if err != nil {
		return Group{}, fmt.Errorf("group %d: %w", gid, err)
	}
	return g, nil
}

// Home returns the home directory of the process that runs as uid: $HOME if that
// is absolute, /root for root, / for nobody, else what the user database says. env
// looks up a variable as os.LookupEnv does.
func (s *Source) Home(env func(string) (string, bool), uid uint32) (string, error) {
	if home, _ := env("HOME"); strings.HasPrefix(home, "/") {
		return inroot.Simplify(home), nil
	}
	u, err := s.UserByID(uid)
	if err != nil {
		return "", fmt.Errorf("home directory: %w", err)
	}
	if !strings.HasPrefix(u.Home, "/") {
		return "", fmt.Errorf("home directory: user %q has %q, which is not absolute", u.Name, u.Home)
	}
	return inroot.Simplify(u.Home), nil
}

func (s *Source) user(name string) (User, error) {
	if err := plausible(name); err != nil {
		return User{}, err
	}
	if name == "root" {
		return User{Name: "root", Home: "/root", Shell: "/bin/sh"}, nil
	}
	if name == "nobody" && s.synthesizesNobody() {
		return User{Name: name, UID: nobody, GID: nobody, Home: "/", Shell: "/usr/sbin/nologin"}, nil
	}
	if err := s.loadUsers(); err != nil {
		return User{}, err
	}
	u, ok := s.users.byName[name]
	if ok && !s.valid(u.UID) {
		return User{}, fmt.Errorf("%s gives it the number %d: %w", s.root.Path(passwdFile), u.UID, ErrInvalidID)
	}
	if ok {
		return u, nil
	}
	u, err := s.askUser(name)
	if err == nil && u.Name != name {
		err = ErrUnknown // it took the name for a number
	}
	return u, err
}

func (s *Source) group(name string) (Group, error) {
	if err := plausible(name); err != nil {
		return Group{}, err
	}
	if name == "root" {
		return Group{Name: "root"}, nil
	}
	if name == "nogroup" && s.synthesizesNobody() {
		return Group{Name: name, GID: nobody}, nil
	}
	if err := s.loadGroups(); err != nil {
		return Group{}, err
	}
	g, ok := s.groups.byName[name]
	if ok && !s.valid(g.GID) {
		return Group{}, fmt.Errorf("%s gives it the number %d: %w", s.root.Path(groupFile), g.GID, ErrInvalidID)
	}
	if ok {
		return g, nil
	}
	g, err := s.askGroup(name)
	if err == nil && g.Name != name {
		err = ErrUnknown
	}
	return g, err
}

// plausible refuses what cannot be a name in either file.
func plausible(name string) error {
	if name == "" || strings.ContainsAny(name, ":\n\x00") {
		return ErrUnknown
	}
	return nil
}

func (s *Source) valid(id uint32) bool { return id != NoID && (id != 65535 || !s.system) }

const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"
	noNobody   = "/etc/systemd/dont-synthesize-nobody"
)

func (s *Source) synthesizesNobody() bool {
	if !s.system {
		return false
	}
	p, err := s.root.Resolve(noNobody)
	if err != nil {
		return true
	}
	defer p.Close()
	return !p.Exists()
}

func (s *Source) loadUsers() error {
	return s.users.load(s, passwdFile, func(r io.Reader) error {
		return ParseUsers(r, func(u User) bool {
			if s.system && compat(u.Name) {
				return true
			}
			s.users.add(u, u.Name, u.UID)
			return true
		})
	})
}

func (s *Source) loadGroups() error {
	return s.groups.load(s, groupFile, func(r io.Reader) error {
		return ParseGroups(r, func(g Group) bool {
			if s.system && compat(g.Name) {
				return true
			}
			s.groups.add(g, g.Name, g.GID)
			return true
		})
	})
}

// load reads the file at path once.
func (t *table[T]) load(s *Source, path string, parse func(io.Reader) error) error {
	t.once.Do(func() {
		t.byName, t.byID = make(map[string]T), make(map[uint32]T)
		var f *inroot.File
		if f, t.err = s.root.OpenFile(path); t.err != nil {
			if errors.Is(t.err, fs.ErrNotExist) {
				t.err = nil
			}
			return
		}
		defer f.Close()
		t.err = parse(f)
	})
	return t.err
}

// add keeps the first of several lines with the same name or number.
func (t *table[T]) add(v T, name string, id uint32) {
	if _, ok := t.byName[name]; !ok {
		t.byName[name] = v
	}
	if _, ok := t.byID[id]; !ok && !compat(name) {
		t.byID[id] = v
	}
}
