package condition

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

func itoa(n int) string { return strconv.Itoa(n) }

// role is what the test binary does in another process: it says a line when it is
// done, and ends in the way that it was told when its standard input does.
func role() int {
	path := os.Getenv("SLASHRUN_TEST_FILE")
	switch os.Getenv("SLASHRUN_TEST_ROLE") {
	case "few":
		return few(path)
	case "many":
		return many(path)
	}
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

// few waits with fewer descriptors than that takes, then with one more each time.
func few(dir string) int {
	var hold []int
	for {
		fd, err := linux.Openat(linux.AT_FDCWD, "/dev/null", linux.O_RDONLY, 0)
		if err != nil || fd > 60 {
			break
		}
		hold = append(hold, fd)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 60, Max: 60}); err != nil {
		fmt.Println(err)
		return 1
	}
	failed, polled := 0, 0
	for ; len(hold) > 0; hold = hold[:len(hold)-1] {
		linux.Close(hold[len(hold)-1])
		r, err := Wait(context.Background(), []Condition{{Kind: Path, Operand: dir}, {Kind: Gone, Operand: dir + "/x"}}, Options{Timeout: 0})
		switch {
		case errors.Is(err, syscall.EMFILE):
			failed++
		case err != nil:
			fmt.Println("with", 60-len(hold), err)
			return 1
		case !r.Met && strings.Contains(r.Conditions[0].Why+r.Conditions[1].Why, "too many open files"):
			polled++
		case !r.Met:
			fmt.Printf("with %d: %+v\n", 60-len(hold), r)
			return 1
		}
	}
	if failed == 0 {
		fmt.Println("it never failed for want of descriptors")
		return 1
	}
	fmt.Println("enough")
	return 0
}

// many takes a lock on each of many files, and with KIND churn gives them up and
// takes them again all the time.
func many(prefix string) int {
	churn := os.Getenv("SLASHRUN_TEST_KIND") == "churn"
	n := 150
	if churn {
		n = 200
	}
	var fds []int
	for i := range n {
		fd, err := linux.Openat(linux.AT_FDCWD, prefix+itoa(i), linux.O_RDWR|linux.O_CREAT, 0o666)
		if err == nil {
			err = linux.Flock(fd, linux.LOCK_EX|linux.LOCK_NB)
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fds = append(fds, fd)
	}
	fmt.Println("done")
	end := make(chan struct{})
	go func() { io.Copy(io.Discard, os.Stdin); close(end) }()
	for churn {
		for _, op := range []int{linux.LOCK_UN, linux.LOCK_EX} {
			for _, fd := range fds {
				linux.Flock(fd, op)
			}
		}
		select {
		case <-end:
			return 0
		default:
		}
	}
	<-end
	return 0
}
