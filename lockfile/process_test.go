package lockfile

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// play is what this test binary does as a child: it holds a lock on
// $LOCKFILE_TEST_PATH, says so, and ends with its standard input.
func play(role string) int {
	path := os.Getenv("LOCKFILE_TEST_PATH")
	die := func(err error) int {
		fmt.Println(err)
		return 1
	}
	say := "ready"
	switch role {
	case "wait", "wait ofd":
		o := Options{}
		if role == "wait ofd" {
			o.Kind = OFD
		}
		l, err := Open(path, &o)
		if err == nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			err = l.Lock(ctx)
		}
		if err != nil {
			return die(err)
		}
	case "flock", "ofd", "parent":
		o := Options{}
		if role == "ofd" {
			o.Kind = OFD
		}
		l, err := Open(path, &o)
		if err != nil {
			return die(err)
		}
		if err := l.TryLock(); err != nil {
			return die(err)
		}
		if role == "parent" { // passes the lock on to a child of its own
			f, err := l.Dup()
			if err != nil {
				return die(err)
			}
			cmd := exec.Command("/bin/sh", "-c", "read x")
			cmd.Stdin, cmd.ExtraFiles = os.Stdin, []*os.File{f}
			if err := cmd.Start(); err != nil {
				return die(err)
			}
			fmt.Println("ready", cmd.Process.Pid)
			for { // to be killed
				time.Sleep(time.Hour)
			}
		}
	case "uucp":
		if _, err := TryUUCP(filepath.Dir(path), filepath.Base(path), nil); err != nil {
			return die(err)
		}
	case "posix":
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return die(err)
		}
		defer f.Close()
		if err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK, Start: 10, Len: 1}); err != nil {
			return die(err)
		}
	case "no descriptors":
		if err := noDescriptors(path); err != nil {
			return die(err)
		}
	}
	fmt.Println(say)
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// child is a process that plays a role.
type child struct {
	*exec.Cmd
	in   io.Closer
	said string
}

func role(t *testing.T, role, path string) *child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "LOCKFILE_TEST_ROLE="+role, "LOCKFILE_TEST_PATH="+path)
	return start(t, cmd)
}

func start(t *testing.T, cmd *exec.Cmd) *child {
	t.Helper()
	from, in, err := os.Pipe() // not a StdinPipe, which Wait closes
	must(t, err)
	defer from.Close()
	cmd.Stdin = from
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if !strings.HasPrefix(line, "ready") {
		t.Fatalf("the child said %q, %v", line, err)
	}
	return &child{cmd, in, strings.TrimSpace(line)}
}

func TestHolders(t *testing.T) {
	for kind, o := range map[string]Options{"flock": {}, "ofd": {Kind: OFD}} {
		t.Run(kind, func(t *testing.T) {
			path := temp(t)
			l := open(t, path, o)
			free, err := l.Holders(t.Context())
			must(t, err)
			if len(free.Processes) != 0 || free.Outside != (len(free.Incomplete) > 0) {
				t.Errorf("nobody holds it: %+v", free)
			}
			c := role(t, kind, path)
			wantErr(t, l.TryLock(), ErrHeld)
			w := wait(t, path, o, (*Lock).RLock, nil)
			queued(t, path, 1)
			h, err := w.l.Holders(t.Context()) // of a Lock that waits
			must(t, err)
			if len(h.Processes) != 1 || h.Outside || h.Waiting != 1 {
				t.Fatalf("%+v", h)
			}
			if p := h.Processes[0]; p.PID != c.Process.Pid || !p.Exclusive || p.Taker || p.Comm == "" {
				t.Errorf("%+v", p)
			}
			if s := h.String(); s != fmt.Sprintf("held by process %d (%s)", c.Process.Pid, h.Processes[0].Comm) {
				t.Error(s)
			}
			must(t, c.Process.Kill()) // the kernel releases what it held
			must(t, <-w.done)
			h, err = l.Holders(t.Context())
			must(t, err)
			if len(h.Processes) != 1 || h.Processes[0].PID != os.Getpid() || h.Processes[0].Exclusive {
				t.Errorf("%+v", h)
			}
			must(t, l.Close())
			_, err = l.Holders(t.Context())
			wantErr(t, err, os.ErrClosed)
		})
	}
}

