// Peer takes and releases a lock many times with github.com/gofrs/flock. It is in
// a module of its own, so that none of what it needs appears in that of slashrun.
//
//	peer keep|new N PATH
//
// It prints the nanoseconds, the allocations and the bytes of one turn. bench/lock
// runs it; bench/lock/ours is its twin.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/gofrs/flock"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: peer keep|new N PATH")
		os.Exit(2)
	}
	n, err := strconv.Atoi(os.Args[2])
	check(err)
	path := os.Args[3]
	l := flock.New(path)
	turn := func() {
		check(l.Lock())
		check(l.Unlock())
	}
	if os.Args[1] == "new" {
		turn = func() {
			l := flock.New(path)
			check(l.Lock())
			check(l.Close())
		}
	}
	turn()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	for range n {
		turn()
	}
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	fmt.Println(took.Nanoseconds()/int64(n), (after.Mallocs-before.Mallocs)/uint64(n), (after.TotalAlloc-before.TotalAlloc)/uint64(n))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}
