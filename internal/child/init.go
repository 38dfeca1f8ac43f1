package child

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// Options say how an Init treats the command. The zero value is what tini does
// without options, as the first process of a container.
type Options struct {
	// Group forwards signals to the whole process group of the command.
	Group bool
	// DeathSignal, unless 0, is what this process gets, and so the command, when the
	// process that started it ends.
	DeathSignal syscall.Signal
	// Caught, unless nil, is told of each signal that comes before the command is
	// there, from a goroutine of its own and while Hold may not have returned.
	Caught func(syscall.Signal)
	// Report, unless nil, is told of a signal that could not be forwarded. It is
	// called from a goroutine of its own.
	Report func(error)
}

// Init is this process as the init process over one command. See the package
// documentation. It is made by Hold and used for one Run.
type Init struct {
	opts    Options
	ignored linux.Sigset  // found so
	held    chan struct{} // closed when the deadly ones of the early signals are caught
	caught  chan struct{} // closed when all of them are
	settled chan struct{} // unless nil, closed when settle has ended

	mu      sync.Mutex
	pid     int // of the command, 0 until it is started
	ended   bool
	pending []syscall.Signal // came before the command was there, each once
}

// early are the signals that people and container engines end or steer a process
// with, in the order in which they are caught. That begins with Hold, because one
// that comes before the command is there must reach it; the others follow when it
// is there, because each costs time.
var early = []syscall.Signal{
	syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
	syscall.SIGWINCH,          // the STOPSIGNAL of images of httpd
	syscall.SIGPWR, rtmin + 3, // and of images of init systems: LXC, systemd
	rtmin + 4, // systemd: power off
}

// deadly is how many of them would end this process if they were not caught.
const deadly = 6

// rtmin is SIGRTMIN of the C libraries, which keep the first two of the kernel's.
const rtmin = 34

// Hold begins to catch signals for a command that Run will start, and returns
// while that still goes on. found is what Find found. Nothing else in the process
// may use os/signal for signals that are to be forwarded, or wait for children
// after Run has begun.
func Hold(found Found, o Options) (*Init, error) {
	in := &Init{opts: o, ignored: found.ignored, held: make(chan struct{}), caught: make(chan struct{})}
	if o.DeathSignal != 0 {
		if err := setDeathSignal(o.DeathSignal, found.parent); err != nil {
			return nil, err
		}
	}
	go func() {
		for i, sig := range early {
			if i == deadly {
				close(in.held)
			}
			// The command is to inherit that it is ignored, and to get it all the
			// same when it is there, for it may change its mind.
			if !in.ignored.Has(sig) {
				in.catch(sig)
			}
		}
		close(in.caught)
	}()
	return in, nil
}

// setDeathSignal sets the parent-death signal of this process. It belongs to a
// thread and ends with it; the runtime ends no thread but those of goroutines that
// were locked to them.
func setDeathSignal(sig syscall.Signal, parent int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := linux.SetParentDeathSignal(sig); err != nil {
		return err
	}
	if syscall.Getppid() != parent { // it ended before
		return syscall.Kill(syscall.Getpid(), sig)
	}
	return nil
}

// catch forwards sig from now on. Each signal has a channel with room for one:
// what comes while that is full is the same signal once more, which the kernel too
// would keep only once. A channel for several would lose one signal behind a
// flood of another.
func (in *Init) catch(sig syscall.Signal) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, sig)
	go func() {
		for range c {
			in.forward(sig)
		}
	}()
}

// forward sends sig to the command, or keeps it until that is there.
func (in *Init) forward(sig syscall.Signal) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.ended: // the number may soon be another process's
	case in.pid == 0:
		for _, s := range in.pending {
			if s == sig {
				return
			}
		}
		in.pending = append(in.pending, sig)
		if in.opts.Caught != nil {
			go in.opts.Caught(sig)
		}
	default:
		pid := in.pid
		if in.opts.Group {
			pid = -pid
		}
		if err := syscall.Kill(pid, sig); err != nil && err != syscall.ESRCH && in.opts.Report != nil {
			go in.opts.Report(fmt.Errorf("signal %d (%v) cannot be forwarded to process %d: %w", int(sig), sig, in.pid, err))
		}
	}
}

// Pending returns the signals that have come since Hold, each once, in the order
// in which they came: for whoever does not call Run but Become, or gives up.
func (in *Init) Pending() []syscall.Signal {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.pending)
}

// Run starts the command, waits for its end and returns its exit status: its own,
// or 128 and the number of the signal that killed it. Until then it forwards
// signals and reaps every process that has become a child of this one. An error is
// an *Error: the command did not run.
func (in *Init) Run(c Command) (status int, err error) {
	if syscall.Getpid() != 1 {
		if err := linux.SetChildSubreaper(); err != nil {
			return 0, failed(err)
		}
	}
	<-in.held // or one of them would end this process, and not the command
	pid, err := start(c)
	if err != nil {
		return 0, err
	}
	in.mu.Lock()
	in.pid = pid
	pending := in.pending
	in.pending = nil
	in.mu.Unlock()
	for _, sig := range pending {
		in.forward(sig)
	}
	go in.settle()
	for {
		ended, err := linux.WaitEnded()
		if err != nil {
			return 0, failed(fmt.Errorf("cannot wait for the command: %w", err))
		}
		if ended == pid {
			in.mu.Lock()
			in.ended = true
			in.mu.Unlock()
		}
		ws, err := linux.Reap(ended)
		if err != nil && !errors.Is(err, syscall.ECHILD) {
			return 0, failed(err)
		}
		if ended == pid {
			return statusOf(ws), nil
		}
	}
}

