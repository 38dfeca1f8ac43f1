// Package tmpconf loads tmpfiles.d configuration for a root: it brings together
// the search for files (conffiles), the users (accounts), the specifiers and the
// credentials, and gives an internal/tmpfiles.Config.
//
// What can go wrong, and what becomes of it, as in systemd-tmpfiles 262:
//
//	a file named by the caller cannot be read    Load fails: status 1
//	a line of it fails in a way that is not a
//	matter of syntax (base64, credential)        Load fails: status 1
//	the same in a file that was found            told in Warnings
//	EMFILE, ENFILE or ENOMEM                     Load fails: status 1 (0 there)
//	a line is wrong                              collected in Config.Invalid: status 65
//
// When not to use it: to parse lines that you have, call tmpfiles.Config.Read.
package tmpconf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/accounts"
	"github.com/slashrun/slashrun/internal/conffiles"
	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/specifier"
	"github.com/slashrun/slashrun/internal/tmpfiles"
)

// Options say what to load.
type Options struct {
	Root     string // directory that stands for "/"; empty is the system's own
	User     bool   // the user's configuration
	Boot     bool   // lines with `!` count
	Graceful bool   // unknown users and groups are no error
	Include  []string
	Exclude  []string
	Replace  string   // path that Args stand for; empty for none
	Args     []string // files, or with Inline lines; without Replace nothing else is read
	Inline   bool
	// Asked, unless nil, is called where getent(1) would have been asked for a user
	// or group, which is not done: no process is started, and the name is unknown.
	Asked func()
	// KeepSkipped keeps the lines that do not count, for an explanation.
	KeepSkipped bool

	Stdin  io.Reader
	Getenv func(string) (string, bool)
	Dir    string // working directory
}

// Loaded is a configuration with what is to be told about it.
type Loaded struct {
	Config   *tmpfiles.Config
	Files    *conffiles.List // nil where only Args were read
	Warnings []error
	// Hidden are the files that do not count because another of the same name
	// does, or masks them; read only with KeepSkipped.
	Hidden []Hidden
}

// Hidden is a file that does not count.
type Hidden struct {
	Path   string
	By     string // the file or link in its place
	Masked bool
	Config *tmpfiles.Config
}

// loader carries what the steps of Load share.
type loader struct {
	o    Options
	root *inroot.Root
	dirs []string
	env  tmpfiles.Env
	out  *Loaded
}

// Dirs are the directories that are searched, the one with the highest priority
// first.
func (o *Options) Dirs() []string {
	if o.User {
		return conffiles.UserDirs("user-tmpfiles.d", o.Getenv, o.Dir)
	}
	return conffiles.SystemDirs("tmpfiles.d")
}

// Load reads the configuration.
func Load(o Options) (*Loaded, error) {
	root, err := inroot.Open(o.Root)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	l := &loader{o: o, root: root, dirs: o.Dirs(), out: &Loaded{Config: tmpfiles.NewConfig()}}
	l.out.Config.KeepSkipped = o.KeepSkipped
	l.environment()
	if o.Replace == "" && len(o.Args) > 0 {
		err = l.arguments()
	} else {
		err = l.search()
	}
	if err != nil {
		return nil, err
	}
	l.extra()
	return l.out, nil
}

