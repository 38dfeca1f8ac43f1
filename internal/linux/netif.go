package linux

import "golang.org/x/sys/unix"

// SetInterfaceUp sets IFF_UP on the network interface called name in the
// caller's network namespace: ioctl SIOCSIFFLAGS, netdevice(7).
func SetInterfaceUp(name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return wrap("ioctl SIOCSIFFLAGS", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return wrap("socket", err)
	}
	defer unix.Close(fd)
	if err := retry(func() error { return unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr) }); err != nil {
		return wrap("ioctl SIOCGIFFLAGS", err)
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	return wrap("ioctl SIOCSIFFLAGS", retry(func() error { return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr) }))
}
