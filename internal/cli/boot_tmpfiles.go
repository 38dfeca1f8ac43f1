package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"sync"

	"github.com/slashrun/slashrun/internal/conffiles"
	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/tmpconf"
	"github.com/slashrun/slashrun/internal/tmpfiles"
)

func (b *bootRun) tmpfiles(ctx context.Context, dryRun bool) (bool, error) {
	env := *b.env
	env.Command = tmpfilesCommand()
	t := &tmpfilesRun{env: &env, ops: tmpfiles.Create | tmpfiles.Remove, dryRun: dryRun, verbose: b.verbose, json: b.json}
	load, err := b.tmpfilesOptions()
	if err != nil {
		return false, err
	}
	t.load, t.early = load, b.config
	var buf bytes.Buffer
	if b.json {
		env.Stdout = &buf
	}
	code := t.apply(ctx)
	if b.json && json.Valid(buf.Bytes()) {
		b.tmpfilesResults = buf.Bytes()
	}
	return code == ExitOK, nil
}

func (b *bootRun) tmpfilesOptions() (tmpconf.Options, error) {
	o := tmpconf.Options{Boot: true, Getenv: b.env.LookupEnv}
	if b.root == "/" {
		return o, nil
	}
	t := tmpfilesRun{env: b.env}
	var err error
	o.Root, err = t.rootArgument(b.root)
	return o, err
}

// readAhead reads the configuration while the kernel makes the mounts. What is
// read counts later if it cannot have come from a /run that is hidden by then.
func (b *bootRun) readAhead() {
	o, err := b.tmpfilesOptions()
	if err != nil {
		return // told when it is read in its turn
	}
	if dir, _ := o.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		return // it is in /run, as a rule
	}
	// A process of ours would be taken for one that uses /run, and what a name
	// service answers may depend on it.
	asked := false
	o.Asked = func() { asked = true }
	var loaded *tmpconf.Loaded
	var before []nodeID
	var done sync.WaitGroup
	done.Go(func() {
		before = sources(&o)
		if l, err := tmpconf.Load(o); err == nil && before != nil && !asked && !linksInside(l) &&
			!l.Config.CopiesFrom("/run") && !l.Config.CopiesFrom("/var/run") {
			l.Config.Compile()
			loaded = l
		}
	})
	b.config = func() *tmpconf.Loaded {
		done.Wait()
		if loaded == nil || !slices.Equal(before, sources(&o)) {
			return nil
		}
		return loaded
	}
}

// linksInside says whether what was read may have come through a link: it may
// have led to /run.
func linksInside(l *tmpconf.Loaded) bool {
	return len(l.Files.Masks) > 0 || slices.ContainsFunc(l.Files.Files, func(f *conffiles.File) bool { return f.Target != "" })
}

// nodeID is a file or directory, zero where there is none.
type nodeID struct{ dev, ino uint64 }

// sources are the directories of the configuration, and what else may be a link
// to /run of all that is read; nil if they cannot be told.
func sources(o *tmpconf.Options) []nodeID {
	root, err := inroot.Open(o.Root)
	if err != nil {
		return nil
	}
	defer root.Close()
	var ids []nodeID
	for _, path := range append(o.Dirs(), "/etc/passwd", "/etc/group", "/etc/machine-id") {
		at, err := root.Resolve(path)
		if err != nil {
			return nil
		}
		ids = append(ids, nodeID{uint64(at.Stat.Dev), at.Stat.Ino})
		at.Close()
	}
	return ids
}
