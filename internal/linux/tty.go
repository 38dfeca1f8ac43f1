package linux

import "golang.org/x/sys/unix"

// IsTerminal reports whether fd is a terminal: whether TCGETS (ioctl_tty(2))
// works on it, as isatty(3) asks.
func IsTerminal(fd int) bool {
	return retry(func() error {
		_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		return err
	}) == nil
}
