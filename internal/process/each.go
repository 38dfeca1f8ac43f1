package process

import (
	"context"
	"sync"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
)

var timers struct {
	sync.Mutex
	ready bool
}

// Timers makes the runtime open what its timers need, two descriptors. Where none
// are left it would end the program instead of failing; here that is an error.
// Whoever may run out of descriptors calls it before the first timer.
func Timers() error {
	timers.Lock()
	defer timers.Unlock()
	if timers.ready {
		return nil
	}
	dir, err := linux.Openat(linux.AT_FDCWD, "/", linux.O_PATH, 0)
	if err != nil {
		return err
	}
	defer linux.Close(dir)
	spare := make([]int, 0, 3)
	for len(spare) < cap(spare) && err == nil {
		var fd int
		if fd, err = linux.Dup(dir); err == nil {
			spare = append(spare, fd)
		}
	}
	for _, fd := range spare {
		linux.Close(fd)
	}
	if err != nil {
		return err
	}
	<-time.After(time.Nanosecond)
	timers.ready = true
	return nil
}

// Each calls look for one item after another in a goroutine of its own, and take
// with what it returned in the caller's. An item for which look takes longer than
// patience is left: the goroutine stays behind until it wakes, what it returns then
// counts for nothing, and another goes on with the next item. So what look uses
// stays valid, or does no harm where it is not.
//
// It is for /proc, most of which answers at once, while some of it waits for what a
// process waits for: its memory to be mapped, its execve(2) to end, a file system
// that it uses.
func Each[T, R any](ctx context.Context, items []T, patience time.Duration, look func(T) R, take func(T, R) error) (left []T, err error) {
	if err := Timers(); err != nil {
		return nil, err
	}
	const looks = 4 // so that a pause of all of us is not taken for one of an item
	tick := time.NewTicker(max(patience/looks, time.Millisecond))
	defer tick.Stop()
	for next := 0; next < len(items); {
		out, stop := make(chan R), make(chan struct{})
		go func(rest []T) {
			for _, item := range rest {
				r := look(item)
				select {
				case out <- r:
				case <-stop:
					return
				}
			}
		}(items[next:])
		for quiet := 0; quiet <= looks && next < len(items) && err == nil; {
			select {
			case r := <-out:
				err = take(items[next], r)
				next++
				quiet = 0
			case <-tick.C:
				quiet++
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		close(stop)
		if err != nil {
			return left, err
		}
		if next < len(items) {
			left = append(left, items[next])
			next++
		}
	}
	return left, nil
}
