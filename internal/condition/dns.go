package condition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/resolve"
)

// question asks name servers for the addresses of a host: each name that may be
// meant, one server after the other, both types at once.
type question struct {
	t       *try
	name    int // of t.d.names
	at      int // of the servers
	round   int
	udp     int // -1 without
	asked   [2]asked
	addrs   []netip.Addr
	stream  *stream // for an answer that was cut off
	failed  string  // why there is none, of the last name or server
	started bool
}

// asked is one of the two messages.
type asked struct {
	typ  resolve.Type
	id   uint16
	done bool
}

const dnsPort = 53

func (q *question) server() netip.AddrPort {
	return netip.AddrPortFrom(q.t.d.conf.Servers[q.at], dnsPort)
}

func (q *question) close() {
	if q.started && q.udp >= 0 {
		linux.Close(q.udp)
	}
	q.udp = -1
	q.stream.close()
	q.stream = nil
}

// ask sends the messages to the server whose turn it is.
func (q *question) ask(now time.Time) {
	q.close()
	q.started = true
	q.addrs = nil
	q.t.until = now.Add(q.t.d.conf.Timeout)
	for i, typ := range []resolve.Type{resolve.A, resolve.AAAA} {
		q.asked[i] = asked{typ: typ, id: uint16(rand.Uint32())}
	}
	to := q.server()
	fd, err := linux.InetSocket(to.Addr(), syscall.SOCK_DGRAM)
	if err != nil {
		q.next(now, err.Error())
		return
	}
	q.udp = fd
	// Connected, so that nobody but the server can answer.
	if err := linux.ConnectInet(fd, to); err != nil {
		q.next(now, fmt.Sprintf("the name server %s cannot be asked: %v", to, err))
		return
	}
	for _, a := range q.asked {
		if _, err := linux.Write(fd, resolve.Query(a.id, q.t.d.names[q.name], a.typ)); err != nil {
			q.silent(err, now)
			return
		}
	}
}

// next asks the next server, and after the last the first again.
func (q *question) next(now time.Time, failed string) {
	q.failed = failed
	if q.at++; q.at == len(q.t.d.conf.Servers) {
		q.at = 0
		if q.round++; q.round >= q.t.d.conf.Attempts {
			q.nextName(now)
			return
		}
	}
	// One that refuses at once would have us ask it again at once.
	q.ask(now)
}

// nextName asks for the next name that may be meant.
func (q *question) nextName(now time.Time) {
	q.round = 0
	if q.name++; q.name == len(q.t.d.names) {
		q.t.end(now, false, "%s", q.failed)
		return
	}
	q.ask(now)
}

func (q *question) polled(fds []linux.PollFd) []linux.PollFd {
	if q.udp >= 0 {
		fds = append(fds, linux.PollFd{Fd: int32(q.udp), Events: linux.POLLIN})
	}
	if s := q.stream; s != nil {
		events := int16(linux.POLLIN)
		if len(s.out) > 0 {
			events = linux.POLLOUT
		}
		fds = append(fds, linux.PollFd{Fd: int32(s.fd), Events: events})
	}
	return fds
}

func (q *question) ready(fd int, now time.Time) {
	if q.stream != nil && fd == q.stream.fd {
		q.streamed(now)
		return
	}
	var buf [4096]byte
	for range 8 {
		n, err := linux.Read(fd, buf[:])
		if errors.Is(err, syscall.EAGAIN) {
			return
		}
		if err != nil { // ECONNREFUSED: nobody is there
			q.silent(err, now)
			return
		}
		if !q.take(buf[:n], false, now) {
			return
		}
	}
}

// silent asks the next server, because of an error of this one's socket.
func (q *question) silent(err error, now time.Time) {
	q.next(now, fmt.Sprintf("the name server %s does not answer: %v", q.server(), errors.Unwrap(err)))
}

