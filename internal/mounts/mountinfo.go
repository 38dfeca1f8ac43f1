package mounts

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Mount is one line of /proc/PID/mountinfo, proc_pid_mountinfo(5).
type Mount struct {
	ID, Parent   int    // mount ids of this boot, reused after an unmount
	Major, Minor uint32 // superblock device: the identity of the file system
	Root         string // the directory of the file system that is mounted
	Point        string // where, relative to the reader's root
	Options      string // per-mount: "rw,nosuid,nodev"
	Optional     string // propagation: "shared:3 master:2", empty when private
	FSType       string
	Source       string
	SuperOptions string // of the file system: "rw,size=512k,mode=755"
}

// Option returns the value of one of the file system's options, and whether it
// is there; a flag has an empty value.
func (m *Mount) Option(name string) (value string, ok bool) {
	for _, o := range strings.Split(m.SuperOptions, ",") {
		k, v, _ := strings.Cut(o, "=")
		if k == name {
			return v, true
		}
	}
	return "", false
}

// Shared reports whether what is mounted below m also shows up elsewhere.
func (m *Mount) Shared() bool { return strings.Contains(m.Optional, "shared:") }

// ParseText parses a mountinfo table. An error names the line by its number.
func ParseText(text []byte) ([]Mount, error) {
	all := string(text) // of which the fields of all lines are parts
	list := make([]Mount, 0, strings.Count(all, "\n"))
	n := 0
	for line := range strings.Lines(all) {
		n++
		m, err := parseLine(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("mountinfo line %d: %w", n, err)
		}
		list = append(list, m)
	}
	return list, nil
}

// Parse is [ParseText] of all that r gives.
func Parse(r io.Reader) ([]Mount, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("mountinfo: %w", err)
	}
	return ParseText(text)
}

func parseLine(line string) (Mount, error) {
	// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
	// The source may be empty (two spaces), so fields are split at single spaces.
	var array [16]string // of most lines; a slice that grows for the others
	f := array[:0]
	for rest, more := line, true; more; {
		var field string
		field, rest, more = strings.Cut(rest, " ")
		f = append(f, field)
	}
	if len(f) < 10 {
		return Mount{}, fmt.Errorf("%d fields, want at least 10", len(f))
	}
	var m Mount
	var err error
	if m.ID, err = strconv.Atoi(f[0]); err != nil {
		return Mount{}, fmt.Errorf("mount id %q is not a number", f[0])
	}
	if m.Parent, err = strconv.Atoi(f[1]); err != nil {
		return Mount{}, fmt.Errorf("parent id %q is not a number", f[1])
	}
	major, minor, ok := strings.Cut(f[2], ":")
	ma, err1 := strconv.ParseUint(major, 10, 32)
	mi, err2 := strconv.ParseUint(minor, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return Mount{}, fmt.Errorf("device %q is not major:minor", f[2])
	}
	m.Major, m.Minor = uint32(ma), uint32(mi)
	m.Root, m.Point, m.Options = Unescape(f[3]), Unescape(f[4]), f[5]
	dash := -1
	for i := 6; i < len(f); i++ {
		if f[i] == "-" {
			dash = i
			break
		}
	}
	if dash < 0 || len(f) < dash+4 {
		return Mount{}, fmt.Errorf("no \" - TYPE SOURCE OPTIONS\" at the end")
	}
	m.Optional = strings.Join(f[6:dash], " ")
	m.FSType, m.Source = Unescape(f[dash+1]), Unescape(f[dash+2])
	m.SuperOptions = strings.Join(f[dash+3:], " ")
	return m, nil
}

// Unescape undoes the kernel's mangling of space, tab, newline, backslash and
// '#' as three octal digits (mangle_path in fs/seq_file.c).
func Unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b = append(b, byte(v))
				i += 3
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

// Below lists the mounts of the table that are attached to the mount with this
// id at or below dir, nearest first mounts only: what hangs on one of them comes
// with it in a recursive clone. Of mounts stacked on one another the lowest
// comes first in the table, and only it is a direct child.
func Below(table []Mount, id int, dir string) []Mount {
	prefix := strings.TrimSuffix(dir, "/") + "/"
	var list []Mount
	for _, m := range table {
		if m.Parent == id && m.ID != id && strings.HasPrefix(m.Point, prefix) {
			list = append(list, m)
		}
	}
	return list
}

// ByID returns the mount with this id, nil if the table has none.
func ByID(table []Mount, id int) *Mount {
	for i := range table {
		if table[i].ID == id {
			return &table[i]
		}
	}
	return nil
}
