package exectest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/podtest"
)

// A service is one of the examples, as a client and a vandal see it.
type service struct {
	// ask makes one request of the service in r, and returns nil for the right answer.
	ask func(ctx context.Context, r *podtest.Running) error
	// dir is the service's directory in /run, if it has one.
	dir string
	// plant leaves what an earlier run might have left in the place of what the service
	// makes itself.
	plant func(v *vandal)
}

var services = map[string]service{
	"nginx": {
		dir: "/run/nginx",
		ask: func(ctx context.Context, r *podtest.Running) error {
			return httpAnswer(ctx, unixDial(r, "/run/nginx/http.sock"), "nginx answers")
		},
		plant: func(v *vandal) {
			v.pidFile("/run/nginx/nginx.pid", 1)
			v.socket("/run/nginx/http.sock")
		},
	},
	"redis": {
		dir: "/run/redis",
		ask: redisAnswer,
		plant: func(v *vandal) {
			v.pidFile("/run/redis/redis-server.pid", 1)
			v.socket("/run/redis/redis.sock")
		},
	},
	"apache2": {
		dir: "/run/apache2",
		ask: func(ctx context.Context, r *podtest.Running) error {
			return httpAnswer(ctx, tcpDial(r, "127.0.0.1:80"), "It works!")
		},
		plant: func(v *vandal) {
			v.pidFile("/run/apache2/apache2.pid", 1) // what says: already running
		},
	},
	"postgresql": {
		dir: "/run/postgresql",
		ask: postgresAnswer,
		plant: func(v *vandal) {
			// PID 2 will be somebody else: see the command of the scenes.
			v.pidFile("/var/lib/postgresql/15/main/postmaster.pid", 2)
			v.pidFile("/run/postgresql/.s.PGSQL.5432.lock", 2)
			v.pidFile("/run/postgresql/15-main.pid", 1)
			v.socket("/run/postgresql/.s.PGSQL.5432")
		},
	},
	"rails": {
		ask: func(ctx context.Context, r *podtest.Running) error {
			return httpAnswer(ctx, tcpDial(r, "127.0.0.1:3000"), "rails answers")
		},
		plant: func(v *vandal) { v.pidFile("/app/tmp/pids/server.pid", 1) },
	},
}

// ready asks until the service answers right, and fails t if the container ends or
// the patience does.
func (s service) ready(t testing.TB, r *podtest.Running) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	err := errors.New("it was not asked")
	for pause := 2 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 100*time.Millisecond) {
		over := r.Ended()
		now := s.ask(ctx, r)
		if now == nil {
			return
		}
		if ctx.Err() == nil { // else that is all it says
			err = now
		}
		if over {
			t.Fatalf("it has ended: %v\n%s", err, r.Output())
		}
		time.Sleep(pause)
	}
	t.Fatalf("it does not answer: %v\n%s", err, r.Output())
}

type dialer func(ctx context.Context) (net.Conn, error)

// unixDial connects to a socket by its path in r.
func unixDial(r *podtest.Running, path string) dialer {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/%d/root%s", r.PID, path))
	}
}

// tcpDial connects from the network namespace of r.
func tcpDial(r *podtest.Running, address string) dialer {
	return func(ctx context.Context) (net.Conn, error) {
		type result struct {
			conn net.Conn
			err  error
		}
		done := make(chan result)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with this function
			conn, err := dialThere(r, address)
			done <- result{conn, err}
		}()
		got := <-done
		return got.conn, got.err
	}
}

// dialThere moves the thread. The socket is made without the net package, whose
// resolver and racing dials are other threads.
func dialThere(r *podtest.Running, address string) (net.Conn, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", r.PID))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := linux.Setns(int(ns.Fd()), syscall.CLONE_NEWNET); err != nil {
		return nil, err
	}
	tcp, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return nil, err
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), address)
	defer f.Close()
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(tcp.IP.To4())}); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return net.FileConn(f)
}

// httpAnswer wants status 200 and a body with the text want.
func httpAnswer(ctx context.Context, dial dialer, want string) error {
	conn, err := dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
		return fmt.Errorf("HTTP %s, %d bytes without %q", answer.Status, len(body), want)
	}
	return nil
}

