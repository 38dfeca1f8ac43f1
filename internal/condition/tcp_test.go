package condition

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
)

func listen(t testing.TB, at string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", at)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

func inNet(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	nstest.Run(t, nstest.Options{Net: true, Root: nstest.RootEmpty}, f)
}

func TestTCP(t *testing.T) {
	for _, p := range []seccomptest.Profile{seccomptest.None, seccomptest.OldEPERM} {
		t.Run(p.String(), func(t *testing.T) {
			inNet(t, func(t *testing.T) {
				seccomptest.Run(t, p, func(t *testing.T) {
					says(t, "tcp:127.0.0.1:80", false, "127.0.0.1:80: connection refused")
					says(t, "tcp:[::1]:80", false, "[::1]:80: connection refused")
					says(t, "tcp:localhost:80", false, "[::1]:80: connection refused; 127.0.0.1:80: connection refused")
					says(t, "tcp:192.0.2.1:80", false, "192.0.2.1:80: network is unreachable")
					says(t, "tcp:[fe80::1%nosuch]:80", false, "no such device")
					r := begin(t, forever(Options{}), "tcp:127.0.0.1:80", "tcp:[::1]:81", "tcp:localhost:80")
					r.polls(10)
					listen(t, "127.0.0.1:80")
					r.polls(5)
					listen(t, "[::1]:81")
					r.holds()
					says(t, "tcp:[::1%lo]:81", true, "connected to [::1%lo]:81")
				})
			})
		})
	}
}

// The kernel gives a connection that is tried its own goal as its source, where no
// other port is free: it is then connected to itself, and nobody is there.
func TestTCPToItself(t *testing.T) {
	nstest.Run(t, nstest.Options{Net: true}, func(t *testing.T) {
		must(t, syscall.Mount("", "/proc/sys", "", syscall.MS_REMOUNT|syscall.MS_BIND, "")) // of this network namespace alone
		must(t, os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40000"), 0o644))
		for range 2 {
			says(t, "tcp:127.0.0.1:40000", false, "127.0.0.1:40000: connection refused (the kernel connected the socket to itself)")
			says(t, "tcp:[::1]:40000", false, "to itself")
		}
		fd, err := linux.InetSocket(netip.MustParseAddr("::1"), syscall.SOCK_STREAM)
		must(t, err)
		linux.ConnectInet(fd, netip.MustParseAddrPort("[::1]:40000"))
		must(t, linux.SocketError(fd)) // which others take for an answer
		if self, err := linux.SelfConnected(fd); !self || err != nil {
			t.Errorf("%v, %v", self, err)
		}
		must(t, linux.CloseReset(fd))
		// Who is waited for gets the port, which none of the tries has left in TIME_WAIT.
		fd, err = linux.InetSocket(netip.MustParseAddr("127.0.0.1"), syscall.SOCK_STREAM)
		must(t, err)
		defer linux.Close(fd)
		must(t, syscall.Bind(fd, &syscall.SockaddrInet4{Port: 40000, Addr: [4]byte{127, 0, 0, 1}}))
	})
}

// nameserver answers for a host's names as the table says, on UDP and TCP.
type nameserver struct {
	mu    sync.Mutex
	names map[string]string // "db.": an address, "NX", "FAIL", "CUT", "SILENT"
	asked []string
}

func (n *nameserver) set(name, what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[name] = what
}

func (n *nameserver) answer(q []byte, stream bool) []byte {
	name := ""
	at := 12
	for q[at] != 0 {
		name += string(q[at+1:at+1+int(q[at])]) + "."
		at += 1 + int(q[at])
	}
	typ := binary.BigEndian.Uint16(q[at+1:])
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, name)
	name = strings.ToLower(name)
	what := n.names[name]
	b := append([]byte(nil), q...)
	flags := uint16(0x8180)
	records := 0
	cut := strings.HasPrefix(what, "CUT ")
	what = strings.TrimPrefix(what, "CUT ")
	ip := net.ParseIP(what)
	switch {
	case what == "SILENT":
		return nil
	case what == "FAIL":
		flags |= 2
	case cut && !stream:
		flags |= 0x200
	case ip == nil:
		flags |= 3
	default:
		data := []byte(ip.To16())
		if v4 := ip.To4(); v4 != nil {
			data = v4
		}
		if len(data) == 4 && typ == 1 || len(data) == 16 && typ == 28 {
			records = 1
			b = append(b, 0xc0, 12, byte(typ>>8), byte(typ), 0, 1, 0, 0, 0, 1, 0, byte(len(data)))
			b = append(b, data...)
		}
	}
	binary.BigEndian.PutUint16(b[2:], flags)
	binary.BigEndian.PutUint16(b[6:], uint16(records))
	return b
}

func (n *nameserver) serve(t *testing.T, at string) {
	t.Helper()
	udp, err := net.ListenPacket("udp", at)
	must(t, err)
	t.Cleanup(func() { udp.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			k, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			if b := n.answer(buf[:k], false); b != nil {
				udp.WriteTo(b, from)
			}
		}
	}()
	l := listen(t, at)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			for {
				var size [2]byte
				if _, err := io.ReadFull(c, size[:]); err != nil {
					break
				}
				q := make([]byte, binary.BigEndian.Uint16(size[:]))
				io.ReadFull(c, q)
				b := n.answer(q, true)
				c.Write(binary.BigEndian.AppendUint16(nil, uint16(len(b)))) // in two parts
				c.Write(b)
			}
			c.Close()
		}
	}()
}

