package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/slashrun/slashrun/internal/getopt"
	"github.com/slashrun/slashrun/internal/origin"
	"github.com/slashrun/slashrun/internal/process"
)

// exitWhyUnseen says that a path, or part of a tree, could not be looked at.
const exitWhyUnseen = 2

func whyCommand() *Command {
	return &Command{
		Name:    "why",
		Summary: "say what a path is: who made it, who uses it, live or stale",
		Args:    []string{"[OPTION]... PATH..."},
		Doc: `For each PATH: what it is; who made it (a line of tmpfiles.d, a directive of a
unit file, a package of dpkg or apk, slashrun itself, else the process that has
it); who uses it now and since when; on which mount it lies and where else it is
reached; and whether it is live, stale, or that cannot be told, with the proof.

A directory gives a table of everything below it: first what is proven stale,
then what cannot be told, then what is live. --directory looks at the directory
itself. A link is explained, and so is what it leads to.

Nothing is changed, opened by others' leave, or woken: no FIFO, device or socket
is opened, no automount triggered, and what lies on a network or FUSE file
system is told as far as the kernel remembers it. As an ordinary user it says
what it could not see.

  slashrun why /run/nginx.pid
  slashrun why /run
  slashrun why --directory /run/lock
  slashrun why --json /run | jq -r 'select(.verdict == "stale").path'`,
		Flags: whyFlags,
		Files: true,
		Exits: []Exit{
			{ExitOK, "told"},
			{ExitUsage, "bad usage, or the output could not be written"},
			{exitWhyUnseen, "a PATH, or part of a tree, could not be looked at"},
		},
		Run: runWhy,
	}
}

var whyOptions = []getopt.Option{
	{Long: "directory", Short: 'd', Help: "look at a directory itself, not at what is in it"},
	{Long: "all", Short: 'a', Help: "in a table: also directories that nobody uses"},
	{Long: "verbose", Short: 'v', Help: "all of the evidence, and every user"},
	{Long: "json", Help: "print JSON, one object a line"},
	{Long: "help", Short: 'h', Help: "print this help"},
}

func whyFlags() []Flag {
	var flags []Flag
	for _, o := range whyOptions {
		flags = append(flags, Flag{Long: o.Long, Short: byte(o.Short), Help: o.Help})
	}
	return flags
}

// whyRun is a command line of why.
type whyRun struct {
	env                           *Env
	directory, all, verbose, json bool
	colour                        bool
	now                           time.Time
	code                          int
	printed                       bool // an object was
	// told are the remarks on what could not be seen that were printed already.
	told map[string]bool
}

