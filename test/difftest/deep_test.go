package difftest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/testenv"
)

// A DeepRequest builds a chain of directories of that depth below /t/d, with a
// file in every hundredth, and runs a line on it.
type DeepRequest struct {
	Depth int
	Args  []string
	// Check is what must hold then: "empty" (nothing is left in /t/d), "gone"
	// (no /t/d), or "mode" (the deepest directory has mode 0711).
	Check string
}

// deepTree is about recursion: CVE-2021-3997, and the reference that gives up at
// 300 levels ("Reached max depth") with nothing removed. A tree that deep has no
// path that a call takes, so it is built and looked at by descriptors; it is left
// to the end of the worker's namespace.
func deepTree(r *DeepRequest) (violations []string, err error) {
	nodes, err := parseTree(baseTree + "d /t/d 0755 0:0\n")
	if err != nil {
		return nil, err
	}
	if _, err := build("", nodes, time.Now()); err != nil {
		return nil, err
	}
	const open = syscall.O_RDONLY | syscall.O_DIRECTORY | syscall.O_NOFOLLOW | syscall.O_CLOEXEC
	fd, err := linux.Openat(atFDCWD, "/t/d", open, 0)
	if err != nil {
		return nil, err
	}
	for i := range r.Depth {
		if err := linux.Mkdirat(fd, "x", 0o755); err != nil {
			return nil, err
		}
		if i%100 == 0 {
			f, err := linux.Openat(fd, "f", syscall.O_CREAT|syscall.O_WRONLY|syscall.O_CLOEXEC, 0o644)
			if err != nil {
				return nil, err
			}
			linux.Close(f)
		}
		next, err := linux.Openat(fd, "x", open, 0)
		linux.Close(fd)
		if err != nil {
			return nil, err
		}
		fd = next
	}
	// A descriptor at the bottom keeps the removed directories above it in the
	// kernel's cache, which walks them anew at each rmdir(2): quadratic, and not
	// what is tested here.
	if r.Check == "mode" {
		defer linux.Close(fd)
	} else {
		linux.Close(fd)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/x/slashrun", append([]string{"tmpfiles"}, r.Args...)...)
	cmd.Env = []string{"PATH=/usr/bin", "HOME=/root"}
	if out, err := cmd.CombinedOutput(); err != nil || ctx.Err() != nil {
		violations = append(violations, fmt.Sprintf("%v %v: %.2000s", err, ctx.Err(), out))
	}
	switch r.Check {
	case "mode":
		var st syscall.Stat_t
		if err := linux.Fstatat(fd, "", 0x1000 /* AT_EMPTY_PATH */, &st); err != nil || st.Mode&0o7777 != 0o711 {
			violations = append(violations, fmt.Sprintf("the deepest directory has mode %04o, %v", st.Mode&0o7777, err))
		}
	case "empty":
		if e, err := os.ReadDir("/t/d"); err != nil || len(e) != 0 {
			violations = append(violations, fmt.Sprintf("%d entries left in /t/d, %v", len(e), err))
		}
	case "gone":
		if _, err := os.Lstat("/t/d"); !errors.Is(err, os.ErrNotExist) {
			violations = append(violations, fmt.Sprintf("/t/d is still there: %v", err))
		}
	}
	return violations, nil
}

func TestDeepTrees(t *testing.T) {
	testenv.Need(t, testenv.Root)
	files := map[string]string{"slashrun": slashrun(t)}
	for _, r := range []DeepRequest{
		{300, []string{"--clean", "--inline", "d /t/d - - - 0"}, "empty"},
		{100_000, []string{"--clean", "--inline", "d /t/d - - - 0"}, "empty"},
		{20_000, []string{"--remove", "--inline", "R /t/d"}, "gone"},
		{20_000, []string{"--remove", "--inline", "D /t/d"}, "empty"},
		{20_000, []string{"--create", "--inline", "Z /t/d 0711"}, "mode"},
		{300, []string{"--create", "--inline", "A /t/d - - - - u:alice:rx"}, ""},
		{5_000, []string{"--create", "--inline", "T /t/d - - - - user.k=v"}, ""},
	} {
		w := startWorker(t, setup{Start: suiteStart.UnixNano(), Files: files})
		for _, v := range w.inside(t, request{Deep: &r}).Violations {
			t.Errorf("%d levels, %q: %s", r.Depth, r.Args, v)
		}
		w.stop()
	}
}
