package process

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// Who cannot be seen hides nobody else: PID 1 is a stranger to an ordinary user,
// and comes first.
func TestTablesGoOnBehindAProcessThatCannotBeSeen(t *testing.T) {
	p := open(t)
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) {
		t.Skipf("no mount namespace can be made here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	found := false
	err = p.Tables(t.Context(), func(who Process, foreign bool, _ []byte) bool {
		found = found || who.PID == cmd.Process.Pid
		if found && foreign {
			t.Error("it is said to be in another PID namespace")
		}
		return !found
	})
	if !found {
		t.Errorf("the child with a mount namespace of its own was not visited: %v", err)
	}
}
