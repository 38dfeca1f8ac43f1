package conffiles

import (
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/linux"
)

// Named returns the file that an argument of the command line means:
//
//   - standard input
//     a/b, ./b    that path, on the host even where root is another directory:
//     whoever typed it sees the host
//     b           the file of that name in the first of dirs that has it, whatever
//     its suffix
//
// The file has been opened, so a missing one is found now: the error is then
// fs.ErrNotExist with the path, or with the directories that were searched. Open
// can be called once, and the caller must call it, or there is a descriptor left.
func Named(root *inroot.Root, dirs []string, arg string, stdin io.Reader) (*File, error) {
	switch {
	case arg == "-":
		return opened(&File{Path: "<stdin>", Name: "<stdin>"}, io.NopCloser(stdin)), nil
	case strings.Contains(arg, "/"):
		return namedPath(arg)
	}
	for _, dir := range dirs {
		at, err := root.Resolve(dir + "/" + arg)
		if err != nil {
			return nil, err
		}
		exists := at.Exists() || at.Path == "/dev/null"
		at.Close()
		if !exists {
			continue
		}
		path := root.Path(dir + "/" + arg)
		r, err := openOrEmpty(root, dir+"/"+arg)
		if err != nil {
			return nil, fmt.Errorf("configuration file %s: %w", arg, err)
		}
		f := &File{Path: path, Name: arg, Dir: dir}
		if target := root.Path(at.Path); target != path {
			f.Target = target
		}
		return opened(f, r), nil
	}
	return nil, &fs.PathError{Op: "open", Path: arg, Err: fmt.Errorf("%w in %s", fs.ErrNotExist, strings.Join(prefixed(root, dirs), ", "))}
}

func prefixed(root *inroot.Root, dirs []string) (out []string) {
	for _, dir := range dirs {
		out = append(out, root.Path(dir))
	}
	return out
}

// opened makes f the file whose content is r.
func opened(f *File, r io.ReadCloser) *File {
	f.open = func() (io.ReadCloser, error) {
		if r == nil {
			return nil, fmt.Errorf("%s: has been read already", f.Path)
		}
		once := r
		r = nil
		return once, nil
	}
	return f
}

// namedPath opens a path as it is: a FIFO or /dev/fd/63 is what was asked for.
func namedPath(arg string) (*File, error) {
	path := arg
	if !strings.HasPrefix(arg, "/") {
		cwd, err := linux.Getcwd()
		if err != nil {
			return nil, fmt.Errorf("configuration file %s: %w", arg, err)
		}
		path = strings.TrimSuffix(cwd, "/") + "/" + arg
	}
	f, err := inroot.OpenHost(path)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err == nil && st.IsDir() {
		f.Close()
		return nil, &fs.PathError{Op: "read", Path: path, Err: syscall.EISDIR}
	}
	return opened(&File{Path: path, Name: path[strings.LastIndexByte(path, '/')+1:]}, f), nil
}

// openOrEmpty opens path, links included, for reading. A link to /dev/null is an
// empty file, whether the root has the device or not.
func openOrEmpty(root *inroot.Root, path string) (io.ReadCloser, error) {
	at, err := root.Resolve(path)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	if at.Is(syscall.S_IFCHR) || !at.Exists() && at.Path == "/dev/null" {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return root.OpenFile(path)
}
