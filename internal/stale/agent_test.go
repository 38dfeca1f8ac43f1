package stale

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
)

// An agent is the test binary as PID 1 of a container of its own, or as a process
// in namespaces of its own. It does what it is told over a pipe, and dies with
// whoever started it.

const (
	agentName   = "stale-agent"
	sleeperName = "stale-sleeper"
)

// box says what the agent's container is. Nothing is mounted unless the agent is
// PID 1 of a PID namespace and was given a mount namespace.
type box struct {
	Root   string            // "overlay", "tree", or "" for a copy of the mount namespace
	Dir    string            // with the layers of the overlay, or the tree
	Lower  string            // of the overlay, "/" if empty
	Binds  map[string]string // source by mount point
	Tmpfs  []string          // mount points
	Proc   string            // options of /proc
	NoProc bool              // leave /proc as it is
	Shared bool              // the PID namespace is another container's
	Chroot bool              // where pivot_root(2) does not work, in an initramfs
	Under  bool              // a second /proc under ours, as where the namespace was copied
}

// order is one thing to do.
type order struct {
	Do      string
	Path    string
	To      string
	Text    string // {pid}, {child}, {record} are replaced
	Type    int    // of a socket
	Backlog int    // 0: bind alone
	Kind    Kind
	Box     *box
	Exclude []string
	Made    string // a path on a mount that this run made
	Stamp   *Stamp
	// Restored lets the judge believe that it is in a time namespace.
	Restored bool
	// Newborn lets it take sockets that were made just now for finished.
	Newborn bool
}

type reply struct {
	Err     string
	PID     int
	Finding *Finding
	NS      uint64
	Stamp   *testStamp
}

// testStamp is a stamp that says when it was asked for, too.
type testStamp struct {
	Stamp
	Now int64
}

// agentMain runs in the agent.
func agentMain() {
	in, out := json.NewDecoder(os.NewFile(3, "orders")), json.NewEncoder(os.NewFile(4, "replies"))
	syscall.CloseOnExec(3)
	syscall.CloseOnExec(4)
	a := &agentState{children: map[int]*os.Process{}, sockets: map[string]int{}, files: map[string]int{}}
	a.obey(in, out)
}

// The main goroutine stays on the first thread, so that an agent can end that one.
func init() { runtime.LockOSThread() }

func (a *agentState) obey(in *json.Decoder, out *json.Encoder) {
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			os.Exit(0)
		}
		if o.Do == "leaderless" { // go on without the first thread, which is the one that runs this
			go a.obey(in, out)
			out.Encode(reply{})
			syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
		}
		var r reply
		if err := a.do(o, &r); err != nil {
			r.Err = o.Do + " " + o.Path + ": " + err.Error()
		}
		if err := out.Encode(r); err != nil {
			os.Exit(1)
		}
	}
}

type agentState struct {
	children map[int]*os.Process
	last     int
	sockets  map[string]int
	files    map[string]int
	passed   []int
	ends     []*os.File
	found    map[string]*Finding
	proc     *process.Proc
}

