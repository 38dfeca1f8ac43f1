package condition

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/resolve"
)

const (
	answerWithin = 3 * time.Second // of a connection that is tried
	maxAddrs     = 16              // of one name that are tried at once
)

// dial is how to go on with a TCP condition: with addresses, or with names to ask
// for them.
type dial struct {
	addrs []netip.Addr
	conf  resolve.Config
	names []string
}

// names finds out what hosts(5) says of the host of c, and else whom to ask.
func (l *look) names(c Condition) {
	d := &dial{addrs: resolve.Local(c.Host)}
	l.f.dial = d
	if d.addrs != nil {
		return
	}
	root, err := inroot.Open("")
	if err != nil {
		l.found(false, poll, "%v", err)
		l.f.dial = nil
		return
	}
	defer root.Close()
	// A file that is not there, or cannot be read, says nothing, as in every resolver.
	if f, err := root.OpenFile("/etc/hosts"); err == nil {
		d.addrs, _ = resolve.Hosts(f, c.Host)
		f.Close()
	}
	if d.addrs != nil {
		return
	}
	d.conf = resolve.Default()
	if f, err := root.OpenFile("/etc/resolv.conf"); err == nil {
		if conf, err := resolve.ParseConfig(f); err == nil {
			d.conf = conf
		}
		f.Close()
	}
	d.names = d.conf.Names(c.Host)
}

// try is one attempt to connect. It is a machine that the loop turns: nothing here
// waits.
type try struct {
	w     *waiter
	c     *waiting
	d     *dial
	until time.Time
	q     *question // nil once the addresses are known
	conns []conn
	fails []string
}

type conn struct {
	fd   int
	addr netip.AddrPort
}

// dial starts a try.
func (w *waiter) dial(c *waiting, d *dial, now time.Time) {
	t := &try{w: w, c: c, d: d}
	c.try = t
	if d.addrs != nil {
		t.connect(now)
		return
	}
	t.q = &question{t: t, failed: "no name server"}
	t.q.ask(now)
}

func (t *try) close() {
	if t.q != nil {
		t.q.close()
	}
	for _, k := range t.conns {
		linux.Close(k.fd)
	}
	t.conns = nil
}

// end gives the result to the loop.
func (t *try) end(now time.Time, holds bool, format string, args ...any) {
	t.close()
	t.w.settle(t.c, finding{holds: holds, why: fmt.Sprintf(format, args...), pace: poll, pidfd: -1}, now)
}

// pending is what it waits for.
func (t *try) pending() string {
	if t.q != nil {
		return fmt.Sprintf("no answer from the name server %s yet", t.q.server())
	}
	return "no answer yet from " + t.addrs()
}

func (t *try) addrs() string {
	var list []string
	for _, k := range t.conns {
		list = append(list, k.addr.String())
	}
	return strings.Join(list, ", ")
}

// connect starts a connection to every address at once: the first that is accepted
// counts.
func (t *try) connect(now time.Time) {
	t.q = nil
	t.until = now.Add(answerWithin)
	for _, a := range t.d.addrs[:min(len(t.d.addrs), maxAddrs)] {
		to := netip.AddrPortFrom(a, t.c.Port)
		fd, err := linux.InetSocket(a, syscall.SOCK_STREAM)
		if err != nil {
			t.fail(to, err)
			continue
		}
		t.conns = append(t.conns, conn{fd, to})
		if err := linux.ConnectInet(fd, to); !errors.Is(err, syscall.EINPROGRESS) {
			t.connected(fd, err, now)
			if t.c.try != t {
				return
			}
		}
	}
	t.rest(now)
}

// fail notes why an address was not reached.
func (t *try) fail(to netip.AddrPort, err error) {
	var sys interface{ Unwrap() error }
	if errors.As(err, &sys) && sys.Unwrap() != nil {
		err = sys.Unwrap() // "connection refused" without the name of the call
	}
	t.fails = append(t.fails, fmt.Sprintf("%s: %v", to, err))
}

// rest ends the try where no connection is left that may still be accepted.
func (t *try) rest(now time.Time) {
	if len(t.conns) == 0 {
		t.end(now, false, "%s", strings.Join(t.fails, "; "))
	}
}

var errSelf = errors.New("connection refused (the kernel connected the socket to itself)")

// connected takes the end of the connection fd.
func (t *try) connected(fd int, err error, now time.Time) {
	i := 0
	for i < len(t.conns) && t.conns[i].fd != fd {
		i++
	}
	if i == len(t.conns) {
		return
	}
	to := t.conns[i].addr
	if err == nil {
		if self, serr := linux.SelfConnected(fd); serr != nil {
			err = serr // it is gone again
		} else if self {
			err = errSelf
		}
	}
	if err == nil {
		t.end(now, true, "connected to %s", to)
		return
	}
	t.fail(to, err)
	if err == errSelf { // whoever is waited for wants the port
		linux.CloseReset(fd)
	} else {
		linux.Close(fd)
	}
	t.conns = append(t.conns[:i], t.conns[i+1:]...)
}

// polled appends the descriptors that the try waits for.
func (t *try) polled(fds []linux.PollFd) []linux.PollFd {
	if t.q != nil {
		return t.q.polled(fds)
	}
	for _, k := range t.conns {
		fds = append(fds, linux.PollFd{Fd: int32(k.fd), Events: linux.POLLOUT})
	}
	return fds
}

// ready goes on where something happened to a descriptor.
func (t *try) ready(fd int, now time.Time) {
	if t.q != nil {
		t.q.ready(fd, now)
		return
	}
	if t.connected(fd, linux.SocketError(fd), now); t.c.try == t {
		t.rest(now)
	}
}

// expire goes on where no answer came in time.
func (t *try) expire(now time.Time) {
	if t.q != nil {
		t.q.expire(now)
		return
	}
	t.fails = append(t.fails, fmt.Sprintf("no answer from %s within %v", t.addrs(), answerWithin))
	t.end(now, false, "%s", strings.Join(t.fails, "; "))
}