// take reads a message. It returns false once the question is no longer the same.
func (q *question) take(b []byte, whole bool, now time.Time) bool {
	for i := range q.asked {
		k := &q.asked[i]
		if k.done {
			continue
		}
		a, err := resolve.ParseAnswer(b, k.id, q.t.d.names[q.name], k.typ)
		if errors.Is(err, resolve.ErrOther) {
			continue
		}
		switch {
		case err != nil:
			q.next(now, fmt.Sprintf("the name server %s: %v", q.server(), err))
			return false
		case a.Truncated && len(a.Addrs) == 0 && !whole:
			return q.again(k, now)
		case a.Code != resolve.Success && a.Code != resolve.NoSuchName:
			q.next(now, fmt.Sprintf("the name server %s says %s", q.server(), codeName(a.Code)))
			return false
		}
		k.done = true
		q.addrs = append(q.addrs, a.Addrs...)
		return q.whole(now)
	}
	return true // somebody else's, or one that came twice
}

func codeName(code int) string {
	switch code {
	case resolve.ServerFailure:
		return "server failure"
	case resolve.Refused:
		return "refused"
	}
	return fmt.Sprintf("error %d", code)
}

// whole goes on if both answers are there, and returns true if not.
func (q *question) whole(now time.Time) bool {
	if !q.asked[0].done || !q.asked[1].done {
		if len(q.addrs) > 0 { // do not wait long for the other type
			q.t.until = earliest(q.t.until, now.Add(100*time.Millisecond))
		}
		return true
	}
	if len(q.addrs) > 0 {
		q.finish(now)
		return false
	}
	name := strings.TrimSuffix(q.t.d.names[q.name], ".")
	q.failed = fmt.Sprintf("no address of %s (asked %s)", name, q.server())
	q.nextName(now)
	return false
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// finish connects to what was found.
func (q *question) finish(now time.Time) {
	q.close()
	q.t.d.addrs = q.addrs
	q.t.connect(now)
}

func (q *question) expire(now time.Time) {
	if len(q.addrs) > 0 {
		q.finish(now)
		return
	}
	q.next(now, fmt.Sprintf("no answer from the name server %s", q.server()))
}

// stream asks over TCP, RFC 1035, 4.2.2: a length of two bytes stands before each
// message.
type stream struct {
	fd      int
	out, in []byte
}

func (s *stream) close() {
	if s != nil {
		linux.Close(s.fd)
	}
}

// again asks for a whole answer over TCP.
func (q *question) again(k *asked, now time.Time) bool {
	if q.stream != nil {
		return true // for the other type; this one is asked for behind it
	}
	to := q.server()
	fd, err := linux.InetSocket(to.Addr(), syscall.SOCK_STREAM)
	if err == nil {
		if err = linux.ConnectInet(fd, to); err != nil && !errors.Is(err, syscall.EINPROGRESS) {
			linux.Close(fd)
		} else {
			err = nil
		}
	}
	if err != nil {
		q.next(now, fmt.Sprintf("the name server %s cannot be asked over TCP: %v", to, err))
		return false
	}
	q.stream = &stream{fd: fd}
	for i := range q.asked {
		if o := &q.asked[i]; !o.done {
			msg := resolve.Query(o.id, q.t.d.names[q.name], o.typ)
			q.stream.out = binary.BigEndian.AppendUint16(q.stream.out, uint16(len(msg)))
			q.stream.out = append(q.stream.out, msg...)
		}
	}
	return true
}

// streamed goes on with the stream.
func (q *question) streamed(now time.Time) {
	s := q.stream
	var err error
	var n int
	if len(s.out) > 0 {
		if n, err = linux.Write(s.fd, s.out); err == nil {
			s.out = s.out[n:]
		}
	} else {
		var buf [4096]byte
		if n, err = linux.Read(s.fd, buf[:]); err == nil && n == 0 {
			err = errors.New("it closed the connection")
		}
		if err == nil {
			s.in = append(s.in, buf[:n]...)
		}
	}
	if errors.Is(err, syscall.EAGAIN) {
		return
	}
	if err != nil {
		q.next(now, fmt.Sprintf("the name server %s cannot be asked over TCP: %v", q.server(), err))
		return
	}
	for len(s.in) >= 2 && len(s.in) >= 2+int(binary.BigEndian.Uint16(s.in)) {
		msg := s.in[2 : 2+int(binary.BigEndian.Uint16(s.in))]
		s.in = s.in[2+len(msg):]
		if !q.take(msg, true, now) {
			return
		}
	}
}
