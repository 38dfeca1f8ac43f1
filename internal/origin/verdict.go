package origin

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/fuser"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/stale"
)

// Proofs beside those of package stale.
const (
	Mounted  stale.Proof = "mounted"   // a file system is mounted here
	Leads    stale.Proof = "leads-to"  // a link, judged by what it leads to
	Dangling stale.Proof = "dangling"  // a link that leads to nothing
	Vanished stale.Proof = "vanished"  // it went while it was looked at
	Unasked  stale.Proof = "not-asked" // whoever answers for it might not
)

// kinds finds out what the subjects are for.
func (s *session) kinds() error {
	for _, x := range s.subject {
		if x.at == nil || x.Type != File {
			continue
		}
		x.kind = kindByName(x.at.name)
		if s.deep && x.Size > 0 && x.Size <= largestRecord && s.local(x) && s.judge != nil && !s.judge.Leased(x.at.node, x.at.dir) {
			if rec, err := record(x.at); err == nil && rec.Own() {
				x.kind, x.ours = stale.PIDFile, rec.PID
			}
		}
	}
	return nil
}

// kindByName says what the name of a file promises: no more than to package stale. What a
// directory is called promises nothing.
func kindByName(name string) stale.Kind {
	switch {
	case strings.HasSuffix(name, ".pid"):
		return stale.PIDFile
	case strings.HasPrefix(name, "LCK.."), strings.HasSuffix(name, ".lock"), strings.HasSuffix(name, ".lck"):
		return stale.Lock
	}
	return stale.Guess
}

