package linux

import (
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
)

// The first thread is the one that /proc/PID shows: its working directory is the
// process's for everybody else, and it never ends before the process does.
func TestInDirectoryNeverKeepsTheMainThread(t *testing.T) {
	dir := t.TempDir()
	fd, err := Openat(AT_FDCWD, dir, O_PATH|O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	before, err := os.Readlink("/proc/self/cwd")
	if err != nil {
		t.Skipf("/proc is needed: %v", err)
	}
	var all sync.WaitGroup
	for range 2000 {
		all.Go(func() {
			runtime.Gosched()
			err := InDirectory(fd, func() error {
				if OnMainThread() {
					t.Error("it runs on the main thread")
				}
				return nil
			})
			if err != nil && err.(*os.SyscallError).Err != syscall.EPERM { // a filter
				t.Error(err)
			}
		})
	}
	all.Wait()
	if after, _ := os.Readlink("/proc/self/cwd"); after != before {
		t.Errorf("the process is in %s, and was in %s", after, before)
	}
}