func TestHoldersAsText(t *testing.T) {
	many := make([]Holder, 7)
	for i := range many {
		many[i] = Holder{PID: i + 1, Comm: "x\xff"}
	}
	for want, h := range map[string]Holders{
		"free by now": {},
		"no process that can be seen holds it; it is held outside, or free by now":       {Outside: true},
		"no process that can be seen holds it; it is held outside, or free by now (why)": {Outside: true, Incomplete: []string{"why", "more"}},
		"held by process 7 (a)": {Processes: []Holder{{PID: 7, Comm: "a", Exclusive: true}}},
		"held shared by process 1 (x?), 2 (x?), 3 (x?), 4 (x?), 5 (x?) and 2 more": {Processes: many},
	} {
		if got := h.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Who inherited the lock has it, after who took it is dead.
func TestInheritedByAChild(t *testing.T) {
	path := temp(t)
	l := open(t, path, Options{})
	c := role(t, "parent", path)
	must(t, c.Process.Kill())
	c.Wait()
	heir, err := strconv.Atoi(strings.TrimPrefix(c.said, "ready "))
	must(t, err)
	defer syscall.Kill(heir, syscall.SIGKILL) // it ends with its standard input, but where this test fails
	wantErr(t, l.TryLock(), ErrHeld)
	h, err := l.Holders(t.Context())
	must(t, err)
	if len(h.Processes) != 1 || h.Processes[0].PID != heir {
		t.Errorf("%+v, want process %d", h, heir)
	}
	// (Below the machine's PID namespace /proc/locks does not have a lock whose
	// taker is dead, nor who waits for it.)
	c.in.Close()
	must(t, l.Lock(watchdog(t)))
}

// Unlock releases also what a child has inherited; closing does not.
func TestUnlockWithADuplicate(t *testing.T) {
	eachKind(t, func(t *testing.T, o Options) {
		path := temp(t)
		a, b := open(t, path, o), open(t, path, o)
		_, err := a.Dup()
		wantErr(t, err, ErrNotHeld)
		must(t, a.TryLock())
		f, err := a.Dup()
		must(t, err)
		defer f.Close()
		must(t, a.Unlock())
		must(t, b.TryLock())
	})
}

func TestPOSIXLocksOfOthers(t *testing.T) {
	path := temp(t)
	ofd, flock := open(t, path, Options{Kind: OFD}), open(t, path, Options{})
	c := role(t, "posix", path)
	wantErr(t, ofd.TryLock(), ErrHeld)
	must(t, flock.TryLock())
	h, err := ofd.Holders(t.Context())
	must(t, err)
	if len(h.Processes) != 1 || h.Processes[0].PID != c.Process.Pid || !h.Processes[0].Exclusive {
		t.Errorf("%+v", h)
	}
	w := wait(t, path, Options{Kind: OFD}, (*Lock).Lock, nil)
	queued(t, path, 1)
	c.in.Close()
	must(t, <-w.done)
}

// A lock that is held in an outer PID namespace is "outside", never "free".
func TestHeldOutside(t *testing.T) { heldOutside(t, Options{}, (*Lock).TryLock) }

// As TestHeldOutside; to hold it takes permission to write to the sources.
func TestOFDHeldOutside(t *testing.T) {
	testenv.Need(t, testenv.Root)
	heldOutside(t, Options{Kind: OFD}, (*Lock).TryRLock)
}

func heldOutside(t *testing.T, o Options, try func(*Lock) error) {
	l := open(t, "doc.go", o) // seen inside too, read-only
	if !nstest.Inside() {
		must(t, l.TryLock())
	}
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		wantErr(t, try(l), ErrHeld)
		h, err := l.Holders(t.Context())
		must(t, err)
		if len(h.Processes) != 0 || !h.Outside || !strings.Contains(h.String(), "PID namespace") {
			t.Errorf("%+v", h)
		}
	})
}

// Ours and flock(1) of util-linux: who holds what excludes whom.
func TestFlockOfUtilLinux(t *testing.T) {
	testenv.Need(t, testenv.Tool("flock"))
	for _, o := range []Options{{}, {Fair: true}} {
		path := temp(t)
		l := open(t, path, o)
		try := func(mode string) bool {
			err := exec.Command("flock", "-n", "-E", "99", mode, path, "true").Run()
			var exit *exec.ExitError
			if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 99) {
				t.Fatal(err)
			}
			return err == nil
		}
		for _, mine := range []struct {
			lock        func() error
			ex, sh      bool // what flock(1) gets meanwhile
			exclusively bool
		}{{l.TryLock, false, false, true}, {l.TryRLock, false, true, false}} {
			must(t, mine.lock())
			if ex, sh := try("-x"), try("-s"); ex != mine.ex || sh != mine.sh {
				t.Errorf("exclusive %v: flock -x %v, flock -s %v", mine.exclusively, ex, sh)
			}
			must(t, l.Unlock())
			if !try("-x") || !try("-s") {
				t.Error("flock(1) does not get a lock that was released")
			}
		}
		for mode, shared := range map[string]bool{"-x": false, "-s": true} {
			c := start(t, exec.Command("flock", mode, path, "sh", "-c", "echo ready; read x"))
			wantErr(t, l.TryLock(), ErrHeld)
			err := l.TryRLock()
			if shared != (err == nil) {
				t.Errorf("flock %s: RLock gives %v", mode, err)
			}
			if err == nil {
				must(t, l.Unlock())
			}
			c.in.Close()
			must(t, l.Lock(watchdog(t)))
			must(t, l.Unlock())
		}
	}
}

