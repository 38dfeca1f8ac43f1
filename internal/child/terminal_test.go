package child

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
)

// terminal is a new pseudo-terminal: the side of the person, and that of programs.
func terminal(t *testing.T) (person, programs *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	ioctl := func(cmd uintptr, arg *int32) {
		if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, person.Fd(), cmd, uintptr(unsafe.Pointer(arg))); e != 0 {
			t.Fatal(e)
		}
	}
	var unlock, n int32
	ioctl(syscall.TIOCSPTLCK, &unlock)
	ioctl(syscall.TIOCGPTN, &n)
	programs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { programs.Close() })
	return person, programs
}

// onTerminal starts cmd as the leader of a session on a terminal.
func onTerminal(t *testing.T, cmd *exec.Cmd) (person *os.File, lines *bufio.Scanner) {
	t.Helper()
	person, programs := terminal(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP} { // what runs the tests may ignore them
		if err := linux.DefaultSignal(sig); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = programs, programs, programs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	programs.Close()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return person, bufio.NewScanner(person)
}

// expect reads until all the lines have come, in any order.
func expect(t *testing.T, lines *bufio.Scanner, want ...string) {
	t.Helper()
	var seen []string
	for len(want) > 0 && lines.Scan() {
		line := strings.TrimLeft(strings.TrimRight(lines.Text(), "\r"), "^CZ")
		if i := slices.Index(want, line); i >= 0 {
			want = slices.Delete(want, i, i+1)
		} else {
			seen = append(seen, line)
		}
	}
	if len(want) > 0 {
		t.Fatalf("no %q on the terminal: %q", want, seen)
	}
}

// foreground prints whether a shell's process group has the terminal.
const foreground = `set -- $(cat /proc/$$/stat); [ $5 = $8 ] && echo foreground || echo background; `

// What is typed reaches the command, once. Ctrl-Z stops all of it, and what the init
// gets continues it.
func TestTerminal(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		cmd := execCommand(t, "-init", "-group", "-settled", "--", "/bin/sh", "-c", foreground+`
			n=0; trap 'n=$((n+1)); echo interrupt $n' INT; trap 'exit 5' QUIT
			echo ready; while :; do read x; done`) // it starts no process: one that stops before its exec would hold it
		person, lines := onTerminal(t, cmd)
		expect(t, lines, "foreground", "ready", "settled")
		person.WriteString("\x03")
		expect(t, lines, "interrupt 1")
		person.WriteString("\x03")
		expect(t, lines, "interrupt 2") // and the first came no second time through the init
		pid := onlyChild(t, cmd.Process.Pid)
		person.WriteString("\x1a")
		waitStatus(t, pid, "State", "T (stopped)")
		cmd.Process.Signal(syscall.SIGCONT)
		waitStatus(t, pid, "State", "S (sleeping)")
		cmd.Process.Signal(syscall.SIGINT)
		expect(t, lines, "interrupt 3")
		person.WriteString("\x1c")
		if cmd.Wait(); cmd.ProcessState.ExitCode() != 5 {
			t.Errorf("it ended with %v", cmd.ProcessState)
		}
	})
}

// An init in the background does not take the terminal.
func TestBackground(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		sh := exec.CommandContext(t.Context(), "/bin/sh", "-c", `set -m; "$0" -init -- /bin/sh -c '`+foreground+`' & wait $!; `+foreground+` echo end`, program(t, "exec"))
		_, lines := onTerminal(t, sh)
		expect(t, lines, "background") // the command
		expect(t, lines, "foreground") // the shell
		expect(t, lines, "end")
	})
}

// The end of the terminal reaches the command as SIGHUP through the init, which is
// the leader of the session.
func TestHangUp(t *testing.T) {
	nstest.Run(t, nstest.Options{}, func(t *testing.T) {
		cmd := execCommand(t, "-init", "--", "/bin/sh", "-c", "trap 'exit 8' HUP; echo ready; while :; do sleep 0.02; done")
		person, lines := onTerminal(t, cmd)
		expect(t, lines, "ready")
		person.Close()
		if cmd.Wait(); cmd.ProcessState.ExitCode() != 8 {
			t.Errorf("it ended with %v", cmd.ProcessState)
		}
	})
}
