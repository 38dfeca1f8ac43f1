package linux

import (
	"time"

	"golang.org/x/sys/unix"
)

// PidfdOpen returns a descriptor of the process pid: pidfd_open(2), Linux 5.3.
// It stays the same process when the number is used again, and becomes readable
// when the process ends. It is close-on-exec.
func PidfdOpen(pid int) (int, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.PidfdOpen(pid, 0)
		return err
	})
	return fd, wrap("pidfd_open", err)
}

// PollIn waits until fd is readable or at end of file, or for the time given:
// poll(2). It reports whether that is so; a negative time waits for ever. The
// time begins again after a signal.
func PollIn(fd int, d time.Duration) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	ms := -1
	if d >= 0 {
		ms = int(d.Milliseconds())
	}
	var n int
	err := retry(func() (err error) {
		n, err = unix.Poll(fds, ms)
		return err
	})
	return n > 0, wrap("poll", err)
}

// PollOut reports whether a write to fd would not wait, without waiting: poll(2)
// with POLLOUT. One to a terminal that ^S has stopped would.
func PollOut(fd int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	err := retry(func() error {
		_, err := unix.Poll(fds, 0)
		return err
	})
	return fds[0].Revents != 0, wrap("poll", err)
}

// PollPriority reports whether fd has something urgent to tell, without waiting:
// poll(2) with POLLPRI. A mount table has after a change.
func PollPriority(fd int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
	err := retry(func() error {
		_, err := unix.Poll(fds, 0)
		return err
	})
	return fds[0].Revents&(unix.POLLPRI|unix.POLLERR) != 0, wrap("poll", err)
}

// KillZero asks whether a process or thread has the number pid, without a
// signal: kill(2) with signal 0. nil and EPERM say yes, ESRCH no.
func KillZero(pid int) error { return wrap("kill", unix.Kill(pid, 0)) }
