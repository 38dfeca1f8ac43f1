package condition

import (
	"errors"
	"strconv"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/sockdiag"
)

// socket looks at a unix socket: whether somebody listens, and for Connect whether
// a connection is accepted.
func (l *look) socket(c Condition) {
	if abstract(c.Operand) {
		r, err := sockdiag.GreetName(c.Operand)
		if r == sockdiag.Nobody && err == nil {
			l.found(false, poll, "nobody is bound to it")
			return
		}
		l.received(c, nil, c.Operand, r, err)
		return
	}
	s := l.walk(c.Operand, true, linux.IN_ATTRIB) // a daemon that binds and then gives permission
	defer s.close()
	if s.fd < 0 {
		l.found(false, told, "%s", s.why)
		return
	}
	if s.st.Mode&syscall.S_IFMT != syscall.S_IFSOCK {
		l.found(false, told, "%s is there and is no socket", c.Operand)
		return
	}
	r, err := sockdiag.Greet(s.fd)
	name := "/proc/self/fd/" + strconv.Itoa(s.fd)
	if errors.Is(err, sockdiag.ErrNeedsProc) && len(c.Operand) < maxAbstract {
		name = c.Operand
		r, err = sockdiag.GreetName(name)
	}
	l.received(c, s, name, r, err)
}

// received tells what a connection meets. s is nil for an abstract socket, name
// what to connect to.
func (l *look) received(c Condition, s *sight, name string, r sockdiag.Reception, err error) {
	switch {
	case (errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM)) && s != nil:
		l.listed(c, s, err)
	case err != nil:
		l.found(false, poll, "the socket cannot be asked: %v", err)
	case r == sockdiag.Nobody:
		// bind(2) makes the file and binds the socket some microseconds later. Once it
		// is not bound it never will be: bind makes another file, which is an event.
		l.found(false, settle, "nobody is bound to the socket: whoever made it has ended")
	case r == sockdiag.BoundOnly:
		l.found(false, poll, "somebody is bound but does not listen")
	case r == sockdiag.Paired:
		l.found(false, poll, "a datagram socket is bound that talks to another peer alone")
	case r == sockdiag.Datagram:
		l.found(true, poll, "a datagram socket is bound")
	case c.Kind == Listen && r == sockdiag.Full:
		l.found(true, poll, "somebody listens; no more connections may wait")
	case c.Kind == Listen:
		l.found(true, poll, "somebody listens")
	case r == sockdiag.Full:
		l.found(false, poll, "somebody listens, but does not accept: no more connections may wait")
	default:
		l.connect(name)
	}
}

// connect makes a connection and closes it.
func (l *look) connect(name string) {
	err := error(syscall.EPROTOTYPE)
	for _, typ := range []int{syscall.SOCK_STREAM, syscall.SOCK_SEQPACKET} {
		fd, serr := linux.UnixSocket(typ)
		if serr != nil {
			l.found(false, poll, "%v", serr)
			return
		}
		err = linux.ConnectUnix(fd, name)
		linux.Close(fd)
		if !errors.Is(err, syscall.EPROTOTYPE) {
			break
		}
	}
	switch {
	case err == nil:
		l.found(true, poll, "connected")
	case errors.Is(err, syscall.EAGAIN):
		l.found(false, poll, "somebody listens, but does not accept: no more connections may wait")
	default:
		l.found(false, poll, "%v", err)
	}
}

// listed looks for the socket in the list of this network namespace: it needs no
// permission on the file, but says nothing of other namespaces, and connects to
// nobody.
func (l *look) listed(c Condition, s *sight, denied error) {
	if c.Kind == Connect {
		l.found(false, poll, "no permission to connect (%v)", denied)
		return
	}
	list, err := l.shared.dump()
	if err != nil || s.mount == nil {
		l.found(false, poll, "no permission to ask the socket (%v), and the kernel gives no list of sockets", denied)
		return
	}
	bound, datagram := false, false
	for i := range list { // every accepted connection has the path and inode, too
		k := &list[i]
		if !k.File.Is(s.mount.Major, s.mount.Minor, s.st.Ino) {
			continue
		}
		if k.State == sockdiag.Listening {
			l.found(true, poll, "somebody listens")
			return
		}
		bound = true
		datagram = datagram || k.Type == syscall.SOCK_DGRAM
	}
	switch {
	case datagram:
		l.found(true, poll, "a datagram socket is bound")
		return
	case bound:
		l.found(false, poll, "somebody is bound but does not listen")
		return
	}
	l.found(false, poll, "no permission to ask the socket (%v), and nobody of this network namespace is bound to it", denied)
}
