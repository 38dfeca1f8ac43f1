package linux

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// SignalByName is the number of a signal, "SIGHUP"; 0 if there is none.
func SignalByName(name string) syscall.Signal { return unix.SignalNum(name) }

// SignalName is the name of a signal, empty for a number without one.
func SignalName(sig syscall.Signal) string { return unix.SignalName(sig) }
