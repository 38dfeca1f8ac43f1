package conffiles

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/linux"
)

// suffix is what the name of a drop-in ends in.
const suffix = ".conf"

// File is one file of configuration.
type File struct {
	// Path is what messages call it, as it is written on the host. It is "<stdin>"
	// for standard input.
	Path string
	// Name is the part behind the last slash.
	Name string
	// Dir is the directory of the search list that it was found in, as the list
	// has it. It is empty for standard input and for a path.
	Dir string
	// Target is where a link leads, as written on the host; empty for no link.
	Target string
	// Overrides are the files of the same name in directories of lower priority.
	Overrides []string
	// Replacement says that the file need not exist: the arguments of the command
	// line are read in its place (--replace=).
	Replacement bool
	// Empty says that the file had no bytes when it was looked at. An empty file
	// is how a person masks what it overrides.
	Empty bool

	open func() (io.ReadCloser, error)
}

// Open opens the file for reading. The error names the path; fs.ErrNotExist is
// in it if the file has gone since it was found. A Replacement cannot be opened.
func (f *File) Open() (io.ReadCloser, error) {
	if f.open == nil {
		return nil, fmt.Errorf("%s: stands for the arguments, there is nothing to read", f.Path)
	}
	return f.open()
}

// Mask is a link to /dev/null: files of its name are not read.
type Mask struct {
	Path   string
	Name   string
	Dir    string
	Masked []string // the files that it hides
}

// List is the result of a search.
type List struct {
	// Files are to be read in this order: bytewise by name.
	Files []*File
	// Masks are in the same order.
	Masks []*Mask
	// Replacement is the one of Files that stands for the arguments. It is nil if
	// none was asked for, or if a file of higher priority hides it.
	Replacement *File
	// Warnings are about what was passed over, in the order of the search.
	Warnings []error

	dirs []*heldDir
}

// Close gives the directories back. Files cannot be opened any more then.
func (l *List) Close() error {
	var errs []error
	for _, d := range l.dirs {
		errs = append(errs, linux.Close(d.fd))
		d.fd = -1
	}
	l.dirs = nil
	return errors.Join(errs...)
}

// heldDir is the descriptor of a directory, -1 once it is closed: a File must not
// read from what got the number since.
type heldDir struct{ fd int }

// Options of a Search.
type Options struct {
	// Replace is the absolute path, inside the root, of a file that the arguments
	// stand for, or empty. It is placed as if it existed. A mask of higher priority
	// does not hide it, as in systemd-tmpfiles; another file does.
	Replace string
}

