package runfs

import (
	"errors"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
)

// FindStamp reads the boot stamp below run, and when it was written, in
// nanoseconds since the epoch; nil where there is none, or none that root alone
// can have written.
func FindStamp(run *fsat.Dir) (*Stamp, int64, error) {
	var top, file fsat.Stat
	if err := run.Stat("", &top); err != nil {
		return nil, 0, err
	}
	own, err := run.OpenDir(ownDir)
	if fsat.NotExist(err) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer own.Close()
	var dir fsat.Stat
	if err := own.Stat("", &dir); err != nil {
		return nil, 0, err
	}
	fd, err := linux.Openat(own.Fd(), stampName, linux.O_RDONLY|linux.O_NOFOLLOW|linux.O_NONBLOCK|linux.O_NOCTTY, 0)
	if fsat.NotExist(err) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer linux.Close(fd)
	if err := fsat.StatAt(fd, "", &file); err != nil {
		return nil, 0, err
	}
	for _, st := range []*fsat.Stat{&top, &dir, &file} {
		if st.UID != 0 || st.Perm()&0o022 != 0 {
			return nil, 0, nil
		}
	}
	s, err := ReadStamp(fdReader(fd))
	if err != nil {
		return nil, 0, err
	}
	return &s, file.Mtime, nil
}