func (a *agentState) do(o order, r *reply) (err error) {
	switch o.Do {
	case "box":
		return o.Box.enter()
	case "overlay": // on Path, with the layer To
		return linux.Mount("overlay", o.Path, "overlay", 0, "lowerdir="+o.Text+",upperdir="+o.To+",workdir="+o.To+".work")
	case "mkdir":
		return os.Mkdir(o.Path, 0o755)
	case "mkfifo":
		return syscall.Mkfifo(o.Path, 0o644)
	case "write":
		text, err := a.expand(o.Text)
		if err != nil {
			return err
		}
		return os.WriteFile(o.Path, []byte(text), 0o644)
	case "rename":
		return os.Rename(o.Path, o.To)
	case "link":
		return os.Link(o.Path, o.To)
	case "unlink":
		return os.Remove(o.Path)
	case "chdir":
		return os.Chdir(o.Path)
	case "bind":
		return a.bind(o)
	case "close": // the socket, not its file
		err := syscall.Close(a.sockets[o.Path])
		delete(a.sockets, o.Path)
		return err
	case "pass": // the socket lives in the queue of another alone
		return a.pass(o.Path)
	case "connect":
		return a.connect(o.Path)
	case "open":
		fd, err := syscall.Open(o.Path, o.Type|syscall.O_CLOEXEC, 0o644)
		a.files[o.Path] = fd
		return err
	case "flock":
		fd, err := syscall.Open(o.Path, syscall.O_RDWR|syscall.O_CREAT|syscall.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		a.files[o.Path] = fd
		return linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB)
	case "ofd":
		fd, err := syscall.Open(o.Path, syscall.O_RDWR|syscall.O_CREAT|syscall.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		a.files[o.Path] = fd
		return linux.OFDLock(fd, linux.F_WRLCK, 0, 0)
	case "closefile":
		return syscall.Close(a.files[o.Path])
	case "spawn":
		in, end, err := os.Pipe() // whose end ends the sleeper
		if err != nil {
			return err
		}
		a.ends = append(a.ends, end)
		p, err := os.StartProcess("/proc/self/exe", []string{sleeperName}, &os.ProcAttr{Files: []*os.File{in, os.Stderr, os.Stderr}})
		in.Close()
		if err != nil {
			return err
		}
		a.last, r.PID = p.Pid, p.Pid
		a.children[a.last] = p
		return nil
	case "respawn": // until the new one has the number of the last
		for want := a.last; ; {
			if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(want-1)), 0); err != nil {
				return err
			}
			if err := a.do(order{Do: "spawn"}, r); err != nil || a.last == want {
				return err
			}
		}
	case "stamp":
		p, err := process.Open()
		if err != nil {
			return err
		}
		defer p.Close()
		id, err := p.Identity()
		if err != nil {
			return err
		}
		// As if it had been made when this run began.
		began := int64(id.InitStart)*tick + id.Offset
		r.Stamp = &testStamp{Stamp{id, began}, time.Now().UnixNano()}
		return nil
	case "name": // the agent
		return os.WriteFile("/proc/self/comm", []byte(o.Text), 0)
	case "limit": // descriptors, to the lowest that is free and some more
		free, err := syscall.Open("/", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		syscall.Close(free)
		return softLimit(func(uint64) uint64 { return uint64(free + o.Backlog) })
	case "unlimit":
		return softLimit(func(hard uint64) uint64 { return hard })
	case "drop": // root, for good
		return errors.Join(syscall.Setgroups(nil), syscall.Setresgid(65534, 65534, 65534), syscall.Setresuid(65534, 65534, 65534))
	case "reap":
		for pid, p := range a.children {
			p.Kill()
			p.Wait()
			delete(a.children, pid)
		}
		return nil
	case "look", "remove":
		return a.look(o, r)
	case "forget": // every socket and file
		for _, fd := range a.sockets {
			syscall.Close(fd)
		}
		for _, fd := range append(a.passed, slices.Collect(maps.Values(a.files))...) {
			syscall.Close(fd)
		}
		a.sockets, a.files, a.passed = map[string]int{}, map[string]int{}, nil
		return nil
	case "pid":
		r.PID = os.Getpid()
		return nil
	}
	return errors.New("no such order")
}

func softLimit(of func(hard uint64) uint64) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	l.Cur = of(l.Max)
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
}

func (a *agentState) expand(text string) (string, error) {
	if strings.Contains(text, "{record") {
		p, err := process.Open()
		if err != nil {
			return "", err
		}
		defer p.Close()
		for word, pid := range map[string]int{"{record}": os.Getpid(), "{record-child}": a.last} {
			if !strings.Contains(text, word) {
				continue
			}
			rec, err := p.Record(pid)
			if err != nil {
				return "", err
			}
			text = strings.ReplaceAll(text, word, rec.Text())
		}
	}
	return strings.NewReplacer("{pid}", strconv.Itoa(os.Getpid()), "{child}", strconv.Itoa(a.last)).Replace(text), nil
}

