package linux

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// TotalRAM is the memory of the machine in bytes as sysinfo(2) gives it: the
// figure of which tmpfs takes its percentages. It needs no /proc.
func TotalRAM() (uint64, error) {
	var si unix.Sysinfo_t
	if err := retry(func() error { return unix.Sysinfo(&si) }); err != nil {
		return 0, wrap("sysinfo", err)
	}
	return uint64(si.Totalram) * uint64(si.Unit), nil
}

// Clocks reads CLOCK_REALTIME and CLOCK_BOOTTIME in nanoseconds, one right
// after the other, clock_gettime(2).
func Clocks() (realtime, boottime int64, err error) {
	var r, b unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &r); err != nil {
		return 0, 0, wrap("clock_gettime", err)
	}
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &b); err != nil {
		return 0, 0, wrap("clock_gettime", err)
	}
	return r.Nano(), b.Nano(), nil
}

// Unshare is unshare(2) for the calling thread: lock the goroutine to it first
// and never unlock it, so that the thread ends with the goroutine.
func Unshare(flags int) error {
	return wrap("unshare", retry(func() error { return unix.Unshare(flags) }))
}

// Fchdir is fchdir(2). The working directory belongs to the process unless the
// thread was taken out of it by Unshare(CLONE_FS).
func Fchdir(fd int) error {
	return wrap("fchdir", retry(func() error { return unix.Fchdir(fd) }))
}

// ProbeUnixSocket connects a new, unbound datagram socket to the unix socket file
// name, of at most 107 bytes, and closes it again: connect(2). Package sockdiag
// says what the answers mean.
func ProbeUnixSocket(name string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return wrap("socket", err)
	}
	defer unix.Close(fd)
	return wrap("connect", retry(func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: name}) }))
}

// InDirectory runs f on a thread of its own whose working directory is dirfd,
// for the calls that take a path and no descriptor (mount(2), umount2(2),
// connect(2)): a name without slashes then means an entry of that directory and
// nothing else. The process's working directory stays. The thread ends with f.
func InDirectory(dirfd int, f func() error) error {
	return OnThread(CloneFS, func() error {
		if err := Fchdir(dirfd); err != nil {
			return err
		}
		return f()
	})
}

// OnThread runs f on a thread of its own that has been taken out of what flags
// name, unshare(2), and waits for it. The thread ends with f, and what it alone
// held (a mount namespace) with it.
func OnThread(flags int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is not fit for anything else
		if OnMainThread() {
			// The process's first thread would not end but stay as it is, for
			// everybody to see in /proc/PID. While we keep it no other goroutine
			// gets it.
			done <- OnThread(flags, f)
			runtime.UnlockOSThread()
			return
		}
		if err := Unshare(flags); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}
