package locktest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/testenv"
)

// buffer is a bytes.Buffer that a test can read while a program writes.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// runs runs a program to its end and returns its exit status and output.
func runs(t *testing.T, dir string, env []string, argv ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	_ = cmd.Run()
	return cmd.ProcessState.ExitCode(), out.String(), diag.String()
}

// waiting waits until n are waiting for the lock on path.
func waiting(t *testing.T, path string, n int) {
	t.Helper()
	until(t, fmt.Sprintf("%d wait", n), func() bool { _, w := locksOf(t, path); return w == n })
}

// If the file is removed while one waits, flock(1) goes on with a lock on a file
// that is gone, and lets a second one in; ours locks the file that is there.
func TestReplacedFile(t *testing.T) {
	for _, c := range []struct {
		name   string
		flock  []string
		second string
	}{{"flock", reference(t), "0\n"}, {"ours", ours(t), "1\n"}} {
		for _, recreate := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, another one is there %v", c.name, recreate), func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "F")
				release := hold(t, path, linux.LOCK_EX)
				var out buffer
				cmd := start(t, dir, c.flock, nil, &out, "-w", "100", "F", "sh", "-c", strings.Join(c.flock, " ")+" -n F true; echo $?")
				waiting(t, path, 1)
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if recreate {
					if err := os.WriteFile(path, nil, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				release()
				if got := end(cmd); got != "exit 0" || out.String() != c.second {
					t.Errorf("%s, a second -n is %q, want %q", got, out.String(), c.second)
				}
			})
		}
	}
}

// Neither a time limit nor reports cost the place in the queue.
func TestPlaceInTheQueue(t *testing.T) {
	flock := ours(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "F")
	release := hold(t, path, linux.LOCK_EX)
	var cmds []*exec.Cmd
	var reports buffer
	for i, args := range [][]string{
		{"-w", "100", "--report", "0.01"},
		nil,
		{"-w", "100"},
		{"--verbose"},
		{"-w", "100.5", "--report", "0.02"},
	} {
		letter := string(rune('A' + i))
		argv := append(append(append([]string(nil), flock...), args...), "F", "sh", "-c", "echo "+letter+" >>log")
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = dir
		if i == 0 {
			cmd.Stderr = &reports
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		cmds = append(cmds, cmd)
		waiting(t, path, i+1)
	}
	until(t, "there are reports", func() bool { return strings.Count(reports.String(), "\n") >= 5 })
	release()
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	log, _ := os.ReadFile(filepath.Join(dir, "log"))
	if got := strings.Join(strings.Fields(string(log)), ""); got != "ABCDE" {
		t.Errorf("served in the order %s", got)
	}
	want := fmt.Sprintf("waiting for F: held by process %d (", os.Getpid())
	for line := range strings.Lines(reports.String()) {
		if !strings.Contains(line, want) || !strings.Contains(line, "running since 2") {
			t.Errorf("a report says %q, want %q and since when", line, want)
		}
	}
}

// Who holds the lock is said where it cannot be had, and only where that was asked
// for.
func TestVerboseNamesTheHolder(t *testing.T) {
	flock := ours(t)[0]
	dir := t.TempDir()
	hold(t, filepath.Join(dir, "F"), linux.LOCK_SH)
	who := fmt.Sprintf("held shared by process %d (", os.Getpid())
	for _, args := range [][]string{{"-n"}, {"-w", "0.01"}, {"-n", "--fcntl"}} {
		status, out, diag := runs(t, dir, nil, append(append([]string{flock, "--verbose", "-E", "9"}, args...), "F", "true")...)
		if args[len(args)-1] == "--fcntl" { // another kind of lock, which nobody holds
			if status != 0 || !strings.Contains(out, "locked F after 0.0") || diag != "" {
				t.Errorf("%v: status %d, %q, %q", args, status, out, diag)
			}
			continue
		}
		if status != 9 || out != "" || !strings.Contains(diag, who) {
			t.Errorf("%v: status %d, output %q, error %q, want %q", args, status, out, diag, who)
		}
	}
	// Whatever else was inherited.
	if _, _, diag := runs(t, dir, nil, "sh", "-c", "exec 3</dev/null 5<.; exec "+flock+" -n --verbose F true"); !strings.Contains(diag, who) {
		t.Errorf("with descriptors 3 and 5: %q", diag)
	}
	if status, out, diag := runs(t, dir, nil, flock, "-n", "F", "true"); status != 1 || out+diag != "" {
		t.Errorf("without --verbose: status %d, %q", status, out+diag)
	}
}

// With --fair a writer that waits is passed by no reader; without it by every one.
func TestFair(t *testing.T) {
	flock := ours(t)
	for _, c := range []struct {
		fair   []string
		reader int // the status of a reader that does not wait
		first  string
	}{{nil, 0, "reader\nwriter\n"}, {[]string{"--fair"}, 1, "writer\nreader\n"}, {[]string{"--fair", "--fcntl"}, 1, "writer\nreader\n"}} {
		t.Run(strings.Join(c.fair, " "), func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "F")
			args := func(more ...string) []string { return append(append([]string(nil), c.fair...), more...) }
			in, keep, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer keep.Close()
			var out buffer
			holder := start(t, dir, flock, in, &out, args("-s", "F", "sh", "-c", "echo in; read x")...)
			in.Close()
			until(t, "the first reader is in", func() bool { return out.String() == "in\n" })
			writer := start(t, dir, flock, nil, nil, args("F", "sh", "-c", "echo writer >>log")...)
			waiting(t, path, 1)
			if status, _, diag := runs(t, dir, nil, append(append(append([]string(nil), flock...), args("-n", "-s", "F")...), "true")...); status != c.reader {
				t.Errorf("a second reader: status %d, want %d (%s)", status, c.reader, diag)
			}
			reader := start(t, dir, flock, nil, nil, args("-s", "F", "sh", "-c", "echo reader >>log")...)
			if c.reader == 0 {
				if got := end(reader); got != "exit 0" {
					t.Error(got)
				}
			} else {
				waiting(t, path, 2)
			}
			keep.Close()
			for _, cmd := range []*exec.Cmd{holder, writer} {
				end(cmd)
			}
			if c.reader != 0 {
				end(reader)
			}
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			if string(log) != c.first {
				t.Errorf("log %q, want %q", log, c.first)
			}
		})
	}
	dir := t.TempDir()
	if status, _, diag := runs(t, dir, nil, flock[0], "--fair", "--start", "5", "--length", "9223372036854775803", "F", "true"); status != 64 {
		t.Errorf("a range with the turnstile: status %d, %s", status, diag)
	}
	if status, _, _ := runs(t, dir, nil, "sh", "-c", ": >F; exec 9<F; exec "+flock[0]+" --fair -n 9"); status != 0 {
		t.Errorf("a read-only descriptor that is free: status %d", status)
	}
}

