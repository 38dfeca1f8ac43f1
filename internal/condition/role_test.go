package condition

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

func itoa(n int) string { return strconv.Itoa(n) }

// role is what the test binary does in another process: it says a line when it is
// done, and ends in the way that it was told when its standard input does.
func role() int {
	path := os.Getenv("SLASHRUN_TEST_FILE")
	fd, err := linux.Openat(linux.AT_FDCWD, path, linux.O_RDWR|linux.O_CREAT, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fl := syscall.Flock_t{Type: syscall.F_WRLCK}
	switch os.Getenv("SLASHRUN_TEST_KIND") {
	case "flock":
		err = linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB)
	case "ofd":
		err = linux.OFDLock(fd, linux.F_WRLCK, 0, 0)
	case "posix":
		err = syscall.FcntlFlock(uintptr(fd), syscall.F_SETLK, &fl)
	case "pid":
		err = linux.WriteAll(fd, []byte(itoa(os.Getpid())+"\n"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("done")
	io.Copy(io.Discard, os.Stdin)
	switch os.Getenv("SLASHRUN_TEST_HOW") {
	case "close":
		linux.Close(fd)
		select {}
	case "unlock":
		switch os.Getenv("SLASHRUN_TEST_KIND") {
		case "flock":
			linux.Flock(fd, linux.LOCK_UN)
		case "ofd":
			linux.OFDLock(fd, linux.F_UNLCK, 0, 0)
		case "posix":
			fl.Type = syscall.F_UNLCK
			syscall.FcntlFlock(uintptr(fd), syscall.F_SETLK, &fl)
		}
		syscall.Pause()
	}
	return 0
}
