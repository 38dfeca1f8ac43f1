package linux

import "golang.org/x/sys/unix"

// SeekTo is lseek(fd, off, SEEK_SET).
func SeekTo(fd int, off int64) error {
	_, err := unix.Seek(fd, off, unix.SEEK_SET)
	return wrap("lseek", err)
}

// SeekData is lseek(fd, off, SEEK_DATA): where the first data at or behind off
// begins. ENXIO says that there is none, EINVAL that this file cannot tell.
func SeekData(fd int, off int64) (int64, error) {
	n, err := unix.Seek(fd, off, unix.SEEK_DATA)
	return n, wrap("lseek", err)
}

// SeekHole is lseek(fd, off, SEEK_HOLE): where the data that is at off ends. The
// end of the file counts as a hole.
func SeekHole(fd int, off int64) (int64, error) {
	n, err := unix.Seek(fd, off, unix.SEEK_HOLE)
	return n, wrap("lseek", err)
}
