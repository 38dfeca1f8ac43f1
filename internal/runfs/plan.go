package runfs

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
)

// Op is what a step does.
type Op string

const (
	OpSweep       Op = "sweep"        // remove what a killed run left
	OpMakeTarget  Op = "mkdir-target" // make the directory /run itself
	OpMount       Op = "mount"        // build a tmpfs, lay it out, move it in
	OpRestrict    Op = "restrict"     // add nosuid, nodev, noexec to the mount
	OpReconfigure Op = "reconfigure"  // lower the file system's limits
	OpOwner       Op = "owner"        // give a directory its owner and mode
	OpMkdir       Op = "mkdir"        // make a directory
	OpMountInner  Op = "mount-inner"  // mount a limited tmpfs on a directory below
	OpStamp       Op = "stamp"        // write the boot stamp
	OpMove        Op = "move"         // hand the mount over to another root
	OpLink        Op = "link"         // make a legacy link
	OpExchange    Op = "exchange"     // put the link in the place of a directory
)

// Step is one act. A plan is its steps in order.
type Step struct {
	Op      Op     `json:"op"`
	Path    string `json:"path"`              // for messages
	Options string `json:"options,omitempty"` // of a mount, as mount(8) writes them
	Mode    string `json:"mode,omitempty"`    // octal
	Target  string `json:"target,omitempty"`  // of a link, or where a mount goes
	Stamp   *Stamp `json:"stamp,omitempty"`
	// Inner are the steps that happen inside a new mount before it is seen.
	Inner []Step `json:"inner,omitempty"`
	// Carry are the mounts of before that the new one takes along.
	Carry []Carried `json:"carry,omitempty"`

	rel   string // below the target
	mode  uint32
	tmpfs mounts.Tmpfs
	// must is for steps without which /run is not usable; the failure of another
	// is told and the rest goes on.
	must bool
	// asIs leaves a directory that is there already as it is.
	asIs bool
}

// String tells the step in a line.
func (s Step) String() string {
	switch s.Op {
	case OpSweep:
		return "remove " + s.Path + ", left by a run that was killed"
	case OpMakeTarget, OpMkdir:
		return fmt.Sprintf("make the directory %s, mode %s", s.Path, s.Mode)
	case OpMount:
		t := fmt.Sprintf("mount a tmpfs on %s (%s)", s.Path, s.Options)
		for _, c := range s.Carry {
			t += ", with the mount " + c.Rel + " that is there"
		}
		return t
	case OpMountInner:
		return fmt.Sprintf("mount a tmpfs on %s (%s)", s.Path, s.Options)
	case OpRestrict:
		return fmt.Sprintf("set %s on the mount %s", s.Options, s.Path)
	case OpReconfigure:
		return fmt.Sprintf("set %s on %s", s.Options, s.Path)
	case OpOwner:
		return fmt.Sprintf("give %s to root, mode %s", s.Path, s.Mode)
	case OpStamp:
		return "write " + s.Path
	case OpMove:
		return fmt.Sprintf("move the mount %s to %s", s.Path, s.Target)
	case OpLink:
		return fmt.Sprintf("make the link %s -> %s", s.Path, s.Target)
	case OpExchange:
		return fmt.Sprintf("exchange the directory %s with a link to %s", s.Path, s.Target)
	}
	return string(s.Op) + " " + s.Path
}

// Note is something to tell. A note that is Kept says what is not as wanted and
// was left as it is.
type Note struct {
	Path string `json:"path"`
	Text string `json:"text"`
	Kept bool   `json:"kept"`
}

func (n Note) String() string { return n.Path + ": " + n.Text }

// Plan is what has to be done: nothing where everything is as wanted.
type Plan struct {
	Steps []Step `json:"steps"`
	Notes []Note `json:"notes,omitempty"`
}

func (p *Plan) note(path string, kept bool, format string, args ...any) {
	p.Notes = append(p.Notes, Note{path, fmt.Sprintf(format, args...), kept})
}

// OccupiedError is the refusal to mount over something that is, or may be, in use.
type OccupiedError struct {
	Path    string   `json:"path"`
	Reasons []string `json:"reasons"`
}

func (e *OccupiedError) Error() string {
	return fmt.Sprintf("%s is in use, nothing is mounted over it: %s; run boot before anything uses it, or keep the directory as it is with --in-place", e.Path, strings.Join(e.Reasons, "; "))
}

