package stale

import (
	"context"
	"fmt"
	"path"
	"time"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// foreignTable is the mount table of a process of another PID namespace.
type foreignTable struct {
	who   process.Process
	table []mounts.Mount
	err   error // it cannot be understood
}

// foreign are the mount tables of the processes of other PID namespaces, read anew
// unless they are not older than old. The error says that a process cannot be seen.
func (s *seen) foreign(ctx context.Context, p *process.Proc, old time.Duration) ([]foreignTable, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.toured.IsZero() && time.Since(s.toured) < old {
		return s.tables, s.tablesErr
	}
	var list []foreignTable
	err := p.Tables(ctx, func(who process.Process, foreign bool, text []byte) bool {
		if foreign {
			table, err := mounts.ParseText(text)
			list = append(list, foreignTable{who, table, err})
		}
		return true
	})
	if ctx.Err() == nil {
		s.tables, s.tablesErr, s.toured = list, err, time.Now()
	}
	return list, err
}

// inSight says which process of another PID namespace has o in sight, "" if none has.
// The error says that one cannot be seen.
func (j *Judge) inSight(ctx context.Context, g *ground, o *object) (string, error) {
	old := j.opts.MayBeOld
	if o.last {
		old = 0
	}
	list, err := j.seen.foreign(ctx, j.proc, old)
	if old == 0 {
		return surround(list, g, o.dir).reach(o), err
	}
	j.seen.mu.Lock()
	s := j.seen.around
	if s == nil || s.dir != o.dir || s.mount != g.id || s.toured != j.seen.toured {
		s = surround(list, g, o.dir)
		s.toured, j.seen.around = j.seen.toured, s
	}
	j.seen.mu.Unlock()
	return s.reach(o), err
}

// surroundings are what other mount tables say of a directory: a walk asks for every
// entry of it.
type surroundings struct {
	dir    *fsat.Dir // held by whoever walks, so that no other has this pointer
	mount  int
	toured time.Time

	all  string // who has everything in the directory in sight
	some []sighting
	// inside is the path of the directory in its file system.
	inside string
}

// sighting is a mount of the same file system that shows something else of it.
type sighting struct {
	who process.Process
	m   *mounts.Mount
}

func (f *foreignTable) sees(point string) string {
	return fmt.Sprintf("process %d (%s) of another PID namespace has it in sight, through its mount on %s", f.who.PID, f.who.Comm, point)
}

// surround looks through the tables for mounts that show the directory dir, which is
// in g, or something of its file system.
func surround(list []foreignTable, g *ground, dir *fsat.Dir) *surroundings {
	s := &surroundings{dir: dir, mount: g.id}
	var known bool
	s.inside, known = insideOf(g)
	for i := range list {
		f := &list[i]
		if f.err != nil {
			s.all = f.err.Error()
			return s
		}
		rooted := false
		for k := range f.table {
			m := &f.table[k]
			rooted = rooted || m.Point == "/"
			if upper(m, g.dir) { // by its name; layer looks for its inode
				s.all = f.sees(m.Point)
				return s
			}
			if m.Major != g.mount.Major || m.Minor != g.mount.Minor {
				continue
			}
			if !known || under(s.inside, m.Root) {
				s.all = f.sees(m.Point)
				return s
			}
			s.some = append(s.some, sighting{f.who, m})
		}
		if !rooted {
			s.all = f.sees("/, which its table does not show")
			return s
		}
	}
	return s
}

// reach says who has the entry o in sight: by a mount of the file itself, or by another
// name of it somewhere in the file system.
func (s *surroundings) reach(o *object) string {
	if s.all != "" {
		return s.all
	}
	for _, g := range s.some {
		if o.st.Nlink > 1 && !o.st.IsDir() || g.m.Root == path.Join(s.inside, o.name) {
			return (&foreignTable{who: g.who}).sees(g.m.Point)
		}
	}
	return ""
}
