package pkgdb

import (
	"bufio"
	"io"
	"syscall"
)

// apkFiles are where apk keeps its database: apk 2, and apk 3 on a merged /usr.
var apkFiles = [...]string{"/lib/apk/db/installed", "/usr/lib/apk/db/installed"}

// apk looks in apk's database. On a merged /usr both names are one file.
func (l *pass) apk() error {
	var seen []syscall.Stat_t
	for _, name := range apkFiles {
		at, err := l.db.root.Resolve(name)
		if err != nil {
			l.incomplete(err)
			continue
		}
		at.Close()
		same := false
		for _, st := range seen {
			same = same || st.Dev == at.Stat.Dev && st.Ino == at.Stat.Ino
		}
		if !at.Is(syscall.S_IFREG) && at.Stat.Mode == 0 || same {
			continue
		}
		seen = append(seen, at.Stat)
		f, err := l.db.root.OpenFile(name)
		if err != nil {
			l.incomplete(err)
			continue
		}
		l.incomplete(l.installed(f))
		f.Close()
		if len(l.answer.Databases) == 0 || l.answer.Databases[len(l.answer.Databases)-1] != "apk" {
			l.answer.Databases = append(l.answer.Databases, "apk")
		}
	}
	l.settle()
	return l.ctx.Err()
}

// installed reads the database, apk's "installed" (apk-v2(5), apk-v3(5) name the
// fields): records that end with an empty line.
func (l *pass) installed(f io.Reader) error {
	var o Owner
	first := len(l.found) // of this record
	count := 0
	path := append(make([]byte, 0, 2*maxLine), '/')
	dir := 0 // the length of path up to the slash behind the directory
	flush := func() {
		for _, f := range l.found[first:] {
			f.owner.Package, f.owner.Version, f.owner.Arch = o.Package, o.Version, o.Arch
		}
		if o.Package == "" {
			l.found = l.found[:first] // files of nobody
		}
		o, first, path, dir = Owner{}, len(l.found), path[:1], 0
	}
	err := lines(bufio.NewReaderSize(f, 32<<10), func(line []byte) bool {
		if len(line) == 0 {
			flush()
			count++
			return count%64 != 0 || l.ctx.Err() == nil
		}
		if len(line) < 2 || line[1] != ':' {
			return true
		}
		value := line[2:]
		switch line[0] {
		case 'P':
			o.Package = string(value)
		case 'V':
			o.Version = string(value)
		case 'A':
			o.Arch = string(value)
		case 'F':
			path = append(path[:1], value...)
			dir = len(path)
			l.match(path, Owner{Manager: "apk"})
			if len(value) > 0 {
				path = append(path, '/')
				dir++
			}
		case 'R':
			path = append(path[:max(dir, 1)], value...)
			l.match(path, Owner{Manager: "apk"})
		}
		return true
	})
	flush()
	return err
}