// MakePlan says what has to be done to get from s to w. It fails with an
// *OccupiedError where nothing may be done at all.
func MakePlan(s *State, w Wanted) (*Plan, error) {
	p := new(Plan)
	p.tellStamp(s)
	for _, dir := range s.Staging {
		p.Steps = append(p.Steps, Step{Op: OpSweep, Path: path.Join(path.Dir(s.Path), dir, mounts.StagingName), rel: dir})
	}
	inPlace := w.InPlace
	if !inPlace && !s.CanMount && s.Kind != Tmpfs {
		inPlace = true
		p.note(s.Path, true, "it stays a plain directory: mounting needs CAP_SYS_ADMIN, which this process does not have; give it, or ask for --in-place")
	}
	switch {
	case inPlace && s.Kind == Missing:
		p.Steps = append(p.Steps, makeTarget(s))
		p.layOut(s, w, false)
	case inPlace:
		p.tellContent(s)
		p.adoptRoot(s, w)
		p.layOut(s, w, false)
	case s.Kind == Missing:
		p.Steps = append(p.Steps, makeTarget(s), newMount(s, w))
	case s.Kind == Directory:
		if why := s.Use.Occupied(); len(why) > 0 {
			return nil, &OccupiedError{s.Path, why}
		}
		if s.Use.Entries > 0 && !w.Container {
			p.note(s.Path, false, "%s from before, which nobody uses, will be hidden below the new mount; nothing is deleted", s.Use.content())
		}
		p.Steps = append(p.Steps, newMount(s, w))
	case s.Kind == Foreign:
		return nil, &OccupiedError{s.Path, []string{fmt.Sprintf(
			"a %s is mounted there, which is somebody's decision; unmount it, or lay it out as it is with --in-place", s.FSType)}}
	default:
		p.adopt(s, w)
	}
	return p, nil
}

// tellStamp notes what the stamp that was found means.
func (p *Plan) tellStamp(s *State) {
	own := s.Path + "/" + ownDir + "/" + stampName
	switch {
	case s.StampIs != "":
		p.note(own, false, "cannot be read (%s) and is written anew; nothing older is trusted", s.StampIs)
	case s.Survived():
		what := "another boot"
		if s.Stamp.BootID == s.Run.BootID {
			what = "an earlier run of this container"
		}
		p.note(s.Path, false, "it is from %s (boot id %s): what is in it is not trusted", what, s.Stamp.BootID)
	case s.Stamp != nil:
		if d := s.Run.Offset - s.Stamp.Offset; d > 2e9 || d < -2e9 {
			p.note(own, false, "the clock was set by %d s since it was written: file times are no proof of age", d/1e9)
		}
	}
}

// tellContent says what stays in a directory that is not mounted over.
func (p *Plan) tellContent(s *State) {
	if s.Use.Entries > 0 && (s.Stamp == nil || s.Survived()) {
		p.note(s.Path, false, "%s from the image or an earlier run stay", s.Use.content())
	}
}

func makeTarget(s *State) Step {
	return Step{Op: OpMakeTarget, Path: s.Path, Mode: "0755", mode: 0o755, must: true}
}

// newMount is the whole of a new /run: what is inside is made before it is seen.
func newMount(s *State, w Wanted) Step {
	spec := w.tmpfs(s.Labels.Run)
	fresh := &State{Path: s.Path, Run: s.Run, Labels: s.Labels, Kind: Tmpfs, CanMount: true}
	var inner Plan
	inner.layOut(fresh, w, !w.Container)
	return Step{Op: OpMount, Path: s.Path, Options: optionText(spec), tmpfs: spec, Inner: inner.Steps, Carry: s.Carry, must: true}
}

// adopt makes the least changes to a tmpfs that is there.
func (p *Plan) adopt(s *State, w Wanted) {
	if s.Attr&linux.MountAttrReadOnly != 0 {
		p.note(s.Path, true, "it is mounted read-only; remount it read-write first")
		return
	}
	if add := w.attr() &^ s.Attr; add != 0 && !w.Container {
		p.Steps = append(p.Steps, Step{Op: OpRestrict, Path: s.Path, tmpfs: mounts.Tmpfs{Attr: add}, Options: optionText(mounts.Tmpfs{Attr: add})})
	}
	p.limits(s, w)
	p.adoptRoot(s, w)
	p.layOut(s, w, s.CanMount && !w.InPlace && !w.Container)
}