// at calls f with a path that is short enough for a socket's address.
func at(path string, f func(name string) error) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return f(fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), filepath.Base(path)))
}

func (a *agentState) bind(o order) error {
	fd, err := syscall.Socket(syscall.AF_UNIX, o.Type|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	a.sockets[o.Path] = fd
	if err := at(o.Path, func(name string) error { return syscall.Bind(fd, &syscall.SockaddrUnix{Name: name}) }); err != nil {
		return err
	}
	if o.Backlog > 0 && o.Type != syscall.SOCK_DGRAM {
		return syscall.Listen(fd, o.Backlog)
	}
	return nil
}

func (a *agentState) pass(path string) error {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := syscall.Sendmsg(pair[0], []byte("x"), syscall.UnixRights(a.sockets[path]), nil, 0); err != nil {
		return err
	}
	a.passed = append(a.passed, pair[0], pair[1])
	err = syscall.Close(a.sockets[path])
	delete(a.sockets, path)
	return err
}

// connect fills the backlog of a socket.
func (a *agentState) connect(path string) error {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	a.passed = append(a.passed, fd)
	return at(path, func(name string) error { return syscall.Connect(fd, &syscall.SockaddrUnix{Name: name}) })
}

func (a *agentState) look(o order, r *reply) error {
	if a.proc == nil {
		p, err := process.Open()
		if err != nil {
			return err
		}
		a.proc = p
		a.found = map[string]*Finding{}
	}
	if o.Do == "remove" {
		return a.found[o.Path].Remove(context.Background())
	}
	opts := Options{Proc: a.proc, Exclusive: o.Exclude, Stamp: o.Stamp}
	if o.Made != "" {
		made, err := fsat.OpenDir(o.Made)
		if err != nil {
			return err
		}
		id, err := a.proc.MountID(made.Fd())
		made.Close()
		if err != nil {
			return err
		}
		opts.Made = func(n int) bool { return n == id }
	}
	j, err := New(context.Background(), opts)
	if err != nil {
		return err
	}
	j.restored = j.restored || o.Restored
	if o.Newborn {
		j.newborn = 0
	}
	d, err := fsat.OpenDir(filepath.Dir(o.Path))
	if err != nil {
		return err
	}
	// The directory stays open for a removal; the agent does not live long.
	f, err := j.Look(context.Background(), d, filepath.Base(o.Path), o.Path, o.Kind)
	if err != nil {
		return err
	}
	r.Finding, r.NS, a.found[o.Path] = f, j.ourNS, f
	return nil
}

// enter makes the container's root and goes there.
func (b *box) enter() error {
	if os.Getpid() != 1 && !b.Shared {
		return errors.New("a container is PID 1")
	}
	if err := linux.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	root := ""
	switch b.Root {
	case "overlay":
		root = b.Dir + "/merged"
		lower := b.Lower
		if lower == "" {
			lower = "/"
		}
		data := "lowerdir=" + lower + ",upperdir=" + b.Dir + "/upper,workdir=" + b.Dir + "/work"
		if err := linux.Mount("overlay", root, "overlay", 0, data); err != nil {
			return err
		}
	case "tree":
		root = b.Dir
		if err := linux.Mount(root, root, "", syscall.MS_BIND, ""); err != nil {
			return err
		}
	}
	mount := func(source, point, fstype string, flags uintptr, data string) error {
		if err := os.MkdirAll(point, 0o755); err != nil {
			return err
		}
		if err := linux.Mount(source, point, fstype, flags, data); err != nil {
			return fmt.Errorf("%s: %w", point, err)
		}
		return nil
	}
	if b.Under {
		if err := mount("/proc", root+"/proc", "", syscall.MS_BIND, ""); err != nil {
			return err
		}
	}
	if !b.NoProc {
		if err := mount("proc", root+"/proc", "proc", 0, b.Proc); err != nil {
			return err
		}
	}
	for _, p := range b.Tmpfs {
		if err := mount("tmpfs", root+p, "tmpfs", 0, "mode=0755"); err != nil {
			return err
		}
	}
	for point, source := range b.Binds {
		if err := mount(source, root+point, "", syscall.MS_BIND, ""); err != nil {
			return err
		}
	}
	if root == "" {
		return nil
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if b.Chroot {
		return errors.Join(linux.Chroot("."), os.Chdir("/"))
	}
	if err := linux.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := linux.Unmount(".", syscall.MNT_DETACH); err != nil {
		return err
	}
	return os.Chdir("/")
}

// join starts an agent in the PID namespace of another, with a root of its own: as
// with podman run --pid=container:NAME.
func join(t testing.TB, a *agent, b box) *agent {
	t.Helper()
	b.Shared = true
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", a.cmd.Process.Pid))
	must(t, err)
	defer ns.Close()
	var joined *agent
	done := make(chan bool)
	go func() { // on a thread whose children are in that namespace, and which ends here
		defer close(done)
		runtime.LockOSThread()
		if err := linux.Setns(int(ns.Fd()), syscall.CLONE_NEWPID); err != nil {
			t.Error(err)
			return
		}
		joined = start(t, syscall.CLONE_NEWNS)
	}()
	<-done
	if joined == nil {
		t.FailNow()
	}
	joined.must(order{Do: "box", Box: &b})
	return joined
}

// startAs starts an agent as another user.
func startAs(t testing.TB, uid uint32) *agent {
	t.Helper()
	return launch(t, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}})
}

