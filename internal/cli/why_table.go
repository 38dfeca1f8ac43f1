package cli

import (
	"bufio"
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/slashrun/slashrun/internal/origin"
	"github.com/slashrun/slashrun/internal/stale"
)

// widest is the widest column of paths that others are aligned behind.
const widest = 48

// table prints the rows of a tree, and a line that sums up.
func (r *whyRun) table(w *bufio.Writer, t *origin.Tree) {
	left, width := 0, len("PATH")
	for _, o := range t.Rows {
		if !r.shown(o) {
			left++
		} else if n := len(o.Path); n > width && n <= widest {
			width = n
		}
	}
	if len(t.Rows) > left {
		fmt.Fprintf(w, "%-11s  %-9s  %-*s  %-24s  %s\n", "VERDICT", "TYPE", width, "PATH", "MADE BY", "USED BY")
	}
	for _, o := range t.Rows {
		if r.shown(o) {
			r.tableRow(w, o, width)
		}
	}
	fmt.Fprintf(w, "%s: %s: %s stale, %d cannot tell, %d live", Quote(t.Path), entries(len(t.Rows)), r.count(t.Stale), t.CannotTell, t.Live)
	switch {
	case left == 1:
		w.WriteString("; 1 directory that nobody uses is left out (--all)")
	case left > 1:
		fmt.Fprintf(w, "; %d directories that nobody uses are left out (--all)", left)
	}
	w.WriteByte('\n')
}

func entries(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return strconv.Itoa(n) + " entries"
}

func (r *whyRun) count(stale int) string {
	if r.colour && stale > 0 {
		return Bad.Wrap(strconv.Itoa(stale))
	}
	return strconv.Itoa(stale)
}

// shown leaves out directories of which there is nothing to say.
func (r *whyRun) shown(o *origin.Report) bool {
	return r.all || o.Type != origin.Directory || o.Verdict != stale.CannotTell || o.Error != ""
}

func (r *whyRun) tableRow(w *bufio.Writer, o *origin.Report, width int) {
	verdict := o.Verdict.String()
	pad := strings.Repeat(" ", len("cannot tell")-len(verdict))
	if r.colour {
		verdict = verdictStyle(o.Verdict).Wrap(verdict)
	}
	name := oneWord(o.Path)
	if o.Link != nil {
		name += " -> " + oneWord(o.Link.Target)
	}
	w.WriteString(verdict)
	w.WriteString(pad)
	cell(w, tableKind(o), 9)
	cell(w, name, width)
	cell(w, dash(tableMaker(o)), 24)
	w.WriteString("  ")
	w.WriteString(dash(tableUser(o)))
	w.WriteByte('\n')
	if r.verbose && o.Why() != "" {
		fmt.Fprintf(w, "             %s\n", Quote(o.Why()))
	}
}

// oneWord is Quote that also quotes blanks, with which a name could draw columns of its
// own.
func oneWord(name string) string {
	if q := Quote(name); q != name || !strings.Contains(name, " ") {
		return q
	}
	return strconv.Quote(name)
}

// cell writes a column behind another. There may be a hundred thousand.
func cell(w *bufio.Writer, text string, width int) {
	w.WriteString("  ")
	w.WriteString(text)
	for n := utf8.RuneCountInString(text); n < width; n++ {
		w.WriteByte(' ')
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// tableKind is what an object is, in a narrow column.
func tableKind(o *origin.Report) string {
	switch {
	case o.Kind != "":
		return o.Kind
	case o.Type == origin.CharDevice, o.Type == origin.BlockDevice:
		return "device"
	}
	return string(o.Type)
}

func tableMaker(o *origin.Report) string {
	if len(o.MadeBy) == 0 {
		return ""
	}
	m := &o.MadeBy[0]
	var text string
	switch m.By {
	case origin.ByTmpfiles:
		text = Quote(path.Base(m.File)) + ":" + strconv.Itoa(m.Line)
	case origin.ByUnit:
		text = Quote(m.Unit)
	case origin.ByPackage:
		if text = m.Text; m.Package != nil {
			text = Quote(m.Package.Package)
		}
	case origin.ByProcess:
		if text = "?"; m.Package != nil {
			text = Quote(m.Package.Package) + "?"
		}
	case origin.ByMount:
		text = "mount"
	default:
		text = string(m.By)
	}
	if m.Above != "" {
		text = "in " + text
	}
	return text
}

func tableUser(o *origin.Report) string {
	if len(o.UsedBy) == 0 {
		return ""
	}
	u := &o.UsedBy[0]
	text := Quote(u.Comm) + "[" + strconv.Itoa(u.PID) + "] "
	if u.PID == 0 {
		text = "unseen "
	}
	text += strings.Join(u.How, ",")
	if n := len(o.UsedBy) - 1 + o.MoreUsers; n > 0 {
		text += fmt.Sprintf(", %d more", n)
	}
	return text
}
