package linux

import (
	"errors"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"testing"
)

func TestSignalSets(t *testing.T) {
	set := AllSignalsBut(syscall.SIGHUP, syscall.SIGURG, 64)
	if set != ^Sigset(1<<0|1<<22|1<<63) {
		t.Errorf("%x", set)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := SetThreadMask(&set)
	if err != nil {
		t.Fatal(err)
	}
	during, err := SetThreadMask(&before)
	if err != nil {
		t.Fatal(err)
	}
	const unblockable = 1<<(syscall.SIGKILL-1) | 1<<(syscall.SIGSTOP-1)
	if during != set&^unblockable {
		t.Errorf("the mask was %x, set was %x", during, set)
	}
}

func TestSignalHandled(t *testing.T) {
	for s, want := range map[syscall.Signal]bool{syscall.SIGURG: true, syscall.SIGSTOP: false} {
		if got, err := SignalHandled(s); err != nil || got != want {
			t.Errorf("%v: %v, %v", s, got, err)
		}
	}
	signal.Ignore(syscall.SIGUSR2)
	defer signal.Reset(syscall.SIGUSR2)
	if got, err := SignalHandled(syscall.SIGUSR2); err != nil || got {
		t.Errorf("ignored: %v, %v", got, err)
	}
	if _, err := SignalHandled(65); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("signal 65: %v", err)
	}
}

func TestOFDLocks(t *testing.T) {
	path := t.TempDir() + "/lock"
	open := func() int {
		fd, err := Openat(AT_FDCWD, path, O_RDWR|O_CREAT, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { Close(fd) })
		return fd
	}
	a, b := open(), open()
	if err := OFDLock(a, F_WRLCK, 10, 5); err != nil {
		t.Fatal(err)
	}
	for start, want := range map[int64]bool{0: false, 9: false, 10: true, 14: true, 15: false} {
		conflict, pid, err := OFDConflict(b, F_RDLCK, start, 1)
		if err != nil || conflict != want || want && pid != -1 {
			t.Errorf("at %d: %v, process %d, %v", start, conflict, pid, err)
		}
		if err := OFDLock(b, F_RDLCK, start, 1); errors.Is(err, syscall.EAGAIN) != want {
			t.Errorf("at %d: %v", start, err)
		}
	}
	if err := OFDLock(a, F_UNLCK, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := OFDLockWait(b, F_WRLCK, 0, 0); err != nil {
		t.Error(err)
	}
}

func TestDup3KeepsTheNumber(t *testing.T) {
	null, err := Openat(AT_FDCWD, "/dev/null", O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(null)
	other, err := Openat(AT_FDCWD, "/", O_PATH|O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(other)
	if err := Dup3(other, null); err != nil {
		t.Fatal(err)
	}
	if err := Flock(null, LOCK_SH|LOCK_NB); !errors.Is(err, syscall.EBADF) {
		t.Errorf("flock of an O_PATH descriptor: %v, want EBADF", err)
	}
	if err := OFDLockWait(null, F_RDLCK, 0, 0); !errors.Is(err, syscall.EBADF) {
		t.Errorf("fcntl of an O_PATH descriptor: %v, want EBADF", err)
	}
	if err := TgkillSelf(os.Getpid(), 0); err != nil {
		t.Error(err)
	}
}
