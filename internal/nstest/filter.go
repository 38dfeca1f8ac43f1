package nstest

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
)

// lineFilter passes on the lines of a test's output except for the frame that
// the outer test prints as well.
type lineFilter struct {
	mu   sync.Mutex
	w    io.Writer
	test string
	part []byte
}

func (f *lineFilter) Write(p []byte) (int, error) {
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
func (f *lineFilter) Flush() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.part) > 0 {
		f.line(string(f.part))
		f.part = nil
	}
}

func (f *lineFilter) line(s string) {
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
