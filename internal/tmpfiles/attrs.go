package tmpfiles

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/quoting"
)

// mayMknod asks once whether the process has CAP_MKNOD.
func mayMknod() bool { return linux.HasCap(linux.CAP_MKNOD) }

// typedArgument parses the arguments that have a syntax of their own.
func (p *lineParser) typedArgument(it *Item) (err error) {
	switch it.Type {
	case 'c', 'b':
		it.Rdev, err = parseDevice(it.Argument)
	case 't', 'T':
		p.parseXattrs(it)
	case 'a', 'A':
		p.parseACL(it)
	case 'h', 'H':
		err = parseAttributes(it)
	case 'k', 'K':
		p.parseCaps(it)
	}
	return err
}

// parseDevice reads "major:minor"; the kernel has 12 and 20 bits for them
// (makedev(3), linux/kdev_t.h).
func parseDevice(s string) (uint64, error) {
	var major, minor uint32
	a, b, ok := strings.Cut(s, ":")
	if !ok || !parseUint(a, &major) || !parseUint(b, &minor) || major >= 1<<12 || minor >= 1<<20 {
		return 0, errors.New("not a device number: write major:minor")
	}
	return linux.Makedev(major, minor), nil
}

func parseUint(s string, v *uint32) bool {
	if s == "" || len(s) > 9 {
		return false
	}
	n := uint32(0)
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		n = n*10 + uint32(s[i]-'0')
	}
	*v = n
	return true
}

// parseXattrs reads name=value words. A wrong word is told and left out, the
// line counts all the same, as in the reference.
func (p *lineParser) parseXattrs(it *Item) {
	rest := it.Argument
	for {
		word, r, ok, err := quoting.Word(rest, quoting.Fields)
		if err != nil {
			p.notice(it.Source, fmt.Sprintf("argument %q: cannot parse extended attribute, ignoring the rest: %v", shorten(rest), err))
			return
		}
		if !ok {
			return
		}
		rest = r
		name, value, ok := strings.Cut(word, "=")
		if !ok || name == "" || value == "" {
			p.notice(it.Source, fmt.Sprintf("argument: %q is not name=value, ignoring it", shorten(word)))
			continue
		}
		it.Xattrs = append(it.Xattrs, Xattr{name, value})
	}
}

func (r *run) setPerms(it *Item, n inode, path string, _ *fsat.Stat) error {
	return r.permsOn(it, n, path, true, 0)
}

// setXattrs sets what is not set yet.
func (r *run) setXattrs(it *Item, n inode, path string, _ *fsat.Stat) error {
	for _, x := range it.Xattrs {
		old, err := n.Getxattr(x.Name)
		if err == nil && string(old) == x.Value {
			continue
		}
		if err := n.Setxattr(x.Name, []byte(x.Value)); err != nil {
			return fmt.Errorf("%s: extended attribute %s: %w", path, x.Name, err)
		}
		from := ""
		if err == nil {
			from = string(old)
		}
		r.changed(it, ActXattr, path, from, x.Name+"="+x.Value)
	}
	return nil
}

// unsupported says that a file system has no such attributes.
func unsupported(err error) bool {
	return errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOTTY) || errors.Is(err, syscall.ENOSYS)
}
