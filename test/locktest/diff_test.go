package locktest

import (
	"os"
	"strings"
	"sync"
	"testing"
)

// Every case ends the same with ours as with the newest flock of util-linux, or
// differs in a way that is meant.
func TestLikeFlock(t *testing.T) {
	peer, own := reference(t), ours(t)
	type job struct {
		testCase
		scene scene
	}
	var jobs []job
	for _, c := range allCases() {
		for _, s := range c.scenes {
			jobs = append(jobs, job{c, s})
		}
	}
	if len(jobs) < 700 {
		t.Errorf("only %d cases", len(jobs))
	}
	var mu sync.Mutex
	seen := map[string]int{}
	t.Run("cases", func(t *testing.T) {
		for _, j := range jobs {
			t.Run(string(j.scene)+" "+strings.ReplaceAll(j.script, "/", "|"), func(t *testing.T) {
				t.Parallel()
				var want, got result
				// /proc/locks is no snapshot: with others' locks coming and going a
				// line may be missing.
				for range 4 {
					want = runCase(t, peer, j.scene, j.script, j.env...)
					got = runCase(t, own, j.scene, j.script, j.env...)
					if want.same(got) {
						return
					}
				}
				d := accepted(j.script, want, got)
				if d == "" {
					t.Errorf("%s (%s)\n--- flock\n%v\n--- ours\n%v", j.script, j.scene, want, got)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				seen[d]++
			})
		}
	})
	t.Logf("%d cases, %v", len(jobs), seen)
	if os.Getenv("SLASHRUN_LOCKTEST_OURS") != "" || t.Failed() {
		return
	}
	for _, d := range differences {
		if seen[d.id] == 0 && d.is != nil {
			t.Errorf("the difference %q does not occur any more: take it out, and out of docs/lock.md", d.id)
		}
	}
}
