// Ours takes and releases a lock many times with package lockfile.
//
//	ours keep|new N PATH
//
// It prints the nanoseconds, the allocations and the bytes of one turn. bench/lock
// runs it; bench/lock/peer is its twin.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/slashrun/slashrun/lockfile"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: ours keep|new N PATH")
		os.Exit(2)
	}
	n, err := strconv.Atoi(os.Args[2])
	check(err)
	path := os.Args[3]
	ctx := context.Background()
	l, err := lockfile.Open(path, nil)
	check(err)
	turn := func() {
		check(l.Lock(ctx))
		check(l.Unlock())
	}
	if os.Args[1] == "new" {
		turn = func() {
			l, err := lockfile.Open(path, nil)
			check(err)
			check(l.Lock(ctx))
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
		fmt.Fprintln(os.Stderr, "ours:", err)
		os.Exit(1)
	}
}
