package cli

import (
	"context"
	"errors"
	"slices"
	"syscall"

	"github.com/slashrun/slashrun/internal/entry"
	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/tmpconf"
	"github.com/slashrun/slashrun/internal/tmpfiles"
)

// applyTmpfiles applies tmpfiles.d. No name service is asked: the users of a
// container are in its files. Where files cannot be given away, they are made all
// the same.
func (x *execRun) applyTmpfiles(ctx context.Context, full func() bool, dryRun bool) (entry.TmpfilesResult, error) {
	r := &execTmpfiles{verbose: x.verbose, changes: x.verbose || dryRun}
	o := x.tmpfilesOptions()
	if !x.anyTmpfiles(o.Dirs()) {
		return r.res, nil
	}
	ops := tmpfiles.Create | tmpfiles.Remove
	loaded, err := tmpconf.Load(o)
	if err == nil && !loaded.Config.Empty() && !full() {
		o.Boot, ops = false, tmpfiles.Create
		loaded, err = tmpconf.Load(o)
	}
	if err != nil {
		return r.res, err
	}
	if err := r.apply(ctx, loaded, ops, dryRun); err != nil || !r.refused {
		return r.res, err
	}
	again := &execTmpfiles{verbose: x.verbose, changes: r.changes}
	if loaded, err = tmpconf.Load(o); err != nil {
		return r.res, err
	}
	loaded.Config.KeepOwners()
	err = again.apply(ctx, loaded, tmpfiles.Create, dryRun)
	again.res.Steps = append(r.res.Steps, again.res.Steps...)
	again.res.Owners = r.res.Failed - again.res.Failed
	return again.res, err
}

func (x *execRun) tmpfilesOptions() tmpconf.Options {
	o := tmpconf.Options{Boot: true, Getenv: x.env.LookupEnv, Asked: func() {}}
	if !slices.Contains(x.tmpfiles, "/") {
		o.Include = x.tmpfiles
	}
	for _, path := range systemds {
		if !slices.Contains(x.tmpfiles, path) {
			o.Exclude = append(o.Exclude, path)
		}
	}
	return o
}

// apply applies what was loaded.
func (r *execTmpfiles) apply(ctx context.Context, loaded *tmpconf.Loaded, ops tmpfiles.Op, dryRun bool) error {
	for _, w := range loaded.Warnings {
		r.failed(w)
	}
	for _, e := range loaded.Config.Invalid {
		r.failed(e)
	}
	if loaded.Config.Empty() {
		return nil
	}
	root, err := fsat.OpenDir("/")
	if err != nil {
		return err
	}
	defer root.Close()
	_, err = loaded.Config.Apply(ctx, tmpfiles.Options{
		Root: root, Ops: ops, DryRun: dryRun, Report: r, HardlinksProtected: hardlinksProtected(), Workers: 1,
	})
	if err != nil && ctx.Err() != nil {
		return errors.Join(ctx.Err(), err)
	}
	return err
}

// systemds are paths of lines that are wrong where no systemd runs: nobody would
// take /run/nologin away again, which keeps everybody but root from logging in, and
// programs that find the directories of logind wait for its answer.
var systemds = [...]string{"/run/nologin", "/run/systemd"}

// anyTmpfiles says whether there may be any configuration: most images have none.
func (x *execRun) anyTmpfiles(dirs []string) bool {
	if dir, _ := x.env.LookupEnv("CREDENTIALS_DIRECTORY"); dir != "" {
		return true
	}
	for _, dir := range dirs {
		at, err := x.o.Root.Resolve(dir)
		if err != nil || at.Exists() {
			at.Close()
			return true
		}
	}
	return false
}

// execTmpfiles gathers what a run does.
type execTmpfiles struct {
	res     entry.TmpfilesResult
	verbose bool
	changes bool
	refused bool // a chown may be what failed: EPERM, or EINVAL in a user namespace
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
		r.refused = r.refused || errors.Is(p, syscall.EPERM) || errors.Is(p, syscall.EINVAL)
		r.failed(p)
	}
}
