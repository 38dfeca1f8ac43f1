package fuser

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
)

// mentions reports whether a line of the list has the text.
func mentions(list []string, text string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, text) })
}

// Every state of a socket, found by the file's inode after it was renamed, linked
// and replaced.
func TestSockets(t *testing.T) { nstest.Run(t, nstest.Options{Net: true}, testSockets) }

func testSockets(t *testing.T) {
	p := openProc(t)
	server, client := start(t), start(t)
	l := server.must(order{Do: "listen", Path: "/run/listen", Type: syscall.SOCK_STREAM, Flags: 2})
	server.must(order{Do: "listen", Path: "/run/idle", Type: syscall.SOCK_SEQPACKET, Flags: 7})
	server.must(order{Do: "bind", Path: "/run/bound", Type: syscall.SOCK_STREAM})
	server.must(order{Do: "bind", Path: "/run/dgram", Type: syscall.SOCK_DGRAM})
	orphan := server.must(order{Do: "bind", Path: "/run/orphan", Type: syscall.SOCK_STREAM})
	server.must(order{Do: "close", FD: orphan.FD})

	client.must(order{Do: "connect", Path: "/run/listen", Type: syscall.SOCK_STREAM})
	client.must(order{Do: "connect", Path: "/run/listen", Type: syscall.SOCK_STREAM})
	server.must(order{Do: "accept", FD: l.FD})
	server.must(order{Do: "accept", FD: l.FD})
	client.must(order{Do: "connect", Path: "/run/listen", Type: syscall.SOCK_STREAM})
	client.must(order{Do: "connect", Path: "/run/dgram", Type: syscall.SOCK_DGRAM})
	full := server.must(order{Do: "listen", Path: "/run/full", Type: syscall.SOCK_STREAM, Flags: 0})
	client.must(order{Do: "connect", Path: "/run/full", Type: syscall.SOCK_STREAM})
	hung := identify(t, p, "/run/full")
	if u := scanFor(t, p, Options{Sockets: true, Objects: []Object{hung}}).Of(hung.ID); len(u) != 2 || !u[0].Socket.Full() || u[0].FD != full.FD {
		t.Errorf("%+v", u)
	}
	server.must(order{Do: "close", FD: full.FD})
	// The test's own connection is left out.
	own, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	defer syscall.Close(own)
	must(t, syscall.Connect(own, &syscall.SockaddrUnix{Name: "/run/listen"}))

	listen, idle, bound, dgram := identify(t, p, "/run/listen"), identify(t, p, "/run/idle"), identify(t, p, "/run/bound"), identify(t, p, "/run/dgram")
	dead := identify(t, p, "/run/orphan")
	must(t, os.Rename("/run/listen", "/run/renamed"))
	must(t, os.Link("/run/dgram", "/run/linked"))
	must(t, os.Remove("/run/dgram"))
	must(t, os.Remove("/run/idle"))
	server.must(order{Do: "bind", Path: "/run/idle", Type: syscall.SOCK_STREAM})
	replaced := identify(t, p, "/run/idle")

	s, c := server.pid, client.pid
	lines := map[Object][]string{
		listen: {fmt.Sprintf("%d listening stream 2/2", s), fmt.Sprintf("%d accepted +1 stream", s),
			fmt.Sprintf("%d connected +1 stream", c), fmt.Sprintf("%d connecting stream", c)},
		idle:     {fmt.Sprintf("%d listening seqpacket 0/7", s)},
		bound:    {fmt.Sprintf("%d bound stream", s)},
		dgram:    {fmt.Sprintf("%d bound dgram", s), fmt.Sprintf("%d connected dgram", c)},
		replaced: {fmt.Sprintf("%d bound stream", s)},
		dead:     nil,
	}
	var objects []Object
	for o := range lines {
		objects = append(objects, o)
	}
	for _, opts := range []Options{
		{Sockets: true, Devices: []Device{listen.Device()}},
		{Sockets: true, Objects: objects},
	} {
		x := scanFor(t, p, opts)
		for o, want1 := range lines {
			want(t, x, o, want1...)
		}
		n := 0
		for node, uses := range x.All() {
			if len(uses) == 0 || node.Mode&syscall.S_IFMT != syscall.S_IFSOCK {
				t.Errorf("%+v %+v", node, uses)
			}
			n++
		}
		if n != 5 {
			t.Errorf("All has %d inodes, not 5", n)
		}
		for _, u := range x.Of(listen.ID) {
			if u.How == Listening && (u.Socket.Full() || u.FD != l.FD || u.Socket.Name != "/run/listen") {
				t.Errorf("%+v %+v", u, u.Socket)
			}
		}
	}
}

