package origin

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/pkgdb"
	"github.com/slashrun/slashrun/internal/process"
)

// makers finds out who made the subjects, with the packages of all in one pass.
func (s *session) makers() error {
	config, why := s.config()
	s.why = append(s.why, why...)
	u, err := s.unitsOf(s.ctx)
	if err != nil {
		return err
	}
	s.why = append(s.why, u.problems...)
	above := map[string][]Maker{} // by directory
	declared := func(p string) []Maker {
		var list []Maker
		for _, it := range config.Making(p) {
			m := Maker{By: ByTmpfiles, Text: it.Text, File: it.Source.File, Line: it.Source.Line}
			if it.Path != p {
				m.Above = it.Path
			}
			list = append(list, m)
		}
		for _, d := range u.of(p) {
			list = append(list, Maker{By: ByUnit, Text: d.key + "=" + strings.ReplaceAll(d.value, anything, "%i"), File: d.file, Line: d.line, Unit: d.unit})
		}
		return list
	}
	for i, x := range s.subject {
		if i%1024 == 0 && s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		p := x.Path
		if s.dir == "" {
			p = x.where()
		}
		x.MadeBy = append(s.own(x, p), declared(p)...)
		if x.Mount != nil && x.Mount.Here {
			x.MadeBy = append([]Maker{{By: ByMount, Text: fmt.Sprintf("the root of a mounted %s (%s)", x.Mount.Type, x.Mount.Source)}}, x.MadeBy...)
		}
		if len(x.MadeBy) == 0 {
			x.MadeBy = s.above(parent(p), above, declared)
		}
	}
	return s.owned()
}

// parent is path.Dir of a clean path, which needs not be cleaned again.
func parent(p string) string {
	if end := strings.LastIndexByte(p, '/'); end > 0 {
		return p[:end]
	}
	return "/"
}

// where is the path without links.
func (r *Report) where() string {
	if r.Real != "" {
		return r.Real
	}
	return path.Clean(r.Path)
}

// above is who makes the nearest directory that is declared, for what is not declared
// itself. What the whole /run is made by says nothing of a file in it.
func (s *session) above(dir string, known map[string][]Maker, declared func(string) []Maker) []Maker {
	if strings.Count(dir, "/") < 2 || s.table.point[dir] != nil {
		return nil
	}
	if list, ok := known[dir]; ok {
		return list
	}
	list := slices.Clone(declared(dir))
	for i := range list {
		if list[i].Above == "" {
			list[i].Above = dir
		}
	}
	if len(list) == 0 {
		list = s.above(parent(dir), known, declared)
	}
	known[dir] = list
	return list
}

// own recognizes what slashrun itself makes, by name and, in /run/slashrun, place.
func (s *session) own(x *subject, p string) []Maker {
	name := path.Base(p)
	run := s.o.Run
	say := func(format string, args ...any) []Maker {
		return []Maker{{By: BySlashrun, Text: fmt.Sprintf(format, args...)}}
	}
	switch {
	case p == run+"/slashrun/boot":
		return say("the boot stamp: which run of the machine or container this %s was made in", run)
	case p == run+"/slashrun" || strings.HasPrefix(p, run+"/slashrun/"):
		return say("state of slashrun, which goes with this run")
	case strings.HasPrefix(name, fsat.TempPrefix):
		return say("half-made: it was being made or removed by a slashrun, which ended or has not finished")
	case name == mounts.StagingName:
		return say("the staging place of a mount: the next \"slashrun boot\" removes it if its own was killed")
	case x.ours != 0:
		return say("a PID file of slashrun's format, written for process %d", x.ours)
	}
	return nil
}

// local reports whether content may be read: nobody else has to answer.
func (s *session) local(x *subject) bool {
	return x.at.mount != nil && s.table.answers(x.at.mount) && !ofKernel(x.at.mount.FSType)
}

// largestRecord is beyond every PID file.
const largestRecord = 4096

