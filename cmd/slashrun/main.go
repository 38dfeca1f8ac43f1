// The runtime would read the cgroup's files before main, to size the scheduler by
// a CPU limit, and look again from time to time: that is for programs that run
// longer than this one.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command slashrun owns /run on Linux: it mounts it, lays it out and looks
// after what lives in it. "slashrun help" lists the commands; each one lives in
// a file of its own in internal/cli.
package main

import (
	"os"

	"github.com/slashrun/slashrun/internal/cli"
)

func main() { os.Exit(cli.Main()) }