// Search finds the drop-ins of dirs, which are absolute paths inside root with
// the highest priority first. The root must stay open for as long as the List is.
func Search(root *inroot.Root, dirs []string, opts Options) (*List, error) {
	s := search{root: root, list: &List{}, files: make(map[string]*File), masks: make(map[string]*Mask)}
	if opts.Replace != "" {
		if err := s.prepare(opts.Replace); err != nil {
			return nil, err
		}
	}
	seen := make(map[[2]uint64]bool)
	for _, dir := range dirs {
		if err := s.dir(dir, seen); err != nil {
			s.list.Warnings = append(s.list.Warnings, err)
		}
	}
	s.place(s.replace)
	for _, f := range s.files {
		s.list.Files = append(s.list.Files, f)
	}
	for _, m := range s.masks {
		s.list.Masks = append(s.list.Masks, m)
	}
	slices.SortFunc(s.list.Files, func(a, b *File) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(s.list.Masks, func(a, b *Mask) int { return strings.Compare(a.Name, b.Name) })
	return s.list, nil
}

type search struct {
	root  *inroot.Root
	list  *List
	files map[string]*File
	masks map[string]*Mask

	replace    *File  // not placed yet
	replaceDir string // without links
}

// prepare makes the File of --replace=.
func (s *search) prepare(path string) error {
	i := strings.LastIndexByte(path, '/')
	name := path[i+1:]
	if i < 0 || name == "" || name == "." || name == ".." {
		return fmt.Errorf("replaced file %q: not an absolute path of a file", path)
	}
	at, err := s.root.Resolve(path[:i])
	if err != nil {
		return fmt.Errorf("replaced file %s: %w", path, err)
	}
	at.Close()
	s.replaceDir = at.Path
	s.replace = &File{Path: s.root.Path(at.Path + "/" + name), Name: name, Dir: path[:max(i, 1)], Replacement: true}
	return nil
}

// place puts the replacement where it belongs, unless a file of its name has a
// higher priority.
func (s *search) place(f *File) {
	if f == nil {
		return
	}
	s.replace = nil
	if other := s.files[f.Name]; other != nil {
		other.Overrides = append(other.Overrides, f.Path)
		return
	}
	s.files[f.Name] = f
	s.list.Replacement = f
}

// dir adds what is in one directory.
func (s *search) dir(dir string, seen map[[2]uint64]bool) error {
	at, err := s.root.Resolve(dir)
	if err != nil {
		return fmt.Errorf("configuration directory passed over: %w", err)
	}
	if at.Exists() && !at.Is(syscall.S_IFDIR) {
		at.Close()
		return fmt.Errorf("configuration directory passed over: %w", &fs.PathError{Op: "open", Path: s.root.Path(dir), Err: syscall.ENOTDIR})
	}
	if s.replace != nil && at.Path == s.replaceDir && at.Exists() {
		s.place(s.replace)
	}
	if !at.Exists() {
		return nil
	}
	// The same directory by another name (/lib for /usr/lib) adds nothing.
	id := [2]uint64{uint64(at.Stat.Dev), at.Stat.Ino}
	if seen[id] {
		at.Close()
		return nil
	}
	seen[id] = true
	held := &heldDir{at.Fd}
	s.list.dirs = append(s.list.dirs, held)
	names, err := readNames(at.Fd)
	for _, name := range names {
		if strings.HasSuffix(name, suffix) && !strings.HasPrefix(name, ".") {
			s.entry(dir, at.Path, held, name)
		}
	}
	if err != nil {
		return fmt.Errorf("configuration directory read in part: %w", &fs.PathError{Op: "readdir", Path: s.root.Path(dir), Err: inroot.Errno(err)})
	}
	return nil
}

// readNames returns the names in a directory of which only an O_PATH descriptor
// is held.
func readNames(dirfd int) ([]string, error) {
	fd, err := linux.Openat(dirfd, ".", linux.O_RDONLY|linux.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "directory")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names) // so that warnings come in the same order every time
	return names, err
}

// entry judges one name of a directory.
func (s *search) entry(dir, resolved string, held *heldDir, name string) {
	shown := s.root.Path(resolved + "/" + name)
	var st syscall.Stat_t
	if err := linux.Fstatat(held.fd, name, linux.AT_SYMLINK_NOFOLLOW, &st); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.warn(&fs.PathError{Op: "stat", Path: shown, Err: inroot.Errno(err)})
		}
		return
	}
	kind := st.Mode & syscall.S_IFMT
	if kind != syscall.S_IFREG && kind != syscall.S_IFLNK && kind != syscall.S_IFCHR {
		return
	}
	if s.hidden(name, shown) {
		return
	}
	f := &File{Path: shown, Name: name, Dir: dir, Empty: st.Size == 0}
	f.open = func() (io.ReadCloser, error) { return inroot.OpenRegular(held.fd, name, shown) }
	if kind == syscall.S_IFLNK {
		link := resolved + "/" + name
		target, err := s.root.Resolve(link)
		if err != nil {
			s.warn(err)
			return
		}
		defer target.Close()
		kind = target.Stat.Mode & syscall.S_IFMT
		switch {
		case !target.Exists() && target.Path == "/dev/null":
			kind = syscall.S_IFCHR // the root has no device nodes
		case !target.Exists():
			s.warn(fmt.Errorf("%s: link leads nowhere (%s): %w", shown, s.root.Path(target.Path), fs.ErrNotExist))
			return
		}
		f.Target, f.Empty = s.root.Path(target.Path), target.Stat.Size == 0
		f.open = func() (io.ReadCloser, error) { return s.root.OpenFile(link) }
	}
	switch kind {
	case syscall.S_IFREG:
		s.files[name] = f
	case syscall.S_IFCHR:
		s.masks[name] = &Mask{Path: shown, Name: name, Dir: dir}
	}
}

func (s *search) warn(err error) {
	s.list.Warnings = append(s.list.Warnings, fmt.Errorf("configuration file passed over: %w", err))
}

// hidden reports whether a file or mask of higher priority has the name, and
// tells it so.
func (s *search) hidden(name, shown string) bool {
	if f := s.files[name]; f != nil {
		f.Overrides = append(f.Overrides, shown)
		return true
	}
	if m := s.masks[name]; m != nil {
		m.Masked = append(m.Masked, shown)
		return true
	}
	return false
}