func statusOf(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return StatusSignalled + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// start starts the command in a process group of its own, which gets the terminal
// if ours has it: then what is typed reaches the command alone, and the whole of
// it.
func start(c Command) (pid int, err error) {
	sys := &syscall.SysProcAttr{Setpgid: true}
	if linux.IsForeground(0) {
		sys.Foreground, sys.Ctty = true, 0
	}
	attr := &syscall.ProcAttr{Env: c.Env, Files: []uintptr{0, 1, 2}, Sys: sys}
	run := onDyingThread
	if !c.ofThread() {
		run = func(f func()) { f() }
	}
	run(func() {
		if err = prepare(&c); err != nil {
			return
		}
		pid, err = c.fork(attr)
	})
	return pid, err
}

// fork starts the command as a child of the thread that it was prepared on.
func (c *Command) fork(attr *syscall.ProcAttr) (pid int, err error) {
	err = c.run(func(path string, argv []string) (err error) {
		// A fork to find out that nothing is there would cost too much.
		var st syscall.Stat_t
		if err := linux.Fstatat(linux.AT_FDCWD, path, 0, &st); err != nil {
			return errors.Unwrap(err)
		}
		pid, err = linux.ForkExec(path, argv, attr)
		return err
	})
	return pid, err
}

// onDyingThread runs f on a thread that ends with it: one that has the credentials
// of the command is fit for nothing else. That is never the thread that the process
// began with, which would not end, and whose credentials the kernel takes for those
// of the process where it asks who may signal it.
func onDyingThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if linux.OnMainThread() {
			onDyingThread(f) // which is on another one while this goroutine has it
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// settle makes ready for a long life, while the command already runs.
func (in *Init) settle() {
	// The runtime ends a process for which it can start no thread, and a command
	// may use up the limit of processes at any time. What runs from now on needs
	// three threads and one processor; there are some to spare.
	runtime.GOMAXPROCS(1)
	spareThreads(8)
	<-in.caught
	// Standard output and error of ours may be the terminal, of which the command
	// now has the foreground.
	signal.Ignore(syscall.SIGTTIN, syscall.SIGTTOU)
	for sig := syscall.Signal(1); sig <= linux.NumSignals; sig++ {
		switch {
		case later.Has(sig), in.ignored.Has(sig) && slices.Contains(early, sig):
			in.catch(sig)
		case faults.Has(sig), sig == 32, sig == 34:
			// Whoever sends one, the runtime takes it for a fault of its own, or has
			// no handler. Real faults end a process also where it ignores them.
			// (By default they are harmless to the first process of a namespace,
			// but not while one of its threads runs a handler.)
			_ = linux.IgnoreSignal(sig)
		}
	}
	// What was inherited is the command's. A pipe that is held open here too would
	// not end for its reader when the command closes it.
	closeInherited()
	// Of the preparation nothing is needed any more, and of the program little.
	debug.FreeOSMemory()
	_ = linux.DropFilePages()
	if in.settled != nil {
		close(in.settled)
	}
}

// spareThreads makes the runtime have n threads more that do nothing: it keeps
// them, and takes one of them where it would start a new one.
func spareThreads(n int) {
	var up, down sync.WaitGroup
	release := make(chan struct{})
	up.Add(n)
	down.Add(n)
	for range n {
		go func() {
			defer down.Done()
			runtime.LockOSThread() // from here on the thread is no other goroutine's
			defer runtime.UnlockOSThread()
			up.Done()
			<-release
		}()
	}
	up.Wait()
	close(release)
	down.Wait()
}

// closeInherited closes what is not close-on-exec, which nothing of ours is, but
// for the standard descriptors.
func closeInherited() {
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return // no /proc: they stay open until the end
	}
	for _, e := range dir {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 && linux.Inheritable(fd) {
			linux.Close(fd)
		}
	}
}

// faults are the signals that the kernel sends for what a thread did, and that the
// runtime turns into a panic or a crash.
var faults = linux.Sigset(0).With(syscall.SIGILL, syscall.SIGTRAP, syscall.SIGBUS, syscall.SIGFPE,
	syscall.SIGSEGV, syscall.SIGSYS, syscall.SIGSTKFLT)

// later are the signals to be caught once the command is there: all but the early
// ones, those that cannot be caught, the children's, those of a terminal that we
// have no business with, and what the runtime does not let a program have.
var later = ^(linux.Sigset(0).With(early...).With(
	syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGTTIN, syscall.SIGTTOU,
	syscall.SIGURG, // how the runtime interrupts its own threads
	syscall.SIGPROF, 32, 33, 34) | faults)
