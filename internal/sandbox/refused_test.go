package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// envDeny is set for a test binary that is to deny a system call to itself and
// its children: "clone-newuser EPERM" or "mount EACCES".
const envDeny = "SLASHRUN_SANDBOX_DENY"

// denyCalls installs the filter that the environment asks for.
func denyCalls() {
	var call string
	var errno syscall.Errno
	if n, _ := fmt.Sscan(os.Getenv(envDeny), &call, &errno); n != 2 {
		return
	}
	os.Unsetenv(envDeny)
	stmt := func(code uint16, k uint32) syscall.SockFilter { return syscall.SockFilter{Code: code, K: k} }
	jump := func(op uint16, k uint32, yes, no uint8) syscall.SockFilter {
		return syscall.SockFilter{Code: syscall.BPF_JMP | op | syscall.BPF_K, K: k, Jt: yes, Jf: no}
	}
	const load = syscall.BPF_LD | syscall.BPF_W | syscall.BPF_ABS
	const ret = syscall.BPF_RET | syscall.BPF_K
	allow, deny := stmt(ret, 0x7fff0000), stmt(ret, 0x00050000|uint32(errno)) // linux/seccomp.h
	var prog []syscall.SockFilter
	switch call {
	case "mount":
		prog = []syscall.SockFilter{stmt(load, 0), jump(syscall.BPF_JEQ, syscall.SYS_MOUNT, 0, 1), deny, allow}
	case "clone-newuser":
		prog = []syscall.SockFilter{
			stmt(load, 0), jump(syscall.BPF_JEQ, syscall.SYS_CLONE, 0, 3),
			stmt(load, 16), jump(syscall.BPF_JSET, syscall.CLONE_NEWUSER, 0, 1), deny, // the low half of the first argument
			allow,
		}
	}
	if err := linux.SeccompFilter(prog); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// outside runs argv in a sandbox that a process of its own starts, under a filter.
func outside(deny string, argv ...string) (string, int) {
	cmd := exec.Command("/proc/self/exe", append([]string{outsideArg}, argv...)...)
	cmd.Env = append(os.Environ(), envDeny+"="+deny)
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

func denied(call string, errno syscall.Errno) string { return fmt.Sprintf("%s %d", call, errno) }

func TestUserNamespacesForbidden(t *testing.T) {
	testenv.Need(t, testenv.NonRoot)
	out, status := outside(denied("clone-newuser", syscall.EPERM), "true")
	if status != StatusFailed || !strings.Contains(out, "cannot make a user, mount and PID namespace") || !strings.Contains(out, "seccomp") {
		t.Errorf("status %d: %s", status, out)
	}
	if strings.Count(out, "\n") != 1 {
		t.Errorf("more than a line: %s", out)
	}
}

// Root does without a user namespace, and is kept from the machine all the same.
func TestRootWithoutUserNamespaces(t *testing.T) {
	testenv.Need(t, testenv.Root)
	nstest.Run(t, world(), func(t *testing.T) {
		deny := denied("clone-newuser", syscall.EPERM)
		if out, status := outside(deny, "describe"); status != 0 || !strings.HasPrefix(out, "own false single false") {
			t.Fatalf("status %d: %s", status, out)
		}
		file := t.TempDir() + "/f"
		for _, script := range []string{
			"echo y > " + file, "mount -o remount,rw,bind /", "mount -o remount,rw,bind " + filepath.Dir(file), "umount -l /dev",
			"mknod /dev/shm/x b 8 0", "mount -t tmpfs none /run", "ls /proc/1/root/", "nsenter -t 1 -m true",
		} {
			if out, status := outside(deny, "sh", "-c", script); status == 0 {
				t.Errorf("%s: done: %s", script, out)
			}
		}
		if _, err := os.Lstat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the file outside: %v", err)
		}
	})
}

// As AppArmor does it: the namespaces are made, and no mount is allowed there.
func TestMountForbidden(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EACCES, syscall.EPERM} {
		out, status := outside(denied("mount", errno), "true")
		if status != StatusFailed || !strings.Contains(out, "the new namespace may not mount") {
			t.Errorf("status %d: %s", status, out)
		}
		if strings.Count(out, "\n") != 1 {
			t.Errorf("more than a line: %s", out)
		}
	}
}

func TestUserNamespacesOff(t *testing.T) {
	nstest.Run(t, nstest.Options{SingleUser: true}, func(t *testing.T) {
		// A procfs of our own: nstest's /proc/sys is read-only.
		dir := t.TempDir()
		if err := linux.Mount("proc", dir, "proc", 0, ""); err != nil {
			t.Fatal(err)
		}
		defer linux.Unmount(dir, syscall.MNT_DETACH)
		if err := os.WriteFile(dir+"/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/sys/user/max_mnt_namespaces", []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
		_, err := Run(Program{Args: []string{os.Args[0], insideArg, "true"}})
		var refused *Error
		if !errors.As(err, &refused) || refused.Step != StepStart || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("Run: %v", err)
		}
		if !strings.Contains(err.Error(), "sysctl -w user.max_user_namespaces=") {
			t.Error(err)
		}
	})
}

func TestNoProc(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		if err := linux.Mount("none", "/proc", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		defer linux.Unmount("/proc", 0) // the kit reports through it
		_, err := Run(Program{Args: []string{os.Args[0], insideArg, "true"}})
		var refused *Error
		if !errors.As(err, &refused) || refused.Step != StepProc || !strings.Contains(err.Error(), "mount -t proc proc /proc") {
			t.Errorf("Run: %v", err)
		}
	})
}

