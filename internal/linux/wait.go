package linux

import "syscall"

// WaitAny waits until any child ends, wait4(2) with -1. ECHILD where there is
// none. Whoever calls it must be the only one in the process to wait for
// children: it takes the end of each.
func WaitAny() (pid int, status syscall.WaitStatus, err error) {
	err = retry(func() (err error) {
		pid, err = syscall.Wait4(-1, &status, 0, nil)
		return err
	})
	return pid, status, wrap("wait4", err)
}

// CloseOnExec sets FD_CLOEXEC on a descriptor that came from the parent.
func CloseOnExec(fd int) { syscall.CloseOnExec(fd) }
