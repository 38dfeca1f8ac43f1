package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
)

// Descriptors that the outside hands down.
const (
	fdLifeline = 3 + iota // pipe: end of file when the outside is gone
	fdMountNS             // the outside's namespaces
	fdPIDNS
	fdUserNS
	fdEnd
)

// Program is the inside as it is started: this executable once more.
type Program struct {
	// Args is the argument vector, argv[0] included.
	Args []string
	Env  []string
	// Stdin, Stdout and Stderr are handed down as they are where they are files.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Run starts p as PID 1 of new namespaces, waits for its end and returns its
// exit status, 128 and the signal's number if it was killed. Until then SIGINT
// and SIGQUIT are ignored, since the terminal sends them to the inside too, and
// SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 are handed on. An error means that it was
// not started; it is an *Error where the machine does not allow it.
func Run(p Program) (status int, err error) {
	if _, err := os.Readlink("/proc/self/exe"); err != nil {
		return 0, &Error{Step: StepProc, Err: err}
	}
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer lifeW.Close()
	defer lifeR.Close()
	files := []*os.File{lifeR}
	for _, kind := range []string{"mnt", "pid", "user"} {
		f, err := os.Open("/proc/self/ns/" + kind)
		if err != nil && kind == "user" && errors.Is(err, os.ErrNotExist) {
			// A kernel without user namespaces. Anything else stands in.
			f, err = os.Open("/proc/self/ns/mnt")
		}
		if errors.Is(err, os.ErrNotExist) {
			return 0, &Error{Step: StepProc, Err: err}
		}
		if err != nil {
			return 0, err
		}
		defer f.Close()
		files = append(files, f)
	}
	// Before the start: what comes in between waits in the channel.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)
	cmd, err := start(p, files)
	if err != nil {
		return 0, err
	}
	go func() {
		for s := range signals {
			if s != syscall.SIGINT && s != syscall.SIGQUIT {
				_ = cmd.Process.Signal(s) // it may have ended this instant
			}
		}
	}()
	err = cmd.Wait()
	if cmd.ProcessState == nil {
		return 0, err
	}
	return statusOf(cmd.ProcessState.Sys().(syscall.WaitStatus)), nil
}

// start tries a user namespace first, and root then goes without.
func start(p Program, files []*os.File) (*exec.Cmd, error) {
	attempt := func(attr *syscall.SysProcAttr) (*exec.Cmd, error) {
		cmd := exec.CommandContext(context.Background(), "/proc/self/exe")
		cmd.Args, cmd.Env, cmd.ExtraFiles, cmd.SysProcAttr = p.Args, p.Env, files, attr
		cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Stdin, p.Stdout, p.Stderr
		return cmd, cmd.Start()
	}
	const flags = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID
	uids, gids, all := idMaps(os.Geteuid(), os.Getegid(), "/proc/self")
	cmd, err := attempt(&syscall.SysProcAttr{
		Cloneflags: flags | syscall.CLONE_NEWUSER, UidMappings: uids, GidMappings: gids, GidMappingsEnableSetgroups: all,
	})
	if err != nil && all && errors.Is(err, syscall.EPERM) {
		// Root of a container without CAP_SETUID may map itself alone.
		uids, gids, _ = idMaps(os.Geteuid(), os.Getegid(), "")
		cmd, err = attempt(&syscall.SysProcAttr{Cloneflags: flags | syscall.CLONE_NEWUSER, UidMappings: uids, GidMappings: gids})
	}
	if err != nil && os.Geteuid() == 0 && refused(err) {
		var again error
		if cmd, again = attempt(&syscall.SysProcAttr{Cloneflags: flags}); again == nil {
			err = nil
		}
	}
	if err != nil && refused(err) {
		return nil, &Error{Step: StepStart, Err: err, Facts: gather("/")}
	}
	return cmd, err
}

// refused tells what clone(2) answers where namespaces are not to be had:
// forbidden, used up (ENOSPC, EUSERS before Linux 4.9), not built in.
func refused(err error) bool {
	for _, e := range []error{syscall.EPERM, syscall.EACCES, syscall.ENOSPC, syscall.EUSERS, syscall.EINVAL, syscall.ENOSYS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// idMaps maps every id that the present namespace has to itself for root, and
// the caller alone to 0 for everybody else, user_namespaces(7). self is
// /proc/self, empty to map the caller alone in any case.
func idMaps(uid, gid int, self string) (uids, gids []syscall.SysProcIDMap, all bool) {
	uids = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
	gids = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	if uid != 0 || self == "" {
		return uids, gids, false
	}
	u, err1 := identity(self + "/uid_map")
	g, err2 := identity(self + "/gid_map")
	if err1 != nil || err2 != nil {
		return uids, gids, false
	}
	if alone(u) && alone(g) {
		return uids, gids, false // setgroups may be denied there, and must not be allowed then
	}
	return u, g, true
}

func alone(m []syscall.SysProcIDMap) bool { return len(m) == 1 && m[0].Size == 1 }

// identity reads a map of ids and maps each to itself.
func identity(path string) ([]syscall.SysProcIDMap, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var ids []syscall.SysProcIDMap
	for line := range strings.Lines(string(text)) {
		var first, above, n int
		if _, err := fmt.Sscan(line, &first, &above, &n); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", path, line, err)
		}
		ids = append(ids, syscall.SysProcIDMap{ContainerID: first, HostID: first, Size: n})
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("%s is empty", path)
	}
	return ids, nil
}

// statusOf is what a shell would say.
func statusOf(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
