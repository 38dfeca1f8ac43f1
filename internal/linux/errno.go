package linux

import (
	"os"
	"syscall"
)

// wrap gives err the name of the call it came from, as os.NewSyscallError does.
func wrap(call string, err error) error {
	if err == nil {
		return nil
	}
	return os.NewSyscallError(call, err)
}

// retry repeats call for as long as a signal interrupts it (signal(7)).
// It must not be used for close(2), nor for a lock that may block.
func retry(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}
