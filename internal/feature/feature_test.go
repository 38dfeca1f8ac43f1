package feature

import (
	"errors"
	"os"
	"syscall"
	"testing"
)

func TestAbsentIsENOSYSAndEPERMAlone(t *testing.T) {
	for err, want := range map[error]bool{
		os.NewSyscallError("fsopen", syscall.ENOSYS): true,
		os.NewSyscallError("fsopen", syscall.EPERM):  true,
		os.NewSyscallError("fsopen", syscall.EBADF):  false,
		os.NewSyscallError("fsopen", syscall.EACCES): false,
		errors.New("something"):                      false,
	} {
		if got := Absent(err); got != want {
			t.Errorf("Absent(%v) = %v", err, got)
		}
	}
	if Absent(nil) {
		t.Error("Absent(nil)")
	}
}

func TestProbeAsksOnce(t *testing.T) {
	calls := 0
	p := New("call", func() error { calls++; return syscall.ENOSYS })
	first, second := p.Available(), p.Available()
	if first || second || calls != 1 || p.Err() != syscall.ENOSYS {
		t.Errorf("available after %d calls, error %v", calls, p.Err())
	}
	if p := New("call", func() error { return syscall.EBADF }); !p.Available() {
		t.Error("a call that answers EBADF is there")
	}
}

// The probe must not say yes to somebody who could not mount.
func TestMountContextNeedsPrivilege(t *testing.T) {
	if os.Geteuid() == 0 {
		if err := MountContext.Err(); err != nil && !Absent(err) {
			t.Errorf("MountContext: %v", err)
		}
		return
	}
	if MountContext.Available() {
		t.Error("MountContext is available to an ordinary user")
	}
}
