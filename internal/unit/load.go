package unit

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/conffiles"
	"github.com/slashrun/slashrun/internal/inroot"
)

// What Load fails with.
var (
	ErrNotFound = errors.New("no such unit")
	ErrMasked   = errors.New("the unit is masked")
)

// Dirs are the directories of system units, the one with the highest priority
// first.
func Dirs() []string {
	return []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}
}

// Unit is a unit as its files say.
type Unit struct {
	Name Name
	// File and DropIns are the paths as written on the host, in the order in which
	// they were read.
	File        string
	DropIns     []string
	Assignments []Assignment
	Problems    []*Problem
}

// Load finds a unit below root. dirs are as [Dirs] gives them.
func Load(root *inroot.Root, name Name, dirs []string) (*Unit, error) {
	if name.At && name.Instance == "" {
		return nil, fmt.Errorf("%s is a template: name an instance, %s@INSTANCE.%s", name, name.Prefix, name.Type)
	}
	l := loader{root: root, dirs: dirs, unit: &Unit{Name: name}}
	if err := l.fragment(); err != nil {
		return nil, err
	}
	if err := l.dropIns(); err != nil {
		return nil, err
	}
	return l.unit, nil
}

type loader struct {
	root  *inroot.Root
	dirs  []string
	names []Name // the unit's, with those of aliases
	unit  *Unit
}

// maxAliases is more than anybody makes: a link to a link.
const maxAliases = 8

// fragment finds and reads the unit's own file, through aliases.
func (l *loader) fragment() error {
	asked := l.unit.Name
	for range maxAliases {
		name := l.unit.Name
		l.names = append(l.names, name)
		at, err := l.find(name)
		if errors.Is(err, ErrNotFound) && name.At {
			at, err = l.find(name.Template())
		}
		if err != nil {
			if name != asked {
				return fmt.Errorf("%s, an alias of %s: %w", asked, name, err)
			}
			return fmt.Errorf("%s: %w", name, err)
		}
		if other, ok := l.alias(name, at); ok {
			l.unit.Name = other
			continue
		}
		l.unit.File = l.root.Path(at)
		return l.read(at)
	}
	return fmt.Errorf("%s: more than %d aliases lead to one another", asked, maxAliases)
}

// find is the path that the first file of that name leads to.
func (l *loader) find(name Name) (string, error) {
	for _, dir := range l.dirs {
		link := dir + "/" + name.String()
		at, err := l.root.Resolve(link)
		if err != nil {
			return "", err
		}
		exists, regular, empty := at.Exists(), at.Is(syscall.S_IFREG), at.Stat.Size == 0
		at.Close()
		switch {
		case at.Path == "/dev/null": // which a root need not have
			return "", fmt.Errorf("%w by %s", ErrMasked, l.root.Path(link))
		case !exists:
			continue
		case regular && empty:
			return "", fmt.Errorf("%w by %s, which is empty", ErrMasked, l.root.Path(link))
		}
		return at.Path, nil
	}
	return "", fmt.Errorf("%w in %s", ErrNotFound, strings.Join(l.dirs, ", "))
}

// alias says whether the file is that of another unit: a link within the
// directories of units. One that leads elsewhere is a file kept elsewhere.
func (l *loader) alias(name Name, at string) (Name, bool) {
	base := path.Base(at)
	if base == name.String() || base == name.Template().String() || !l.inside(path.Dir(at)) {
		return name, false
	}
	other, err := ParseName(base)
	if err != nil || other.Type != name.Type || other.String() != base {
		return name, false
	}
	if other.At && other.Instance == "" {
		other.Instance = name.Instance
	}
	return other, other != name
}

func (l *loader) inside(dir string) bool {
	return slices.ContainsFunc(l.dirs, func(d string) bool {
		at, err := l.root.Resolve(d)
		if err != nil {
			return false
		}
		at.Close()
		return at.Path == dir
	})
}

func (l *loader) read(at string) error {
	f, err := l.root.OpenFile(at)
	if err != nil {
		return err
	}
	defer f.Close()
	list, problems, err := Parse(f, l.root.Path(at))
	l.unit.Assignments = append(l.unit.Assignments, list...)
	l.unit.Problems = append(l.unit.Problems, problems...)
	return err
}

// dropIns reads the drop-ins of all names.
func (l *loader) dropIns() error {
	var dirs []string
	slices.Reverse(l.names) // the unit's own name counts before its aliases
	for _, n := range l.names {
		for _, dir := range l.dirs {
			for _, d := range n.dropIns(nil) {
				dirs = append(dirs, dir+"/"+d)
			}
		}
	}
	for _, dir := range l.dirs {
		dirs = append(dirs, dir+"/"+l.unit.Name.Type+".d")
	}
	list, err := conffiles.Search(l.root, dirs, conffiles.Options{})
	if err != nil {
		return err
	}
	defer list.Close()
	for _, w := range list.Warnings {
		l.unit.Problems = append(l.unit.Problems, &Problem{File: l.unit.File, Text: w.Error()})
	}
	for _, f := range list.Files {
		if err := l.dropIn(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.unit.Problems = append(l.unit.Problems, &Problem{File: f.Path, Text: err.Error()})
		}
	}
	return nil
}

func (l *loader) dropIn(f *conffiles.File) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	list, problems, err := Parse(r, f.Path)
	l.unit.DropIns = append(l.unit.DropIns, f.Path)
	l.unit.Assignments = append(l.unit.Assignments, list...)
	l.unit.Problems = append(l.unit.Problems, problems...)
	return err
}
