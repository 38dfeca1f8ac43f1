package lockfile_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/slashrun/slashrun/lockfile"
)

// runtimeDirectory is a directory such as /run/food, for the examples to use.
func runtimeDirectory() (dir string, remove func()) {
	dir, err := os.MkdirTemp("", "food")
	if err != nil {
		panic(err)
	}
	return dir, func() { os.RemoveAll(dir) }
}

// One instance of a daemon at a time: the lock is taken at the start and never
// given back. The kernel does that when the process ends, however it ends.
func ExampleOpen() {
	dir, remove := runtimeDirectory()
	defer remove()

	start := func() error {
		l, err := lockfile.Open(filepath.Join(dir, "lock"), nil)
		if err != nil {
			return err
		}
		return l.TryLock()
	}
	fmt.Println("the first instance:", start())
	err := start()
	fmt.Println("the second is refused:", errors.Is(err, lockfile.ErrHeld))
	// Output:
	// the first instance: <nil>
	// the second is refused: true
}

// To wait, but not for ever. While it waits the process stands in the kernel's
// queue: who came later is served later.
func ExampleLock_Lock() {
	dir, remove := runtimeDirectory()
	defer remove()
	path := filepath.Join(dir, "lock")
	holder, _ := lockfile.Open(path, nil)
	defer holder.Close()
	holder.Lock(context.Background())

	l, err := lockfile.Open(path, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	err = l.Lock(ctx)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))

	holder.Unlock()
	if err := l.Lock(context.Background()); err == nil {
		fmt.Println("held")
		l.Unlock()
	}
	// Output:
	// true
	// held
}

// A message that names who is in the way.
func ExampleLock_Holders() {
	dir, remove := runtimeDirectory()
	defer remove()
	path := filepath.Join(dir, "lock")
	holder, _ := lockfile.Open(path, nil)
	defer holder.Close()
	holder.TryLock()

	l, _ := lockfile.Open(path, nil)
	defer l.Close()
	if err := l.TryLock(); errors.Is(err, lockfile.ErrHeld) {
		who, err := l.Holders(context.Background())
		if err != nil {
			fmt.Println(err)
			return
		}
		// fmt.Println(who) prints "held by process 812 (food)".
		fmt.Println(len(who.Processes), who.Processes[0].PID == os.Getpid())
	}
	// Output: 1 true
}

// Many readers and a writer whom they cannot keep waiting for ever.
func ExampleOptions_fair() {
	dir, remove := runtimeDirectory()
	defer remove()
	path := filepath.Join(dir, "cache.lock")
	fair := &lockfile.Options{Fair: true, Perm: 0o660} // all users of the file set it

	reader, _ := lockfile.Open(path, fair)
	defer reader.Close()
	another, _ := lockfile.Open(path, fair)
	defer another.Close()
	writer, _ := lockfile.Open(path, fair)
	defer writer.Close()

	fmt.Println(reader.TryRLock(), another.TryRLock(), errors.Is(writer.TryLock(), lockfile.ErrHeld))
	reader.Unlock()
	another.Unlock()
	fmt.Println(writer.Lock(context.Background()))
	// Output:
	// <nil> <nil> true
	// <nil>
}

// A child that goes on holding the lock after its parent is gone. (As the shell
// does it: the number of the descriptor in the child is 3.)
func ExampleLock_Dup() {
	dir, remove := runtimeDirectory()
	defer remove()
	path := filepath.Join(dir, "lock")
	l, _ := lockfile.Open(path, nil)
	l.TryLock()
	f, err := l.Dup()
	if err != nil {
		fmt.Println(err)
		return
	}
	child := exec.Command("cat") // until its input ends
	input, _ := child.StdinPipe()
	child.ExtraFiles = []*os.File{f}
	if err := child.Start(); err != nil {
		fmt.Println(err)
		return
	}
	f.Close()
	// Not l.Close(), which would release the lock for the child, too: the parent
	// ends here, or keeps l until the child has ended.

	other, _ := lockfile.Open(path, nil)
	defer other.Close()
	fmt.Println(errors.Is(other.TryLock(), lockfile.ErrHeld))
	input.Close()
	child.Wait()
	l.Close()
	fmt.Println(other.TryLock())
	// Output:
	// true
	// <nil>
}

// A serial line, locked so that minicom and pppd see it.
func ExampleTryUUCP() {
	dir, remove := runtimeDirectory() // "/run/lock" on Debian
	defer remove()

	line, err := lockfile.TryUUCP(dir, "ttyS0", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer line.Release()
	fmt.Println(filepath.Base(line.Path()))

	_, err = lockfile.TryUUCP(dir, "ttyS0", nil)
	var held *lockfile.HeldError
	fmt.Println(errors.As(err, &held), held.PID == os.Getpid())
	// Output:
	// LCK..ttyS0
	// true true
}
