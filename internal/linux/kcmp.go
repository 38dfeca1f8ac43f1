package linux

import "golang.org/x/sys/unix"

// What Kcmp compares, enum kcmp_type of linux/kcmp.h.
const (
	KCMP_FILES = 2 // the tables of descriptors
	KCMP_FS    = 3 // working directory, root and umask
)

// Kcmp reports whether two tasks (processes or threads, by their numbers in our
// PID namespace) share a resource: kcmp(2), Linux 3.5. It needs the right to trace
// both (EPERM), and a kernel that was built with it (ENOSYS); filters of container
// runtimes refuse it without CAP_SYS_PTRACE. ESRCH: one has ended.
func Kcmp(task1, task2, kind int) (same bool, err error) {
	r, _, e := unix.Syscall6(unix.SYS_KCMP, uintptr(task1), uintptr(task2), uintptr(kind), 0, 0, 0)
	if e != 0 {
		return false, wrap("kcmp", e)
	}
	return r == 0, nil
}