// agent is the handle on an agent.
type agent struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	enc *json.Encoder
	dec *json.Decoder
}

// start starts an agent in the new namespaces of flags (CLONE_NEWPID and so on).
func start(t testing.TB, flags uintptr) *agent {
	t.Helper()
	return launch(t, &syscall.SysProcAttr{Cloneflags: flags})
}

func launch(t testing.TB, attr *syscall.SysProcAttr) *agent {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{agentName}
	inR, inW, err := os.Pipe()
	must(t, err)
	outR, outW, err := os.Pipe()
	must(t, err)
	cmd.ExtraFiles = []*os.File{inR, outW}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = attr
	must(t, cmd.Start())
	inR.Close()
	outW.Close()
	a := &agent{t: t, cmd: cmd, in: inW, enc: json.NewEncoder(inW), dec: json.NewDecoder(bufio.NewReader(outR))}
	t.Cleanup(func() {
		a.kill()
		outR.Close()
	})
	return a
}

// settle waits until a run that is started now is apart from what was made before
// by more than the two ticks that its start time may be off; a container runtime
// takes longer than that. It waits for the clock, not for a process.
func settle() {
	for end := time.Now().Add(3 * time.Duration(tick)); time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

const newContainer = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS

// contain starts an agent in a container.
func contain(t testing.TB, b box, more uintptr) *agent {
	t.Helper()
	a := start(t, newContainer|more)
	a.must(order{Do: "box", Box: &b})
	return a
}

func (a *agent) kill() {
	if a.cmd.ProcessState == nil {
		a.cmd.Process.Kill()
		a.cmd.Wait()
		a.in.Close()
	}
}

func (a *agent) ask(o order) (reply, error) {
	a.t.Helper()
	var r reply
	must(a.t, a.enc.Encode(o))
	if err := a.dec.Decode(&r); err != nil {
		a.t.Fatalf("the agent died of %+v: %v", o, err)
	}
	if r.Err != "" {
		return r, errors.New(r.Err)
	}
	return r, nil
}

func (a *agent) must(o order) reply {
	a.t.Helper()
	r, err := a.ask(o)
	must(a.t, err)
	return r
}

func (a *agent) look(path string, kind Kind, exclusive ...string) *Finding {
	a.t.Helper()
	return a.must(order{Do: "look", Path: path, Kind: kind, Exclude: exclusive}).Finding
}

func (a *agent) remove(path string) error {
	a.t.Helper()
	_, err := a.ask(order{Do: "remove", Path: path})
	return err
}

// layers makes the directories of an overlay.
func layers(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"upper", "work", "merged"} {
		must(t, os.Mkdir(dir+"/"+d, 0o755))
	}
	return dir
}