// A listener in another network namespace, its clients here; and one in a
// namespace that its process has left, which a descriptor keeps, and then nothing.
func TestNetworkNamespaces(t *testing.T) { nstest.Run(t, nstest.Options{Net: true}, testNetworks) }

func testNetworks(t *testing.T) {
	p := openProc(t)
	server, client := start(t), start(t)
	server.must(order{Do: "unshare", Flags: syscall.CLONE_NEWNET})
	l := server.must(order{Do: "listen", Path: "/run/other", Type: syscall.SOCK_STREAM, Flags: 5})
	client.must(order{Do: "connect", Path: "/run/other", Type: syscall.SOCK_STREAM})
	server.must(order{Do: "accept", FD: l.FD})
	o := identify(t, p, "/run/other")
	opts := Options{Sockets: true, Devices: []Device{o.Device()}}
	all := []string{fmt.Sprintf("%d listening stream 0/5", server.pid), fmt.Sprintf("%d accepted stream", server.pid), fmt.Sprintf("%d connected stream", client.pid)}
	x := scanFor(t, p, opts)
	want(t, x, o, all...)
	for _, u := range x.Of(o.ID) { // of an accepted socket it is the client's
		if (u.Socket.NetNS != 0) != (u.How == Listening) {
			t.Errorf("%+v: network namespace %d", u, u.Socket.NetNS)
		}
	}

	before, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	scanFor(t, p, opts)
	if after, err := os.ReadDir("/proc/self/fd"); err != nil || len(after) != len(before) {
		t.Errorf("%d descriptors, %d before: %v", len(after), len(before), err)
	}

	// A descriptor keeps it.
	ns := server.must(order{Do: "open", Path: "/proc/self/ns/net"})
	server.must(order{Do: "unshare", Flags: syscall.CLONE_NEWNET})
	want(t, scanFor(t, p, opts), o, all...)

	// A mount keeps it, as "ip netns" makes one.
	must(t, os.WriteFile("/run/ns", nil, 0o644))
	must(t, linux.Mount(fmt.Sprintf("/proc/%d/fd/%d", server.pid, ns.FD), "/run/ns", "", syscall.MS_BIND, ""))
	server.must(order{Do: "close", FD: ns.FD})
	x = scanFor(t, p, opts)
	want(t, x, o, all...)
	ns = server.must(order{Do: "open", Path: "/run/ns"})
	must(t, linux.Unmount("/run/ns", syscall.MNT_DETACH))

	// And now nothing but the sockets.
	server.must(order{Do: "close", FD: ns.FD})
	x = scanFor(t, p, opts)
	if !mentions(x.Incomplete, "1 socket is in network namespaces") {
		t.Errorf("%q", x.Incomplete)
	}
	want(t, x, o, all[1:]...)
}

// A listening socket that lies in a queue is there, and nobody has it; so does a
// file, which no one sees.
func TestInFlight(t *testing.T) { nstest.Run(t, nstest.Options{Net: true}, testInFlight) }

func testInFlight(t *testing.T) {
	p := openProc(t)
	a := start(t)
	pair := a.must(order{Do: "pair"})
	l := a.must(order{Do: "listen", Path: "/run/flies", Type: syscall.SOCK_STREAM, Flags: 5})
	must(t, os.WriteFile("/run/file", nil, 0o644))
	f := a.must(order{Do: "open", Path: "/run/file"})
	sock, file := identify(t, p, "/run/flies"), identify(t, p, "/run/file")
	opts := Options{Sockets: true, Objects: []Object{sock, file}}

	a.must(order{Do: "send", FD: pair.FD, Other: l.FD})
	a.must(order{Do: "send", FD: pair.FD, Other: f.FD})
	if x := scanFor(t, p, Options{Objects: []Object{file}}); !mentions(x.Incomplete, "2 descriptors lie in the queues of sockets") {
		t.Errorf("%q", x.Incomplete)
	}
	x := scanFor(t, p, opts)
	want(t, x, sock, "0 listening stream 0/5")
	want(t, x, file)
	if !mentions(x.Incomplete, "2 descriptors lie in the queues of sockets") {
		t.Errorf("%q", x.Incomplete)
	}

	a.must(order{Do: "receive", FD: pair.Other})
	x = scanFor(t, p, opts)
	want(t, x, sock, fmt.Sprintf("%d listening stream 0/5", a.pid))
	if !mentions(x.Incomplete, "1 descriptor lies in the queues of sockets") {
		t.Errorf("%q", x.Incomplete)
	}
	a.must(order{Do: "receive", FD: pair.Other})
	x = scanFor(t, p, opts)
	want(t, x, file, fmt.Sprintf("%d open r", a.pid))
	if mentions(x.Incomplete, "queue") {
		t.Errorf("%q", x.Incomplete)
	}
}
