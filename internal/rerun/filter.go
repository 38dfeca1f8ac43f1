package rerun

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
)

// A Filter passes on the lines of the inner test's output except for those that
// the outer test prints as well: "=== RUN", "--- PASS" and the like.
type Filter struct {
	mu   sync.Mutex
	w    io.Writer
	test string
	part []byte
}

// NewFilter returns a Filter for the output of the test called test.
func NewFilter(test string, w io.Writer) *Filter { return &Filter{w: w, test: test} }

// Write takes output in pieces of any size.
func (f *Filter) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.part = append(f.part, p...)
	for {
		line, rest, ok := bytes.Cut(f.part, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		f.line(string(line))
		f.part = rest
	}
}

// Flush passes on a last line that has no newline.
func (f *Filter) Flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.part) > 0 {
		f.line(string(f.part))
		f.part = nil
	}
}

func (f *Filter) line(s string) {
	switch {
	case s == "PASS", s == "FAIL", strings.HasPrefix(s, "coverage: "), strings.HasPrefix(s, "exit status "):
		return
	}
	for _, p := range []string{"=== RUN ", "=== PAUSE ", "=== CONT ", "=== NAME "} {
		if strings.HasPrefix(s, p) {
			return
		}
	}
	trimmed := strings.TrimLeft(s, " ")
	for _, p := range []string{"--- PASS: ", "--- FAIL: ", "--- SKIP: "} {
		if name, ok := strings.CutPrefix(trimmed, p); ok {
			name, _, _ = strings.Cut(name, " ")
			if name == f.test || strings.HasPrefix(f.test, name+"/") {
				return // the inner test ends by SkipNow, whatever came out
			}
		}
	}
	fmt.Fprintln(f.w, s)
}
