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
// Refused are a directory that is a link, of another owner than root or uid, or
// writable for others and not sticky, because in these a file that is locked can be
// replaced; a file that is a link, no regular file, of another owner, or that has a
// second name, which may be a daemon's file elsewhere.
func OpenName(dir, name string, uid uint32, o Options) (*File, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	d, err := linux.Openat(linux.AT_FDCWD, dir, linux.O_PATH|linux.O_DIRECTORY|linux.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if err := checkDir(d, uid); err != nil {
		linux.Close(d)
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	f := &File{opts: o, path: name, dir: d, follow: linux.AT_SYMLINK_NOFOLLOW, fd: -1}
	f.check = func(st *syscall.Stat_t) error { return checkFile(st, uid) }
	err = f.valid()
	if err == nil {
		// Before it is opened: opening a FIFO or a device does something.
		var st syscall.Stat_t
		if linux.Fstatat(d, name, linux.AT_SYMLINK_NOFOLLOW, &st) == nil {
			err = f.check(&st)
		}
	}
	if err == nil {
		err = f.open()
	}
	if err != nil {
		linux.Close(d)
		return nil, fmt.Errorf("%s/%s: %w", dir, name, err)
	}
	return f, nil
}

// ErrUntrusted says that a directory or file is not fit for a lock by name.
var ErrUntrusted = errors.New("others can keep us from it, or replace it")

func untrusted(format string, args ...any) error {
	return fmt.Errorf("%s; %w", fmt.Sprintf(format, args...), ErrUntrusted)
}

func checkDir(fd int, uid uint32) error {
	var st syscall.Stat_t
	switch err := linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st); {
	case err != nil:
		return err
	case st.Uid != 0 && st.Uid != uid:
		return untrusted("the directory is user %d's", st.Uid)
	case st.Mode&0o022 != 0 && st.Mode&syscall.S_ISVTX == 0:
		return untrusted("the directory has mode %#o, so that others may remove our file", st.Mode&0o7777)
	}
	return nil
}

func checkFile(st *syscall.Stat_t, uid uint32) error {
	switch {
	case st.Mode&syscall.S_IFMT != syscall.S_IFREG:
		return untrusted("it is no regular file")
	case st.Uid != uid:
		return untrusted("the file is user %d's", st.Uid)
	case st.Nlink > 1:
		return untrusted("the file has %d names, and may be the file of something else", st.Nlink)
	}
	return nil
}
