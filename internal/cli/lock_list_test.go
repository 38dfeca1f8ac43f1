package cli

import (
	"context"
	"testing"
)

// Called as flock there is no list: the word is an operand like any other, here a
// descriptor that is none.
func TestNoListCalledAsFlock(t *testing.T) {
	env, stdout, stderr := testEnv("flock", "list")
	if code := Run(context.Background(), env); code != exitLockUsage || stdout.Len() > 0 {
		t.Errorf("flock list = %d, %q, %q", code, stdout, stderr)
	}
}
