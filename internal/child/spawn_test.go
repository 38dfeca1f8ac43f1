package child

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// spawned runs a command and returns its status and what it wrote to the file out.
func spawned(t *testing.T, c Command) int {
	t.Helper()
	c.Env = append(c.Env, "PATH=/usr/bin:/bin")
	pid, err := Spawn(c)
	if err != nil {
		t.Fatal(err)
	}
	status, err := Wait(pid)
	if err != nil {
		t.Fatal(err)
	}
	return status
}

func TestSpawn(t *testing.T) {
	found, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -TERM $$": 143, "kill -KILL $$": 137} {
		if got := spawned(t, Command{Args: []string{"sh", "-c", script}, Found: found}); got != want {
			t.Errorf("%s: %d, want %d", script, got, want)
		}
	}
	var failed *Error
	if _, err := Spawn(Command{Args: []string{"no-such-command"}, Found: found}); !errors.As(err, &failed) || failed.Status != StatusNotFound {
		t.Errorf("no command: %v", err)
	}
	// A signal mask that is not ours is the command's alone. (dash clears it.)
	found.mask = found.mask.With(syscall.SIGUSR1)
	out := filepath.Join(t.TempDir(), "out")
	spawned(t, Command{Args: []string{"cp", "/proc/self/status", out}, Found: found})
	if text, err := os.ReadFile(out); err != nil || !strings.Contains(string(text), "\nSigBlk:\t0000000000000200\n") {
		t.Errorf("blocked signals of the command: %q, %v", text, err)
	}
	if f, err := Find(); err != nil || f.mask.Has(syscall.SIGUSR1) {
		t.Errorf("our own mask: %#x, %v", f.mask, err)
	}
}

// A file without a format is a script for /bin/sh if it is asked for, as with
// execvp(3).
func TestSpawnScripts(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("exit $#\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := Command{Args: []string{script, "a", "b c"}, Scripts: true}
	if got := spawned(t, c); got != 2 {
		t.Errorf("status %d, want 2", got)
	}
	c.Scripts = false
	var failed *Error
	if _, err := Spawn(c); !errors.As(err, &failed) || failed.Status != StatusNotExecutable {
		t.Errorf("without Scripts: %v", err)
	}
}

// The descriptor to pass gets the lowest number that was not inherited, whatever it
// is here, and is not open a second time.
func TestSpawnPasses(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "passed"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, out := firstFree(), filepath.Join(dir, "out")
	status := spawned(t, Command{Args: []string{"sh", "-c", "ls -l /proc/$$/fd >" + out}, Pass: int(f.Fd())})
	text, err := os.ReadFile(out)
	if err != nil || status != 0 {
		t.Fatal(status, err)
	}
	want := " " + string(rune('0'+n)) + " -> " + f.Name()
	if strings.Count(string(text), f.Name()) != 1 || !strings.Contains(string(text), want) {
		t.Errorf("want %q once:\n%s", want, text)
	}
}
