package runfs

import (
	"strings"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
)

// Labels are the security contexts for the root directories of our mounts,
// empty where no SELinux policy is loaded. The names are those of the reference
// policy, which Fedora's and Debian's are made from; a policy that knows other
// names refuses the mount option, and then the mount is made without and that is
// told.
type Labels struct {
	Run  string `json:"run,omitempty"`
	Lock string `json:"lock,omitempty"`
}

// readLabels asks whether a policy is loaded: before that, the kernel calls
// every process "kernel", and no label means anything.
func readLabels(p *process.Proc) Labels {
	fd, err := linux.Openat(linux.AT_FDCWD, "/sys/fs/selinux", linux.O_PATH|linux.O_DIRECTORY, 0)
	if err != nil {
		return Labels{}
	}
	defer linux.Close(fd)
	if magic, err := linux.Fstatfs(fd); err != nil || magic != linux.SelinuxfsMagic {
		return Labels{}
	}
	current, err := p.ReadFile("self/attr/current")
	if err != nil {
		return Labels{}
	}
	return labelsFor(strings.TrimRight(string(current), "\x00\n"))
}

// labelsFor makes the contexts for a process whose own is current: a policy
// with levels (MLS, MCS) has a fourth part, and then ours must have one.
func labelsFor(current string) Labels {
	parts := strings.SplitN(current, ":", 4)
	if len(parts) < 3 {
		return Labels{}
	}
	level := ""
	if len(parts) == 4 {
		level = ":s0"
	}
	return Labels{Run: "system_u:object_r:var_run_t" + level, Lock: "system_u:object_r:var_lock_t" + level}
}
