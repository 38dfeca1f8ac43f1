package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/seccomptest"
	"github.com/slashrun/slashrun/internal/vmtest"
)

func TestMain(m *testing.M) {
	seccomptest.Setup()
	vmtest.Setup()
	nstest.Main(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func bind(t testing.TB, path string, typ int) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_UNIX, typ|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	must(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	must(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}))
	return fd
}

func probe(t testing.TB, path string) (bool, error) {
	t.Helper()
	d, err := linux.Openat(linux.AT_FDCWD, filepath.Dir(path), linux.O_PATH|linux.O_DIRECTORY, 0)
	must(t, err)
	defer linux.Close(d)
	return ProbeAt(d, filepath.Base(path))
}

// The answer is of the inode, and nobody who listens sees a connection.
func TestProbe(t *testing.T) {
	for _, p := range seccomptest.All {
		t.Run(p.String(), func(t *testing.T) {
			seccomptest.Run(t, p, func(t *testing.T) {
				dir := t.TempDir()
				fd := bind(t, dir+"/listens", syscall.SOCK_STREAM)
				must(t, syscall.Listen(fd, 1))
				bind(t, dir+"/bound", syscall.SOCK_SEQPACKET)
				bind(t, dir+"/datagram", syscall.SOCK_DGRAM)
				must(t, os.Rename(dir+"/bound", dir+"/renamed"))
				must(t, os.Link(dir+"/datagram", dir+"/linked"))
				for _, name := range []string{"listens", "renamed", "datagram", "linked"} {
					if bound, err := probe(t, dir+"/"+name); !bound || err != nil {
						t.Errorf("%s: %v, %v", name, bound, err)
					}
				}
				if _, _, err := syscall.Accept(fd); err != syscall.EAGAIN {
					t.Errorf("the listener woke: %v", err)
				}
				syscall.Close(bind(t, dir+"/orphan", syscall.SOCK_STREAM))
				for _, name := range []string{"orphan", "not-there"} {
					if bound, err := probe(t, dir+"/"+name); bound || err != nil {
						t.Errorf("%s: %v, %v", name, bound, err)
					}
				}
				must(t, os.WriteFile(dir+"/file", nil, 0o644))
				must(t, os.Symlink("listens", dir+"/link"))
				for _, name := range []string{"file", "link"} {
					if bound, err := probe(t, dir+"/"+name); bound || !errors.Is(err, syscall.ENOTSOCK) {
						t.Errorf("%s: %v, %v, want ENOTSOCK", name, bound, err)
					}
				}
			})
		})
	}
}

// Without /proc, as at the start of a boot, the name has to do.
func TestProbeWithoutProc(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		bind(t, "/run/live", syscall.SOCK_STREAM)
		syscall.Close(bind(t, "/run/orphan", syscall.SOCK_STREAM))
		must(t, linux.Mount("none", "/proc", "tmpfs", 0, ""))
		defer linux.Unmount("/proc", syscall.MNT_DETACH)
		fd, err := linux.Openat(linux.AT_FDCWD, "/run/live", linux.O_PATH, 0)
		must(t, err)
		if _, err := Probe(fd); !errors.Is(err, ErrNeedsProc) {
			t.Errorf("%v, want ErrNeedsProc", err)
		}
		for name, want := range map[string]bool{"live": true, "orphan": false, "gone": false} {
			if bound, err := probe(t, "/run/"+name); bound != want || err != nil {
				t.Errorf("%s: %v, %v", name, bound, err)
			}
		}
	})
}

// The dump tells listening, queues and files, by the superblock's device.
func TestDump(t *testing.T) {
	nstest.Run(t, nstest.Options{Net: true}, func(t *testing.T) {
		fd := bind(t, "/run/listens", syscall.SOCK_STREAM)
		must(t, syscall.Listen(fd, 3))
		for range 2 {
			c, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
			must(t, err)
			defer syscall.Close(c)
			must(t, syscall.Connect(c, &syscall.SockaddrUnix{Name: "/run/listens"}))
		}
		bind(t, "@hidden", syscall.SOCK_DGRAM)
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		must(t, err)
		defer syscall.Close(pair[0])
		defer syscall.Close(pair[1])
		list, err := Dump()
		must(t, err)
		var st syscall.Stat_t
		must(t, syscall.Stat("/run/listens", &st))
		major, minor := uint32(st.Dev>>8&0xfff), uint32(st.Dev&0xff|st.Dev>>12&0xfff00)
		found := map[string]bool{}
		byIno := map[uint32]Socket{}
		for _, s := range list {
			byIno[s.Ino] = s
		}
		for _, s := range list {
			switch {
			case s.State == Listening && s.File.Is(major, minor, st.Ino):
				found["listens"] = true
				if s.Queue != 2 || s.Backlog != 3 || s.Name != "/run/listens" || s.Type != syscall.SOCK_STREAM {
					t.Errorf("%+v", s)
				}
			case s.Name == "\x00hidden":
				found["abstract"] = s.File == nil && s.State == Closed
			case s.State == Established && s.Name == "" && byIno[s.Peer].Peer == s.Ino:
				found["pair"] = true
			}
		}
		if len(found) != 3 || !found["abstract"] {
			t.Errorf("found %v in %+v", found, list)
		}
	})
}

