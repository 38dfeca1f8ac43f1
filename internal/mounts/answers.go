package mounts

import "strings"

// Answers reports whether a file system of this type is one of the kernel itself or
// of a disk, which does not keep whoever looks at it waiting for another machine or
// for a process. FUSE, network file systems and types that are not known may. (An
// overlay answers, unless it lies on one of these.)
func Answers(fstype string) bool {
	switch fstype {
	case "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "hugetlbfs", "nsfs", "debugfs", "tracefs", "bpf", "pstore",
		"securityfs", "configfs", "efivarfs", "binfmt_misc":
		return true
	}
	return Local(fstype) && !strings.HasPrefix(fstype, "fuse")
}
