package entry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
)

const xdgVariable = "XDG_RUNTIME_DIR"

// session makes XDG_RUNTIME_DIR true: a directory that is there, the user's, mode
// 0700 (XDG Base Directory Specification). It is given to a command that runs as
// a named user, and kept right where the environment has it already.
func (r *run) session(context.Context) error {
	set := r.getenv(xdgVariable)
	if r.o.User == nil && set == "" {
		return nil
	}
	uid, gid := r.res.Situation.UID, uint32(os.Getegid())
	if u := r.o.User; u != nil {
		uid, gid = u.UID, u.GID
	}
	if set != "" {
		// Whoever set it meant it: for a socket that was bound into it, say.
		there, err := r.right(set, uid)
		if err == nil {
			return nil
		}
		if there && r.o.User == nil {
			r.told(Step{Op: "keep", Path: set, Left: true, Text: "keep " + xdgVariable + "=" + set, Why: err.Error()})
			return nil
		}
		r.told(Step{Op: "note", Path: set, Left: true, Text: "set another " + xdgVariable + " than " + set, Why: err.Error()})
	}
	dir, err := r.sessionDir(uid, gid)
	if err != nil {
		if set != "" {
			r.res.Unset = append(r.res.Unset, xdgVariable)
		}
		r.without("%s: %v", xdgVariable, err)
		return nil
	}
	if dir != set {
		r.res.Env = append(r.res.Env, xdgVariable+"="+dir)
	}
	return nil
}

// sessionDir makes /run/user/UID; where that cannot be, a directory in /tmp, whose
// name anybody could have taken before: then it is not used.
func (r *run) sessionDir(uid, gid uint32) (string, error) {
	number := strconv.FormatUint(uint64(uid), 10)
	first := r.userDir(uid, gid, number)
	if first == nil {
		return r.target().Path + "/user/" + number, nil
	}
	tmp, err := r.o.Root.Resolve("/tmp/")
	if err != nil || !tmp.Exists() {
		return "", errors.Join(first, err)
	}
	dir := fsat.DirOf(tmp.Fd)
	defer dir.Close()
	name := "runtime-" + number
	if err := r.private(dir, name, "/tmp/"+name, uid, gid); err != nil {
		return "", fmt.Errorf("%w; and %w", first, err)
	}
	return r.o.Root.Prefix() + "/tmp/" + name, nil
}

// userDir makes /run/user/UID. What is above it must be root's alone: in another
// directory somebody could put another one in its place.
func (r *run) userDir(uid, gid uint32, number string) error {
	run, err := r.openRun()
	if err != nil {
		return err
	}
	defer run.Close()
	shown := r.target().Path + "/user"
	var st fsat.Stat
	err = run.Stat("user", &st)
	if fsat.NotExist(err) {
		if r.o.DryRun {
			r.told(Step{Op: "mkdir", Path: shown + "/" + number, Text: fmt.Sprintf("make the directory %s/%s, mode 0700, of %d:%d", shown, number, uid, gid)})
			return nil
		}
		attr := fsat.Attr{Mode: 0o755, UID: fsat.KeepID, GID: fsat.KeepID} // root's, where root does it
		if err = run.Mkdir("user", attr); err == nil || errors.Is(err, syscall.EEXIST) {
			err = run.Stat("user", &st)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", shown, err)
	}
	if !st.IsDir() || st.UID != 0 && st.UID != uid || st.Perm()&0o022 != 0 {
		return fmt.Errorf("%s is no directory that root alone may write to", shown)
	}
	user, err := run.OpenDir("user")
	if err != nil {
		return fmt.Errorf("%s: %w", shown, err)
	}
	defer user.Close()
	return r.private(user, number, shown+"/"+number, uid, gid)
}

// private makes a directory of mode 0700 for one user, or finds out that it is
// there. It is made under another name and appears with its owner.
func (r *run) private(dir *fsat.Dir, name, shown string, uid, gid uint32) error {
	var st fsat.Stat
	err := dir.Stat(name, &st)
	if fsat.NotExist(err) {
		r.told(Step{Op: "mkdir", Path: shown, Text: fmt.Sprintf("make the directory %s, mode 0700, of %d:%d", shown, uid, gid)})
		if r.o.DryRun {
			return nil
		}
		err = dir.Mkdir(name, fsat.Attr{UID: uid, GID: gid, Mode: 0o700})
		if err != nil && !errors.Is(err, syscall.EEXIST) {
			s := &r.res.Steps[len(r.res.Steps)-1]
			s.Error = err.Error()
			return fmt.Errorf("%s: %w", shown, err)
		}
		err = dir.Stat(name, &st)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", shown, err)
	case !st.IsDir():
		return fmt.Errorf("%s is there and is no directory", shown)
	case st.UID != uid:
		return fmt.Errorf("%s is user %d's, not %d's", shown, st.UID, uid)
	case st.Perm() == 0o700:
		return nil
	}
	n, err := dir.OpenNode(name)
	if err != nil {
		return fmt.Errorf("%s: %w", shown, err)
	}
	defer n.Close()
	var now fsat.Stat
	if err := n.Stat(&now); err != nil || !now.SameInode(&st) {
		return fmt.Errorf("%s is being exchanged: %w", shown, errors.Join(err, syscall.ESTALE))
	}
	r.told(Step{Op: "adjust", Path: shown, Text: "give " + shown + " mode 0700"})
	if r.o.DryRun {
		return nil
	}
	if err := n.Chmod(0o700); err != nil {
		return fmt.Errorf("%s: %w", shown, err)
	}
	return nil
}

// right says what is wrong with a directory as XDG_RUNTIME_DIR of a user, and
// whether there is one.
func (r *run) right(dir string, uid uint32) (there bool, err error) {
	if !strings.HasPrefix(dir, "/") {
		return false, fmt.Errorf("%q is not absolute", dir)
	}
	at, err := r.o.Root.Resolve(dir)
	if err != nil {
		return false, err
	}
	defer at.Close()
	if !at.Is(syscall.S_IFDIR) {
		return false, errors.New("it is no directory")
	}
	if at.Stat.Uid != uid || at.Stat.Mode&0o7777 != 0o700 {
		return true, fmt.Errorf("it is user %d's with mode %04o, and not user %d's with mode 0700", at.Stat.Uid, at.Stat.Mode&0o7777, uid)
	}
	return true, nil
}