// Ours and flock(1) stand in one queue.
func TestQueueWithFlockOfUtilLinux(t *testing.T) {
	testenv.Need(t, testenv.Tool("flock"))
	path := temp(t)
	log := filepath.Join(t.TempDir(), "log")
	holder := open(t, path, Options{})
	must(t, holder.TryLock())
	note := func(*Lock) {
		f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString("ours\n")
			f.Close()
		}
		if err != nil {
			t.Error(err)
		}
	}
	var ours []*waiter
	var theirs []*exec.Cmd
	for i := range 6 {
		if i%2 == 0 {
			ours = append(ours, wait(t, path, Options{}, (*Lock).Lock, func(l *Lock) { note(l); l.Unlock() }))
		} else {
			cmd := exec.Command("flock", path, "sh", "-c", "echo theirs >>"+log)
			must(t, cmd.Start())
			theirs = append(theirs, cmd)
		}
		queued(t, path, i+1)
	}
	must(t, holder.Unlock())
	for _, w := range ours {
		must(t, <-w.done)
	}
	for _, cmd := range theirs {
		must(t, cmd.Wait())
	}
	text, err := os.ReadFile(log)
	must(t, err)
	if got := string(text); got != strings.Repeat("ours\ntheirs\n", 3) {
		t.Errorf("served in the order %q", got)
	}
}

// Without descriptors to spare a free lock is taken, and a wait fails before it
// begins.
func TestNoDescriptors(t *testing.T) { role(t, "no descriptors", temp(t)) }

func noDescriptors(path string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a, err := Open(path, nil)
	if err != nil {
		return err
	}
	b, err := Open(path, nil)
	if err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 64, Max: 64}); err != nil {
		return err
	}
	var fill []int
	for {
		fd, err := linux.Dup(0)
		if errors.Is(err, syscall.EMFILE) {
			break
		}
		if err != nil {
			return err
		}
		fill = append(fill, fd)
	}
	for spare := range 3 {
		if spare > 0 {
			linux.Close(fill[spare])
		}
		if err := a.TryLock(); err != nil {
			return fmt.Errorf("a free lock with %d descriptors to spare: %w", spare, err)
		}
		if spare == 0 {
			if _, err := Open(path, nil); !errors.Is(err, syscall.EMFILE) {
				return fmt.Errorf("Open: %w", err)
			}
			if err := a.Check(); err != nil {
				return err
			}
		}
		if spare < 2 {
			if err := b.Lock(ctx); !errors.Is(err, syscall.EMFILE) {
				return fmt.Errorf("a wait with %d descriptors to spare: %w", spare, err)
			}
		} else {
			time, stop := context.WithCancel(ctx)
			go stop()
			if err := b.Lock(time); !errors.Is(err, context.Canceled) {
				return fmt.Errorf("a wait with %d descriptors to spare: %w", spare, err)
			}
		}
		if err := a.Unlock(); err != nil {
			return err
		}
		if err := b.TryLock(); err != nil {
			return err
		}
		if err := b.Unlock(); err != nil {
			return err
		}
	}
	return nil
}

// System calls that fail as they do on other file systems and under other
// programs' signal handlers, by strace.
func TestInjectedErrors(t *testing.T) {
	testenv.Need(t, testenv.Tool("strace"))
	path := temp(t)
	holder := open(t, path, Options{})
	for _, c := range []struct{ role, inject, want string }{
		{"wait", "flock:error=ENOLCK", "no locks available: the kernel is out of memory for locks, or"},
		{"wait", "flock:error=EOPNOTSUPP", "has no flock locks"},
		{"wait ofd", "fcntl:error=EINVAL:when=1..1000", "has no ofd locks"},
		{"wait", "flock:error=EIO", "input/output error"},
		{"wait", "flock:error=EINTR:when=1..5", "ready"},
		{"wait held", "flock:error=EINTR:when=2..9", "ready"}, // the first does not wait
		{"wait", "newfstatat:error=EACCES:when=2+", "permission denied"},
	} {
		t.Run(c.inject, func(t *testing.T) {
			role, held := strings.CutSuffix(c.role, " held")
			if held {
				must(t, holder.TryLock())
			}
			call, _, _ := strings.Cut(c.inject, ":")
			cmd := exec.Command("strace", "-f", "-qq", "-e", "signal=none", "-e", "trace="+call, "-P", path, "-e", "inject="+c.inject, "-o", os.DevNull, "/proc/self/exe")
			exe, err := os.Executable()
			must(t, err)
			cmd.Args[len(cmd.Args)-1] = exe
			cmd.Env = append(os.Environ(), "LOCKFILE_TEST_ROLE="+role, "LOCKFILE_TEST_PATH="+path)
			in, err := cmd.StdinPipe()
			must(t, err)
			out, err := cmd.StdoutPipe()
			must(t, err)
			must(t, cmd.Start())
			if held {
				queued(t, path, 1)
				must(t, holder.Unlock())
			}
			line, err := bufio.NewReader(out).ReadString('\n')
			must(t, err)
			if !strings.Contains(line, c.want) {
				t.Errorf("%q, want %q", line, c.want)
			}
			in.Close()
			cmd.Wait()
		})
	}
}

