package entry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/slashrun/slashrun/internal/accounts"
	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/inroot"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/runfs"
	"github.com/slashrun/slashrun/internal/stale"
)

// Mode says what may be done with /run.
type Mode string

const (
	// Auto mounts a tmpfs where that is a container's start and allowed.
	Auto Mode = "auto"
	// Tmpfs is a tmpfs, mounted or found, or an error.
	Tmpfs Mode = "tmpfs"
	// InPlace mounts nothing.
	InPlace Mode = "in-place"
)

// ParseMode reads the name of a Mode.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case Auto, Tmpfs, InPlace:
		return m, nil
	}
	return "", fmt.Errorf("no mode %q; there are %q, %q and %q", s, Auto, Tmpfs, InPlace)
}

// Options say what to make ready. The zero value of what is not named here does
// without it.
type Options struct {
	Root *inroot.Root // the directory that stands for "/"

	// Systemd says that the command is an init that owns /run itself: it is left
	// alone.
	Systemd bool

	Mode Mode
	Size uint64 // of a tmpfs on /run, in bytes; 0 for 20 % of the memory

	// Stale are absolute patterns of what an earlier run may have left outside of
	// /run. Exclusive are directories that nobody but this container uses, as the
	// caller says. KeepStale removes nothing, in /run neither.
	Stale, Exclusive []string
	KeepStale        bool

	// Units are names of services whose runtime directories are made.
	Units []string

	// User is whom the command will run as, if another than we.
	User *User
	// Getenv looks up what the command's environment has; nil is an empty one.
	Getenv func(name string) (string, bool)

	// Tmpfiles applies tmpfiles.d. full asks whether /run is exclusively ours: then
	// lines that remove, and those for a boot only, may be applied. nil leaves
	// tmpfiles.d out.
	Tmpfiles func(ctx context.Context, full func() bool, dryRun bool) (TmpfilesResult, error)
	// TmpfilesOnHost applies tmpfiles.d in the initial PID namespace too.
	TmpfilesOnHost bool

	DryRun bool
	// Told is called before each act, or for each planned act in a dry run. It may
	// be nil.
	Told func(Step)
}

// User is whom a command runs as.
type User struct{ UID, GID uint32 }

// TmpfilesResult is what became of tmpfiles.d.
type TmpfilesResult struct {
	Steps  []Step
	Failed int   // lines that could not be applied
	First  error // why the first of them could not
	Owners int   // lines that were applied but for the owner they name
}

// Step is one act.
type Step struct {
	Op    string           `json:"op"`
	Path  string           `json:"path,omitempty"`
	Text  string           `json:"text"`          // what is done, in a line
	Why   string           `json:"why,omitempty"` // the reason
	Proof []stale.Evidence `json:"proof,omitempty"`
	Left  bool             `json:"left,omitempty"`  // nothing is done: Why says why
	Error string           `json:"error,omitempty"` // it was tried in vain
}

// Situation is what was found out before anything was done.
type Situation struct {
	PID         int    `json:"pid"`
	UID         uint32 `json:"uid"`
	Namespace   bool   `json:"own_pid_namespace"` // not the initial one
	CanMount    bool   `json:"can_mount"`
	Proc        string `json:"proc_error,omitempty"` // why there is no /proc
	Run         string `json:"run,omitempty"`        // runfs.Kind of /run
	Fresh       bool   `json:"fresh_run"`            // a tmpfs of ours is, or would be, on /run
	Exclusively bool   `json:"exclusively_ours"`     // /run, proven
	Machines    bool   `json:"machines"`             // an init system runs on the mount on /run
	Systemd     bool   `json:"systemd"`
}

// Result is what was planned and what became of it.
type Result struct {
	Situation Situation `json:"situation"`
	Steps     []Step    `json:"steps"`
	// Without says what could not be done, one reason each.
	Without []string `json:"without"`
	// Env are settings ("NAME=value") for the command's environment, Unset names to
	// take out of it.
	Env   []string `json:"env"`
	Unset []string `json:"unset,omitempty"`
}

// run is one run.
type run struct {
	o    Options
	res  *Result
	root *fsat.Dir
	proc *process.Proc // nil where there is none
	// state is what was found at /run, nil if it could not be looked at.
	state    *runfs.State
	judge    *stale.Judge
	judgeErr error
	young    []newborn // sockets to be looked at once more
	held     []*fsat.Dir
	waited   bool
	accounts *accounts.Source
}

