package linux

import "golang.org/x/sys/unix"

// Setxattr is setxattr(2), which follows links: for /proc/self/fd/N only.
func Setxattr(path, name string, value []byte, flags int) error {
	return wrap("setxattr", retry(func() error { return unix.Setxattr(path, name, value, flags) }))
}

// Getxattr is getxattr(2), which follows links: for /proc/self/fd/N only.
func Getxattr(path, name string, buf []byte) (int, error) {
	n, err := unix.Getxattr(path, name, buf)
	return n, wrap("getxattr", err)
}

// Removexattr is removexattr(2), which follows links: for /proc/self/fd/N only.
func Removexattr(path, name string) error {
	return wrap("removexattr", retry(func() error { return unix.Removexattr(path, name) }))
}

// Fsetxattr is fsetxattr(2); it refuses an O_PATH descriptor with EBADF.
func Fsetxattr(fd int, name string, value []byte, flags int) error {
	return wrap("fsetxattr", retry(func() error { return unix.Fsetxattr(fd, name, value, flags) }))
}

// Fgetxattr is fgetxattr(2); it refuses an O_PATH descriptor with EBADF.
func Fgetxattr(fd int, name string, buf []byte) (int, error) {
	n, err := unix.Fgetxattr(fd, name, buf)
	return n, wrap("fgetxattr", err)
}

// Flistxattr is flistxattr(2): the names, each ended by a NUL byte.
func Flistxattr(fd int, buf []byte) (int, error) {
	n, err := unix.Flistxattr(fd, buf)
	return n, wrap("flistxattr", err)
}

// Fremovexattr is fremovexattr(2).
func Fremovexattr(fd int, name string) error {
	return wrap("fremovexattr", retry(func() error { return unix.Fremovexattr(fd, name) }))
}
