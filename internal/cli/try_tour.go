package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/prepare"
	"github.com/slashrun/slashrun/internal/sandbox"
	"github.com/slashrun/slashrun/internal/tmpconf"
	"github.com/slashrun/slashrun/internal/tmpfiles"
)

// The tour is for a person: at most 40 lines of 80 columns on an ordinary
// machine.
const (
	tourColumns  = 80
	treeLines    = 14
	problemLines = 11
)

// tryReport collects what tmpfiles.d did.
type tryReport struct {
	mu       sync.Mutex
	changes  int
	problems []*tmpfiles.Problem
}

func (r *tryReport) Change(tmpfiles.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes++
}

func (r *tryReport) Problem(p *tmpfiles.Problem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = append(r.problems, p)
}

func (*tryReport) Debug(tmpfiles.Source, string, string) {}
func (*tryReport) Verbose() bool                         { return false }
func (*tryReport) Changes() bool                         { return true }

// tryTour shows a /run.
type tryTour struct {
	env    *Env
	in     *sandbox.Inside
	res    *prepare.Result
	loaded *tmpconf.Loaded
	report *tryReport
	shell  bool // a shell comes next
	colour bool
}

func (t *tryTour) write(w *bufio.Writer) {
	t.colour = t.env.Colour(t.env.Stdout)
	t.head(w, "A /run of its own, thrown away at the end. The machine's is as it was.")
	t.mounts(w)
	t.tree(w)
	t.lines(w)
	t.notes(w)
	if t.shell {
		fmt.Fprintf(w, "\nThe rest of the machine is here too, read-only. \"exit\" leaves.\n")
	}
}

func (t *tryTour) head(w *bufio.Writer, text string) {
	if t.colour {
		text = Bold.Wrap(text)
	}
	fmt.Fprintf(w, "%s\n", text)
}

// mounts shows what is mounted on /run and below.
func (t *tryTour) mounts(w *bufio.Writer) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return
	}
	defer f.Close()
	table, err := mounts.Parse(f)
	if err != nil {
		return
	}
	w.WriteByte('\n')
	t.head(w, "Mounts")
	for _, m := range table {
		if m.Point != "/run" && !strings.HasPrefix(m.Point, "/run/") {
			continue
		}
		line := fmt.Sprintf("  %-14s %s %s", Quote(m.Point), m.FSType, strings.TrimSuffix(m.Options, ",relatime"))
		if fd, err := linux.Openat(linux.AT_FDCWD, m.Point, linux.O_PATH, 0); err == nil {
			if st, err := linux.StatfsOf(fd); err == nil {
				line += fmt.Sprintf("  size %s, %d files", tourSize(st.Bytes), st.Files)
			}
			linux.Close(fd)
		}
		fmt.Fprintln(w, cut(line, nil))
	}
	mem, what := t.res.Memory, "of the machine's memory"
	if mem.Limit != 0 && mem.Limit < mem.RAM {
		what = "of the memory limit in " + Quote(mem.From)
	}
	if total := mem.Smaller(); total != 0 {
		fmt.Fprintln(w, cut(fmt.Sprintf("  /run may take %d%% %s, %s", (t.res.Wanted.Size.Value*100+total/2)/total, what, tourSize(total)), nil))
	}
}

// tourSize is a size for people, in units of 1024.
func tourSize(n uint64) string {
	units := "KMGTPE"
	if n < 1024 {
		return strconv.FormatUint(n, 10)
	}
	v, i := float64(n)/1024, 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0") + units[i:i+1]
}

// cut shortens a line to the width of the tour, and then styles it. Names in it
// have been through Quote, so every rune is printable; wide ones are rare enough.
func cut(line string, style func(string) string) string {
	if r := []rune(line); len(r) > tourColumns {
		line = string(r[:tourColumns-3]) + "..."
	}
	if style != nil {
		return style(line)
	}
	return line
}

// lines tells what became of tmpfiles.d.
func (t *tryTour) lines(w *bufio.Writer) {
	files := 0
	if t.loaded.Files != nil {
		files = len(t.loaded.Files.Files)
	}
	w.WriteByte('\n')
	t.head(w, fmt.Sprintf("tmpfiles.d: %s below /run, from %s", count(t.report.changes, "change", "changes"), count(files, "file", "files")))
	var order []string
	byReason := map[string][]string{}
	add := func(reason, what string) {
		if byReason[reason] == nil {
			order = append(order, reason)
		}
		byReason[reason] = append(byReason[reason], what)
	}
	for _, p := range t.report.problems {
		what := Quote(p.Path)
		if p.Source.File != "" {
			what += " (" + Quote(p.Source.String()) + ")"
		}
		add(t.reason(p.Err), what)
	}
	for _, e := range t.loaded.Config.Invalid {
		add("lines that are wrong:", e.Error())
	}
	left := problemLines
	for i, reason := range order {
		list := byReason[reason]
		after := len(order) - i - 1
		if left < 4 && after > 0 {
			rest := 0
			for _, r := range order[i:] {
				rest += len(byReason[r])
			}
			fmt.Fprintf(w, "  ... and %d more, for %s\n", rest, count(after+1, "reason", "reasons"))
			return
		}
		fmt.Fprintln(w, cut("  "+reason, t.doubt))
		left--
		// A line for what is left out, and room for other reasons.
		room := max(1, left-1-3*min(after, 2))
		for n, what := range list {
			if n == room && len(list) > room+1 {
				fmt.Fprintf(w, "    ... and %d more\n", len(list)-n)
				left--
				break
			}
			fmt.Fprintln(w, cut("    "+what, nil))
			left--
		}
	}
}

// reason is why a line could not be applied, in words that many lines share.
func (t *tryTour) reason(err error) string {
	var call *os.SyscallError
	errors.As(err, &call)
	switch {
	case errors.Is(err, syscall.EINVAL) && t.in.Single:
		// The kernel's answer to an id that is not mapped, user_namespaces(7).
		return fmt.Sprintf("for another owner; this user namespace maps only uid %d (to root):", t.in.User)
	case errors.Is(err, syscall.EPERM) && call != nil && strings.HasPrefix(call.Syscall, "mknod"):
		return "devices; only the machine's root may make them:"
	case call != nil:
		return call.Error() + ":"
	}
	return "could not be applied:"
}

func (t *tryTour) doubt(text string) string {
	if t.colour {
		return Doubt.Wrap(text)
	}
	return text
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

// notes tells what is not as it would be at a boot.
func (t *tryTour) notes(w *bufio.Writer) {
	var notes []string
	for _, n := range t.res.Notes {
		notes = append(notes, n.String())
	}
	notes = append(notes, t.in.Notes...)
	for _, w := range t.loaded.Warnings {
		notes = append(notes, Quote(w.Error()))
	}
	if len(notes) == 0 {
		return
	}
	w.WriteByte('\n')
	t.head(w, "Notes")
	for _, n := range notes {
		for i, line := range wrapText(n, tourColumns-4) {
			w.WriteString([]string{"  - ", "    "}[min(i, 1)] + line + "\n")
		}
	}
}

// wrapText breaks text at spaces into lines of at most width columns, where the
// words allow it.
func wrapText(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
