package pidfile_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/pidfile"
)

// A daemon makes sure that it is the only one, and leaves no file behind.
func ExampleCreate() {
	dir, err := os.MkdirTemp("", "pidfile")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "food.pid") // /run/food/food.pid

	f, err := pidfile.Create(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()

	_, err = pidfile.Create(path)
	var held *pidfile.HeldError
	fmt.Println(errors.As(err, &held) && held.PID == os.Getpid())
	// Output: true
}

// A status command tells three answers apart.
func ExampleCheck() {
	dir, err := os.MkdirTemp("", "pidfile")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "food.pid")
	f, err := pidfile.Create(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()

	s, err := pidfile.Check(path)
	if err != nil {
		log.Fatal(err)
	}
	switch s.Verdict {
	case pidfile.Live:
		fmt.Println("it runs")
	case pidfile.Stale:
		fmt.Println("it does not run:", s.Why())
	case pidfile.Unknown:
		fmt.Println("cannot tell:", s.Why())
	}
	// Output: it runs
}

// A stop command sends SIGTERM, waits, and sends SIGKILL to the same process, or
// to nobody: the number may be another's by then, the pidfd is not.
func ExampleFind() {
	p, err := pidfile.Find("/run/food/food.pid")
	if err != nil {
		fmt.Println(errors.Is(err, os.ErrNotExist))
		return
	}
	defer p.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err = p.Signal(syscall.SIGTERM)
	if err == nil && p.Wait(ctx) != nil {
		err = p.Signal(syscall.SIGKILL)
	}
	if err != nil && !errors.Is(err, pidfile.ErrNotRunning) {
		log.Fatal(err)
	}
	// Output: true
}
