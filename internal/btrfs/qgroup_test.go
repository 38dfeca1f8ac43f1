package btrfs

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlanFor(t *testing.T) {
	g := MakeQgroup
	for _, c := range []struct {
		name   string
		above  []Qgroup
		insert bool
		want   string
		err    error
	}{
		{"nothing above", nil, false, "", nil},
		{"as above", []Qgroup{g(1, 5), g(3, 7)}, false, "0/260 in 1/5, 0/260 in 3/7", nil},
		{"inserted at the top", nil, true, "0/260 in 255/260", nil},
		{"inserted below", []Qgroup{g(255, 256)}, true, "254/260 in 255/256, 0/260 in 254/260", nil},
		{"below the lowest of two", []Qgroup{g(9, 1), g(4, 1)}, true, "3/260 in 9/1, 3/260 in 4/1, 0/260 in 3/260", nil},
		{"no level left", []Qgroup{g(9, 1), g(1, 1)}, true, "", ErrNoLevel},
	} {
		p, err := PlanFor(260, c.above, c.insert)
		if !errors.Is(err, c.err) || p.String() != c.want {
			t.Errorf("%s: %q, %v; want %q, %v", c.name, p, err, c.want, c.err)
		}
		if c.err == nil && (p.Insert != 0) != c.insert {
			t.Errorf("%s: inserts %v", c.name, p.Insert)
		}
	}
	p, err := PlanFor(New, []Qgroup{g(255, 256)}, true)
	if err != nil || p.String() != "254/new in 255/256, 0/new in 254/new" {
		t.Errorf("a new subvolume: %q, %v", p, err)
	}
	if diff := cmp.Diff([]Qgroup{g(254, New)}, p.Of(g(0, New))); diff != "" {
		t.Error(diff)
	}
}

func TestQgroup(t *testing.T) {
	q := MakeQgroup(math.MaxUint16, 300)
	if q.Level() != math.MaxUint16 || q.ID() != 300 || q.String() != "65535/300" {
		t.Errorf("%v: level %d, id %d", q, q.Level(), q.ID())
	}
}
