// The runtime would start a goroutine, and with it a thread, to look again from
// time to time at the cgroup's CPU limit: that is for programs that run longer.
//
//go:debug updatemaxprocs=0

// At the start it would read the mount table and the cgroup's files for that
// limit, which most runs are too short to notice.
//
//go:debug containermaxprocs=0

// Command slashrun owns /run on Linux: it mounts it, lays it out and looks
// after what lives in it. "slashrun help" lists the commands; each one lives in
// a file of its own in internal/cli.
package main

import (
	"os"

	"github.com/slashrun/slashrun/internal/cli"
)

func main() { os.Exit(cli.Main()) }
