package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Step is where the machine refused.
type Step string

// The steps that a machine can refuse.
const (
	StepProc  Step = "proc"  // /proc is not there
	StepStart Step = "start" // the namespaces are not made
	StepMount Step = "mount" // they are made, and of no use
)

// Error says that the machine does not allow a sandbox, why, and what to do.
type Error struct {
	Step  Step
	Err   error
	Facts Facts
}

func (e *Error) Unwrap() error { return e.Err }

func (e *Error) Error() string {
	what := map[Step]string{
		StepProc:  "it needs /proc",
		StepStart: "cannot make a user, mount and PID namespace",
		StepMount: "the new namespace may not mount",
	}[e.Step]
	return what + ": " + e.Err.Error() + "; " + e.advice()
}

// Facts are what a refusal is explained with. A sysctl that is not there is -1.
type Facts struct {
	Root      bool // who asks
	MaxUserNS int  // user.max_user_namespaces, namespaces(7)
	CloneUser int  // kernel.unprivileged_userns_clone, of Debian and Arch
	AppArmor  int  // kernel.apparmor_restrict_unprivileged_userns, of Ubuntu
	Container bool // of podman, docker and their like
	Seccomp   bool // a system call filter is on
}

// containerFlags let a container make one inside of it: the default profiles of
// seccomp and AppArmor forbid it.
const containerFlags = "start the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined"

// advice says what to do, the most certain cause first.
func (e *Error) advice() string {
	f := e.Facts
	orRoot := ", or run it as root"
	if f.Root {
		orRoot = ""
	}
	switch {
	case e.Step == StepProc:
		return "mount it first: mount -t proc proc /proc"
	case f.MaxUserNS == 0:
		return "user namespaces are switched off: sysctl -w user.max_user_namespaces=15000" + orRoot
	case f.CloneUser == 0 && !f.Root:
		return "they are for root alone here: sysctl -w kernel.unprivileged_userns_clone=1" + orRoot
	case errors.Is(e.Err, syscall.ENOSPC), errors.Is(e.Err, syscall.EUSERS):
		return "all namespaces that you may have are in use, or too many lie inside one another: raise user.max_user_namespaces" + orRoot
	case f.AppArmor == 1 && !f.Root:
		return "AppArmor restricts them: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give slashrun a profile with \"userns,\"" + orRoot
	case errors.Is(e.Err, syscall.ENOSYS) && !f.Container, errors.Is(e.Err, syscall.EINVAL):
		return "this kernel is built without them" + orRoot
	case f.Container:
		return containerFlags
	case f.Seccomp:
		return "a seccomp filter is on and may forbid it: run it outside of that service or sandbox"
	case e.Step == StepMount:
		return "a security module (AppArmor, SELinux) may forbid it, see the kernel's log" + orRoot
	}
	return "inside a chroot the kernel refuses it; else see sysctl user.max_user_namespaces and the kernel's log" + orRoot
}

// gather reads the facts from the system whose root is root. What cannot be read
// counts as absent.
func gather(root string) Facts {
	number := func(name string) int {
		text, err := os.ReadFile(filepath.Join(root, "proc/sys", name))
		if err != nil {
			return -1
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return -1
		}
		return n
	}
	there := func(name string) bool {
		_, err := os.Lstat(filepath.Join(root, name))
		return err == nil
	}
	f := Facts{
		Root:      os.Geteuid() == 0,
		MaxUserNS: number("user/max_user_namespaces"),
		CloneUser: number("kernel/unprivileged_userns_clone"),
		AppArmor:  number("kernel/apparmor_restrict_unprivileged_userns"),
		Container: there(".dockerenv") || there("run/.containerenv"),
	}
	status, _ := os.ReadFile(filepath.Join(root, "proc/self/status"))
	f.Seccomp = strings.Contains(string(status), "\nSeccomp:\t2")
	return f
}
