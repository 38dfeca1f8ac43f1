package cli

import (
	"bufio"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/slashrun/slashrun/internal/origin"
	"github.com/slashrun/slashrun/internal/stale"
	"github.com/slashrun/slashrun/internal/view"
)

// verdictStyle sets a verdict off.
func verdictStyle(v stale.Verdict) Style {
	switch v {
	case stale.Live:
		return Good
	case stale.Stale:
		return Bad
	}
	return Doubt
}

func (r *whyRun) verdict(v stale.Verdict) string {
	if r.colour {
		return verdictStyle(v).Wrap(v.String())
	}
	return v.String()
}

// field writes one line of an object: a label and its text.
func (r *whyRun) field(w *bufio.Writer, label, format string, args ...any) {
	padded := fmt.Sprintf("  %-8s ", label)
	if r.colour {
		padded = Dim.Wrap(padded)
	}
	fmt.Fprintf(w, "%s%s\n", padded, fmt.Sprintf(format, args...))
}

// kindOf is what an object is, in words.
func kindOf(o *origin.Report) string {
	switch o.Kind {
	case "pidfile":
		return "PID file"
	case "lock":
		return "lock file"
	}
	if o.Type == origin.FIFO {
		return "FIFO"
	}
	return string(o.Type)
}

// object prints what was found out of one path.
func (r *whyRun) object(w *bufio.Writer, o *origin.Report) {
	name := Quote(o.Path)
	if r.colour {
		name = Bold.Wrap(name)
	}
	fmt.Fprintf(w, "%s: %s, %s\n", name, kindOf(o), r.verdict(o.Verdict))
	if o.Link != nil {
		text := Quote(o.Link.Target)
		if o.Link.Real != "" && o.Link.Real != o.Link.Target {
			text += ", which is " + Quote(o.Link.Real)
		}
		if o.Link.Broken != "" {
			text += ": " + Quote(o.Link.Broken)
		}
		r.field(w, "leads to", "%s", text)
	}
	r.evidence(w, o)
	if o.Process != nil {
		r.field(w, "names", "%s", r.userText(o.Process))
	}
	if o.Real != "" && o.Real != path.Clean(o.Path) {
		r.field(w, "really", "%s", Quote(o.Real))
	}
	r.makers(w, o)
	r.users(w, o)
	r.since(w, o)
	r.place(w, o)
	for _, why := range o.Unseen {
		if !r.told[why] { // most is true of all paths: it is said once
			r.told[why] = true
			r.field(w, "unseen", "%s", Quote(why))
		}
	}
	if o.Link != nil && o.Link.Report != nil {
		w.WriteByte('\n')
		r.object(w, o.Link.Report)
	}
}

func (r *whyRun) evidence(w *bufio.Writer, o *origin.Report) {
	list := o.Evidence
	if !r.verbose && len(list) > 1 {
		list = list[len(list)-1:]
	}
	for _, e := range list {
		r.field(w, "because", "%s (%s)", Quote(e.Text), e.Proof)
	}
}

func (r *whyRun) makers(w *bufio.Writer, o *origin.Report) {
	if len(o.MadeBy) == 0 && o.Type != origin.Symlink {
		r.field(w, "made by", "nobody whom tmpfiles.d, unit files or packages tell")
	}
	for _, m := range o.MadeBy {
		r.field(w, "made by", "%s", makerText(&m))
	}
}

// makerText is who made something and where that stands.
func makerText(m *origin.Maker) string {
	var text string
	switch m.By {
	case origin.ByTmpfiles:
		text = "tmpfiles.d: " + Quote(m.Text)
	case origin.ByUnit:
		text = Quote(m.Unit) + ": " + Quote(m.Text)
	case origin.ByPackage:
		if m.Package == nil { // several have it
			return m.Text
		}
		text = "package " + Quote(m.Package.String())
		if m.Package.DivertedBy != "" {
			text += ", moved here by " + Quote(m.Package.DivertedBy)
		}
		return text
	case origin.ByProcess:
		text = fmt.Sprintf("process %d (%s), as far as can be told: nothing declares it", m.PID, Quote(m.Comm))
		if m.Exe != "" {
			text += "; it runs " + Quote(m.Exe)
		}
	default:
		text = Quote(m.Text)
	}
	if m.Above != "" {
		text = Quote(m.Above) + " above it is made by " + text
	}
	if m.File != "" {
		text += " in " + Quote(m.File)
		if m.Line > 0 {
			text += ":" + strconv.Itoa(m.Line)
		}
	}
	if m.Package != nil {
		text += ", package " + Quote(m.Package.String())
	}
	return text
}

