package pkgdb

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/inroot"
)

// Owner is a package that a path belongs to.
type Owner struct {
	Manager string `json:"manager"` // "dpkg" or "apk"
	Package string `json:"package"`
	Version string `json:"version,omitempty"`
	Arch    string `json:"arch,omitempty"`
	// Removed says that the package was removed and its configuration stayed.
	Removed bool `json:"removed,omitempty"`
	// As is the path as the package has it, where that is not the one that was
	// asked for: in /lib for /usr/lib, or where it was diverted from.
	As string `json:"as,omitempty"`
	// DivertedBy is the package that moved the file here, "local" for a person.
	DivertedBy string `json:"diverted_by,omitempty"`
}

// String is the package with its version: "nginx 1.22.1-9".
func (o Owner) String() string {
	if o.Version == "" {
		return o.Package
	}
	return o.Package + " " + o.Version
}

// Answer is what the databases say.
type Answer struct {
	// Owners has an entry for every path that belongs to a package, by the path as
	// it was asked for, in the order of the packages' names. A directory may belong
	// to hundreds.
	Owners map[string][]Owner
	// Databases are the managers that have a database here.
	Databases []string
	// Incomplete says what could not be read; at most a few.
	Incomplete []string
}

// DB is the databases below a root. It is safe for concurrent use.
type DB struct{ root *inroot.Root }

// Open makes a DB of a root, which stays the caller's and open while the DB is
// used.
func Open(root *inroot.Root) *DB { return &DB{root} }

// links are paths that are links on many systems, so that what is below them has
// two spellings: the merged /usr, /var/run of the File Hierarchy Standard 3.0.
var links = [...]string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr/sbin", "/usr/lib64", "/var/run", "/var/lock"}

// Look finds the owners of the paths, which are absolute and as clean as path.Clean
// leaves them; what is not absolute has no owner. The databases are read once.
func (db *DB) Look(ctx context.Context, paths []string) (*Answer, error) {
	l := &pass{db: db, ctx: ctx, wanted: make(map[string][]want, len(paths)), answer: &Answer{Owners: map[string][]Owner{}}}
	aliases := db.aliases()
	for _, p := range paths {
		if !strings.HasPrefix(p, "/") || len(p) > maxLine {
			continue
		}
		for _, spelling := range spellings(p, aliases) {
			l.want(spelling, want{path: p})
		}
	}
	if len(l.wanted) == 0 {
		return l.answer, ctx.Err()
	}
	return l.run()
}

// Below finds the owners of everything at and below dir, an absolute and clean path,
// whether it is there or not.
func (db *DB) Below(ctx context.Context, dir string) (*Answer, error) {
	l := &pass{db: db, ctx: ctx, wanted: map[string][]want{}, answer: &Answer{Owners: map[string][]Owner{}}, dir: dir}
	if strings.HasPrefix(dir, "/") && len(dir) <= maxLine {
		l.below = spellings(dir, db.aliases())
	}
	return l.run()
}

func (l *pass) run() (*Answer, error) {
	if err := errors.Join(l.dpkg(), l.apk()); err != nil {
		return nil, err
	}
	for _, owners := range l.answer.Owners {
		slices.SortStableFunc(owners, func(a, b Owner) int { return strings.Compare(a.Package, b.Package) })
	}
	return l.answer, l.ctx.Err()
}

// want is why a spelling is looked for.
type want struct {
	path string // as it was asked for
	// by and not restrict the packages whose entry counts, because of a diversion;
	// a package is named in them without its architecture.
	by, not string
	// diverted is who moved the file to path.
	diverted string
}

// pass is one reading of the databases.
type pass struct {
	db     *DB
	ctx    context.Context
	wanted map[string][]want // by the spelling in a database
	// dir is a directory of which everything is wanted that wanted does not know, and
	// below its spellings.
	dir    string
	below  []string
	answer *Answer
	found  []*found
}

// found is an owner whose version is not known yet.
type found struct {
	path  string
	owner Owner
}

func (l *pass) want(spelling string, w want) {
	if !slices.Contains(l.wanted[spelling], w) {
		l.wanted[spelling] = append(l.wanted[spelling], w)
	}
}

// inside is the path below l.dir that a spelling stands for.
func (l *pass) inside(spelling []byte) (string, bool) {
	for _, dir := range l.below {
		rest, ok := bytes.CutPrefix(spelling, []byte(strings.TrimSuffix(dir, "/")))
		if ok && (len(rest) == 0 || rest[0] == '/') {
			return cmp.Or(strings.TrimSuffix(l.dir, "/")+strings.TrimSuffix(string(rest), "/"), "/"), true
		}
	}
	return "", false
}

// match takes note of an entry of a database. spelling may lie in a buffer.
func (l *pass) match(spelling []byte, o Owner) {
	list, known := l.wanted[string(spelling)]
	if p, ok := l.inside(spelling); ok && !known {
		list = []want{{path: p}}
	}
	for _, w := range list {
		if w.by != "" && w.by != o.Package || w.not != "" && w.not == o.Package {
			continue
		}
		if o.As = ""; w.path != string(spelling) {
			o.As = string(spelling)
		}
		o.DivertedBy = w.diverted
		l.found = append(l.found, &found{w.path, o})
	}
}

// settle moves what was found into the answer.
func (l *pass) settle() {
	for _, f := range l.found {
		if have := l.answer.Owners[f.path]; !slices.Contains(have, f.owner) {
			l.answer.Owners[f.path] = append(have, f.owner)
		}
	}
	l.found = nil
}

// maxReasons bounds Incomplete.
const maxReasons = 8

func (l *pass) incomplete(err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) && len(l.answer.Incomplete) < maxReasons {
		l.answer.Incomplete = append(l.answer.Incomplete, fmt.Sprintf("the package database: %v", err))
	}
}

// alias is a link in the root and where it leads.
type alias struct{ link, target string }

// aliases are the links of this root.
func (db *DB) aliases() []alias {
	var list []alias
	for _, link := range links {
		at, err := db.root.Resolve(link)
		if err != nil {
			continue
		}
		isDir := at.Is(syscall.S_IFDIR)
		at.Close()
		if isDir && at.Path != link {
			list = append(list, alias{link, at.Path})
		}
	}
	return list
}

// spellings are the paths that lead to p through the links, p first.
func spellings(p string, aliases []alias) []string {
	list := []string{p}
	for i := 0; i < len(list) && len(list) < 16; i++ {
		for _, a := range aliases {
			for _, way := range [...]alias{{a.link, a.target}, {a.target, a.link}} {
				rest, ok := strings.CutPrefix(list[i], way.link)
				if other := way.target + rest; ok && (rest == "" || rest[0] == '/') && !slices.Contains(list, other) {
					list = append(list, other)
				}
			}
		}
	}
	return list
}

// maxLine is longer than any path that could be asked for (PATH_MAX of
// linux/limits.h), and than any field of interest.
const maxLine = 4096

// lines calls visit with each line of r, without its newline, valid until the next;
// those that are too long are left out, and so is one that the end of the file cuts
// off only if that is an error. It ends early when visit returns false.
func lines(r *bufio.Reader, visit func(line []byte) bool) error {
	skip := false
	for {
		line, err := r.ReadSlice('\n')
		switch {
		case err == nil:
			if !skip && !visit(line[:len(line)-1]) {
				return nil
			}
			skip = false
		case errors.Is(err, bufio.ErrBufferFull):
			skip = true
		case errors.Is(err, io.EOF):
			if len(line) > 0 && !skip {
				visit(line)
			}
			return nil
		default:
			return err
		}
	}
}
