package cli

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/slashrun/slashrun/internal/locks"
	"github.com/slashrun/slashrun/internal/process"
)

// deadlockJSON is a circle of "lock list --deadlocks --json".
type deadlockJSON struct {
	Certain bool       `json:"certain"`
	Waits   []waitJSON `json:"waits"`
	Proof   []string   `json:"proof"` // of what it is certain by, or why it is not
}

type waitJSON struct {
	lockUserJSON
	For  string         `json:"for"` // a kind of lock, or "child"
	Path string         `json:"path,omitempty"`
	On   []lockUserJSON `json:"on"`
	More int            `json:"more,omitempty"` // how many are left out of On
}

// maxNamed bounds the names in each line: a lock may have a thousand holders, and
// all of them wait.
const maxNamed = 16

// circles prints the deadlocks of t that concern what was asked for.
func (l *lockList) circles(ctx context.Context, t *locks.Table) int {
	all, err := t.Deadlocks(ctx)
	if err != nil {
		l.env.Errorf("lock list: %v", err)
		return exitListFailed
	}
	code, list := ExitOK, []deadlockJSON{}
	for i := range all {
		d := &all[i]
		if !slices.ContainsFunc(d.Waits, l.about) {
			continue
		}
		list = append(list, deadlockToJSON(t, d))
		if d.Certain {
			code = exitListDeadlock
		} else if code == ExitOK {
			code = exitListMaybe
		}
	}
	l.unseen(t.Incomplete)
	out := l.env.Output(func(w *bufio.Writer) {
		if l.json {
			writeJSON(w, struct {
				Deadlocks  []deadlockJSON `json:"deadlocks"`
				Incomplete []string       `json:"incomplete,omitempty"`
			}{list, t.Incomplete})
			return
		}
		for i := range all {
			if d := &all[i]; slices.ContainsFunc(d.Waits, l.about) {
				writeDeadlock(w, t, d)
			}
		}
	})
	if out != ExitOK {
		return out
	}
	return code
}

// about reports whether a wait is for one of the files that were asked for.
func (l *lockList) about(w locks.Wait) bool {
	return l.files == nil || !w.ForChild() && l.picked(&locks.Held{Lock: w.Lock, Path: w.Path, Foreign: w.Foreign, Within: w.Within})
}

func deadlockToJSON(t *locks.Table, d *locks.Deadlock) deadlockJSON {
	j := deadlockJSON{Certain: d.Certain, Proof: d.Proof}
	for i := range d.Waits {
		w := &d.Waits[i]
		x := waitJSON{lockUserJSON: userJSON(t, w.Process), For: "child", Path: w.Path}
		x.TID = w.TID
		if !w.ForChild() {
			x.For = w.Lock.Kind
		}
		if !w.ForChild() && !w.Unsure {
			x.Mode, x.Start, x.End = modeJSON(&w.Lock), &w.Lock.Start, endJSON(w.Lock.End)
		}
		for k, who := range w.On {
			if k == maxNamed {
				x.More = len(w.On) - k
				break
			}
			x.On = append(x.On, userJSON(t, who))
		}
		j.Waits = append(j.Waits, x)
	}
	return j
}

// writeDeadlock tells a circle in sentences.
func writeDeadlock(w *bufio.Writer, t *locks.Table, d *locks.Deadlock) {
	verdict, proof := "deadlock, certain unless a signal or an alarm(2) ends it:", "proof: "
	if !d.Certain {
		verdict, proof = "deadlock, not certain:", "doubt: "
	}
	fmt.Fprintf(w, "%s\n", verdict)
	for i := range d.Waits {
		x := &d.Waits[i]
		fmt.Fprintf(w, "  %s waits for ", processText(t, x.Process))
		var on []string
		for k, who := range x.On {
			if k == maxNamed {
				on = append(on, fmt.Sprintf("%d more", len(x.On)-k))
				break
			}
			on = append(on, processText(t, who))
		}
		if x.ForChild() {
			fmt.Fprintf(w, "its child, %s\n", strings.Join(on, " or "))
			continue
		}
		fmt.Fprintf(w, "%s %s on %s", x.Lock.Kind, modeOf(&x.Lock), lockPath(&locks.Held{Lock: x.Lock, Path: x.Path, Foreign: x.Foreign}))
		if x.Unsure {
			w.WriteString(" (which bytes is not told)")
		} else if x.Lock.Start != 0 || rangeEnd(x.Lock.End) != "EOF" {
			fmt.Fprintf(w, " (bytes %d to %s)", x.Lock.Start, rangeEnd(x.Lock.End))
		}
		fmt.Fprintf(w, ", held by %s\n", strings.Join(on, " and "))
	}
	for _, p := range d.Proof {
		fmt.Fprintf(w, "  %s%s\n", proof, Quote(p))
	}
}

// processText is a process in a sentence: "process 812 (nginx, nginx.service)".
func processText(t *locks.Table, who process.Process) string {
	s := Quote(who.Comm)
	if m := t.Details(who.PID).Membership.String(); m != "" {
		s += ", " + Quote(m)
	}
	return fmt.Sprintf("process %d (%s)", who.PID, s)
}
