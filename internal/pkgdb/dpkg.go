package pkgdb

import (
	"bufio"
	"bytes"
	"io"
	"io/fs"
	"strings"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/linux"
)

// dpkgDir is dpkg's database, dpkg(1) "FILES".
const dpkgDir = "/var/lib/dpkg"

// dpkg looks in dpkg's database.
func (l *pass) dpkg() error {
	l.diversions()
	info, err := l.directory(dpkgDir+"/info", ".list", func(r *bufio.Reader, name string) error {
		return l.list(r, ownerOfList(name))
	})
	if err != nil {
		return err
	}
	single, err := l.directory(dpkgDir+"/status.d", ".md5sums", func(r *bufio.Reader, name string) error {
		return l.sums(r, Owner{Manager: "dpkg", Package: name})
	})
	if err != nil {
		return err
	}
	if info || single {
		l.answer.Databases = append(l.answer.Databases, "dpkg")
	}
	if len(l.found) > 0 {
		l.versions()
		l.settle()
	}
	return l.ctx.Err()
}

// ownerOfList is the package of a .list file: NAME, or NAME:ARCH for what may be
// installed for several architectures.
func ownerOfList(name string) Owner {
	pkg, arch, _ := strings.Cut(name, ":")
	return Owner{Manager: "dpkg", Package: pkg, Arch: arch}
}

// directory reads every file with the suffix in a directory of the database, and
// reports whether there is one. visit gets the name without the suffix.
func (l *pass) directory(path, suffix string, visit func(r *bufio.Reader, name string) error) (there bool, err error) {
	at, err := l.db.root.Resolve(path)
	if err != nil {
		l.incomplete(err)
		return false, nil
	}
	if !at.Exists() {
		return false, nil
	}
	dir := fsat.DirOf(at.Fd)
	defer dir.Close()
	names, err := dir.Names()
	if err != nil {
		l.incomplete(&fs.PathError{Op: "list", Path: l.db.root.Path(path), Err: inroot.Errno(err)})
		return false, nil
	}
	r := bufio.NewReaderSize(nil, 32<<10)
	for _, name := range names {
		short, ok := strings.CutSuffix(name, suffix)
		if !ok {
			continue
		}
		if err := l.ctx.Err(); err != nil {
			return there, err
		}
		f, err := inroot.OpenRegular(at.Fd, name, l.db.root.Path(path)+"/"+name)
		if err != nil {
			l.incomplete(err)
			continue
		}
		there = true
		r.Reset(f)
		l.incomplete(visit(r, short))
		f.Close()
	}
	return there, nil
}

// list reads a .list file: one path a line. dpkg writes the root as "/.".
func (l *pass) list(r *bufio.Reader, o Owner) error {
	return lines(r, func(line []byte) bool {
		if len(line) > 0 && line[0] == '/' {
			if string(line) == "/." {
				line = line[:1]
			}
			l.match(line, o)
		}
		return true
	})
}

// sums reads a .md5sums file: 32 hex digits, two spaces, the path without its first
// slash.
func (l *pass) sums(r *bufio.Reader, o Owner) error {
	const digits = 32
	path := append(make([]byte, 0, maxLine), '/')
	return lines(r, func(line []byte) bool {
		if len(line) > digits+2 && line[digits] == ' ' {
			path = append(path[:1], bytes.TrimPrefix(line[digits+2:], []byte("./"))...)
			l.match(path, o)
		}
		return true
	})
}

// diversion is one entry of dpkg-divert(1).
type diversion struct{ from, to, by string } // by is ":" for a local one

func (l *pass) diversions() {
	f, err := l.db.root.OpenFile(dpkgDir + "/diversions")
	if err != nil {
		l.incomplete(err)
		return
	}
	defer f.Close()
	list, err := parseDiversions(f)
	l.incomplete(err)
	for _, d := range list {
		for _, end := range [...]string{d.from, d.to} { // what Below wants, by name
			if p, ok := l.inside([]byte(end)); ok {
				l.want(end, want{path: p})
			}
		}
	}
	for _, d := range list {
		l.divert(d)
	}
}

// parseDiversions reads the file: three lines each. What is not three lines at the
// end is left out.
func parseDiversions(f io.Reader) ([]diversion, error) {
	var list []diversion
	var three []string
	err := lines(bufio.NewReaderSize(f, maxLine+1), func(line []byte) bool {
		if three = append(three, string(line)); len(three) == 3 {
			if strings.HasPrefix(three[0], "/") && strings.HasPrefix(three[1], "/") {
				list = append(list, diversion{three[0], three[1], three[2]})
			}
			three = three[:0]
		}
		return true
	})
	return list, err
}

// divert changes what is looked for: a file of anybody's but the diverting package
// at d.from lies at d.to.
func (l *pass) divert(d diversion) {
	by := d.by
	if by == ":" {
		by = "local"
	}
	for _, w := range l.wanted[d.to] {
		if w.diverted == "" {
			l.want(d.from, want{path: w.path, not: d.by, diverted: by})
		}
	}
	list := l.wanted[d.from]
	for i := range list {
		if list[i].diverted == "" {
			list[i].by = d.by // ":" is no package's name: nobody's is there
		}
	}
}

// versions looks up the versions of what was found.
func (l *pass) versions() {
	byName := map[string][]*found{}
	for _, f := range l.found {
		byName[f.owner.Package] = append(byName[f.owner.Package], f)
	}
	take := func(s stanza) {
		for _, f := range byName[s.pkg] {
			if o := &f.owner; o.Arch == "" || o.Arch == s.arch {
				o.Version, o.Arch = s.version, s.arch
				o.Removed = strings.HasSuffix(s.status, " config-files")
			}
		}
	}
	if f, err := l.db.root.OpenFile(dpkgDir + "/status"); err == nil {
		l.incomplete(parseStatus(f, take))
		f.Close()
	} else {
		l.incomplete(err)
	}
	for name, list := range byName {
		if list[0].owner.Version != "" || fsat.ValidName(name) != nil {
			continue
		}
		if f, err := l.db.root.OpenFile(dpkgDir + "/status.d/" + name); err == nil {
			l.incomplete(parseStatus(f, func(s stanza) {
				s.pkg = name // the file's name is the package's, whatever it says
				take(s)
			}))
			f.Close()
		}
	}
}

// stanza is what matters of a paragraph of the status file, deb822(5).
type stanza struct{ pkg, version, arch, status string }

// parseStatus calls visit for each paragraph that names a package.
func parseStatus(f io.Reader, visit func(stanza)) error {
	var s stanza
	flush := func() {
		if s.pkg != "" {
			visit(s)
		}
		s = stanza{}
	}
	err := lines(bufio.NewReaderSize(f, 32<<10), func(line []byte) bool {
		if len(line) == 0 {
			flush()
			return true
		}
		// Most lines go on with a field of no interest: compare before anything is
		// copied.
		var to *string
		switch line[0] {
		case 'P', 'V', 'A', 'S':
			key, value, ok := bytes.Cut(line, []byte{':'})
			if !ok {
				return true
			}
			switch linux.View(key) {
			case "Package":
				to = &s.pkg
			case "Version":
				to = &s.version
			case "Architecture":
				to = &s.arch
			case "Status":
				to = &s.status
			default:
				return true
			}
			*to = string(bytes.TrimSpace(value))
		}
		return true
	})
	flush()
	return err
}
