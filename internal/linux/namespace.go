package linux

import "golang.org/x/sys/unix"

// Sethostname sets the host name of the caller's UTS namespace, sethostname(2).
func Sethostname(name string) error {
	return wrap("sethostname", retry(func() error { return unix.Sethostname([]byte(name)) }))
}

// NamespaceOwner opens the user namespace that owns the namespace behind fd
// (a descriptor of /proc/PID/ns/NAME): ioctl NS_GET_USERNS, ioctl_nsfs(2). It
// fails with EPERM when the owner lies outside the caller's user namespace,
// and with ENOTTY when fd is no namespace. The result is close-on-exec.
func NamespaceOwner(fd int) (int, error) {
	var owner int
	err := retry(func() (err error) {
		owner, err = unix.IoctlRetInt(fd, unix.NS_GET_USERNS)
		return err
	})
	return owner, wrap("ioctl NS_GET_USERNS", err)
}

// Setns moves the calling thread into the namespace behind fd, which is of the kind
// that flag names (syscall.CLONE_NEWNET and so on; 0 takes any): setns(2). The
// caller has locked its goroutine to the thread, and unlocks it only after it moved
// back; otherwise the thread has to end with the goroutine.
func Setns(fd, flag int) error {
	return wrap("setns", retry(func() error { return unix.Setns(fd, flag) }))
}
