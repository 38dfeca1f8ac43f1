package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/slashrun/slashrun/internal/nstest"
)

// pseudoTerminal is a new terminal of so many columns: the side of the person, and
// that of programs.
func pseudoTerminal(t *testing.T, columns uint16) (person, programs *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	mustDo(t, err)
	t.Cleanup(func() { person.Close() })
	ioctl := func(cmd uintptr, arg unsafe.Pointer) {
		if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, person.Fd(), cmd, uintptr(arg)); e != 0 {
			t.Fatal(e)
		}
	}
	var unlock, n int32
	size := [4]uint16{24, columns}
	ioctl(syscall.TIOCSPTLCK, unsafe.Pointer(&unlock))
	ioctl(syscall.TIOCGPTN, unsafe.Pointer(&n))
	ioctl(syscall.TIOCSWINSZ, unsafe.Pointer(&size))
	programs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	mustDo(t, err)
	return person, programs
}

// On a terminal one line tells how it stands, and it is erased when the wait ends:
// by a signal, which still ends the process, or because it holds.
func TestWaitOnTerminal(t *testing.T) {
	link := slashrunLink(t)
	nstest.Run(t, nstest.Options{Keep: []string{link}}, func(t *testing.T) {
		for _, end := range []string{"signal", "holds"} {
			os.Remove("/run/x")
			person, programs := pseudoTerminal(t, 40)
			cmd := exec.Command(slashrunLink(t), "wait", "path:/run/x", "path:/run")
			cmd.Env = append(os.Environ(), "TERM=xterm")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = programs, programs, programs
			mustDo(t, cmd.Start())
			programs.Close()
			r := bufio.NewReader(person)
			line := regexp.MustCompile(`^\r\x1b\[Kslashrun: waited [0-9] s for 1 of 2: pat\.\.\.$`)
			got := make([]byte, 4+39)
			_, err := io.ReadFull(r, got)
			mustDo(t, err)
			if !line.Match(got) {
				t.Errorf("%q, want %q", got, line)
			}
			if end == "signal" {
				mustDo(t, cmd.Process.Signal(syscall.SIGTERM))
			} else {
				mustDo(t, os.Mkdir("/run/x", 0o755))
			}
			cmd.Wait()
			rest, _ := io.ReadAll(r) // EIO: nobody has the other side any more
			if !strings.HasSuffix(string(rest), "\r\x1b[K") {
				t.Errorf("%s: it left %q", end, rest)
			}
			ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if end == "signal" && ws.Signal() != syscall.SIGTERM || end == "holds" && ws.ExitStatus() != 0 {
				t.Errorf("%s: %v", end, cmd.ProcessState)
			}
		}
	})
}
