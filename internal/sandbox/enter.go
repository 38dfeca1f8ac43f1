package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// ErrNotInside means that Enter was called in a process that Run did not start.
var ErrNotInside = errors.New("this process was not started inside of new namespaces")

// Inside is a sandbox from within.
type Inside struct {
	// OwnUsers says that there is a user namespace.
	OwnUsers bool
	// User is the one user that the namespace knows, as the outside numbers it,
	// where Single is set.
	User   uint32
	Single bool
	// FreshProc says that /proc shows the processes of the inside.
	FreshProc bool
	// Notes are what is not as the package documentation has it, and why.
	Notes []string

	umask int // of the outside, for programs
}

// Enter turns a process that Run started into the inside: it arranges the mounts
// and makes sure of the result. In any other process it does nothing and
// returns ErrNotInside.
func Enter() (*Inside, error) {
	own, err := checkNamespaces()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotInside, err)
	}
	lifeline := os.NewFile(fdLifeline, "lifeline")
	for fd := fdLifeline; fd < fdEnd; fd++ {
		linux.CloseOnExec(fd)
	}
	go func() {
		_, _ = io.Copy(io.Discard, lifeline)
		os.Exit(128 + int(syscall.SIGKILL)) // and with PID 1 goes everybody
	}()
	in := &Inside{OwnUsers: own}
	if own {
		in.User, in.Single = singleUser("/proc/self/uid_map")
	}
	if err := in.arrange(); err != nil {
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
			return nil, &Error{Step: StepMount, Err: err, Facts: gather("/")}
		}
		return nil, err
	}
	return in, nil
}

// checkNamespaces asks the kernel whether this process is where it may mount,
// and whether it has a user namespace of its own.
func checkNamespaces() (ownUsers bool, err error) {
	if pid := syscall.Getpid(); pid != 1 {
		return false, fmt.Errorf("it is process %d, not the first one", pid)
	}
	for _, ns := range []struct {
		kind string
		fd   int
	}{{"mnt", fdMountNS}, {"pid", fdPIDNS}} {
		same, err := sameNamespace(ns.kind, ns.fd)
		if err != nil {
			return false, err
		}
		if same {
			return false, fmt.Errorf("it has no %s namespace of its own", ns.kind)
		}
	}
	if link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fdLifeline)); err != nil || !strings.HasPrefix(link, "pipe:[") {
		return false, errors.New("no pipe tells it whether the outside lives")
	}
	same, err := sameNamespace("user", fdUserNS)
	return err == nil && !same, nil
}

// sameNamespace compares this process's namespace of the kind with the one
// behind fd. The kernel prints both as "mnt:[4026531841]"; a file of that name
// would have a slash before it.
func sameNamespace(kind string, fd int) (bool, error) {
	outer, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil || !strings.HasPrefix(outer, kind+":[") {
		return false, fmt.Errorf("the outside handed down no %s namespace", kind)
	}
	own, err := os.Readlink("/proc/self/ns/" + kind)
	return own == outer, err
}

// singleUser reads a uid_map that has one id, as the parent numbers it.
func singleUser(path string) (uint32, bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	var first, above, n uint32
	rest := strings.TrimSpace(string(text))
	if _, err := fmt.Sscan(rest, &first, &above, &n); err != nil || n != 1 || strings.Contains(rest, "\n") {
		return 0, false
	}
	return above, true
}
