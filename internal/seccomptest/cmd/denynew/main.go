// Denynew runs a command under one of seccomptest's profiles, so that a real
// program is tested where the newer system calls are denied:
//
//	denynew PROFILE COMMAND [ARGUMENT]...
//
// PROFILE is eperm, enosys, old-eperm or old-enosys. The command takes the place
// of denynew (execve), so its process ID, its descriptors and its exit status are
// those of the caller's child. Denynew itself exits with 125 when it cannot
// install the filter, 126 when it cannot start the command and 127 when there is
// none of that name.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"

	"github.com/slashrun/slashrun/internal/seccomptest"
)

func main() {
	if len(os.Args) < 3 || os.Args[1] == "" {
		fmt.Fprintln(os.Stderr, "usage: denynew eperm|enosys|old-eperm|old-enosys COMMAND [ARGUMENT]...")
		os.Exit(125)
	}
	path, err := exec.LookPath(os.Args[2])
	if err != nil {
		die(127, err)
	}
	if err := seccomptest.Install(seccomptest.Profile(os.Args[1])); err != nil {
		die(125, err)
	}
	err = syscall.Exec(path, os.Args[2:], os.Environ())
	if errors.Is(err, fs.ErrNotExist) {
		die(127, fmt.Errorf("%s: %w", path, err))
	}
	die(126, fmt.Errorf("%s: %w", path, err))
}

func die(status int, err error) {
	fmt.Fprintf(os.Stderr, "denynew: %v\n", err)
	os.Exit(status)
}
