package locks

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/slashrun/slashrun/internal/process"
)

// record is a lock that is held, with the locks that wait for it: /proc/locks has
// them in one piece, so that they are all of one moment.
type record struct {
	held    Lock
	waiting []Lock
}

func (r *record) equal(o *record) bool {
	return r.held == o.held && slices.Equal(r.waiting, o.waiting)
}

// locksText is what was found in /proc/locks.
type locksText struct {
	records []record
	// torn says that the reads never agreed about them: a read(2) gives a few dozen
	// lines, and where locks come and go between two of these some are left out or
	// there twice.
	torn bool
	// doubled says that a lock was there twice that only one can have: this read was
	// torn for certain.
	doubled bool
	// unknown is an error about a line that could not be read; the rest counts.
	unknown error
}

// maxReads bounds how often /proc/locks is read until the reads agree: two if they
// have the same text, else three, because others may have torn two in the same
// place.
const (
	maxReads = 16
	agreed   = 3
)

// readLocks reads /proc/locks until the reads agree about the locks that want
// picks.
func readLocks(p *process.Proc, want func(*Lock) bool) (locksText, error) {
	var text []byte
	var t locksText
	same := 0
	for range maxReads {
		next, err := p.ReadFile("locks")
		if err != nil {
			return locksText{}, err
		}
		if same > 0 && bytes.Equal(text, next) {
			t.torn = false
			return t, nil
		}
		now := parseLocks(next, want)
		if now.doubled {
			text, t, same = next, now, 0
			t.torn = true
			continue
		}
		if same > 0 && slices.EqualFunc(t.records, now.records, func(a, b record) bool { return a.equal(&b) }) {
			same++
		} else {
			same = 1
		}
		text, t = next, now
		if t.torn = same < agreed; !t.torn {
			break
		}
	}
	return t, nil
}

// parseLocks reads the text of /proc/locks: each lock is followed by those who
// wait for it. The number at the beginning of a line counts anew in each read.
func parseLocks(text []byte, want func(*Lock) bool) (t locksText) {
	wanted := false
	alone := map[Lock]bool{}
	for line := range strings.Lines(string(text)) {
		l, err := Parse(line)
		switch {
		case err != nil:
			t.unknown = fmt.Errorf("/proc/locks has a line that we do not know: %w", err)
			wanted = wanted && strings.Contains(line, "->")
		case !l.Waiting:
			if wanted = want(&l); wanted {
				t.doubled = t.doubled || alone[l]
				if l.Exclusive || l.Kind == POSIX {
					alone[l] = true
				}
				t.records = append(t.records, record{held: l})
			}
		case wanted:
			last := &t.records[len(t.records)-1]
			last.waiting = append(last.waiting, l)
		}
	}
	return t
}
