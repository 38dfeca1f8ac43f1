// Exec measures what "slashrun exec" costs in front of a command, beside tini: from
// its start to the first instruction of the command, which says itself when that
// is, and the memory of the init that stays.
//
// /run is not made ready here (--run=in-place --tmpfiles=none): how long that takes
// is a matter of what there is to do, and bench/boot measures it.
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/slashrun/slashrun/internal/bench"
)

// first is a static program without a C library: it reads the clock, writes what
// it read to its standard output and ends.
const first = `
#include <time.h>
#include <sys/syscall.h>
static long call(long nr, long a, long b, long c) {
#if defined(__x86_64__)
	long r;
	__asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return r;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = nr, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
	return x0;
#endif
}
void _start(void) {
	struct timespec t;
	call(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&t, 0);
	long ns = t.tv_sec * 1000000000L + t.tv_nsec;
	call(SYS_write, 1, (long)&ns, sizeof ns);
	call(SYS_exit_group, 0, 0, 0);
}
`

const about = "From the start to the first instruction of the command, a static program that says when that was; /run is taken as it is. " +
	"In the case of the resident init the memory is the proportional set size (smaps_rollup) of the init a second after its start, " +
	"which for tini leaves out what it shares with other programs, and the time is of no account."

func main() { bench.Main("exec", about, run) }

func run(b *bench.B) {
	ours, cmd := b.Slashrun(), build(b)
	in := []string{ours, "exec", "--run=in-place", "--tmpfiles=none"}
	tini := []string{"tini", "-s", "--"}
	const most = 1500 * time.Microsecond
	b.Compare(bench.Case{
		Name:    "become the command",
		Ours:    firstInstruction(b, "slashrun exec", append(in, "--", cmd)),
		Peers:   []bench.Side{firstInstruction(b, "tini", append(tini, cmd)), firstInstruction(b, "the command alone", []string{cmd})},
		Rounds:  501,
		MaxOver: most,
	})
	b.Compare(bench.Case{
		Name:    "stay as its init",
		Ours:    firstInstruction(b, "slashrun exec --init", append(in, "--init", "--", cmd)),
		Peers:   []bench.Side{firstInstruction(b, "tini", append(tini, cmd))},
		Rounds:  501,
		MaxOver: most,
	})
	b.Compare(bench.Case{
		Name:      "resident init",
		Ours:      resident("slashrun exec --init", append(in, "--init", "--")),
		Peers:     []bench.Side{resident("tini", tini)},
		Rounds:    1,
		MaxMemory: 4 << 20,
	})
}

// build makes the program first.
func build(b *bench.B) string {
	src, exe := filepath.Join(b.Dir(), "first.c"), filepath.Join(b.Dir(), "first")
	if err := os.WriteFile(src, []byte(first), 0o644); err != nil {
		b.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-O2", "-static", "-nostdlib", "-o", exe, src).CombinedOutput(); err != nil {
		b.Fatal(fmt.Errorf("gcc: %w\n%s", err, out))
	}
	return exe
}

// firstInstruction is a side whose command is first.
func firstInstruction(b *bench.B, name string, argv []string) bench.Side {
	path := filepath.Join(b.Dir(), "clock")
	var out *os.File
	return bench.Side{
		Name: name,
		Prepare: func() (err error) {
			out, err = os.Create(path)
			return err
		},
		Cmd: func() *exec.Cmd {
			c := exec.Command(argv[0], argv[1:]...)
			c.Stdout = out
			return c
		},
		Until: func() (ns int64, err error) {
			defer out.Close()
			buf := make([]byte, 9)
			if n, _ := out.ReadAt(buf, 0); n != 8 {
				return 0, fmt.Errorf("it wrote %d bytes, want 8", n)
			}
			return int64(binary.NativeEndian.Uint64(buf)), nil
		},
	}
}

// resident is a side that is measured while its command runs.
func resident(name string, argv []string) bench.Side {
	return bench.Side{
		Name: name,
		Cmd:  func() *exec.Cmd { return exec.Command(argv[0], append(argv[1:], "true")...) },
		Memory: func() (int64, error) {
			c := exec.Command(argv[0], append(argv[1:], "sleep", "60")...)
			if err := c.Start(); err != nil {
				return 0, err
			}
			time.Sleep(time.Second) // it is about what stays
			pss, err := proportional(c.Process.Pid)
			runtime.KeepAlive(c)
			return pss, errors.Join(err, c.Process.Signal(os.Interrupt), ended(c))
		},
	}
}

// ended waits for a command that was interrupted.
func ended(c *exec.Cmd) error {
	var exit *exec.ExitError
	if err := c.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 128+2 {
		return fmt.Errorf("%s ended with %v, want the status of SIGINT", c.Path, c.ProcessState)
	}
	return nil
}

// proportional is the Pss of a process in bytes, proc_pid_smaps(5).
func proportional(pid int) (int64, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), "Pss:"); ok {
			n, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, errors.New("no Pss in smaps_rollup")
}