// A waiter that is stopped and continued queues again, and is served.
func TestStoppedWhileWaiting(t *testing.T) {
	path := temp(t)
	holder := open(t, path, Options{})
	must(t, holder.TryLock())
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "LOCKFILE_TEST_ROLE=wait", "LOCKFILE_TEST_PATH="+path)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	queued(t, path, 1)
	must(t, cmd.Process.Signal(syscall.SIGSTOP))
	var status syscall.WaitStatus
	_, err = syscall.Wait4(cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
	must(t, err)
	if !status.Stopped() {
		t.Fatalf("%x", status)
	}
	must(t, cmd.Process.Signal(syscall.SIGCONT))
	queued(t, path, 1)
	must(t, holder.Unlock())
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		t.Errorf("%q, %v", line, err)
	}
	in.Close()
}

// What a full, a read-only and a foreign directory answer.
func TestFileSystems(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.Mkdir("/run/full", 0o755))
		must(t, linux.Mount("test", "/run/full", "tmpfs", 0, "nr_inodes=2,mode=0755"))
		defer linux.Unmount("/run/full", 0)
		eachKind(t, func(t *testing.T, o Options) {
			o.Perm = 0o666
			l := open(t, "/run/full/lock", o)
			must(t, l.TryLock())
			_, err := Open("/run/full/other", &o)
			wantErr(t, err, syscall.ENOSPC)
			must(t, l.Close())
		})
		must(t, linux.Mount("", "/run/full", "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
		_, err := Open("/run/full/other", nil)
		wantErr(t, err, syscall.EROFS)
		l := open(t, "/run/full/lock", Options{})
		must(t, l.TryLock())
		must(t, l.Unlock())
		ofd := open(t, "/run/full/lock", Options{Kind: OFD})
		must(t, ofd.TryRLock())
		must(t, ofd.Unlock())
		wantErr(t, ofd.TryLock(), syscall.EROFS)
		fair := open(t, "/run/full/lock", Options{Fair: true})
		wantErr(t, fair.TryRLock(), syscall.EROFS)
		must(t, l.TryLock())
		remove := open(t, "/run/full/lock", Options{Remove: true})
		wantErr(t, remove.TryLock(), ErrHeld)
		must(t, l.Close())
		must(t, remove.TryLock())
		wantErr(t, remove.Unlock(), syscall.EROFS) // and released
		must(t, open(t, "/run/full/lock", Options{}).TryLock())
	})
}

// Somebody else's file in a directory like /run/lock: with O_CREAT the kernel
// would refuse to open it (sysctl fs.protected_regular).
func TestForeignFileInAStickyDirectory(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		must(t, os.Mkdir("/run/lock", 0o755))
		must(t, os.Chmod("/run/lock", os.ModeSticky|0o777))
		must(t, os.WriteFile("/run/lock/theirs", nil, 0o666))
		must(t, os.Chown("/run/lock/theirs", 1000, 1000))
		must(t, open(t, "/run/lock/theirs", Options{}).TryLock())
	})
}

func TestFilesThatAreNotOurs(t *testing.T) {
	testenv.Need(t, testenv.NonRoot)
	path := temp(t)
	l := open(t, path, Options{Perm: 0o444})
	must(t, l.TryLock()) // made by us: open for writing
	other := open(t, path, Options{})
	wantErr(t, other.TryLock(), ErrHeld)
	must(t, l.Unlock())
	must(t, other.TryLock()) // open for reading
	ofd := open(t, path, Options{Kind: OFD})
	wantErr(t, ofd.TryLock(), os.ErrPermission)
	must(t, ofd.TryRLock())
	must(t, os.Chmod(path, 0))
	_, err := Open(path, nil)
	wantErr(t, err, os.ErrPermission)
	if _, err := Open("/run-lockfile-test", nil); !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
}
