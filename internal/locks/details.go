package locks

import (
	"strconv"
	"time"

	"github.com/slashrun/slashrun/internal/process"
)

// Details is what else is known of a process in a Table.
type Details struct {
	Started    time.Time // zero where it has ended
	Membership process.Membership
}

// Details looks up a process of the table, at most once. The Proc that the table
// was made with must still be open. Of a process that has ended since, and of
// another that has its number now, it knows nothing.
func (t *Table) Details(pid int) Details {
	if d, ok := t.details[pid]; ok {
		return d
	}
	if t.details == nil {
		t.details = map[int]Details{}
		t.boot, t.bootErr = t.proc.Started(process.Stat{})
	}
	var d Details
	if st, ok := t.stats[pid]; ok && t.bootErr == nil {
		d.Started = t.boot.Add(time.Duration(st.Start) * 10 * time.Millisecond)
		d.Membership, _ = t.proc.Membership(strconv.Itoa(pid))
	}
	t.details[pid] = d
	return d
}