// verdicts has the subjects judged.
func (s *session) verdicts() error {
	if s.judge != nil {
		var fds []int
		for _, x := range s.subject {
			if x.at != nil {
				fds = append(fds, x.at.node.Fd())
				if x.at.dir != nil {
					fds = append(fds, x.at.dir.Fd())
				}
			}
		}
		s.judge.Mine(fds)
	}
	for _, x := range s.subject {
		if x.Verdict == stale.CannotTell && x.Evidence == nil {
			if err := s.verdict(x); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *subject) decide(v stale.Verdict, p stale.Proof, text string) {
	x.Verdict = v
	x.Evidence = append(x.Evidence, stale.Evidence{Proof: p, Text: text})
}

// verdict judges one subject, as far as it can be told without its users.
func (s *session) verdict(x *subject) error {
	switch {
	case x.Mount != nil && x.Mount.Here:
		x.decide(stale.Live, Mounted, mountedText(x.Mount))
	case x.at == nil:
		x.decide(stale.CannotTell, Unasked, "it was not looked at")
	case x.Type == Symlink:
		s.linkVerdict(x)
	case s.judge == nil:
		x.decide(stale.CannotTell, stale.NoPermission, "without /proc nothing can be proven")
	case x.at.dir == nil: // "/"
		x.decide(stale.CannotTell, stale.UsedByName, "a directory is not stale by itself; what is in it may be")
	default:
		return s.judged(x, x.at.dir, x.at.name)
	}
	return nil
}

// mountedText says what is mounted.
func mountedText(m *Mount) string {
	if m.Root != "" {
		return fmt.Sprintf("%s of a %s is mounted here", m.Root, m.Type)
	}
	return article(m.Type) + " is mounted here"
}

func article(noun string) string {
	if noun != "" && strings.IndexByte("aeiou", noun[0]) >= 0 {
		return "an " + noun
	}
	return "a " + noun
}

// judged asks the judge about the entry name of dir.
func (s *session) judged(x *subject, dir *fsat.Dir, name string) error {
	f, err := s.finding(x, dir, name)
	if err == nil && x.at != nil {
		err = s.there(x.at)
	}
	switch {
	case s.ctx.Err() != nil:
		return s.ctx.Err()
	case fsat.NotExist(err):
		x.decide(stale.CannotTell, Vanished, "it vanished while it was looked at")
	case errors.Is(err, stale.ErrChanged):
		x.decide(stale.CannotTell, Vanished, "something else was put in its place while it was looked at, or it was changed")
	case err != nil:
		x.decide(stale.CannotTell, stale.NoPermission, err.Error())
	case f.Identity.Inode != x.Inode || f.Identity.Dev != x.Dev:
		x.decide(stale.CannotTell, Vanished, "something else was put in its place while it was looked at")
	default:
		x.Verdict, x.Evidence, x.PID = f.Verdict, f.Evidence, cmp.Or(f.PID, x.ours)
		if f.Kind == stale.PIDFile || f.Kind == stale.Lock {
			x.Kind = string(f.Kind)
		}
	}
	return nil
}

// linkVerdict judges a link by what it leads to, which was judged after it was found.
func (s *session) linkVerdict(x *subject) {
	switch l := x.Link; {
	case l == nil:
		x.decide(stale.CannotTell, stale.UsedByName, "a link is used by its name")
	case l.Report == nil && l.Broken == "nothing is there":
		x.decide(stale.CannotTell, Dangling, fmt.Sprintf("it leads to %s, where nothing is", l.Target))
	case l.Report == nil:
		x.decide(stale.CannotTell, Leads, fmt.Sprintf("it leads to %s: %s", l.Target, l.Broken))
	}
}

// settle calls live what somebody uses, then says of links what came out for what they
// lead to, the last first. Proof is not overruled: a socket that nobody is bound to stays
// stale, whoever has its file open. But who has a PID file or lock open may be about to
// write into it.
func (s *session) settle() error {
	for _, x := range s.subject {
		if len(x.UsedBy) == 0 {
			continue
		}
		u := x.UsedBy[0]
		text := fmt.Sprintf("process %d (%s) has it: %s", u.PID, u.Comm, strings.Join(u.How, ", "))
		if u.PID == 0 {
			text = "somebody who cannot be seen has it: " + strings.Join(u.How, ", ")
		}
		switch {
		case x.Verdict == stale.CannotTell:
			x.decide(stale.Live, stale.InodeHeld, text)
		case x.Verdict == stale.Stale && x.Type == File:
			x.decide(stale.CannotTell, stale.InodeHeld, text+", and may be about to write into it")
		}
	}
	for i := len(s.subject) - 1; i >= 0; i-- {
		if x := s.subject[i]; x.Link != nil {
			s.settleLink(x)
		}
	}
	return nil
}

func (s *session) settleLink(x *subject) {
	to := x.Link.Report
	if x.leads != nil {
		to = x.leads.Report
	}
	if to == nil || to == x.Report || x.Verdict == stale.Live && x.Evidence != nil {
		return
	}
	x.Evidence = nil
	v := to.Verdict
	text := fmt.Sprintf("it leads to %s, which is %s", x.Link.Real, v)
	if v == stale.CannotTell {
		text = fmt.Sprintf("it leads to %s, of which nothing is proven", x.Link.Real)
	}
	if v == stale.Stale {
		v = stale.CannotTell // the link itself may be there to stay
	}
	x.decide(v, Leads, text)
}

// there fails unless the held object is still what its name leads to.
func (s *session) there(o *object) error {
	var st fsat.Stat
	switch _, err := s.table.stat(o.dir.Fd(), o.name, &st); {
	case err == nil && st.SameInode(&o.st):
		return nil
	case fsat.NotExist(err):
		return err
	}
	return stale.ErrChanged
}

// finding is the judge's. Of a PID file that is looked at alone it also tells which
// process is meant.
func (s *session) finding(x *subject, dir *fsat.Dir, name string) (*stale.Finding, error) {
	if x.at == nil {
		return s.judge.Look(s.ctx, dir, name, x.Path, x.kind)
	}
	if x.kind != stale.PIDFile {
		return s.judge.LookHeld(s.ctx, x.at.node, dir, name, x.Path, x.kind)
	}
	n, err := s.judge.LookPIDHeld(s.ctx, x.at.node, dir, name, x.Path)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	list := n.Evidence
	alive := n.Proven || slices.ContainsFunc(list, func(e stale.Evidence) bool { return e.Proof == stale.ProcessAlive })
	if p := n.Process; p != nil && n.Verdict == stale.Live && alive {
		m := s.member(fuser.Use{Process: process.Process{PID: p.PID, Comm: p.Comm}, Start: p.Start}, map[int]User{})
		x.Process = &m
	}
	if last := len(list) - 1; last > 0 && n.Verdict == stale.Live && list[last].Proof == stale.ClockUnproven {
		list[last], list[last-1] = list[last-1], list[last] // what decided comes last
	}
	return n.Finding, nil
}