// record reads a small regular file as a PID file.
func record(o *object) (process.Record, error) {
	fd, err := o.node.OpenFile(linux.O_RDONLY | linux.O_NOATIME)
	if err != nil {
		if fd, err = o.node.OpenFile(linux.O_RDONLY); err != nil {
			return process.Record{}, err
		}
	}
	defer linux.Close(fd)
	var st fsat.Stat
	if err := fsat.StatAt(fd, "", &st); err != nil || !st.IsRegular() {
		return process.Record{}, syscall.EINVAL
	}
	buf := make([]byte, largestRecord)
	n, err := linux.Read(fd, buf)
	if err != nil {
		return process.Record{}, err
	}
	return process.ParseRecord(buf[:n])
}

// owned adds the packages: of the files that declare a path, of the path itself, and,
// where nothing else is known, of the program of a process that uses it.
func (s *session) owned() error {
	var paths []string
	ask := func(p string) {
		if _, known := s.owners[p]; !known && p != "" {
			s.owners[p] = nil
			paths = append(paths, p)
		}
	}
	exes := map[int]string{}
	if s.dir != "" { // a tree: what is below it comes from one pass without names
		a, err := s.packages.Below(s.ctx, s.dir)
		if err != nil {
			return err
		}
		s.packaged(a)
	}
	for _, x := range s.subject {
		if s.dir == "" {
			ask(x.where())
		}
		for _, m := range x.MadeBy {
			ask(s.inRoot(m.File))
		}
		if s.anonymous(x) && s.o.Proc != nil {
			pid := x.UsedBy[x.holder-1].PID
			if _, ok := exes[pid]; !ok {
				exe, err := s.o.Proc.Readlink(fmt.Sprintf("%d/exe", pid))
				if err != nil {
					exe = ""
				}
				exes[pid] = strings.TrimSuffix(exe, " (deleted)")
				ask(exes[pid])
			}
		}
	}
	if len(paths) > 0 {
		a, err := s.packages.Look(s.ctx, paths)
		if err != nil {
			return err
		}
		s.packaged(a)
	}
	for _, x := range s.subject {
		for i := range x.MadeBy {
			if m := &x.MadeBy[i]; m.Package == nil {
				m.Package = s.owner(s.inRoot(m.File))
			}
		}
		p := x.Path
		if s.dir == "" {
			p = x.where()
		}
		if list := s.owners[p]; len(list) > 0 {
			m := Maker{By: ByPackage, Text: "a file of the package", Package: &list[0]}
			if len(list) > 1 {
				m.Text, m.Package = fmt.Sprintf("%d packages", len(list)), nil
			}
			// Of two declarations the one for the very path is the likelier.
			at := 0
			for at < len(x.MadeBy) && x.MadeBy[at].Above == "" {
				at++
			}
			x.MadeBy = slices.Insert(slices.Clone(x.MadeBy), at, m)
		}
		if s.anonymous(x) {
			u := x.UsedBy[x.holder-1]
			x.MadeBy = append(slices.Clone(x.MadeBy), Maker{By: ByProcess, Text: "nobody declares it; this process uses it", PID: u.PID, Comm: u.Comm, Exe: exes[u.PID], Package: s.owner(exes[u.PID])})
		}
	}
	return nil
}

func (s *session) packaged(a *pkgdb.Answer) {
	maps.Copy(s.owners, a.Owners)
	for _, why := range a.Incomplete {
		if !slices.Contains(s.why, why) {
			s.why = append(s.why, why)
		}
	}
}

// anonymous reports whether nothing but a user who may have made x tells where it comes
// from.
func (s *session) anonymous(x *subject) bool {
	return x.holder > 0 && !slices.ContainsFunc(x.MadeBy, func(m Maker) bool { return m.Above == "" })
}

func (s *session) owner(p string) *pkgdb.Owner {
	if list := s.owners[p]; len(list) > 0 {
		return &list[0]
	}
	return nil
}

// inRoot is a path as it is below the root that the databases are of.
func (s *session) inRoot(file string) string {
	return strings.TrimPrefix(file, s.root.Prefix())
}
