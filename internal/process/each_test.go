package process

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

// What does not answer is left, in any place of the list, and all others are there.
func TestEach(t *testing.T) {
	block := make(chan struct{})
	defer close(block)
	items := []int{0, 1, 2, 3, 4, 5, 6}
	var got []int
	left, err := Each(t.Context(), items, 20*time.Millisecond, func(n int) int {
		if n%3 == 0 {
			<-block
		}
		return n * 10
	}, func(n, r int) error {
		if r != n*10 {
			t.Errorf("%d: %d", n, r)
		}
		got = append(got, n)
		return nil
	})
	if err != nil || !slices.Equal(left, []int{0, 3, 6}) || !slices.Equal(got, []int{1, 2, 4, 5}) {
		t.Errorf("left %v, got %v, %v", left, got, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	if _, err := Each(ctx, items, time.Hour, func(int) int { <-block; return 0 }, func(int, int) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	stop := errors.New("stop")
	if _, err := Each(t.Context(), items, time.Hour, func(n int) int { return n }, func(n, _ int) error {
		if n == 2 {
			return stop
		}
		return nil
	}); err != stop {
		t.Errorf("%v", err)
	}
}
