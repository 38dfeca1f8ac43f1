package cli

import (
	"math"
	"time"

	"github.com/slashrun/slashrun/internal/locks"
	"github.com/slashrun/slashrun/internal/process"
)

// lockJSON is a lock of "lock list --json".
type lockJSON struct {
	Kind   string         `json:"kind"`
	Mode   string         `json:"mode,omitempty"` // "exclusive", "shared", missing where it cannot be known
	Start  int64          `json:"start"`
	End    *int64         `json:"end"` // null: to the end of the file
	Path   string         `json:"path,omitempty"`
	Other  bool           `json:"other_mount_namespace,omitempty"` // Path is of one
	Major  uint32         `json:"major"`
	Minor  uint32         `json:"minor"`
	Inode  uint64         `json:"inode"`
	Taker  int            `json:"taker,omitempty"` // a process that may have ended
	Where  string         `json:"where,omitempty"` // "outside", "unseen"
	Holder []lockUserJSON `json:"holders"`
	Waiter []lockUserJSON `json:"waiters,omitempty"`
}

// lockUserJSON is a process that holds a lock or waits for it.
type lockUserJSON struct {
	PID     int        `json:"pid,omitempty"` // missing: not known
	Comm    string     `json:"comm,omitempty"`
	TID     int        `json:"tid,omitempty"`
	FDs     []int      `json:"fds,omitempty"`
	Mode    string     `json:"mode,omitempty"` // what a waiter wants
	Start   *int64     `json:"start,omitempty"`
	End     *int64     `json:"end,omitempty"`
	Started *time.Time `json:"started,omitempty"`
	// OneOf are the processes that it is one of, where PID is missing.
	OneOf []process.Process `json:"one_of,omitempty"`
	// TakerOnly says that it took the lock and cannot be seen.
	TakerOnly bool `json:"taker_only,omitempty"`
	process.Membership
}

func lockListJSON(t *locks.Table, list []locks.Held) []lockJSON {
	out := make([]lockJSON, 0, len(list))
	for i := range list {
		h := &list[i]
		j := lockJSON{
			Kind: h.Kind, Mode: modeJSON(&h.Lock), Start: h.Start, End: endJSON(h.End), Path: h.Path, Other: h.Foreign,
			Major: h.Major, Minor: h.Minor, Inode: h.Ino, Taker: max(h.PID, 0), Where: h.Where, Holder: []lockUserJSON{},
		}
		if lockMode(h) == "?" {
			j.Mode = ""
		}
		for k := range h.Holders {
			x := &h.Holders[k]
			if k == 0 || h.Holders[k-1].PID != x.PID {
				u := userJSON(t, x.Process)
				u.TakerOnly = x.FD < 0 && h.Kind == locks.Flock
				j.Holder = append(j.Holder, u)
			}
			if last := &j.Holder[len(j.Holder)-1]; x.FD >= 0 {
				last.FDs = append(last.FDs, x.FD)
			}
		}
		for k := range h.Waiters {
			x := &h.Waiters[k]
			u := userJSON(t, x.Process)
			u.OneOf = x.Among
			u.TID, u.Mode, u.Start, u.End = x.TID, modeJSON(&x.Lock), &x.Lock.Start, endJSON(x.Lock.End)
			if x.FD >= 0 {
				u.FDs = []int{x.FD}
			}
			j.Waiter = append(j.Waiter, u)
		}
		out = append(out, j)
	}
	return out
}

func userJSON(t *locks.Table, who process.Process) lockUserJSON {
	if who.PID <= 0 {
		return lockUserJSON{}
	}
	d := t.Details(who.PID)
	u := lockUserJSON{PID: who.PID, Comm: who.Comm, Membership: d.Membership}
	if !d.Started.IsZero() {
		at := d.Started.UTC().Truncate(10 * time.Millisecond)
		u.Started = &at
	}
	return u
}

func modeJSON(l *locks.Lock) string {
	if l.Exclusive {
		return "exclusive"
	}
	return "shared"
}

func endJSON(end int64) *int64 {
	if end == math.MaxInt64 {
		return nil
	}
	return &end
}
