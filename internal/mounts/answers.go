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

// AnswersIn is Answers for a mount of a table: an overlay answers if all of its layers
// lie on what does, as far as their paths lead to mounts of the table. What "/" lies on
// has to answer.
func AnswersIn(table []Mount, m *Mount) bool { return answersIn(table, m, 0) }

// maxStacked is more overlays on each other than the kernel allows,
// FILESYSTEM_MAX_STACK_DEPTH of linux/fs.h.
const maxStacked = 4

func answersIn(table []Mount, m *Mount, depth int) bool {
	switch {
	case m.Point == "/":
		return true
	case !Answers(m.FSType) || depth > maxStacked:
		return false
	case m.FSType != "overlay":
		return true
	}
	for _, dir := range layers(m) {
		var on *Mount
		for i := range table {
			t := &table[i]
			inside := t.Point == "/" || dir == t.Point || strings.HasPrefix(dir, t.Point+"/")
			if inside && (on == nil || len(t.Point) >= len(on.Point)) {
				on = t
			}
		}
		if on != nil && on != m && !answersIn(table, on, depth+1) {
			return false
		}
	}
	return true
}

// layers are the absolute paths of an overlay's layers. Colons stand between lower ones,
// a backslash before what is part of a path, and the kernel writes commas and backslashes of
// a value as octal digits.
func layers(m *Mount) []string {
	var list []string
	for o := range strings.SplitSeq(m.SuperOptions, ",") {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "lowerdir", "lowerdir+", "datadir+", "upperdir":
		default:
			continue
		}
		value = Unescape(value)
		var dir []byte
		for i := 0; i <= len(value); i++ {
			if i == len(value) || value[i] == ':' && key == "lowerdir" {
				if len(dir) > 0 && dir[0] == '/' {
					list = append(list, string(dir))
				}
				dir = dir[:0]
				continue
			}
			if value[i] == '\\' && i+1 < len(value) {
				i++
			}
			dir = append(dir, value[i])
		}
	}
	return list
}
