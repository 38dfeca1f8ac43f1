package cli

import (
	"context"
	"errors"

	"github.com/slashrun/slashrun/internal/entry"
	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/tmpconf"
	"github.com/slashrun/slashrun/internal/tmpfiles"
)

// applyTmpfiles applies tmpfiles.d. No name service is asked: the users of a
// container are in its files.
func (x *execRun) applyTmpfiles(ctx context.Context, full, dryRun bool) (entry.TmpfilesResult, error) {
	r := &execTmpfiles{verbose: x.verbose, changes: x.verbose || dryRun}
	o := tmpconf.Options{Boot: full, Getenv: x.env.LookupEnv, Asked: func() {}}
	if len(x.tmpfiles) != 1 || x.tmpfiles[0] != "/" {
		o.Include = x.tmpfiles
	}
	loaded, err := tmpconf.Load(o)
	if err != nil {
		return r.res, err
	}
	for _, w := range loaded.Warnings {
		r.failed(w)
	}
	for _, e := range loaded.Config.Invalid {
		r.failed(e)
	}
	root, err := fsat.OpenDir("/")
	if err != nil {
		return r.res, err
	}
	defer root.Close()
	ops := tmpfiles.Create
	if full {
		ops |= tmpfiles.Remove
	}
	_, err = loaded.Config.Apply(ctx, tmpfiles.Options{
		Root: root, Ops: ops, DryRun: dryRun, Report: r, HardlinksProtected: hardlinksProtected(), Workers: 1,
	})
	if err != nil && ctx.Err() != nil {
		return r.res, errors.Join(ctx.Err(), err)
	}
	return r.res, err
}

// execTmpfiles gathers what a run does.
type execTmpfiles struct {
	res     entry.TmpfilesResult
	verbose bool
	changes bool
}

func (r *execTmpfiles) failed(err error) {
	if r.res.Failed == 0 {
		r.res.First = err
	}
	r.res.Failed++
	if r.verbose {
		r.res.Steps = append(r.res.Steps, entry.Step{Op: "tmpfiles", Left: true, Text: "leave out " + err.Error()})
	}
}

func (r *execTmpfiles) Verbose() bool                         { return false }
func (r *execTmpfiles) Changes() bool                         { return r.changes }
func (r *execTmpfiles) Debug(tmpfiles.Source, string, string) {}

func (r *execTmpfiles) Change(c tmpfiles.Change) {
	r.res.Steps = append(r.res.Steps, entry.Step{Op: "tmpfiles", Path: c.Path, Text: c.String(), Why: c.Line})
}

func (r *execTmpfiles) Problem(p *tmpfiles.Problem) {
	if !p.Tolerated {
		r.failed(p)
	}
}
