package entry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/accounts"
	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/specifier"
	"github.com/slashrun/slashrun/internal/unit"
)

// units makes the runtime directories of the units that the caller named.
func (r *run) units(ctx context.Context) error {
	var made []string
	for _, text := range r.o.Units {
		if err := ctx.Err(); err != nil {
			return err
		}
		list, err := r.unit(text)
		if err != nil {
			return fmt.Errorf("unit %s: %w", text, err)
		}
		for _, dir := range list {
			if !slices.Contains(made, dir) {
				made = append(made, dir)
			}
		}
	}
	if len(made) > 0 {
		r.res.Env = append(r.res.Env, "RUNTIME_DIRECTORY="+strings.Join(made, ":"))
	}
	return nil
}

// unit makes the directories of one unit and returns their paths.
func (r *run) unit(text string) ([]string, error) {
	name, err := unit.ParseName(text)
	if err != nil {
		return nil, err
	}
	if name.Type != "service" {
		return nil, fmt.Errorf("only services are understood, not a %s", name.Type)
	}
	u, err := unit.Load(r.o.Root, name, unit.Dirs())
	if err != nil {
		return nil, err
	}
	s := u.Service(r.specifiers())
	for _, p := range u.Problems {
		r.told(Step{Op: "note", Path: p.File, Left: true, Text: p.Error()})
	}
	if len(s.Directories) == 0 {
		r.told(Step{Op: "note", Path: u.File, Left: true, Text: u.Name.String() + " has no RuntimeDirectory="})
		return nil, nil
	}
	owner, err := r.owner(u, s)
	if err != nil {
		return nil, err
	}
	run, err := r.openRun()
	if err != nil {
		return nil, err
	}
	defer run.Close()
	var list []string
	for _, d := range s.Directories {
		shown := r.target().Path + "/" + d.Name
		list = append(list, shown)
		if err := r.runtimeDirectory(run, d, shown, s.Mode, owner); err != nil {
			return nil, fmt.Errorf("%s: %w", shown, err)
		}
	}
	return list, nil
}

// owner is whose the directories are: User= and Group=; without User= the user
// that the command is to run as, and else we.
func (r *run) owner(u *unit.Unit, s *unit.Service) (fsat.Attr, error) {
	a := fsat.Attr{UID: 0, GID: 0, Mode: s.Mode}
	uid, gid, err := r.unitUser(s)
	switch {
	case err == nil && s.User != "":
		a.UID, a.GID = uid, gid
	case s.DynamicUser && errors.Is(err, accounts.ErrUnknown), err == nil:
		// A user that systemd would make up: the command's own is in its place.
		if r.o.User != nil {
			a.UID, a.GID = r.o.User.UID, r.o.User.GID
		}
	default:
		return a, fmt.Errorf("the User= of %s: %w", u.Name, err)
	}
	if s.Group != "" {
		gid, err := r.users().Group(s.Group)
		switch {
		case err == nil:
			a.GID = gid
		case !s.DynamicUser || !errors.Is(err, accounts.ErrUnknown):
			return a, fmt.Errorf("the Group= of %s: %w", u.Name, err)
		}
	}
	if me := r.res.Situation.UID; !linux.HasCap(linux.CAP_CHOWN) {
		if s.User != "" && a.UID != me {
			r.without("giving the runtime directories of %s to user %d, which takes CAP_CHOWN", u.Name, a.UID)
		}
		a.UID, a.GID = fsat.KeepID, fsat.KeepID
	}
	return a, nil
}

// unitUser is User= with its group.
func (r *run) unitUser(s *unit.Service) (uid, gid uint32, err error) {
	if s.User == "" {
		return 0, 0, nil
	}
	users := r.users()
	if uid, gid, _, _, err = users.User(s.User); err != nil || gid != accounts.NoID {
		return uid, gid, err
	}
	known, err := users.UserByID(uid) // a number: its entry knows the group
	if errors.Is(err, accounts.ErrUnknown) {
		return uid, 0, nil
	}
	return uid, known.GID, err
}