// message builds one netlink message.
func message(kind uint16, seq uint32, body []byte) []byte {
	b := make([]byte, headerSize, headerSize+len(body))
	binary.NativeEndian.PutUint32(b, uint32(headerSize+len(body)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint32(b[8:], seq)
	b = append(b, body...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func attribute(kind uint16, v []byte) []byte {
	b := make([]byte, 4, 8+len(v))
	binary.NativeEndian.PutUint16(b, uint16(4+len(v)))
	binary.NativeEndian.PutUint16(b[2:], kind)
	b = append(b, v...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func socketBody(attrs ...[]byte) []byte {
	b := make([]byte, msgSize)
	b[0], b[1], b[2] = syscall.AF_UNIX, syscall.SOCK_STREAM, byte(Listening)
	binary.NativeEndian.PutUint32(b[4:], 77)
	for _, a := range attrs {
		b = append(b, a...)
	}
	return b
}

func u32s(v ...uint32) (b []byte) {
	for _, n := range v {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	return b
}

func TestParse(t *testing.T) {
	body := socketBody(attribute(attrName, []byte("/a")), attribute(attrVFS, u32s(5, 8<<20|1)), attribute(attrPeer, u32s(9)),
		attribute(attrRQLen, u32s(2, 128)), attribute(99, []byte("later")))
	b := append(message(linux.SOCK_DIAG_BY_FAMILY, 3, []byte("another's answer")), message(linux.SOCK_DIAG_BY_FAMILY, 1, body)...)
	list, done, err := parse(nil, b, 1)
	if err != nil || done || len(list) != 1 {
		t.Fatalf("%v, %v, %v", list, done, err)
	}
	if got := fmt.Sprintf("%+v %+v", list[0], *list[0].File); !list[0].File.Is(8, 1, 1<<32|5) || list[0].File.Is(8, 2, 5) ||
		list[0].Name != "/a" || list[0].Peer != 9 || list[0].Queue != 2 || list[0].Backlog != 128 || list[0].Ino != 77 {
		t.Error(got)
	}
	if _, done, err := parse(nil, message(linux.NLMSG_DONE, 1, u32s(0)), 1); !done || err != nil {
		t.Errorf("done: %v, %v", done, err)
	}
	absent := -int32(syscall.ENOENT)
	if _, _, err := parse(nil, message(linux.NLMSG_ERROR, 1, u32s(uint32(absent))), 1); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("an error: %v", err)
	}
	for name, b := range map[string][]byte{
		"length 0":           make([]byte, 16),
		"too long":           message(linux.SOCK_DIAG_BY_FAMILY, 1, body)[:40],
		"another family":     message(linux.SOCK_DIAG_BY_FAMILY, 1, make([]byte, msgSize)),
		"short":              message(linux.SOCK_DIAG_BY_FAMILY, 1, []byte{1, 0, 0, 0}),
		"attribute length 0": message(linux.SOCK_DIAG_BY_FAMILY, 1, append(socketBody(), 0, 0, 0, 0)),
		"attribute too long": message(linux.SOCK_DIAG_BY_FAMILY, 1, append(socketBody(), 200, 0, 0, 0)),
		"error without":      message(linux.NLMSG_ERROR, 1, u32s(0)),
	} {
		if _, _, err := parse(nil, b, 1); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if (*File)(nil).Is(0, 0, 0) {
		t.Error("no file is one")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(message(linux.SOCK_DIAG_BY_FAMILY, 1, socketBody(attribute(attrVFS, u32s(5, 6)), attribute(attrName, []byte("\x00a")))))
	f.Add(message(linux.NLMSG_DONE, 1, u32s(0)))
	f.Add(message(linux.NLMSG_ERROR, 1, u32s(1<<31)))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, done, err := parse(nil, b, 1)
		if err != nil && (list != nil || done) {
			t.Errorf("%v, %v with %v", list, done, err)
		}
	})
}

// Who waits to be accepted, who made a socket, and another network namespace.
func TestDumpIn(t *testing.T) {
	nstest.Run(t, nstest.Options{Net: true}, func(t *testing.T) {
		var fd, ns int
		must(t, linux.OnThread(syscall.CLONE_NEWNET, func() (err error) {
			if fd, err = syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			ns, err = linux.Openat(linux.AT_FDCWD, "/proc/thread-self/ns/net", linux.O_RDONLY, 0)
			return err
		}))
		defer syscall.Close(fd)
		defer syscall.Close(ns)
		must(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: "/run/there"}))
		must(t, syscall.Listen(fd, 5))
		client, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		must(t, err)
		defer syscall.Close(client)
		must(t, syscall.Connect(client, &syscall.SockaddrUnix{Name: "/run/there"}))
		var st syscall.Stat_t
		must(t, syscall.Fstat(client, &st))

		find := func(list []Socket) *Socket {
			for i := range list {
				if list[i].Name == "/run/there" && list[i].State == Listening {
					return &list[i]
				}
			}
			return nil
		}
		here, err := Dump()
		must(t, err)
		if s := find(here); s != nil {
			t.Errorf("it is listed here: %+v", s)
		}
		there, err := DumpIn(ns)
		must(t, err)
		s := find(there)
		if s == nil || len(s.Waiting) != 1 || s.Waiting[0] != uint32(st.Ino) || s.Queue != 1 || s.Backlog != 5 || !s.UID.Known || s.UID.ID != 0 {
			t.Errorf("%+v, client %d", s, st.Ino)
		}
		if _, err := DumpIn(client); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("no namespace at all: %v", err)
		}
	})
}
