package cli

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/condition"
)

// A terminal that takes nothing more keeps nobody from the end of the time; a pipe
// that is full is the same to a write.
func TestProgressOnAStoppedTerminal(t *testing.T) {
	r, w, err := os.Pipe()
	mustDo(t, err)
	defer r.Close()
	defer w.Close()
	fd := int(w.Fd()) // from here on its writes wait
	mustDo(t, syscall.SetNonblock(fd, true))
	for size := 4096; size > 0; {
		if _, err := syscall.Write(fd, make([]byte, size)); errors.Is(err, syscall.EAGAIN) {
			size /= 2
		} else {
			mustDo(t, err)
		}
	}
	mustDo(t, syscall.SetNonblock(fd, false))
	p := &waitProgress{env: &Env{Prog: "slashrun", Stderr: w}}
	p.show(&condition.Report{Conditions: []condition.Result{{Condition: "path:/x"}}})
	p.clear()
	if p.shown {
		t.Error("it believes that a line is shown")
	}
}