// environment prepares what lines refer to.
func (l *loader) environment() {
	getenv := func(name string) string { v, _ := l.o.Getenv(name); return v }
	open := func(path string) (io.ReadCloser, error) {
		f, err := l.root.OpenFile(path)
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	system := func(path string) (io.ReadCloser, error) {
		f, err := inroot.OpenHost(path)
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	getent := accounts.DefaultGetent()
	getent.Never = l.o.Asked
	users := accounts.System(l.root, getent)
	if l.o.Root != "" {
		users = accounts.InRoot(l.root)
	}
	spec := &specifier.Resolver{
		Rooted: l.o.Root != "", User: l.o.User, Open: open, System: system, Getenv: getenv,
		UserName:  func(uid uint32) (string, error) { u, err := users.UserByID(uid); return u.Name, err },
		GroupName: func(gid uint32) (string, error) { g, err := users.GroupByID(gid); return g.Name, err },
		Home:      func(uid uint32) (string, error) { return users.Home(l.o.Getenv, uid) },
	}
	l.env = tmpfiles.Env{
		Boot: l.o.Boot, Graceful: l.o.Graceful, Include: l.o.Include, Exclude: l.o.Exclude,
		Expand: spec.Expand, Group: users.Group,
		User:       func(name string) (uint32, error) { uid, _, _, _, err := users.User(name); return uid, err },
		Credential: func(name string) ([]byte, error) { return credential(getenv, name) },
		SourceExists: func(path string) bool {
			// A link itself is copied, so one that dangles is there.
			dir, name := filepath.Split(filepath.Clean(path))
			at, err := l.root.Resolve(dir)
			if err != nil {
				return true // told when it is copied
			}
			defer at.Close()
			var st syscall.Stat_t
			return at.Exists() && (name == "" || !errors.Is(linux.Fstatat(at.Fd, name, linux.AT_SYMLINK_NOFOLLOW, &st), fs.ErrNotExist))
		},
	}
}

// maxCredential is the size in bytes beyond which a credential is refused.
const maxCredential = 1 << 20

// credential reads a credential that the service manager passed
// (systemd.exec(5), "Credentials").
func credential(getenv func(string) string, name string) ([]byte, error) {
	dir := getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return nil, fmt.Errorf("$CREDENTIALS_DIRECTORY is not set: %w", fs.ErrNotExist)
	}
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("$CREDENTIALS_DIRECTORY is not an absolute path: %q", dir)
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCredential+1))
	if err == nil && len(data) > maxCredential {
		err = fmt.Errorf("credential %s is larger than 1 MiB", name)
	}
	return data, err
}

// arguments reads what the caller named.
func (l *loader) arguments() error {
	if l.o.Inline {
		for _, line := range l.o.Args {
			if err := l.out.Config.Read(tmpfiles.InlineName, strings.NewReader(line+"\n"), &l.env); err != nil {
				return err
			}
		}
		return nil
	}
	for _, arg := range l.o.Args {
		f, err := conffiles.Named(l.root, l.dirs, arg, l.o.Stdin)
		if err != nil {
			return err
		}
		if err := l.file(f); err != nil {
			return err
		}
	}
	return nil
}

// search reads the files of the directories, and the arguments in their place.
func (l *loader) search() error {
	list, err := conffiles.Search(l.root, l.dirs, conffiles.Options{Replace: l.o.Replace})
	if err != nil {
		return err
	}
	defer list.Close()
	l.out.Files = list
	for _, w := range list.Warnings {
		if err := lacking(w); err != nil {
			return err
		}
	}
	l.out.Warnings = append(l.out.Warnings, list.Warnings...)
	if l.o.KeepSkipped {
		l.hidden(list)
	}
	for _, f := range list.Files {
		if f.Replacement {
			if err := l.arguments(); err != nil {
				return err
			}
			continue
		}
		err := l.file(f)
		if err := lacking(err); err != nil {
			return err
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.out.Warnings = append(l.out.Warnings, err)
		}
	}
	return nil
}

// lacking gives an error where err is a lack of resources: what is left of the
// configuration then is not the configuration. The reference goes on without.
func lacking(err error) error {
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("the configuration cannot be read: %w; raise the limit on open files (ulimit -n)", err)
	case errors.Is(err, syscall.ENOMEM):
		return fmt.Errorf("the configuration cannot be read: %w", err)
	}
	return nil
}

func (l *loader) file(f *conffiles.File) error {
	rd, err := f.Open()
	if err != nil {
		return err
	}
	defer rd.Close()
	return l.out.Config.Read(f.Path, rd, &l.env)
}

// hidden reads the files that do not count.
func (l *loader) hidden(list *conffiles.List) {
	add := func(paths []string, by string, masked bool) {
		for _, p := range paths {
			h := Hidden{Path: p, By: by, Masked: masked, Config: tmpfiles.NewConfig()}
			h.Config.KeepSkipped = true
			f, err := os.Open(p)
			if err == nil {
				err = h.Config.Read(p, f, &l.env)
				f.Close()
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				l.out.Warnings = append(l.out.Warnings, err)
			}
			l.out.Hidden = append(l.out.Hidden, h)
		}
	}
	for _, f := range list.Files {
		add(f.Overrides, f.Path, f.Empty)
	}
	for _, m := range list.Masks {
		add(m.Masked, m.Path, true)
	}
}

// extra reads the lines of the credential tmpfiles.extra, last of all.
func (l *loader) extra() {
	getenv := func(name string) string { v, _ := l.o.Getenv(name); return v }
	data, err := credential(getenv, "tmpfiles.extra")
	if err == nil {
		err = l.out.Config.Read("<tmpfiles.extra>", strings.NewReader(string(data)), &l.env)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.out.Warnings = append(l.out.Warnings, err)
	}
}