func redisAnswer(ctx context.Context, r *podtest.Running) error {
	conn, err := unixDial(r, "/run/redis/redis.sock")(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && line != "+PONG\r\n" {
		err = fmt.Errorf("PING is answered with %q", line)
	}
	return err
}

// postgresAnswer is psql in the namespaces of the container, as the user postgres. It
// is not started before somebody listens.
func postgresAnswer(ctx context.Context, r *podtest.Running) error {
	conn, err := unixDial(r, "/run/postgresql/.s.PGSQL.5432")(ctx)
	if err != nil {
		return err
	}
	conn.Close()
	uid, gid, err := userOf(r, "postgres")
	if err != nil {
		return err
	}
	args := []string{"--target=" + strconv.Itoa(r.PID), "--mount", "--pid", "--net", "--ipc", "--root", "--wdns=/", "--setuid=" + uid, "--setgid=" + gid}
	here, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return err
	}
	if there, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", r.PID)); err == nil && there != here { // rootless
		args = append(args, "--user")
	}
	psql := exec.CommandContext(ctx, "nsenter", append(args, "/usr/lib/postgresql/15/bin/psql", "-h", "/var/run/postgresql", "-XAtqc", "select 6 * 7")...)
	psql.Env = []string{"LC_ALL=C"}
	var errs strings.Builder
	psql.Stderr = &errs
	out, err := psql.Output()
	if err != nil {
		return fmt.Errorf("psql: %w: %s", err, errs.String())
	}
	if string(out) != "42\n" {
		return fmt.Errorf("select 6 * 7 is %q", out)
	}
	return nil
}

// userOf looks up a user of the container.
func userOf(r *podtest.Running, name string) (uid, gid string, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/etc/passwd", r.PID))
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(line, ":"); len(f) > 3 && f[0] == name {
			return f[2], f[3], nil
		}
	}
	return "", "", errors.Join(err, fmt.Errorf("no user %s in the container", name))
}

// A vandal plants leftovers in a running container that is about to be killed, where
// they replace what is there.
type vandal struct {
	root string
	errs []error
}

func newVandal(r *podtest.Running) *vandal {
	return &vandal{root: fmt.Sprintf("/proc/%d/root", r.PID)}
}

// pidFile is a file with a PID and a newline.
func (v *vandal) pidFile(path string, pid int) {
	v.replace(path, func(path string) error {
		return os.WriteFile(path, []byte(strconv.Itoa(pid)+"\n"), 0o644)
	})
}

// socket is a socket that nobody is bound to.
func (v *vandal) socket(path string) {
	v.replace(path, func(path string) error {
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer syscall.Close(fd)
		return syscall.Bind(fd, &syscall.SockaddrUnix{Name: path})
	})
}

func (v *vandal) fifo(path string) {
	v.replace(path, func(path string) error { return syscall.Mkfifo(path, 0o644) })
}

// older plants what is of a still earlier run, and what nobody makes anew.
func (v *vandal) older(dir string) {
	v.socket(dir + "/old.sock")
	v.fifo(dir + "/old.fifo")
	v.pidFile(dir+"/old.pid", 1)
	v.pidFile(dir+"/old.lock", 2)
}

// checkOlder holds that what older planted is gone. On a volume that others may use
// only the kernel's word counts, which it gives for the socket alone: the rest stays.
func checkOlder(t testing.TB, r *podtest.Running, dir string, ours bool) {
	t.Helper()
	for _, name := range []string{"old.sock", "old.fifo", "old.pid", "old.lock"} {
		_, err := os.Lstat(fmt.Sprintf("/proc/%d/root%s/%s", r.PID, dir, name))
		gone := errors.Is(err, os.ErrNotExist)
		if want := ours || name == "old.sock"; gone != want {
			t.Errorf("%s/%s is gone: %v, want %v (%v)", dir, name, gone, want, err)
		}
	}
}

// replace makes the file as the owner of the directory. As root it cannot, where root
// is nobody in the container's user namespace.
func (v *vandal) replace(path string, plant func(path string) error) {
	path = v.root + path
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this function
		var st syscall.Stat_t
		err := syscall.Stat(filepath.Dir(path), &st)
		if err == nil {
			err = errors.Join(syscall.Setfsgid(int(st.Gid)), syscall.Setfsuid(int(st.Uid)))
		}
		if err == nil {
			err = os.Remove(path)
		}
		if err == nil || errors.Is(err, os.ErrNotExist) {
			err = plant(path)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		v.errs = append(v.errs, fmt.Errorf("%s: %w", path, err))
	}
}

// check fails t where something could not be planted.
func (v *vandal) check(t testing.TB) {
	t.Helper()
	if err := errors.Join(v.errs...); err != nil {
		t.Fatalf("planting leftovers: %v", err)
	}
}
