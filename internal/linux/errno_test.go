package linux

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"
)

func TestWrapKeepsTheErrnoAndNamesTheCall(t *testing.T) {
	if err := wrap("openat2", nil); err != nil {
		t.Errorf("wrap of no error = %v, want nil", err)
	}
	err := wrap("openat2", syscall.ENOENT)
	if !errors.Is(err, syscall.ENOENT) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is neither ENOENT nor fs.ErrNotExist", err)
	}
	if got, want := err.Error(), "openat2: no such file or directory"; got != want {
		t.Errorf("message = %q, want %q", got, want)
	}
}

func TestRetryGoesOnAfterASignalAndStopsAtAnythingElse(t *testing.T) {
	calls := 0
	err := retry(func() error {
		calls++
		if calls < 3 {
			return syscall.EINTR
		}
		return syscall.EIO
	})
	if err != syscall.EIO || calls != 3 {
		t.Errorf("retry = %v after %d calls, want EIO after 3", err, calls)
	}
}
