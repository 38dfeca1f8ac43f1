package fuser

import (
	"bytes"
	"io/fs"
	"strconv"
	"strings"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
)

// mapping is a line of /proc/PID/maps, proc_pid_maps(5).
type mapping struct {
	from, to []byte // hexadecimal
	major    uint32
	minor    uint32
	ino      uint64
	write    bool // it is shared, and may be written: pages reach the file
	path     []byte
}

// parseMapping reads a line of a file's mapping; ok is false for all others.
func parseMapping(line []byte) (m mapping, ok bool) {
	// 7f1c4a000000-7f1c4a021000 rw-s 00000000 00:1b 4711   /run/file (deleted)
	var f [5][]byte
	rest := line
	for i := range f {
		f[i], rest, ok = bytes.Cut(rest, []byte{' '})
		if !ok && i < len(f)-1 {
			return m, false
		}
	}
	if len(f[4]) == 0 || f[4][0] == '0' || len(f[1]) < 4 {
		return m, false // no file
	}
	var err1, err2 error
	if m.ino, err1 = strconv.ParseUint(string(f[4]), 10, 64); err1 != nil {
		return m, false
	}
	major, minor, ok := bytes.Cut(f[3], []byte{':'})
	if !ok {
		return m, false
	}
	a, err1 := strconv.ParseUint(string(major), 16, 32)
	b, err2 := strconv.ParseUint(string(minor), 16, 32)
	if m.from, m.to, ok = bytes.Cut(f[0], []byte{'-'}); !ok || err1 != nil || err2 != nil {
		return m, false
	}
	m.major, m.minor = uint32(a), uint32(b)
	m.write = f[1][1] == 'w' && f[1][3] == 's'
	m.path = bytes.TrimLeft(rest, " ")
	return m, true
}

// mappedFile is a file as /proc/PID/maps names it.
type mappedFile struct {
	major, minor uint32
	ino          uint64
	write        bool
}

// mappings looks for files that are mapped, open or not. Several mappings of one
// file are one use.
func (t *task) mappings() {
	if !t.enter(spot{t.n, t.thread, atProcess, 1}) {
		t.hangs++
		return
	}
	text, err := t.dir.Append(t.text[:0], "maps")
	t.text = text[:0]
	switch {
	case t.stopped():
		return
	case err != nil:
		t.fail(err)
		return
	case len(text) == 0:
		t.ended = true // whoever lives has some; this is the last that is looked at
	}
	var seen map[mappedFile]bool
	for line := range bytes.Lines(text) {
		m, ok := parseMapping(bytes.TrimSuffix(line, []byte{'\n'}))
		if !ok || !t.maybe(&m) {
			continue
		}
		key := mappedFile{m.major, m.minor, m.ino, m.write}
		if seen[key] {
			continue
		}
		if seen == nil {
			seen = map[mappedFile]bool{}
		}
		seen[key] = true
		if !t.mapping(&m) {
			return
		}
	}
}

// maybe reports whether a mapping may be of a file that is asked about.
func (t *task) maybe(m *mapping) bool {
	super := linux.Makedev(m.major, m.minor)
	for i := range t.devices {
		if d := &t.devices[i]; !d.plain || d.Super == super {
			return true
		}
	}
	return false
}

// mapping notes a mapping of a file that is asked about.
func (t *task) mapping(m *mapping) bool {
	super, hidden := linux.Makedev(m.major, m.minor), false
	for i := range t.devices {
		switch d := &t.devices[i]; {
		case !d.plain:
			hidden = true
		case d.Super == super && t.wants(d.Stat, m.ino):
			t.mapped(m, d.Stat)
			return !t.stopped()
		}
	}
	if !hidden {
		return true
	}
	// Here the numbers are those of a layer, or of the whole of a file system of many
	// parts. The link to the mapping leads to the file.
	n, err := t.mappedNode(m)
	switch {
	case t.stopped():
		return false
	case err == nil:
		if t.wants(n.Dev, n.Ino) {
			t.noteMapping(m, n)
		}
	case ours(err):
		t.err = err
		return false
	case refused(err):
		t.byNumber(m, super)
	}
	return true
}

// mapped notes a mapping of the inode of that device.
func (t *task) mapped(m *mapping, dev uint64) {
	n, err := t.mappedNode(m)
	if t.stopped() {
		return
	}
	if err != nil || n.Dev != dev || n.Ino != m.ino {
		// It takes privileges to follow the link. What maps says is enough.
		t.noteMapping(m, process.Inode{Dev: dev, Ino: m.ino})
		return
	}
	t.noteMapping(m, n)
}

// mappedNode asks for the file behind a mapping. It takes CAP_SYS_ADMIN or
// CAP_CHECKPOINT_RESTORE in the initial user namespace.
func (t *task) mappedNode(m *mapping) (process.Inode, error) {
	from, to := bytes.TrimLeft(m.from, "0"), bytes.TrimLeft(m.to, "0")
	which, _ := strconv.ParseUint(string(from), 16, 64)
	link := "map_files/" + string(from) + "-" + string(to)
	if !t.lookAt(t.dir, link, atMap, which) {
		return process.Inode{}, fs.ErrNotExist
	}
	return t.dir.Inode(link)
}

// byNumber is for whoever may not follow the link: the number alone tells of a
// file on btrfs, and of one on an overlay since Linux 6.7; before, that it may be
// one. Where a file system gives stat(2) several devices, it may be on each.
func (t *task) byNumber(m *mapping, super uint64) {
	for i := range t.devices {
		d := &t.devices[i]
		switch {
		case d.plain || !t.wants(d.Stat, m.ino):
		case d.Super == super:
			t.noteMapping(m, process.Inode{Dev: d.Stat, Ino: m.ino})
		default:
			t.found.mappings = true
		}
	}
}

func (t *task) noteMapping(m *mapping, n process.Inode) {
	u := Use{How: Mapped, FD: -1, Access: "r", Path: strings.ReplaceAll(string(m.path), `\012`, "\n")}
	if m.write {
		u.Access = "rw"
	}
	t.note(t.dir, "", n, u)
	if last := &t.entries[len(t.entries)-1].node; n.Mode == 0 { // the link was not followed
		last.Known, last.Deleted = false, strings.HasSuffix(u.Path, " (deleted)")
	}
}
