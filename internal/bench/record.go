package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// section returns the Markdown section of the benchmark called name.
func (b *B) section(name, about string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "## %s\n\n%s\n\n", name, about)
	fmt.Fprintf(&s, "Measured %s on Linux %s, %d cores, %s, %s: `go run ./bench/%s --record`\n\n",
		time.Now().UTC().Format("2006-01-02"), kernel(), runtime.NumCPU(), runtime.GOARCH, runtime.Version(), name)
	s.WriteString("| case | program | rounds | min | median | max | peak memory | ours is faster by | promised |\n")
	s.WriteString("|---|---|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, r := range b.results {
		for i, m := range r.Samples {
			title, ratio, want := "", "", ""
			if i == 0 {
				title = r.Case.Name
			} else {
				ratio = fmt.Sprintf("%.2f×", r.Ratio(i))
			}
			if i == 1 && r.Case.Want > 0 {
				want = fmt.Sprintf("≥ %g×", r.Case.Want)
			}
			if i == 0 && r.Case.MaxOver > 0 {
				want = fmt.Sprintf("≤ %s more (is %s)", formatTime(r.Case.MaxOver), formatTime(r.over()))
			}
			if i == 0 && r.Case.MaxTime > 0 {
				want = strings.TrimPrefix(want+", ≤ "+formatTime(r.Case.MaxTime), ", ")
			}
			if i == 0 && r.Case.MaxMemory > 0 {
				want = strings.TrimPrefix(want+", ≤ "+formatBytes(r.Case.MaxMemory), ", ")
			}
			fmt.Fprintf(&s, "| %s | %s | %d | %s | %s | %s | %s | %s | %s |\n", title, m.Name, len(m.Times),
				formatTime(m.Min()), formatTime(m.Median()), formatTime(m.Max()), formatBytes(m.Memory), ratio, want)
		}
	}
	return s.String()
}

// formatTime gives three significant digits in a unit that fits.
func formatTime(d time.Duration) string {
	switch ms := float64(d) / float64(time.Millisecond); {
	case ms < 10:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0f ms", ms)
	case ms < 10000:
		return fmt.Sprintf("%.2f s", ms/1000)
	default:
		return fmt.Sprintf("%.1f s", ms/1000)
	}
}

// formatBytes gives n in MiB; 0 stands for "not measured".
func formatBytes(n int64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// kernel returns the version numbers of the running kernel, without the local
// part of its release.
func kernel() string {
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		return "(unknown)"
	}
	var r []byte
	for _, c := range u.Release {
		if c == 0 || c != '.' && (c < '0' || c > '9') {
			break
		}
		r = append(r, byte(c))
	}
	return string(r)
}

// preamble begins a new docs/benchmarks.md.
const preamble = `# Benchmarks

Measured figures only. Each section is written by the benchmark of that name; [internal/bench](../internal/bench/bench.go) tells
how it measures. Both sides run in alternating rounds; the ratio compares medians.
`

// recordFile replaces the section called name in the file at path, or adds it.
// Sections are in the order of their names, so that two of them recorded on two
// branches seldom touch the same lines.
func recordFile(path, name, section string) error {
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		old, err = []byte(preamble), nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(recordText(string(old), name, section)), 0o644)
}

func recordText(old, name, section string) string {
	parts := strings.Split("\n"+old, "\n## ")
	out := strings.TrimSpace(parts[0]) + "\n"
	section = strings.TrimSpace(section) + "\n"
	done := false
	for _, p := range parts[1:] {
		title, _, _ := strings.Cut(p, "\n")
		if !done && title >= name {
			out += "\n" + section
			done = true
		}
		if title != name {
			out += "\n## " + strings.TrimSpace(p) + "\n"
		}
	}
	if !done {
		out += "\n" + section
	}
	return out
}
