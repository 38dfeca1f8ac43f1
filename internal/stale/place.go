package stale

import (
	"context"

	"github.com/slashrun/slashrun/internal/fsat"
)

// Ours reports whether the processes that use the entry name of the directory dir
// are all of our own PID namespace or below it; why not, if that is not certain.
// The entry is not opened.
func (j *Judge) Ours(ctx context.Context, dir *fsat.Dir, name string) (ours bool, why string, err error) {
	node, err := dir.OpenNode(name)
	if err != nil {
		return false, "", err
	}
	defer node.Close()
	o := &object{node: node, dir: dir, name: name}
	g, err := j.groundOf(ctx, o)
	if err != nil {
		return false, "", err
	}
	return g.ours || g.exclusive, g.notOurs, nil
}