func TestNames(t *testing.T) {
	inNet(t, func(t *testing.T) {
		conf := func(file, text string) { must(t, os.WriteFile("/etc/"+file, []byte(text), 0o644)) }
		l := listen(t, "127.0.0.1:80")
		listen(t, "[::1]:81")
		conf("resolv.conf", "nameserver 127.0.0.9\noptions attempts:1\n")
		conf("hosts", "127.0.0.1 named\n")
		says(t, "tcp:named:80", true, "connected to 127.0.0.1:80")
		says(t, "tcp:db:80", false, "the name server 127.0.0.9:53 does not answer: connection refused")
		n := &nameserver{names: map[string]string{}}
		n.serve(t, "127.0.0.9:53")
		says(t, "tcp:db:80", false, "no address of db (asked 127.0.0.9:53)")
		n.set("db.", "127.0.0.1")
		says(t, "tcp:db:80", true, "connected to 127.0.0.1:80")
		says(t, "tcp:DB.:80", true, "connected to 127.0.0.1:80")
		n.set("six.", "::1")
		says(t, "tcp:six:81", true, "connected to [::1]:81")
		n.set("sick.", "FAIL")
		says(t, "tcp:sick:80", false, "the name server 127.0.0.9:53 says server failure")
		n.set("many.", "CUT 127.0.0.1")
		says(t, "tcp:many:80", true, "connected to 127.0.0.1:80")

		conf("resolv.conf", "nameserver 127.0.0.8\nnameserver 127.0.0.9\nsearch one.test two.test\noptions timeout:1 attempts:1\n")
		n.set("db.", "NX")
		n.set("db.two.test.", "127.0.0.1")
		says(t, "tcp:db:80", true, "connected to 127.0.0.1:80")
		n.mu.Lock()
		if got := strings.Join(n.asked[len(n.asked)-4:], " "); got != "db.one.test. db.one.test. db.two.test. db.two.test." {
			t.Errorf("asked %s", got)
		}
		n.mu.Unlock()

		// A container that is started gets a name, and then another address.
		r := begin(t, forever(Options{}), "tcp:late.test:80")
		r.polls(12)
		n.set("late.test.", "127.0.0.3")
		r.polls(12)
		n.set("late.test.", "127.0.0.1")
		r.holds()

		// The server does not answer, and the others need not wait for that.
		n.set("silent.test.", "SILENT")
		r = begin(t, forever(Options{Any: true}), "tcp:silent.test:80", "path:/run/x")
		r.polls(3)
		mkdirs(t, "/run/x")
		r.holds()
		l.Close()
	})
}