func runWhy(ctx context.Context, env *Env, args []string) int {
	r := &whyRun{env: env, colour: env.Colour(env.Stdout), now: time.Now(), told: map[string]bool{}}
	p := getopt.New(whyOptions, args)
	for p.Next() {
		switch p.Option().Long {
		case "directory":
			r.directory = true
		case "all":
			r.all = true
		case "verbose":
			r.verbose = true
		case "json":
			r.json = true
		case "help":
			return env.Help()
		}
	}
	if err := p.Err(); err != nil {
		return env.Usagef("%v", err)
	}
	list := p.Operands()
	if len(list) == 0 {
		return env.Usagef("why what? name a PATH: slashrun why /run")
	}
	for n, arg := range list {
		switch {
		case arg == "":
			return env.Usagef("an empty PATH names nothing")
		case strings.IndexByte(arg, 0) >= 0:
			return env.Usagef("a PATH has no NUL byte in it")
		case !path.IsAbs(arg):
			dir := env.Dir()
			if dir == "" {
				return env.Usagef("%s: the working directory is not known; name an absolute path", Quote(arg))
			}
			list[n] = strings.TrimSuffix(dir, "/") + "/" + arg
		}
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	return r.run(ctx, list)
}

// run looks at the paths in their order: what is printed first is found out first.
func (r *whyRun) run(ctx context.Context, list []string) int {
	o := origin.Options{}
	proc, err := process.Open()
	if err == nil {
		defer proc.Close()
		o.Proc = proc
	}
	o.NoProc = err
	i, err := origin.Open(ctx, o)
	if err != nil {
		r.env.Errorf("%v", err)
		return exitWhyUnseen
	}
	defer i.Close()
	code := r.env.Output(func(w *bufio.Writer) {
		for len(list) > 0 && ctx.Err() == nil {
			n := 0
			for n < len(list) && !r.tree(i, list[n]) {
				n++
			}
			if n > 0 { // neighbours share their scans
				r.objects(ctx, w, i, list[:n])
				list = list[n:]
				continue
			}
			r.below(ctx, w, i, list[0])
			list = list[1:]
		}
	})
	switch {
	case ctx.Err() != nil:
		r.env.Errorf("interrupted")
		return exitWhyUnseen
	case code != ExitOK:
		return code
	}
	return r.code
}

// tree reports whether a path is to be looked at with everything below it: a
// directory, without a link at its end.
func (r *whyRun) tree(i *origin.Inspector, p string) bool {
	if r.directory {
		return false
	}
	return i.IsDirectory(p)
}

// atOnce is how many paths are looked at in one go: each is held by two descriptors, and
// 1024 are a usual limit, 256 one that old systems have.
const atOnce = 64

func (r *whyRun) objects(ctx context.Context, w *bufio.Writer, i *origin.Inspector, paths []string) {
	for some := range slices.Chunk(paths, atOnce) {
		r.some(ctx, w, i, some)
	}
}

func (r *whyRun) some(ctx context.Context, w *bufio.Writer, i *origin.Inspector, paths []string) {
	reports, err := i.Look(ctx, paths...)
	if err != nil {
		r.fail("%v", err)
		return
	}
	for _, rep := range reports {
		if rep.Err() != nil {
			w.Flush() // in the order of the paths
			r.fail("%s", r.errorOf(rep))
		}
		switch {
		case r.json:
			r.line(w, rep.JSON())
		case rep.Err() == nil:
			if r.printed {
				w.WriteByte('\n')
			}
			r.printed = true
			r.object(w, rep)
		}
	}
	w.Flush()
}

func (r *whyRun) fail(format string, args ...any) {
	r.code = exitWhyUnseen
	r.env.Errorf(format, args...)
}

// errorOf is the error with the path in front, once.
func (r *whyRun) errorOf(rep *origin.Report) string {
	return Quote(rep.Path) + ": " + Quote(strings.TrimPrefix(strings.TrimPrefix(rep.Error, "open "), rep.Path+": "))
}

// line writes one object as a line of JSON.
func (r *whyRun) line(w *bufio.Writer, v any) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		r.fail("JSON: %v", err)
	}
}

// below prints the table of a tree.
func (r *whyRun) below(ctx context.Context, w *bufio.Writer, i *origin.Inspector, dir string) {
	progress, done := r.progress(dir)
	t, err := i.Tree(ctx, dir, progress)
	done()
	if err != nil {
		if ctx.Err() == nil {
			r.fail("%s", Quote(err.Error()))
		}
		return
	}
	if t.Failed {
		r.code = exitWhyUnseen
	}
	if !r.json {
		r.table(w, t)
		w.Flush()
		r.unseen(t)
		return
	}
	for _, rep := range t.Rows {
		r.line(w, rep.JSON())
	}
	r.line(w, struct {
		Summary *origin.Tree `json:"summary"`
	}{t})
}

// unseen tells what a tree could not show, each thing once.
func (r *whyRun) unseen(t *origin.Tree) {
	for _, why := range t.Unseen {
		if !r.told[why] {
			r.told[why] = true
			r.env.Warnf("%s", Quote(why))
		}
	}
	const few = 8
	for n, s := range t.NotEntered {
		if n == few && !r.verbose {
			r.env.Warnf("%d directories more were not entered; --verbose lists them", len(t.NotEntered)-few)
			break
		}
		r.env.Warnf("%s was not entered: %s", Quote(s.Path), Quote(s.Why))
	}
}

// progress shows on a terminal how far a long walk is, rule 5 of ui.go.
func (r *whyRun) progress(dir string) (tell func(int), done func()) {
	if !Terminal(r.env.Stderr) || r.env.Getenv("TERM") == "dumb" {
		return nil, func() {}
	}
	start := time.Now()
	var last time.Time
	return func(n int) {
			now := time.Now()
			if now.Sub(start) > time.Second && now.Sub(last) > 100*time.Millisecond {
				last = now
				fmt.Fprintf(r.env.Stderr, "\r%s: %d entries\x1b[K", Quote(dir), n)
			}
		}, func() {
			if !last.IsZero() {
				fmt.Fprint(r.env.Stderr, "\r\x1b[K")
			}
		}
}
