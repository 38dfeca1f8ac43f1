package flock

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
)

// CheckName refuses what is no good name of a lock: a path, a name with control
// characters, one that begins with a dot, and the lock of a serial line (LCK..),
// whose existence alone keeps others off the line.
func CheckName(name string) error {
	if err := fsat.ValidName(name); err != nil {
		return err
	}
	for i := range len(name) {
		if name[i] < ' ' || name[i] == 0x7f {
			return errors.New("a control character is in it")
		}
	}
	switch {
	case name[0] == '.':
		return errors.New("it begins with a dot")
	case strings.HasPrefix(name, "LCK.."):
		return errors.New("files called LCK.. are the locks of serial lines, which are held for as long as they exist")
	}
	return nil
}

// OpenName opens the file called name in the directory dir, and makes it, with mode
// 0600, where there is none. The directory may be one in which everybody can make
// files, as /run/lock of Debian is: what others put there is refused, so that they
// can keep us from the lock, and do nothing else. uid is who we are.
//
// Refused with ErrDirectory are a directory that is a link, of another owner than
// root or uid, or writable for others and not sticky, because in these a file that is
// locked can be replaced. Refused with ErrUntrusted are a file that is a link, no
// regular file, of another owner, one that others may open, who could hold its lock
// for ever, or that has a second name, which may be a daemon's file elsewhere.
func OpenName(dir, name string, uid uint32, o Options) (*File, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	d, err := linux.Openat(linux.AT_FDCWD, dir, linux.O_PATH|linux.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return openName(d, dir, name, uid, o)
}

// openName is OpenName with the directory open, which is closed where that fails.
func openName(d int, dir, name string, uid uint32, o Options) (f *File, err error) {
	defer func() {
		if err != nil {
			linux.Close(d)
		}
	}()
	st, err := checkDir(d, uid)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	open := st.Mode&0o011 != 0 // to others, who can open what is in it
	// A FIFO that is put there between a look and the opening must not make us wait.
	f = &File{opts: o, unwaiting: true, path: name, dir: d, follow: linux.AT_SYMLINK_NOFOLLOW, fd: -1, turnFd: -1}
	f.check = func(st *syscall.Stat_t) error { return checkFile(st, uid, open) }
	if err = f.valid(); err != nil {
		return nil, err
	}
	// Before it is opened: opening a device does something.
	var there syscall.Stat_t
	if linux.Fstatat(d, name, linux.AT_SYMLINK_NOFOLLOW, &there) == nil {
		err = f.check(&there)
	}
	if err == nil {
		err = f.open()
	}
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", dir, name, err)
	}
	return f, nil
}

// The directories of root's names.
const (
	RunLock = "/run/lock"
	OwnLock = "/run/slashrun/lock"
)

// OpenRootName is OpenName for root, in RunLock. Where that is no directory for it,
// as on OpenRC, which makes it writable for a group (root:uucp 0775) and not sticky,
// it is OwnLock, made where it is missing, which is root's alone: whoever uses the
// name finds the same file for as long as /run/lock stays as it is. dir is the one
// that was tried last.
func OpenRootName(name string, uid uint32, o Options) (f *File, dir string, err error) {
	f, err = OpenName(RunLock, name, uid, o)
	if !errors.Is(err, ErrDirectory) {
		return f, RunLock, err
	}
	why := err
	d, err := makeOwn(uid)
	if err == nil {
		f, err = openName(d, OwnLock, name, uid, o)
	}
	if err != nil {
		return nil, OwnLock, fmt.Errorf("%w, in place of %w", err, why)
	}
	return f, OwnLock, nil
}

// makeOwn opens OwnLock, and makes it where it is missing. No directory on the way is
// one in which anybody else can put or rename anything.
func makeOwn(uid uint32) (int, error) {
	d, err := linux.Openat(linux.AT_FDCWD, "/run", linux.O_PATH|linux.O_NOFOLLOW, 0)
	if err != nil {
		return -1, fmt.Errorf("/run: %w", err)
	}
	path := "/run"
	if st, err := checkDir(d, uid); err != nil || st.Mode&0o022 != 0 {
		linux.Close(d)
		if err == nil {
			err = unfit("others may write to it, mode %#o", st.Mode&0o7777)
		}
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	for _, step := range []struct {
		name string
		mode uint32
	}{{"slashrun", 0o755}, {"lock", 0o700}} {
		path += "/" + step.name
		err := linux.Mkdirat(d, step.name, step.mode)
		if err != nil && !errors.Is(err, syscall.EEXIST) {
			linux.Close(d)
			return -1, fmt.Errorf("%s: %w", path, err)
		}
		next, err := linux.Openat(d, step.name, linux.O_PATH|linux.O_NOFOLLOW, 0)
		linux.Close(d)
		if err != nil {
			return -1, fmt.Errorf("%s: %w", path, err)
		}
		st, err := checkDir(next, uid)
		if err == nil && st.Mode&0o022 != 0 {
			err = unfit("others may write to it, mode %#o", st.Mode&0o7777)
		}
		if err != nil {
			linux.Close(next)
			return -1, fmt.Errorf("%s: %w", path, err)
		}
		d = next
	}
	return d, nil
}

var (
	// ErrUntrusted says that a directory or file is not fit for a lock by name.
	ErrUntrusted = errors.New("others can keep us from it, or replace it")
	// ErrDirectory is an ErrUntrusted about the directory.
	ErrDirectory error = directoryError{}
)

type directoryError struct{}

func (directoryError) Error() string { return ErrUntrusted.Error() }
func (directoryError) Unwrap() error { return ErrUntrusted }

func untrusted(format string, args ...any) error {
	return fmt.Errorf("%s; %w", fmt.Sprintf(format, args...), ErrUntrusted)
}

func unfit(format string, args ...any) error {
	return fmt.Errorf("%s; %w", fmt.Sprintf(format, args...), ErrDirectory)
}

func checkDir(fd int, uid uint32) (*syscall.Stat_t, error) {
	var st syscall.Stat_t
	switch err := linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st); {
	case err != nil:
		return nil, err
	case st.Mode&syscall.S_IFMT != syscall.S_IFDIR:
		return nil, unfit("it is a link, or no directory")
	case st.Uid != 0 && st.Uid != uid:
		return nil, unfit("the directory is user %d's", st.Uid)
	case st.Mode&0o022 != 0 && st.Mode&syscall.S_ISVTX == 0:
		return nil, unfit("the directory has mode %#o, so that others may remove our file", st.Mode&0o7777)
	}
	return &st, nil
}

// checkFile checks what is to be the file of a name, in a directory that others can
// look into or not.
func checkFile(st *syscall.Stat_t, uid uint32, open bool) error {
	switch {
	case st.Mode&syscall.S_IFMT != syscall.S_IFREG:
		return untrusted("it is no regular file")
	case st.Uid != uid:
		return untrusted("the file is user %d's", st.Uid)
	case st.Nlink > 1:
		return untrusted("the file has %d names, and may be the file of something else", st.Nlink)
	case open && st.Mode&0o077 != 0:
		return untrusted("the file has mode %#o, so that others may open it and hold the lock for ever; if it is yours alone, chmod it to 0600", st.Mode&0o7777)
	}
	return nil
}
