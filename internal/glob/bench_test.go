package glob

import (
	"fmt"
	"testing"
)

// The walk of a cleaning run: 500 patterns in one directory of many files.
func BenchmarkCursorMatch(b *testing.B) {
	for _, bb := range []struct {
		name, pattern, file string
	}{
		{"suffix/unlike", "/tmp/keep-*-%d", "file-%06d"},
		{"suffix/sameEnds", "/tmp/keep-*-%d", "keep-foo-%d-1700"},
		{"suffix/hit", "/tmp/keep-*-%d", "keep-foo-%d"},
		{"prefix/sameEnds", "/tmp/systemd-private-%d-*", "systemd-private-9%d-unit"},
		{"prefix/hit", "/tmp/systemd-private-%d-*", "systemd-private-%d-unit"},
		{"literal/hit", "/tmp/keep-%d", "keep-%d"},
		{"middle", "/tmp/*-%d-*", "keep-foo-%d-bar"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var patterns, names []string
			for i := range 500 {
				patterns = append(patterns, fmt.Sprintf(bb.pattern, i))
				names = append(names, fmt.Sprintf(bb.file, i))
			}
			c := NewSet(patterns).Root().Descend("tmp")
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.Match(names[i%len(names)])
			}
		})
	}
}

func BenchmarkNewSet500(b *testing.B) {
	patterns := keepPatterns(500)
	b.ReportAllocs()
	for b.Loop() {
		NewSet(patterns)
	}
}

func BenchmarkPatternMatch(b *testing.B) {
	p := Compile("/tmp/[a-z]*-?[0-9]*-lock")
	b.ReportAllocs()
	for b.Loop() {
		p.Match("/tmp/some-file-x7777-lock")
	}
}