// On NFS an exclusive flock takes a file that is open for writing: the kernel says
// EBADF, or EIO, and both programs open it anew.
func TestOpensAnewForNFS(t *testing.T) {
	testenv.Need(t, testenv.Tool("strace"))
	strace, _ := testenv.LookTool("strace")
	for name, flock := range map[string][]string{"flock": reference(t), "ours": ours(t)} {
		for _, c := range []struct {
			errno, args string
			status      int
			opened      bool
		}{{"EBADF", "F", 0, true}, {"EIO", "F", 0, true}, {"EBADF", "-s F", 65, false}, {"ENOLCK", "F", 71, false}, {"EINVAL", "F", 65, false}, {"EIO", ".", 65, false}} {
			dir := t.TempDir()
			trace := filepath.Join(dir, "trace")
			argv := append([]string{strace, "-f", "-qq", "-o", trace, "-e", "trace=openat,flock", "-e", "inject=flock:error=" + c.errno + ":when=1"}, flock...)
			argv = append(append(argv, strings.Fields(c.args)...), "true")
			status, _, diag := runs(t, dir, nil, argv...)
			text, err := os.ReadFile(trace)
			if err != nil {
				t.Fatal(err, diag)
			}
			again := strings.Contains(string(text), `"F", O_RDWR|`)
			if status != c.status || again != c.opened {
				t.Errorf("%s, %s: flock %s true: status %d, opened for writing %v; want %d, %v\n%s", name, c.errno, c.args, status, again, c.status, c.opened, diag)
			}
		}
	}
}

// What BusyBox's flock knows it does as ours does.
func TestLikeBusybox(t *testing.T) {
	testenv.Need(t, testenv.Dep("busybox-flock/busybox"))
	peer, own := []string{filepath.Join(testenv.DepsDir(), "busybox-flock/busybox"), "flock"}, ours(t)
	tried := 0
	for _, mode := range []string{"", "-s", "-x", "-n", "-sn", "-xn", "-un", "-u"} {
		for _, form := range []string{
			"$FLOCK " + mode + " F ./probe", "$FLOCK " + mode + " F -c ./probe", "$FLOCK " + mode + " F sh -c 'exit 7'",
			"exec 9>F; $FLOCK " + mode + " 9; echo $?; ./probe", "$FLOCK " + mode + " . ./probe",
		} {
			for _, s := range []scene{free, there, heldEx, heldSh} {
				shared := strings.Contains(mode, "s") && s == heldSh
				if (s == heldEx || s == heldSh) && !shared && !strings.Contains(mode, "n") && !strings.Contains(mode, "u") && !strings.Contains(form, " . ") {
					continue // would wait
				}
				tried++
				t.Run(string(s)+" "+strings.ReplaceAll(form, "/", "|"), func(t *testing.T) {
					t.Parallel()
					var want, got result
					for range 4 { // see TestLikeFlock
						if want, got = runCase(t, peer, s, form, "SHELL=/bin/sh"), runCase(t, own, s, form, "SHELL=/bin/sh"); want.same(got) {
							return
						}
					}
					t.Errorf("%s (%s)\n--- busybox\n%v\n--- ours\n%v", form, s, want, got)
				})
			}
		}
	}
	t.Logf("%d cases", tried)
	// What it says of its own: docs/lock.md, busybox-exit-statuses.
	for script, ownStatus := range map[string]int{"$FLOCK F nosuchcommand": 69, "$FLOCK x": 64, "$FLOCK /nonexistent/F true": 66} {
		if want, got := runCase(t, peer, free, script), runCase(t, own, free, script); want.Status == got.Status || got.Status != ownStatus {
			t.Errorf("%s: busybox %d, ours %d", script, want.Status, got.Status)
		}
	}
}
