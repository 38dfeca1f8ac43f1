package linux

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// UnixSocket opens a unix socket of a type (syscall.SOCK_STREAM, ...), non-blocking
// and close-on-exec.
func UnixSocket(typ int) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	return fd, wrap("socket(AF_UNIX)", err)
}

// UnixPair is socketpair(2), non-blocking and close-on-exec.
func UnixPair(typ int) (a, b int, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	return p[0], p[1], wrap("socketpair", err)
}

// ConnectUnix is connect(2) to a path of at most 107 bytes, or to an abstract name
// that begins with "@", unix(7).
func ConnectUnix(fd int, name string) error {
	return wrap("connect", retry(func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: name}) }))
}

// InetSocket opens a socket of a type for the family of addr, non-blocking and
// close-on-exec.
func InetSocket(addr netip.Addr, typ int) (int, error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	return fd, wrap("socket", err)
}

// ConnectInet is connect(2), not repeated after a signal: a connection is then
// under way (EINPROGRESS), as it is on any non-blocking stream socket. A zone is the
// name or the number of an interface.
func ConnectInet(fd int, to netip.AddrPort) error {
	sa, err := sockaddr(fd, to)
	if err != nil {
		return err
	}
	err = unix.Connect(fd, sa)
	if err == syscall.EINTR {
		err = syscall.EINPROGRESS
	}
	return wrap("connect", err)
}

func sockaddr(fd int, to netip.AddrPort) (unix.Sockaddr, error) {
	addr := to.Addr()
	if addr.Is4() {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: addr.As4()}, nil
	}
	sa := &unix.SockaddrInet6{Port: int(to.Port()), Addr: addr.As16()}
	if zone := addr.Zone(); zone != "" {
		index, err := interfaceIndex(fd, zone)
		if err != nil {
			return nil, err
		}
		sa.ZoneId = index
	}
	return sa, nil
}

// interfaceIndex is SIOCGIFINDEX of netdevice(7).
func interfaceIndex(fd int, zone string) (uint32, error) {
	var n uint32
	digits := true
	for _, c := range []byte(zone) {
		digits = digits && c >= '0' && c <= '9' && n < 1<<24
		n = n*10 + uint32(c-'0')
	}
	if digits {
		return n, nil
	}
	ifr, err := unix.NewIfreq(zone)
	if err == nil {
		err = retry(func() error { return unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr) })
	}
	if err != nil {
		return 0, wrap("ioctl SIOCGIFINDEX", err)
	}
	return ifr.Uint32(), nil
}

// SocketError takes the pending error of a socket, SO_ERROR of socket(7): how a
// connect(2) ended that was under way.
func SocketError(fd int) error {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return wrap("getsockopt(SO_ERROR)", err)
	}
	if n != 0 {
		return wrap("connect", syscall.Errno(n))
	}
	return nil
}

// SelfConnected reports whether a stream socket is connected to itself: where
// nobody listens on a port of this machine, connect(2) may be given that very port
// as its own, and two SYNs that cross open a connection (RFC 9293, 3.5).
func SelfConnected(fd int) (bool, error) {
	here, err := unix.Getsockname(fd)
	if err != nil {
		return false, wrap("getsockname", err)
	}
	there, err := unix.Getpeername(fd)
	if err != nil {
		return false, wrap("getpeername", err)
	}
	switch a := here.(type) {
	case *unix.SockaddrInet4:
		b, ok := there.(*unix.SockaddrInet4)
		return ok && a.Port == b.Port && a.Addr == b.Addr, nil
	case *unix.SockaddrInet6:
		b, ok := there.(*unix.SockaddrInet6)
		return ok && a.Port == b.Port && a.Addr == b.Addr && a.ZoneId == b.ZoneId, nil
	}
	return false, nil
}

// CloseReset closes a TCP socket so that nothing of its connection stays: with
// SO_LINGER of 0 seconds it is reset, and its port is not kept for a minute
// (TIME_WAIT).
func CloseReset(fd int) error {
	err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	if cerr := Close(fd); cerr != nil {
		return cerr
	}
	return wrap("setsockopt(SO_LINGER)", err)
}

// WindowWidth is the number of columns of a terminal, ioctl_tty(2) TIOCGWINSZ; 0
// where it says none.
func WindowWidth(fd int) int {
	ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(ws.Col)
}