// limits lowers the limits of the file system, where it is whole ours to lower.
func (p *Plan) limits(s *State, w Wanted) {
	var opts []mounts.Option
	add := func(key string, have uint64, want Limit) {
		if have == want.Value || !want.Exact && (w.Container || have != 0 && have < want.Value) {
			return
		}
		opts = append(opts, mounts.Option{Key: key, Value: strconv.FormatUint(want.Value, 10)})
	}
	if s.Kind == Tmpfs {
		add("size", s.Size, w.Size)
		add("nr_inodes", s.Inodes, w.Inodes)
		if s.Huge != "" && s.Huge != "never" && !w.Container {
			opts = append(opts, mounts.Option{Key: "huge", Value: "never"})
		}
	} else if !w.Container {
		p.note(s.Path, true, "a %s has no limits: whoever may write to it can use up the memory; mount a tmpfs in its place", s.Kind)
	}
	if w.NoSwap && !s.NoSwap {
		p.note(s.Path, true, "noswap cannot be given to a tmpfs that is mounted already (tmpfs(5))")
	}
	if len(opts) == 0 {
		return
	}
	if !s.Whole || !s.CanMount {
		p.note(s.Path, true, "its limits stay: %s", map[bool]string{
			true:  "changing them needs CAP_SYS_ADMIN",
			false: "it is a directory of a file system that others use too",
		}[s.Whole])
		return
	}
	p.Steps = append(p.Steps, Step{Op: OpReconfigure, Path: s.Path, tmpfs: mounts.Tmpfs{Options: opts}, Options: optionText(mounts.Tmpfs{Options: opts})})
}

// adoptRoot gives the directory itself its owner and mode: docker and podman
// mount their tmpfs with mode 1777.
func (p *Plan) adoptRoot(s *State, w Wanted) {
	if w.Container {
		return
	}
	if s.Mode != 0o755 || s.UID != 0 || s.GID != 0 {
		p.Steps = append(p.Steps, Step{Op: OpOwner, Path: s.Path, Mode: "0755", mode: 0o755, must: true})
	}
}

// layOut makes what every /run has: our own directory with the stamp, the lock
// directory, the place for users' directories.
func (p *Plan) layOut(s *State, w Wanted, mount bool) {
	lock, own := w.lockTmpfs(s.Labels.Lock), w.ownTmpfs(s.Labels.Run)
	p.directory(s, w, ownDir, 0o755, &own, mount)
	p.directory(s, w, "lock", w.Profile.lockMode(), &lock, mount)
	p.directory(s, w, "user", 0o755, nil, false)
	if s.Labels.Run != "" {
		p.note(s.Path, false, "an SELinux policy is loaded: the roots of the mounts are labelled, the entries made in them take their parent's label; restorecon -R %s gives them the policy's", s.Path)
	}
	if s.Stamp != nil && s.Stamp.SameRun(s.Run) {
		return
	}
	st := Stamp{Identity: s.Run}
	if s.Stamp != nil {
		st.Survived = s.Stamp.BootID + ":" + strconv.FormatUint(s.Stamp.InitStart, 10)
	}
	p.Steps = append(p.Steps, Step{Op: OpStamp, Path: s.Path + "/" + ownDir + "/" + stampName, Stamp: &st, must: true})
}

// directory plans one directory below /run, with a tmpfs of its own if limit is
// given and mounting is allowed.
func (p *Plan) directory(s *State, w Wanted, name string, mode uint32, limit *mounts.Tmpfs, mount bool) {
	shown := s.Path + "/" + name
	in, there := s.Inner[name]
	octal := fmt.Sprintf("%04o", mode)
	switch {
	case there && in.NotDir:
		p.note(shown, true, "it is not a directory and stays; move it away")
		return
	case !there:
		p.Steps = append(p.Steps, Step{Op: OpMkdir, Path: shown, rel: name, Mode: octal, mode: mode, must: name == ownDir, asIs: w.Container})
	case w.Container && name != ownDir: // the image's
	case in.Mode != mode || in.UID != 0 || in.GID != 0:
		p.Steps = append(p.Steps, Step{Op: OpOwner, Path: shown, rel: name, Mode: octal, mode: mode})
	}
	switch {
	case limit == nil || in.Mounted || !mount: // in place there is no limit of its own
	case there && !in.Empty:
		p.note(shown, true, "it is in use and gets no limit of its own: a mount would hide what is in it")
	default:
		p.Steps = append(p.Steps, Step{Op: OpMountInner, Path: shown, rel: name, tmpfs: *limit, Options: optionText(*limit)})
	}
}