// runtimeDirectory makes one directory, with the directories above it 0755 of
// root, and the links to it. One that is there gets its mode, and its owner with
// everything in it if that is another (systemd.exec(5)).
func (r *run) runtimeDirectory(run *fsat.Dir, d unit.Directory, shown string, mode uint32, a fsat.Attr) error {
	parent, name, done, err := r.above(run, d.Name)
	if err != nil {
		return err
	}
	defer done()
	if parent == nil { // in a dry run, and not even the directory above is there
		r.told(Step{Op: "mkdir", Path: shown, Text: fmt.Sprintf("make the directory %s, mode %04o%s", shown, mode, owned(a)), Why: "RuntimeDirectory="})
		return r.runtimeLinks(run, d)
	}
	var st fsat.Stat
	err = parent.Stat(name, &st)
	switch {
	case fsat.NotExist(err):
		r.told(Step{Op: "mkdir", Path: shown, Text: fmt.Sprintf("make the directory %s, mode %04o%s", shown, mode, owned(a)), Why: "RuntimeDirectory="})
		if r.o.DryRun {
			break
		}
		a.Mode = mode
		err := parent.Mkdir(name, a)
		if notGiven(err) && a.UID != fsat.KeepID {
			r.without("giving %s to %d:%d: %v, which takes CAP_CHOWN and a user namespace that has these ids", shown, a.UID, a.GID, err)
			err = parent.Mkdir(name, fsat.Attr{UID: fsat.KeepID, GID: fsat.KeepID, Mode: mode})
		}
		if err != nil && !errors.Is(err, syscall.EEXIST) {
			return err
		}
	case err != nil:
		return err
	case !st.IsDir():
		return errors.New("it is there and is no directory; move it away")
	default:
		if err := r.adjust(parent, name, shown, mode, a, &st); err != nil {
			return err
		}
	}
	return r.runtimeLinks(run, d)
}

// notGiven says that a node may not be given to somebody: without the right, or to
// an id that this user namespace does not have.
func notGiven(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL)
}

func owned(a fsat.Attr) string {
	if a.UID == fsat.KeepID {
		return ""
	}
	return fmt.Sprintf(", of %d:%d", a.UID, a.GID)
}

// above opens the directory that rel is to be made in, and makes what is missing
// on the way. No link is followed: others may write below /run. It is nil in a dry
// run where it would be made.
func (r *run) above(run *fsat.Dir, rel string) (dir *fsat.Dir, name string, done func(), err error) {
	dir, done = run, func() {}
	for {
		first, rest, more := strings.Cut(rel, "/")
		if !more {
			return dir, first, done, nil
		}
		next, err := dir.OpenDir(first)
		if fsat.NotExist(err) {
			if r.o.DryRun {
				return nil, path.Base(rest), done, nil
			}
			attr := fsat.Attr{Mode: 0o755, UID: fsat.KeepID, GID: fsat.KeepID} // root's, where root does it
			if err = dir.Mkdir(first, attr); err == nil || errors.Is(err, syscall.EEXIST) {
				next, err = dir.OpenDir(first)
			}
		}
		done()
		if err != nil {
			return nil, "", func() {}, fmt.Errorf("%s above it: %w", first, err)
		}
		dir, done, rel = next, func() { next.Close() }, rest
	}
}

// adjust gives a directory that is there its owner and mode.
func (r *run) adjust(parent *fsat.Dir, name, shown string, mode uint32, a fsat.Attr, st *fsat.Stat) error {
	chown := a.UID != fsat.KeepID && (st.UID != a.UID || st.GID != a.GID)
	if !chown && st.Perm() == mode {
		return nil
	}
	r.told(Step{Op: "adjust", Path: shown, Text: fmt.Sprintf("give %s mode %04o%s", shown, mode, owned(a)), Why: "RuntimeDirectory="})
	if r.o.DryRun {
		return nil
	}
	n, err := parent.OpenNode(name)
	if err != nil {
		return err
	}
	defer n.Close()
	var now fsat.Stat
	if err := n.Stat(&now); err != nil {
		return err
	}
	if !now.IsDir() {
		return syscall.ENOTDIR
	}
	if chown {
		// What is in it first: a run that is killed in between is done again.
		err := chownBelow(fsat.DirOf(n.Fd()), &now, a)
		if err == nil {
			err = n.Chown(a.UID, a.GID)
		}
		if notGiven(err) {
			r.without("giving %s to %d:%d: %v, which takes CAP_CHOWN and a user namespace that has these ids", shown, a.UID, a.GID, err)
		} else if err != nil {
			return err
		}
	}
	err = n.Chmod(mode)
	if errors.Is(err, syscall.EPERM) && now.UID != r.res.Situation.UID {
		// Somebody else's, and it is there: the command will see whether it will do.
		r.without("mode %04o of %s: it is of user %d", mode, shown, now.UID)
		return nil
	}
	return err
}

