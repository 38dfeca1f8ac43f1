package cli

import (
	"bufio"
	"encoding/json"
	"fmt"

	"github.com/slashrun/slashrun/internal/tmpconf"
	"github.com/slashrun/slashrun/internal/tmpfiles"
)

// explained is one line in the answer of --explain.
type explained struct {
	Role string `json:"role"`
	Line string `json:"line"`
	Text string `json:"text"`
	Why  string `json:"why,omitempty"`
}

// roleText says what a role means.
var roleText = map[tmpfiles.Role]string{
	tmpfiles.RoleOwn:     "for this path",
	tmpfiles.RolePattern: "pattern matches",
	tmpfiles.RoleTree:    "works on the tree it is in",
	tmpfiles.RoleCopy:    "copies the tree it is in",
	tmpfiles.RoleClean:   "cleans where it is, by age",
	tmpfiles.RoleRemove:  "removes the tree it is in (--remove)",
	tmpfiles.RoleKeep:    "keeps it from being cleaned",
	tmpfiles.RoleIgnored: "does not count",
}

// explainPath prints the lines that govern a path, in the order of application,
// then those that do not count, with the reason.
func (t *tmpfilesRun) explainPath() int {
	t.load.KeepSkipped = true
	loaded, err := tmpconf.Load(t.load)
	if err != nil {
		return t.env.Usagef("%v", err)
	}
	for _, w := range loaded.Warnings {
		t.env.Warnf("%v", w)
	}
	rows := t.explainRows(loaded)
	if t.json {
		return t.env.Output(func(w *bufio.Writer) {
			data, err := json.MarshalIndent(struct {
				Path  string      `json:"path"`
				Lines []explained `json:"lines"`
			}{t.explain, rows}, "", "  ")
			if err == nil {
				w.Write(append(data, '\n'))
			}
		})
	}
	return t.env.Output(func(w *bufio.Writer) {
		if len(rows) == 0 {
			fmt.Fprintf(w, "%s: no line governs it\n", Quote(t.explain))
			return
		}
		fmt.Fprintf(w, "%s\n", Quote(t.explain))
		n := 0
		for _, r := range rows {
			mark := "   -"
			if r.Role != string(tmpfiles.RoleIgnored) {
				n++
				mark = fmt.Sprintf("%3d.", n)
			}
			why := roleText[tmpfiles.Role(r.Role)]
			if r.Why != "" {
				why += ": " + r.Why
			}
			fmt.Fprintf(w, "%s %s\n     %s  (%s)\n", mark, Quote(r.Text), Quote(r.Line), why)
		}
	})
}

func (t *tmpfilesRun) explainRows(loaded *tmpconf.Loaded) []explained {
	rows := []explained{}
	for _, g := range loaded.Config.Explain(t.explain) {
		rows = append(rows, explained{string(g.Role), g.Source.String(), g.Text, g.Why})
	}
	for _, h := range loaded.Hidden {
		why := "its file is overridden by " + h.By
		if h.Masked {
			why = "its file is masked by " + h.By
		}
		for _, g := range h.Config.Explain(t.explain) {
			rows = append(rows, explained{string(tmpfiles.RoleIgnored), g.Source.String(), g.Text, why})
		}
	}
	return rows
}
