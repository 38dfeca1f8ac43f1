package sockdiag

import (
	"errors"
	"io/fs"
	"strconv"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// ErrNeedsProc says that /proc is not mounted, without which an inode cannot be
// probed by its descriptor.
var ErrNeedsProc = errors.New("a socket is probed through /proc/self/fd: mount /proc first")

// Probe reports whether anything is bound to the socket file that fd, an O_PATH
// descriptor, holds. An error means that it cannot be told.
func Probe(fd int) (bound bool, err error) {
	err = linux.ProbeUnixSocket("/proc/self/fd/" + strconv.Itoa(fd))
	if errors.Is(err, fs.ErrNotExist) {
		return false, ErrNeedsProc
	}
	return answer(err)
}

// answer reads what connect(2) said.
func answer(err error) (bound bool, _ error) {
	switch {
	case err == nil, errors.Is(err, syscall.EPROTOTYPE), errors.Is(err, syscall.EAGAIN):
		return true, nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return false, nil
	}
	return false, err
}

// ProbeAt is Probe for the entry name of the directory dirfd. A name that is not
// there is bound by nobody; what is no socket is ENOTSOCK. Where /proc is not
// mounted it goes by the name, which somebody who may write to the directory can
// exchange meanwhile: then an answer of "not bound" proves nothing.
func ProbeAt(dirfd int, name string) (bound bool, err error) {
	fd, err := linux.Openat(dirfd, name, linux.O_PATH|linux.O_NOFOLLOW, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return false, err
	}
	defer linux.Close(fd)
	// connect(2) says ECONNREFUSED of any other type of file.
	var st syscall.Stat_t
	if err := linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st); err != nil {
		return false, err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFSOCK {
		return false, syscall.ENOTSOCK
	}
	bound, err = Probe(fd)
	if !errors.Is(err, ErrNeedsProc) {
		return bound, err
	}
	err = linux.InDirectory(dirfd, func() error { return linux.ProbeUnixSocket("./" + name) })
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return answer(err)
}
