package vmtest

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// archive writes a cpio archive in the "newc" format, as the kernel unpacks it
// into the root of an initramfs (Documentation/driver-api/early-userspace/
// buffer-format.rst). Everything belongs to root, so no privilege is needed to
// make one.
type archive struct {
	w    io.Writer
	err  error
	n    int64 // bytes written
	ino  uint32
	seen map[string]bool
}

func newArchive(w io.Writer) *archive { return &archive{w: w, seen: map[string]bool{}} }

// entry writes a header and the data. Mode has the type bits of stat(2).
func (a *archive) entry(name string, mode uint32, major, minor uint32, data []byte) {
	a.ino++
	nlink := 1
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		nlink = 2
	}
	a.printf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.ino, mode, 0, 0, nlink, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	a.pad()
	a.write(data)
	a.pad()
}

func (a *archive) printf(format string, args ...any) { a.write(fmt.Appendf(nil, format, args...)) }

func (a *archive) write(p []byte) {
	if a.err == nil {
		var n int
		n, a.err = a.w.Write(p)
		a.n += int64(n)
	}
}

// pad fills up to a multiple of four bytes.
func (a *archive) pad() { a.write(make([]byte, (4-a.n%4)%4)) }

// parents makes the directories above name that the archive does not have yet.
// The kernel does not make them by itself.
func (a *archive) parents(name string) {
	for i, c := range name {
		if c == '/' && !a.seen[name[:i]] {
			a.dir(name[:i], 0o755)
		}
	}
}

// local makes a name in the archive of an absolute path in the machine.
func local(path string) string { return strings.Trim(filepath.Clean("/"+path), "/") }

// dir, file, link and device add one thing. A path that was added before stays as
// it was, except that a file replaces a file.
func (a *archive) dir(path string, perm uint32) {
	name := local(path)
	if name == "" || a.seen[name] {
		return
	}
	a.parents(name)
	a.seen[name] = true
	a.entry(name, syscall.S_IFDIR|perm, 0, 0, nil)
}

func (a *archive) file(path string, perm uint32, data []byte) {
	name := local(path)
	a.parents(name)
	a.seen[name] = true
	a.entry(name, syscall.S_IFREG|perm, 0, 0, data)
}

func (a *archive) link(path, target string) {
	name := local(path)
	a.parents(name)
	a.seen[name] = true
	a.entry(name, syscall.S_IFLNK|0o777, 0, 0, []byte(target))
}

func (a *archive) device(path string, mode, major, minor uint32) {
	name := local(path)
	a.parents(name)
	a.seen[name] = true
	a.entry(name, mode, major, minor, nil)
}

// tree adds the file or directory src of this machine as dst, with permissions,
// symbolic links, devices and FIFOs, all owned by root. Sockets are left out.
func (a *archive) tree(dst, src string) error {
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if path == src {
			info, err = os.Stat(path) // a link given by name stands for what it points to
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		to := filepath.Join(dst, rel)
		st := info.Sys().(*syscall.Stat_t)
		switch info.Mode().Type() {
		case 0:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			a.file(to, st.Mode&0o7777, data)
		case fs.ModeDir:
			a.dir(to, st.Mode&0o7777)
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			a.link(to, target)
		case fs.ModeNamedPipe, fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
			a.device(to, st.Mode, uint32(st.Rdev>>8&0xfff), uint32(st.Rdev&0xff|st.Rdev>>12&0xfff00))
		}
		return a.err
	})
}

// close ends the archive.
func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	return a.err
}

// sortedKeys makes archives reproducible.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
