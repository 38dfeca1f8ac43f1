// Bare starts true and waits for it: what bench/lock measures "slashrun lock"
// beside, to tell what of its time is Go's runtime and the two processes.
package main

import (
	"os"
	"syscall"
)

func main() {
	pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
	if err != nil {
		os.Exit(1)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		os.Exit(1)
	}
	os.Exit(status.ExitStatus())
}
