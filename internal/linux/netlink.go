package linux

import (
	"time"

	"golang.org/x/sys/unix"
)

// Numbers of netlink(7) and sock_diag(7).
const (
	NETLINK_SOCK_DIAG   = unix.NETLINK_SOCK_DIAG
	SOCK_DIAG_BY_FAMILY = unix.SOCK_DIAG_BY_FAMILY
	NLM_F_REQUEST       = unix.NLM_F_REQUEST
	NLM_F_DUMP          = unix.NLM_F_DUMP
	NLMSG_ERROR         = unix.NLMSG_ERROR
	NLMSG_DONE          = unix.NLMSG_DONE
)

// NetlinkSocket opens a socket to the kernel for a protocol of netlink(7), in the
// caller's network namespace. Nothing that is received on it is waited for longer
// than timeout: Recvfrom fails with EAGAIN then.
func NetlinkSocket(protocol int, timeout time.Duration) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, wrap("socket(AF_NETLINK)", err)
	}
	tv := unix.NsecToTimeval(int64(timeout))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		unix.Close(fd)
		return -1, wrap("setsockopt(SO_RCVTIMEO)", err)
	}
	return fd, nil
}

// NetlinkSend sends one message to the kernel.
func NetlinkSend(fd int, msg []byte) error {
	return wrap("sendto", retry(func() error { return unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) }))
}

// NetlinkReceive receives one datagram, and whether the kernel sent it: any
// process may send to a netlink socket whose address it guesses. A datagram that
// does not fit is EMSGSIZE.
func NetlinkReceive(fd int, buf []byte) (n int, kernel bool, err error) {
	for {
		n, _, flags, from, err := unix.Recvmsg(fd, buf, nil, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, false, wrap("recvmsg", err)
		}
		if flags&unix.MSG_TRUNC != 0 {
			return 0, false, wrap("recvmsg", unix.EMSGSIZE)
		}
		nl, ok := from.(*unix.SockaddrNetlink)
		return n, ok && nl.Pid == 0, nil
	}
}
