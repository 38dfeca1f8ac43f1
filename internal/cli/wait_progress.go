package cli

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/slashrun/slashrun/internal/condition"
	"github.com/slashrun/slashrun/internal/linux"
)

// waitProgress is the one line on a terminal that tells what is waited for. Each
// is written over the one before.
type waitProgress struct {
	env    *Env
	start  time.Time
	shown  bool
	caught atomic.Int32 // the signal that came, 0 for none
}

// eraseLine goes to the beginning of the line and erases it, ECMA-48 8.3.41.
const eraseLine = "\r\x1b[K"

func (p *waitProgress) signal() syscall.Signal { return syscall.Signal(p.caught.Load()) }

func (p *waitProgress) clear() {
	if p.shown {
		p.print(eraseLine)
		p.shown = false
	}
}

// print writes to the terminal unless that would wait: one that ^S has stopped, or a
// serial line with nobody at its end, is no reason to miss the end of the time.
func (p *waitProgress) print(text string) {
	if f, ok := p.env.Stderr.(*os.File); ok {
		if ready, err := linux.PollOut(int(f.Fd())); err == nil && !ready {
			return
		}
	}
	fmt.Fprint(p.env.Stderr, text)
}

func (p *waitProgress) show(r *condition.Report) {
	width := 0
	if f, ok := p.env.Stderr.(*os.File); ok {
		width = linux.WindowWidth(int(f.Fd()))
	}
	erase := eraseLine
	if p.env.Getenv("TERM") == "dumb" {
		return // which cannot go back in a line
	}
	p.print(erase + waitLine(p.env.Prog, r, width))
	p.shown = true
}

// waitLine is at most width-1 characters, so that the terminal does not go on to
// the next line.
func waitLine(prog string, r *condition.Report, width int) string {
	var open []string
	for _, c := range r.Conditions {
		if !c.Holds {
			open = append(open, Quote(c.Condition)+" ("+Quote(c.Why)+")")
		}
	}
	line := fmt.Sprintf("%s: waited %d s for %d of %d: %s", prog, int(r.Elapsed.Seconds()), len(open), len(r.Conditions), strings.Join(open, ", "))
	if width <= 0 {
		width = 80
	}
	if utf8.RuneCountInString(line) < width {
		return line
	}
	cut := []rune(line)[:max(width-4, 0)]
	return string(cut) + "..."
}
