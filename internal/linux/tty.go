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

// SetForeground makes the caller's process group the one in the foreground of
// the terminal fd: tcsetpgrp(3). Ignore or handle SIGTTOU first, which stops
// whoever does this from the background. ENOTTY where fd is not the controlling
// terminal.
func SetForeground(fd int) error {
	return wrap("ioctl TIOCSPGRP", retry(func() error {
		return unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, unix.Getpgrp())
	}))
}

// IsForeground reports whether fd is the controlling terminal and the caller's
// process group the one in its foreground: tcgetpgrp(3).
func IsForeground(fd int) bool {
	var group int
	err := retry(func() (err error) {
		group, err = unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		return err
	})
	return err == nil && group == unix.Getpgrp()
}
