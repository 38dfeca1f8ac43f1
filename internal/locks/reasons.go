package locks

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/slashrun/slashrun/internal/process"
)

// whoIs names a process in a sentence; a name that would draw on a terminal does not.
func whoIs(p process.Process) string {
	comm := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, p.Comm)
	return fmt.Sprintf("%d (%s)", p.PID, comm)
}

// cause is an error without the path, which is another one for each process.
func cause(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	var no syscall.Errno
	if errors.As(err, &no) {
		return no.Error()
	}
	return err.Error()
}

// reason is why something was not seen: about processes, of which there are many
// ("the descriptors of", "permission denied"), or a sentence of its own.
type reason struct {
	text, cause string
	// loose says that anybody may be missing, not only those who are named.
	loose bool
}

// reasons counts them, so that a thousand processes are one line.
type reasons struct {
	order []reason
	about map[reason][]string // at most a few of each
	count map[reason]int
	loose bool // one of them is
}

// maxReasons bounds the lines, and examples the names in each.
const (
	maxReasons = 16
	examples   = 3
)

func (r *reasons) add(why reason, who string) {
	if r.count == nil {
		r.about, r.count = map[reason][]string{}, map[reason]int{}
	}
	r.loose = r.loose || why.loose
	if r.count[why]++; r.count[why] == 1 {
		r.order = append(r.order, why)
	}
	if who != "" && len(r.about[why]) < examples && !slices.Contains(r.about[why], who) {
		r.about[why] = append(r.about[why], who)
	}
}

// lines is one line for each reason.
func (r *reasons) lines() (list []string) {
	for _, why := range r.order {
		if len(list) == maxReasons {
			break
		}
		names, n := strings.Join(r.about[why], ", "), r.count[why]
		switch {
		case why.cause == "":
			list = append(list, why.text)
		case n == 1:
			list = append(list, fmt.Sprintf("%s process %s cannot be seen: %s", why.text, names, why.cause))
		case n > examples:
			list = append(list, fmt.Sprintf("%s %d processes cannot be seen, %s and others: %s", why.text, n, names, why.cause))
		default:
			list = append(list, fmt.Sprintf("%s %d processes cannot be seen, %s: %s", why.text, n, names, why.cause))
		}
	}
	return list
}
