package sockdiag

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/testenv"
	"github.com/slashrun/slashrun/internal/vmtest"
)

func greeted(t testing.TB, path string) (Reception, error) {
	t.Helper()
	fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_PATH, 0)
	must(t, err)
	defer linux.Close(fd)
	return Greet(fd)
}

// What a connection would meet is told of every type in every state, and nobody
// who listens sees anything of the question.
func TestGreet(t *testing.T) {
	for _, p := range seccomptest.All {
		t.Run(p.String(), func(t *testing.T) {
			seccomptest.Run(t, p, greetEach)
		})
	}
}

// The order in which connect(2) looks at things is the kernel's own affair, so each
// is asked.
func TestGreetOnKernels(t *testing.T) {
	for _, k := range vmtest.Kernels {
		t.Run(string(k), func(t *testing.T) {
			if !vmtest.Inside() {
				testenv.Need(t, testenv.Root) // it needs none: one pass of the two is enough for a boot
			}
			vmtest.Run(t, vmtest.Options{Kernel: k}, greetEach)
		})
	}
}

func greetEach(t *testing.T) {
	dir := t.TempDir()
	want := func(name string, r Reception) {
		t.Helper()
		if got, err := greeted(t, dir+"/"+name); got != r || err != nil {
			t.Errorf("%s: %v, %v, want %v", name, got, err, r)
		}
	}
	for name, typ := range map[string]int{"stream": syscall.SOCK_STREAM, "seqpacket": syscall.SOCK_SEQPACKET} {
		fd, err := linux.UnixSocket(typ) // which is closed below, and not once more
		must(t, err)
		must(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: dir + "/" + name}))
		want(name, BoundOnly)
		must(t, syscall.Listen(fd, 0))
		want(name, Listens)
		want(name, Listens)
		if _, _, err := syscall.Accept(fd); err != syscall.EAGAIN {
			t.Errorf("%s: the listener woke: %v", name, err)
		}
		c, err := linux.UnixSocket(typ)
		must(t, err)
		defer linux.Close(c)
		must(t, linux.ConnectUnix(c, dir+"/"+name))
		want(name, Full)
		n, _, err := syscall.Accept(fd)
		must(t, err)
		syscall.Close(n)
		want(name, Listens)
		must(t, syscall.Shutdown(fd, syscall.SHUT_RD))
		want(name, BoundOnly)
		syscall.Close(fd)
		want(name, Nobody)
	}
	d := bind(t, dir+"/datagram", syscall.SOCK_DGRAM)
	want("datagram", Datagram)
	bind(t, dir+"/peer", syscall.SOCK_DGRAM)
	must(t, syscall.Connect(d, &syscall.SockaddrUnix{Name: dir + "/peer"}))
	want("datagram", Paired)

	name := "@slashrun-test-" + filepath.Base(filepath.Dir(dir)) + "-" + strings.ReplaceAll(t.Name(), "/", "-")
	if r, err := GreetName(name); r != Nobody || err != nil {
		t.Errorf("an abstract name: %v, %v", r, err)
	}
	a := bind(t, name, syscall.SOCK_STREAM)
	must(t, syscall.Listen(a, 1))
	if r, err := GreetName(name); r != Listens || err != nil {
		t.Errorf("an abstract name: %v, %v", r, err)
	}
}

// It is the file that counts, not the network namespace, which the list of sockets
// is bound to.
func TestGreetElsewhere(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		var fd int
		must(t, linux.OnThread(syscall.CLONE_NEWNET, func() error {
			fd = bind(t, "/run/elsewhere", syscall.SOCK_STREAM)
			return syscall.Listen(fd, 1)
		}))
		if r, err := greeted(t, "/run/elsewhere"); r != Listens || err != nil {
			t.Errorf("%v, %v", r, err)
		}
		list, err := Dump()
		must(t, err)
		for _, s := range list {
			if s.Name == "/run/elsewhere" {
				t.Errorf("the list has it: %+v", s)
			}
		}
	})
}

func TestGreetRefused(t *testing.T) {
	testenv.Need(t, testenv.NonRoot)
	dir := t.TempDir()
	must(t, syscall.Listen(bind(t, dir+"/shut", syscall.SOCK_STREAM), 1))
	must(t, os.Chmod(dir+"/shut", 0))
	if r, err := greeted(t, dir+"/shut"); !errors.Is(err, syscall.EACCES) {
		t.Errorf("%v, %v", r, err)
	}
}
