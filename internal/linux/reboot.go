package linux

import "golang.org/x/sys/unix"

// What Reboot does, from linux/reboot.h.
const (
	LINUX_REBOOT_CMD_POWER_OFF = unix.LINUX_REBOOT_CMD_POWER_OFF
	LINUX_REBOOT_CMD_RESTART   = unix.LINUX_REBOOT_CMD_RESTART
)

// Sync is sync(2).
func Sync() { unix.Sync() }

// Reboot is reboot(2): at once, without a sync, and nobody is asked. In a PID
// namespace other than the first it ends the namespace's init instead.
func Reboot(cmd int) error { return wrap("reboot", unix.Reboot(cmd)) }

// FinitModule loads the kernel module open on fd, finit_module(2). It fails with
// EEXIST when a module of that name is there.
func FinitModule(fd int, params string, flags int) error {
	return wrap("finit_module", retry(func() error { return unix.FinitModule(fd, params, flags) }))
}