// chownBelow gives everything in a directory to a's owner, on this file system
// alone. Links are given themselves. A file with several names may be anybody's:
// it stays.
func chownBelow(dir *fsat.Dir, above *fsat.Stat, a fsat.Attr) error {
	names, err := dir.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		n, err := dir.OpenNode(name)
		if err != nil {
			if fsat.NotExist(err) {
				continue
			}
			return err
		}
		err = chownNode(n, above, a)
		n.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func chownNode(n *fsat.Node, above *fsat.Stat, a fsat.Attr) error {
	var st fsat.Stat
	if err := n.Stat(&st); err != nil {
		return err
	}
	// On an overlay of several file systems st_dev differs within one mount.
	if st.MountRoot || !st.MountRootKnown && st.Dev != above.Dev || !st.IsDir() && st.Nlink > 1 {
		return nil
	}
	if st.IsDir() {
		if err := chownBelow(fsat.DirOf(n.Fd()), above, a); err != nil {
			return err
		}
	}
	if err := n.Chown(a.UID, a.GID); err != nil || st.IsSymlink() {
		return err
	}
	// chown(2) takes the setuid and setgid bits away, which is what is wanted of
	// files; a directory's setgid bit is how its group is inherited.
	if st.IsDir() && st.Perm()&0o6000 != 0 {
		return n.Chmod(st.Perm())
	}
	return nil
}

// runtimeLinks makes the links of RuntimeDirectory=DIRECTORY:LINK.
func (r *run) runtimeLinks(run *fsat.Dir, d unit.Directory) error {
	for _, l := range d.Links {
		target := strings.Repeat("../", strings.Count(l, "/")) + d.Name
		shown := r.target().Path + "/" + l
		parent, name, done, err := r.above(run, l)
		if err != nil {
			return err
		}
		err = r.runtimeLink(parent, name, shown, target)
		done()
		if err != nil {
			return fmt.Errorf("the link %s: %w", shown, err)
		}
	}
	return nil
}

func (r *run) runtimeLink(parent *fsat.Dir, name, shown, target string) error {
	var st fsat.Stat
	if parent != nil {
		if err := parent.Stat(name, &st); err == nil {
			if text, _ := parent.Readlink(name); st.IsSymlink() && text == target {
				return nil
			}
			r.without("the link %s: something else is there", shown)
			return nil
		}
	}
	r.told(Step{Op: "link", Path: shown, Text: fmt.Sprintf("make the link %s -> %s", shown, target), Why: "RuntimeDirectory="})
	if r.o.DryRun {
		return nil
	}
	return parent.MakeSpecial(name, fsat.Special{Type: syscall.S_IFLNK, Target: target}, fsat.Attr{UID: fsat.KeepID, GID: fsat.KeepID})
}

// users are those of the image. No name service is asked.
func (r *run) users() *accounts.Source {
	if r.accounts == nil {
		r.accounts = accounts.System(r.o.Root, accounts.Getent{})
	}
	return r.accounts
}

// specifiers expands what does not depend on a unit's name.
func (r *run) specifiers() *specifier.Resolver {
	open := func(p string) (io.ReadCloser, error) {
		f, err := r.o.Root.OpenFile(p)
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	system := func(p string) (io.ReadCloser, error) {
		f, err := inroot.OpenHost(p)
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	users := r.users()
	return &specifier.Resolver{
		Rooted: true, Open: open, System: system, Getenv: r.getenv,
		UserName:  func(uid uint32) (string, error) { u, err := users.UserByID(uid); return u.Name, err },
		GroupName: func(gid uint32) (string, error) { g, err := users.GroupByID(gid); return g.Name, err },
		Home: func(uid uint32) (string, error) {
			return users.Home(func(k string) (string, bool) { v := r.getenv(k); return v, v != "" }, uid)
		},
	}
}
