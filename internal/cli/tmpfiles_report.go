package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/slashrun/slashrun/internal/tmpfiles"
)

// tmpfilesReport prints what a run does. Changes go to standard output in a dry
// run or with --verbose or --json, problems to standard error.
type tmpfilesReport struct {
	t       *tmpfilesRun
	mu      sync.Mutex
	out     *bufio.Writer
	changes int
	err     error // the first failure to write
	debug   bool
	drawn   bool // a line of progress is on the terminal
	list    []jsonProblem
}

type jsonProblem struct {
	Path  string `json:"path"`
	Line  string `json:"line,omitempty"`
	Error string `json:"error"`
	// Tolerated failures do not count: the line has the modifier `-`.
	Tolerated bool `json:"tolerated,omitempty"`
}

func (t *tmpfilesRun) reporter() *tmpfilesReport {
	r := &tmpfilesReport{t: t, out: bufio.NewWriter(t.env.Stdout), debug: t.verbose || t.debugLog()}
	if t.json {
		fmt.Fprintf(r.out, "{\"dry_run\":%t,\"changes\":[", t.dryRun)
	}
	return r
}

func (r *tmpfilesReport) Verbose() bool { return r.debug }
func (r *tmpfilesReport) Changes() bool { return r.t.dryRun || r.t.verbose || r.t.json || r.t.check }

func (r *tmpfilesReport) Change(c tmpfiles.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes++
	switch {
	case r.t.json:
		if r.changes > 1 {
			r.out.WriteByte(',')
		}
		data, err := json.Marshal(c)
		r.note(err)
		r.out.WriteString("\n")
		_, err = r.out.Write(data)
		r.note(err)
	case r.t.dryRun, r.t.verbose:
		r.wipe()
		what := ""
		if r.t.dryRun {
			what = "would "
		}
		line := what + c.String()
		if c.Line != "" {
			line += " (" + Quote(c.Line) + ")"
		}
		_, err := r.out.WriteString(line + "\n")
		r.note(err)
	}
}

func (r *tmpfilesReport) note(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *tmpfilesReport) Problem(p *tmpfiles.Problem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wipe()
	r.note(r.out.Flush())
	if r.t.json {
		line := ""
		if p.Source.File != "" {
			line = p.Source.String()
		}
		r.list = append(r.list, jsonProblem{p.Path, line, p.Err.Error(), p.Tolerated})
	}
	if p.Tolerated {
		if r.debug {
			r.t.env.Warnf("%v; tolerated, the line has the modifier '-'", p)
		}
		return
	}
	r.t.env.Errorf("%v", p)
}

func (r *tmpfilesReport) Debug(src tmpfiles.Source, path, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wipe()
	r.note(r.out.Flush())
	fmt.Fprintf(r.t.env.Stderr, "%s: %s: %s\n", src, Quote(path), why)
}

// progress draws how far a clean-up is, on a terminal, if it takes long.
func (r *tmpfilesReport) progress() func(tmpfiles.Stats) {
	w := r.t.env.Stderr
	if !Terminal(w) || r.t.env.Getenv("TERM") == "dumb" {
		return nil
	}
	start := time.Now()
	return func(s tmpfiles.Stats) {
		if time.Since(start) < time.Second {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		fmt.Fprintf(w, "\r\x1b[Kcleaning: %d looked at, %d removed", s.Seen, s.Removed)
		r.drawn = true
	}
}

// wipe makes room for another line.
func (r *tmpfilesReport) wipe() {
	if r.drawn {
		fmt.Fprint(r.t.env.Stderr, "\r\x1b[K")
		r.drawn = false
	}
}

// end writes what is left.
func (r *tmpfilesReport) end() {
	r.wipe()
	if r.t.json {
		if r.list == nil {
			r.list = []jsonProblem{}
		}
		data, err := json.Marshal(r.list)
		r.note(err)
		r.out.WriteString("],\n\"problems\":")
		r.out.Write(data)
		r.out.WriteString("}\n")
	}
	r.note(r.out.Flush())
}