// A container runtime masks parts of /proc, and then the kernel allows no fresh
// one. So does a sandbox: /proc/sys and others are mounts of their own there.
func TestMaskedProc(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Not "test -r": the C library takes EPERM of faccessat2(2) for the answer.
	out, status := run(t, exe, outsideArg, "sh", "-c", "cat /proc/self/status >/dev/null && ! echo x >/proc/self/comm && echo works")
	if status != 0 || !strings.Contains(out, "works\n") {
		t.Errorf("status %d: %s", status, out)
	}
	if !strings.Contains(out, "note: /proc shows the processes outside") {
		t.Errorf("no note: %s", out)
	}
}

func TestAdvice(t *testing.T) {
	none := Facts{MaxUserNS: 1000, CloneUser: -1, AppArmor: -1}
	with := func(change func(*Facts)) Facts { f := none; change(&f); return f }
	for _, c := range []struct {
		step  Step
		errno error
		facts Facts
		want  string
	}{
		{StepProc, syscall.ENOENT, Facts{}, "mount -t proc"},
		{StepStart, syscall.ENOSPC, with(func(f *Facts) { f.MaxUserNS = 0 }), "user.max_user_namespaces=15000, or run it as root"},
		{StepStart, syscall.ENOSPC, with(func(f *Facts) { f.MaxUserNS, f.Root = 0, true }), "user.max_user_namespaces=15000"},
		{StepStart, syscall.EPERM, with(func(f *Facts) { f.CloneUser = 0 }), "kernel.unprivileged_userns_clone=1"},
		{StepStart, syscall.ENOSPC, none, "raise user.max_user_namespaces"},
		{StepStart, syscall.EUSERS, none, "raise user.max_user_namespaces"},
		{StepStart, syscall.EPERM, with(func(f *Facts) { f.AppArmor = 1 }), "kernel.apparmor_restrict_unprivileged_userns=0"},
		{StepMount, syscall.EACCES, with(func(f *Facts) { f.AppArmor = 1 }), "kernel.apparmor_restrict_unprivileged_userns=0"},
		{StepMount, syscall.EACCES, with(func(f *Facts) { f.AppArmor, f.Root, f.Container = 1, true, true }), "apparmor=unconfined"},
		{StepStart, syscall.EPERM, with(func(f *Facts) { f.Container, f.Seccomp = true, true }), "seccomp=unconfined"},
		{StepStart, syscall.ENOSYS, with(func(f *Facts) { f.Container = true }), "seccomp=unconfined"},
		{StepStart, syscall.EINVAL, none, "built without them, or run it as root"},
		{StepStart, syscall.EPERM, with(func(f *Facts) { f.Seccomp = true }), "seccomp filter"},
		{StepMount, syscall.EPERM, none, "security module"},
		{StepStart, syscall.EPERM, none, "chroot"},
	} {
		e := &Error{Step: c.step, Err: os.NewSyscallError("clone", c.errno), Facts: c.facts}
		if got := e.Error(); !strings.Contains(got, c.want) || strings.Contains(got, "\n") {
			t.Errorf("%s %v %+v: %q, want %q in it", c.step, c.errno, c.facts, got, c.want)
		}
		if c.facts.Root && strings.Contains(e.Error(), "as root") {
			t.Errorf("root is told to be root: %v", e)
		}
	}
}

func TestGather(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	asRoot := os.Geteuid() == 0
	if got, want := gather(root), (Facts{Root: asRoot, MaxUserNS: -1, CloneUser: -1, AppArmor: -1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	write("proc/sys/user/max_user_namespaces", "96343\n")
	write("proc/sys/kernel/unprivileged_userns_clone", "0\n")
	write("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")
	write("proc/self/status", "Name:\tx\nSeccomp:\t2\n")
	write("run/.containerenv", "")
	want := Facts{Root: asRoot, MaxUserNS: 96343, CloneUser: 0, AppArmor: 1, Container: true, Seccomp: true}
	if got := gather(root); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	write("proc/sys/user/max_user_namespaces", "many\n")
	if got := gather(root); got.MaxUserNS != -1 {
		t.Errorf("%+v", got)
	}
}

// Where the calls that make the new root fail, it says so and nothing runs.
func TestCallsFail(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Tool("strace"))
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ inject, want string }{
		{"mount:error=ENOMEM:when=1", "making the mounts private"},
		{"mkdirat:error=ENOSPC:when=1", "in the new root"},
		{"symlinkat:error=ENOMEM:when=1", "making "},
		{"pivot_root:error=ENOMEM", "making the new root /"},
		{"umount2:error=ENOMEM", "making the new root /"},
		{"prctl:error=EPERM", "capabilities"},
	} {
		cmd := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject="+c.inject, exe, outsideArg, "sh", "-c", "echo ran")
		out, _ := cmd.CombinedOutput()
		if status := cmd.ProcessState.ExitCode(); status != StatusFailed {
			t.Errorf("%s: status %d", c.inject, status)
		}
		if !strings.Contains(string(out), c.want) || strings.Contains(string(out), "ran\n") {
			t.Errorf("%s: %s", c.inject, out)
		}
	}
}
