package vmtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// resultLine is the second serial line, as the guest sees it.
const resultLine = "/dev/ttyS1"

// MountAPI mounts what Linux programs expect of PID 1, where it is not mounted yet:
// /proc, /sys, /dev (with pts and shm) and, with all its controllers on, cgroup2 on
// /sys/fs/cgroup. It leaves /run alone.
func MountAPI() error {
	const flags = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC
	for _, m := range []struct {
		point, fstype string
		flags         uintptr
		data          string
	}{
		{"/proc", "proc", flags, ""},
		{"/sys", "sysfs", flags, ""},
		{"/dev", "devtmpfs", syscall.MS_NOSUID, "mode=0755"},
		{"/dev/pts", "devpts", syscall.MS_NOSUID | syscall.MS_NOEXEC, "mode=0620,ptmxmode=0666"},
		{"/dev/shm", "tmpfs", syscall.MS_NOSUID | syscall.MS_NODEV, "mode=1777"},
		{"/sys/fs/cgroup", "cgroup2", flags, ""},
	} {
		if strings.HasPrefix(m.point, "/dev/") || !strings.HasPrefix(m.point, "/sys/") {
			if err := os.MkdirAll(m.point, 0o755); err != nil {
				return err
			}
		}
		err := linux.Mount(m.fstype, m.point, m.fstype, m.flags, m.data)
		if err != nil && !errors.Is(err, syscall.EBUSY) { // EBUSY: mounted already
			return fmt.Errorf("%s: %w", m.point, err)
		}
	}
	for link, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return enableControllers("/sys/fs/cgroup")
}

// enableControllers makes every controller available in the children of the cgroup.
func enableControllers(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(text)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0); err != nil {
			return fmt.Errorf("controller %s: %w", name, err)
		}
	}
	return nil
}

// LoadModule loads one of Machine.Modules and what it needs. What is built into
// the kernel, or loaded, is no error.
func LoadModule(name string) error {
	order, err := os.ReadFile(moduleDir + "/order")
	if err != nil {
		return err
	}
	list, ok := moduleOrder(string(order), name)
	if !ok {
		return fmt.Errorf("the module %s is not in Machine.Modules", name)
	}
	for _, need := range list {
		f, err := os.Open(moduleDir + "/" + need + ".ko")
		if err != nil {
			return err
		}
		err = linux.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("module %s: %w", need, err)
		}
	}
	return nil
}

// Send writes a line to Result.Output. It needs devtmpfs on /dev.
func Send(line string) error {
	f, err := os.OpenFile(resultLine, os.O_WRONLY|syscall.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close()) // close waits until the line has gone out
}

// SendExit sets Result.Exit.
func SendExit(status int) error { return sendFrame(frame{Exit: &status}) }

func sendFrame(f frame) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return Send(framePrefix + string(text))
}

// PowerOff switches the virtual machine off, after sync(2). It does not return.
// Anywhere but in a virtual machine of this package it panics.
func PowerOff() { shutDown(linux.LINUX_REBOOT_CMD_POWER_OFF) }

// Restart reboots the virtual machine, after sync(2), which ends Boot with
// Rebooted. It does not return.
func Restart() { shutDown(linux.LINUX_REBOOT_CMD_RESTART) }

func shutDown(cmd int) {
	if !virtual() {
		panic("vmtest: this is not a virtual machine that may be switched off")
	}
	linux.Sync()
	panic(linux.Reboot(cmd))
}

// virtual asks the kernel whether this is a machine of qemuArgs, so that a
// mistake cannot switch off the machine that runs the tests: it is under QEMU, its
// command line is ours, and it has a second serial port.
func virtual() bool {
	vendor, err := os.ReadFile("/sys/class/dmi/id/sys_vendor")
	if err != nil || !strings.HasPrefix(string(vendor), "QEMU") {
		return false
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	return err == nil && strings.HasPrefix(string(cmdline), cmdlineStart)
}
