package child

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/slashrun/slashrun/internal/accounts"
	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/nstest"
)

// TestMain runs the tests, or is the program under test: argv[0] tells.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "exec":
		os.Exit(execMain(os.Args[1:]))
	}
	nstest.Main(m)
}

// execMain is "slashrun exec" without a /run.
func execMain(args []string) int {
	found, err := Find()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return StatusFailed
	}
	fs := flag.NewFlagSet("exec", flag.ExitOnError)
	var (
		asInit  = fs.Bool("init", false, "")
		group   = fs.Bool("group", false, "")
		user    = fs.String("user", "", "")
		nnp     = fs.Bool("nnp", false, "")
		bound   = fs.Bool("bounding", false, "")
		death   = fs.Int("death", 0, "")
		mask    = fs.Uint64("mask", 0, "")
		settled = fs.Bool("settled", false, "")
		wait    = fs.Bool("wait", false, "")
	)
	if err := fs.Parse(args); err != nil {
		return StatusFailed
	}
	if *mask != 0 {
		found.mask = linux.Sigset(*mask)
	}
	c := Command{Args: fs.Args(), Env: os.Environ(), Found: found, NoNewPrivs: *nnp, DropBounding: *bound}
	var in *Init
	if *asInit {
		in, err = Hold(found, Options{Group: *group, DeathSignal: syscall.Signal(*death), Report: func(err error) { fmt.Fprintln(os.Stderr, err) }})
		if err != nil {
			return fail(err)
		}
	}
	if *wait { // a preparation that lasts until the test says so
		<-in.caught
		fmt.Println("held")
		if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
			return fail(err)
		}
	}
	if *user != "" {
		root, err := inroot.Open("/")
		if err != nil {
			return fail(err)
		}
		if c.User, err = LookupUser(accounts.InRoot(root), *user); err != nil {
			return fail(err)
		}
		root.Close()
		if kept, err := c.User.KeptGroups(); err != nil || kept != nil {
			fmt.Fprintln(os.Stderr, "kept:", kept, err)
		}
		c.Env = c.User.Environ(c.Env)
	}
	if !*asInit {
		return fail(Become(c))
	}
	if *settled {
		in.settled = make(chan struct{})
		go func() {
			<-in.settled
			fmt.Fprintln(os.Stderr, "settled")
		}()
	}
	status, err := in.Run(c)
	if err != nil {
		return fail(err)
	}
	return status
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "exec:", err)
	if e, ok := err.(*Error); ok {
		return e.Status
	}
	return StatusFailed
}

// program returns a path of the test binary under which it is another program.
func program(t *testing.T, name string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(exe, path); err != nil {
		t.Fatal(err)
	}
	return path
}
