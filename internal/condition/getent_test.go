package condition

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/accounts"
)

// A name service that hangs leaves no process behind when the wait ends: no orphan,
// and no child that the command of an entry point knows nothing of.
func TestNoQuestionIsLeftBehind(t *testing.T) {
	dir := t.TempDir()
	exe, asked := filepath.Join(dir, "getent"), filepath.Join(dir, "asked")
	must(t, os.WriteFile(exe, []byte("#!/bin/sh\necho $$ >"+asked+".new\nmv "+asked+".new "+asked+"\nexec sleep 1000\n"), 0o755))
	var list []Condition
	for _, text := range []string{"user:nobody-has-this-name", "path:" + asked} {
		c, err := Parse(text)
		must(t, err)
		list = append(list, c)
	}
	o := Options{Timeout: Forever, Any: true, UserDir: dir, Getent: accounts.Getent{Paths: []string{exe}, Timeout: time.Hour}}
	rep, err := Wait(t.Context(), list, o)
	if err != nil || !rep.Met {
		t.Fatalf("%+v, %v", rep, err)
	}
	text, err := os.ReadFile(asked)
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	must(t, err)
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("getent is left as process %d: %v", pid, err)
	}
}
