package condition

import (
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// socket makes a unix socket that is bound to name.
func socket(t testing.TB, name string, typ int) int {
	t.Helper()
	fd, err := linux.UnixSocket(typ)
	must(t, err)
	t.Cleanup(func() { linux.Close(fd) })
	must(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: name}))
	return fd
}

// orphan makes a socket file that its process has left.
func orphan(t testing.TB, name string) {
	t.Helper()
	fd, err := linux.UnixSocket(syscall.SOCK_STREAM)
	must(t, err)
	defer linux.Close(fd)
	must(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: name}))
}

func says(t testing.TB, text string, holds bool, why string) {
	t.Helper()
	r := once(t.(*testing.T), Options{}, text)
	if r.Holds != holds || !strings.Contains(r.Why, why) {
		t.Errorf("%+v, want %v, %q", r, holds, why)
	}
}

// listen: from the missing directory to the listener, each stage by its event or by
// looks, and nobody wakes.
func TestListen(t *testing.T) {
	for _, p := range seccomptest.All {
		t.Run(p.String(), func(t *testing.T) {
			seccomptest.Run(t, p, func(t *testing.T) {
				d := t.TempDir()
				path := d + "/app/sock"
				says(t, "listen:"+path, false, "no such directory: "+d+"/app")
				r := begin(t, forever(Options{}), "listen:"+path)
				r.idle()
				mkdirs(t, d+"/app")
				r.idle()
				fd := socket(t, path, syscall.SOCK_STREAM)
				r.polls(5) // nothing tells of listen(2)
				says(t, "listen:"+path, false, "somebody is bound but does not listen")
				says(t, "connect:"+path, false, "somebody is bound but does not listen")
				must(t, syscall.Listen(fd, 0))
				if got := r.holds().Conditions[0]; got.Why != "somebody listens" {
					t.Errorf("%+v", got)
				}
				if _, _, err := syscall.Accept(fd); err != syscall.EAGAIN {
					t.Errorf("the listener woke: %v", err)
				}
				says(t, "connect:"+path, true, "connected")
				says(t, "connect:"+path, false, "does not accept: no more connections may wait")
				says(t, "listen:"+path, true, "no more connections may wait")
			})
		})
	}
}

// connect: waits for room in a full queue.
func TestConnectFullQueue(t *testing.T) {
	for _, typ := range []int{syscall.SOCK_STREAM, syscall.SOCK_SEQPACKET} {
		d := t.TempDir()
		fd := socket(t, d+"/s", typ)
		must(t, syscall.Listen(fd, 0))
		says(t, "connect:"+d+"/s", true, "connected")
		r := begin(t, forever(Options{}), "connect:"+d+"/s")
		r.polls(4)
		n, _, err := syscall.Accept(fd)
		must(t, err)
		syscall.Close(n)
		r.holds()
		if n, _, err = syscall.Accept(fd); err != nil {
			t.Errorf("it was not connected to: %v", err)
		}
		syscall.Close(n)
	}
}

// A socket that its process has left is no cause to look again and again: bind(2)
// makes another file.
func TestOrphan(t *testing.T) {
	d := t.TempDir()
	orphan(t, d+"/s")
	says(t, "listen:"+d+"/s", false, "nobody is bound to the socket")
	r := begin(t, forever(Options{}), "listen:"+d+"/s", "connect:"+d+"/s")
	r.idle()
	must(t, os.Remove(d+"/s"))
	r.idle()
	must(t, syscall.Listen(socket(t, d+"/new", syscall.SOCK_SEQPACKET), 5))
	must(t, os.Rename(d+"/new", d+"/s"))
	r.holds()
}

// Between the file and the binding of the socket, both parts of bind(2), a look
// finds nobody. The daemon comes right between the watch and the look.
func TestListenRace(t *testing.T) {
	d := t.TempDir()
	var bound sync.Once
	o := forever(Options{watched: func(path string) {
		if path == d+"/s" {
			bound.Do(func() { must(t, syscall.Listen(socket(t, d+"/s", syscall.SOCK_STREAM), 1)) })
		}
	}})
	begin(t, o, "listen:"+d+"/s").holds()
}

func TestDatagram(t *testing.T) {
	d := t.TempDir()
	for _, kind := range []string{"listen:", "connect:"} {
		name := d + "/" + kind[:3]
		fd := socket(t, name, syscall.SOCK_DGRAM)
		says(t, kind+name, true, "a datagram socket is bound")
		socket(t, name+"p", syscall.SOCK_DGRAM)
		must(t, syscall.Connect(fd, &syscall.SockaddrUnix{Name: name + "p"}))
		says(t, kind+name, false, "talks to another peer alone")
	}
	must(t, os.WriteFile(d+"/file", nil, 0o644))
	says(t, "listen:"+d+"/file", false, "is there and is no socket")
	must(t, os.Symlink("con", d+"/link"))
	says(t, "connect:"+d+"/link", false, "talks to another peer alone")
	long := d + "/" + strings.Repeat("x", 120) // longer than sun_path
	mkdirs(t, long)
	dir, err := linux.Openat(linux.AT_FDCWD, long, linux.O_PATH, 0)
	must(t, err)
	defer linux.Close(dir)
	must(t, linux.InDirectory(dir, func() error {
		return syscall.Listen(socket(t, "s", syscall.SOCK_STREAM), 1)
	}))
	says(t, "connect:"+long+"/s", true, "connected")
}

func TestAbstract(t *testing.T) {
	name := "@slashrun-test" + strings.ReplaceAll(t.TempDir(), "/", "-")
	says(t, "listen:"+name, false, "nobody is bound to it")
	r := begin(t, forever(Options{}), "listen:"+name, "connect:"+name)
	r.polls(4)
	must(t, syscall.Listen(socket(t, name, syscall.SOCK_STREAM), 4))
	r.holds()
}

// Who may not write to the socket cannot connect, and learns from the list of
// sockets whether somebody listens.
func TestSocketOfRoot(t *testing.T) {
	testenv.Need(t, testenv.NonRoot)
	d := t.TempDir()
	fd := socket(t, d+"/s", syscall.SOCK_STREAM)
	must(t, os.Chmod(d+"/s", 0))
	says(t, "listen:"+d+"/s", false, "somebody is bound but does not listen")
	must(t, syscall.Listen(fd, 1))
	says(t, "listen:"+d+"/s", true, "somebody listens")
	says(t, "connect:"+d+"/s", false, "no permission to connect")
	r := begin(t, forever(Options{}), "connect:"+d+"/s")
	r.polls(3)
	must(t, os.Chmod(d+"/s", 0o600))
	r.holds()
}

// The socket of another network namespace is asked through its file.
func TestSocketOfAnotherNetwork(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, linux.OnThread(syscall.CLONE_NEWNET, func() error {
			return syscall.Listen(socket(t, "/run/s", syscall.SOCK_STREAM), 1)
		}))
		says(t, "listen:/run/s", true, "somebody listens")
		says(t, "connect:/run/s", true, "connected")
	})
}

// Without /proc a socket is asked by its name.
func TestSocketWithoutProc(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, syscall.Listen(socket(t, "/run/s", syscall.SOCK_STREAM), 1))
		must(t, syscall.Mount("none", "/proc", "tmpfs", 0, ""))
		defer syscall.Unmount("/proc", syscall.MNT_DETACH)
		says(t, "listen:/run/s", true, "somebody listens")
		says(t, "connect:/run/s", true, "connected")
	})
}