func (r *run) getenv(name string) string {
	if r.o.Getenv == nil {
		return ""
	}
	v, _ := r.o.Getenv(name)
	return v
}

// Run makes everything ready. The process's umask must be 0. The Result is there
// with an error too.
func Run(ctx context.Context, o Options) (*Result, error) {
	r := &run{o: o, res: &Result{Steps: []Step{}, Without: []string{}, Env: []string{}}}
	root, err := o.Root.Resolve("/")
	if err != nil {
		return r.res, err
	}
	r.root = fsat.DirOf(root.Fd)
	defer r.root.Close()
	r.situation()
	defer r.close()
	if o.Systemd {
		r.told(Step{Op: "leave", Path: "/run", Left: true, Text: "leave /run to systemd", Why: "the command is systemd, which mounts /run and applies tmpfiles.d itself"})
		return r.res, nil
	}
	if err := ctx.Err(); err != nil {
		return r.res, err
	}
	for _, stage := range []func(context.Context) error{r.slashRun, r.leftovers, r.tmpfiles, r.units, r.session} {
		if err := stage(ctx); err != nil {
			return r.res, err
		}
		if err := ctx.Err(); err != nil {
			return r.res, err
		}
	}
	return r.res, nil
}

func (r *run) situation() {
	s := &r.res.Situation
	s.PID, s.UID, s.Systemd = os.Getpid(), linux.Geteuid(), r.o.Systemd
	s.CanMount = linux.HasCap(linux.CAP_SYS_ADMIN)
	var err error
	if r.proc, err = process.Open(); err != nil {
		r.proc, s.Proc = nil, err.Error()
		return
	}
	ns := r.proc.PIDNamespace() // 0 if it cannot be read
	s.Namespace = ns != 0 && ns != process.InitialPIDNS
}

func (r *run) close() {
	if r.proc != nil {
		r.proc.Close()
	}
	for _, d := range r.held {
		d.Close()
	}
}

func (r *run) told(s Step) {
	r.res.Steps = append(r.res.Steps, s)
	if r.o.Told != nil {
		r.o.Told(s)
	}
}

// failed notes that the step that was told last could not be done.
func (r *run) failed(err error) {
	s := &r.res.Steps[len(r.res.Steps)-1]
	s.Error = err.Error()
	r.without("%s: %v", s.Text, err)
}

func (r *run) without(format string, args ...any) {
	r.res.Without = append(r.res.Without, short(fmt.Sprintf(format, args...)))
}

// short cuts a text in the middle that a path of somebody else's made very long.
func short(s string) string {
	const most = 600
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most/2], "") + " ... " + strings.ToValidUTF8(s[len(s)-most/2:], "")
}

// target is the directory that is or becomes /run.
func (r *run) target() runfs.Target {
	return runfs.Target{Root: r.root, Name: "run", Path: path.Join("/", r.o.Root.Prefix(), "run")}
}

// openRun opens /run, through a link where it is one.
func (r *run) openRun() (*fsat.Dir, error) {
	at, err := r.o.Root.Resolve("/run/")
	if err != nil {
		return nil, err
	}
	if !at.Exists() {
		return nil, errors.New("/run is not there; make the directory in the image")
	}
	return fsat.DirOf(at.Fd), nil
}

func (r *run) tmpfiles(ctx context.Context) error {
	if r.o.Tmpfiles == nil {
		return nil
	}
	if s := &r.res.Situation; (s.Machines || r.proc != nil && !s.Namespace) && !r.o.TmpfilesOnHost {
		r.told(Step{Op: "leave", Left: true, Text: "leave tmpfiles.d out", Why: "/run is the machine's"})
		return nil
	}
	res, err := r.o.Tmpfiles(ctx, func() bool { return r.exclusively(ctx) }, r.o.DryRun)
	for _, s := range res.Steps {
		r.told(s)
	}
	if res.Owners > 0 {
		r.without("the owners that %d lines of tmpfiles.d name, which this process may not give (CAP_CHOWN)", res.Owners)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		r.without("tmpfiles.d: %v", err)
	case res.Failed == 1:
		r.without("a line of tmpfiles.d: %v", res.First)
	case res.Failed > 1:
		r.without("%d lines of tmpfiles.d, the first: %v", res.Failed, res.First)
	}
	return nil
}