func (r *whyRun) users(w *bufio.Writer, o *origin.Report) {
	const few = 6
	for n, u := range o.UsedBy {
		if n == few && !r.verbose {
			r.field(w, "used by", "%d processes more; --verbose lists them", len(o.UsedBy)-few+o.MoreUsers)
			return
		}
		r.field(w, "used by", "%s", r.userText(&u))
	}
	if o.MoreUsers > 0 {
		r.field(w, "used by", "%d processes more", o.MoreUsers)
	}
}

func (r *whyRun) userText(u *origin.User) string {
	text := fmt.Sprintf("process %d (%s)", u.PID, Quote(u.Comm))
	if u.PID == 0 {
		text = "somebody who cannot be seen"
	}
	if len(u.How) > 0 {
		text += ": " + strings.Join(u.How, ", ")
	}
	if u.Detail != "" {
		text += " (" + Quote(u.Detail) + ")"
	}
	if u.Unit != "" {
		text += ", unit " + Quote(u.Unit)
	}
	if u.Container != "" {
		text += ", container " + Quote(short(u.Container))
	}
	if !u.Since.IsZero() {
		text += ", since " + r.when(u.Since)
	}
	return text
}

// short cuts the id of a container as engines do.
func short(id string) string {
	if len(id) == 64 {
		return id[:12]
	}
	return id
}

func (r *whyRun) since(w *bufio.Writer, o *origin.Report) {
	switch {
	case o.Mode == "":
		return
	case o.Born.IsZero() && o.Changed.IsZero():
	case o.Born.IsZero():
		r.field(w, "since", "changed %s; the file system does not tell when it was made", r.when(o.Changed))
	case o.Changed.Sub(o.Born).Abs() < time.Second:
		r.field(w, "since", "made %s", r.when(o.Born))
	default:
		r.field(w, "since", "made %s, changed %s", r.when(o.Born), r.when(o.Changed))
	}
	text := fmt.Sprintf("%s %s:%s", o.Mode, owner(o.User, o.UID), owner(o.Group, o.GID))
	if o.Type == origin.File {
		text += fmt.Sprintf(", %d bytes", o.Size)
	}
	if o.Names > 1 && o.Type != origin.Directory {
		text += fmt.Sprintf(", %d names (hard links)", o.Names)
	}
	if o.Names == 0 {
		text += ", removed meanwhile"
	}
	r.field(w, "mode", "%s", text)
}

func owner(name string, id uint32) string {
	if name != "" {
		return Quote(name)
	}
	return strconv.FormatUint(uint64(id), 10)
}

// when is a point in time and how long ago it was.
func (r *whyRun) when(t time.Time) string {
	text := t.Format("2006-01-02 15:04:05")
	ago := r.now.Sub(t)
	switch {
	case ago < 0:
		return text + " (in the future)"
	case ago < time.Minute:
		return text + fmt.Sprintf(" (%d s ago)", int(ago.Seconds()))
	case ago < time.Hour:
		return text + fmt.Sprintf(" (%d min ago)", int(ago.Minutes()))
	case ago < 48*time.Hour:
		return text + fmt.Sprintf(" (%d h ago)", int(ago.Hours()))
	}
	return text + fmt.Sprintf(" (%d days ago)", int(ago.Hours()/24))
}

func (r *whyRun) place(w *bufio.Writer, o *origin.Report) {
	if m := o.Mount; m != nil {
		text := Quote(m.Type)
		if m.Source != "" && m.Source != m.Type {
			text += " " + Quote(m.Source)
		}
		text += " on " + Quote(m.Point)
		if m.ReadOnly {
			text += ", read-only"
		}
		r.field(w, "lies on", "%s", text)
	}
	const few = 6
	n := 0
	for _, p := range o.Reached {
		if p.HiddenBy != "" && !r.verbose {
			continue
		}
		if n++; n > few && !r.verbose {
			r.field(w, "reached", "in other places; --verbose lists them")
			break
		}
		r.field(w, "reached", "%s", placeText(&p))
	}
}

func placeText(p *view.Place) string {
	text := "as " + Quote(p.Path) + " "
	switch first := p.Namespaces[0]; {
	case first.Own:
		text += "here, too"
	case first.Member.Container != "":
		text += "in container " + Quote(short(first.Member.Container))
	case len(first.Processes) > 0:
		text += fmt.Sprintf("by process %d (%s)", first.Processes[0].PID, Quote(first.Processes[0].Comm))
	case first.MountedOn != "":
		text += "in the mount namespace kept on " + Quote(first.MountedOn)
	default:
		text += "in a mount namespace without processes"
	}
	if p.Count > 1 {
		text += fmt.Sprintf(" and in %d mount namespaces more", p.Count-1)
	}
	if p.ReadOnly {
		text += ", read-only"
	}
	switch {
	case p.HiddenBy != "":
		text += ", if it were not for the mount on " + Quote(p.HiddenBy)
	case !p.Confirmed:
		text += ", as the mount table there has it"
	}
	return text
}
