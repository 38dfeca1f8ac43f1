package stale

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
)

// Verdict is what is proven of an object.
type Verdict uint8

// The verdicts. What is not proven is CannotTell.
const (
	CannotTell Verdict = iota
	Live
	Stale
)

func (v Verdict) String() string {
	switch v {
	case Live:
		return "live"
	case Stale:
		return "stale"
	}
	return "cannot tell"
}

// MarshalText gives the verdict as String does.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (v *Verdict) UnmarshalText(text []byte) error {
	for _, w := range [...]Verdict{CannotTell, Live, Stale} {
		if string(text) == w.String() {
			*v = w
			return nil
		}
	}
	return fmt.Errorf("no verdict is called %q", text)
}

// Kind is what an object is for.
type Kind string

// The kinds. What a regular file is for shows in its name alone, so a caller
// that knows better names the kind.
const (
	Guess     Kind = "" // for Look: find out
	PIDFile   Kind = "pidfile"
	Socket    Kind = "socket"
	FIFO      Kind = "fifo"
	Lock      Kind = "lock"
	Directory Kind = "directory"
	Other     Kind = "other" // nothing that is judged here
)

// Identity is which inode of which file system an object is.
type Identity struct {
	Superblock string `json:"superblock"` // "major:minor" as the mount table has it; "" if unknown
	Dev        uint64 `json:"dev"`        // st_dev, major<<32|minor, which differs on overlayfs and btrfs
	Inode      uint64 `json:"inode"`
	Type       string `json:"type"`            // "file", "socket", "fifo", "directory", "link", "device"
	Btime      int64  `json:"btime,omitempty"` // nanoseconds; 0 where the file system has none
}

// Evidence is one thing that was found out, for or against.
type Evidence struct {
	Proof Proof  `json:"proof"`
	Text  string `json:"text"`
}

// Finding is what was found out of one object. It is data: nothing is held open,
// and nothing has happened yet.
type Finding struct {
	Path     string     `json:"path"` // as it was shown to the caller
	Kind     Kind       `json:"kind"`
	Verdict  Verdict    `json:"verdict"`
	Evidence []Evidence `json:"evidence"`
	Identity Identity   `json:"identity"`
	// PID is the number in a PID file, 0 without.
	PID int `json:"pid,omitempty"`

	judge *Judge
	dir   *fsat.Dir
	name  string
	asked Kind
}

// Why is the evidence that decided: the last piece.
func (f *Finding) Why() string {
	if len(f.Evidence) == 0 {
		return ""
	}
	return f.Evidence[len(f.Evidence)-1].Text
}

func (f *Finding) String() string {
	var texts []string
	for _, e := range f.Evidence {
		texts = append(texts, e.Text)
	}
	return fmt.Sprintf("%s: %s (%s): %s", f.Path, f.Verdict, f.Kind, strings.Join(texts, "; "))
}

func (f *Finding) note(p Proof, format string, args ...any) {
	f.Evidence = append(f.Evidence, evidence(p, format, args...))
}

// evidence makes a piece of it that can be printed: names of processes and paths
// may hold any byte, the escape sequences of a terminal among them.
func evidence(p Proof, format string, args ...any) Evidence {
	return Evidence{p, strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, fmt.Sprintf(format, args...))}
}

func (f *Finding) decide(v Verdict, p Proof, format string, args ...any) {
	f.Verdict = v
	f.note(p, format, args...)
}

// Options says what is known beside what the kernel tells.
type Options struct {
	// Proc is the procfs; it stays the caller's and open as long as the Judge is
	// used.
	Proc *process.Proc
	// Exclusive are directories of which the user says that nobody but this
	// container uses them: each with what is below it on the same mount.
	Exclusive []string
	// Made reports whether the mount with this id was made by this very run. What
	// is in it is not of a run before.
	Made func(mountID int) bool
	// Stamp is the boot stamp of this run, if there is one: without it no start
	// time is compared with a file's time outside of exclusive ground.
	Stamp *Stamp
	// MayBeOld is for walks over many objects: how old the mount tables of other
	// processes may be that a Look goes by. 0 reads them for each object. Remove
	// always does.
	MayBeOld time.Duration
}

// Stamp is what a boot stamp says, and when it was made.
type Stamp struct {
	process.Identity
	// Made is the stamp file's modification time, nanoseconds of CLOCK_REALTIME.
	Made int64
}

// Judge looks at objects. Its methods may be called from several goroutines.
type Judge struct {
	opts  Options
	proc  *process.Proc
	named []place
	seen  seen
	// initial says that we are in the initial PID namespace, ourNS is our own.
	initial bool
	ourNS   uint64
	run     process.Identity
	runErr  error
	// restored says that we are in a time namespace, into which CRIU puts what it
	// restores from a checkpoint: then processes may be older than they seem.
	restored bool
	newborn  int64 // see there
	mine     []int // see Mine
}

// New makes a Judge. It fails where a directory of Options.Exclusive cannot be
// opened; what else is missing turns up as evidence.
func New(ctx context.Context, o Options) (*Judge, error) {
	if o.Proc == nil {
		return nil, errors.New("stale: Options.Proc is missing")
	}
	j := &Judge{opts: o, proc: o.Proc, newborn: newborn}
	for _, path := range o.Exclusive {
		p, err := j.place(path)
		if err != nil {
			return nil, fmt.Errorf("%s, named as exclusive: %w", path, err)
		}
		j.named = append(j.named, p)
	}
	j.ourNS = j.proc.PIDNamespace()
	j.initial = j.proc.Initial()
	j.run, j.runErr = j.proc.Identity()
	// A kernel before Linux 5.6 has none of these.
	link, err := j.proc.Readlink("self/ns/time")
	j.restored = err == nil && link != initialTime
	return j, ctx.Err()
}

// Mine says which descriptors the caller holds objects by, only to look at them: they
// make us no user of those. It replaces what an earlier call said, and is not to be
// called while others look.
func (j *Judge) Mine(fds []int) { j.mine = fds }

// notUses are the descriptors of ours that are no use of o.
func (j *Judge) notUses(o *object) []int {
	return append(append(slices.Clip(j.mine), o.hold...), o.node.Fd())
}

// initialTime is the link of /proc/PID/ns/time in the initial time namespace,
// PROC_TIME_INIT_INO of linux/proc_ns.h.
const initialTime = "time:[4026531834]"

// object is an inode that is being judged, held by an O_PATH descriptor.
type object struct {
	node   *fsat.Node
	st     fsat.Stat
	dir    *fsat.Dir
	name   string
	ground *ground
	// act says that the object was taken out of everybody's sight to be removed:
	// the moment for proofs that would disturb somebody otherwise.
	act bool
	// last says that a removal hangs on it: nothing that was seen before counts.
	last bool
	// ctime is the inode's before we moved it ourselves, 0 if we did not.
	ctime int64
	// hold are descriptors with locks, to be closed after the act.
	hold []int
}

// written is when the inode was last written, linked, renamed or given another
// owner: a time that nobody can set but with the clock.
func (o *object) written() int64 {
	if o.ctime != 0 {
		return latest(max(o.st.Mtime, o.ctime))
	}
	return latest(max(o.st.Mtime, o.st.Ctime))
}

// latest is the latest time that t may stand for. File systems that count whole
// seconds (ext4 with inodes of 128 bytes, ext3) cut the rest off.
func latest(t int64) int64 {
	if t%int64(time.Second) == 0 {
		return t + int64(time.Second) - 1
	}
	return t
}

// Look judges the entry name of the directory dir, which must stay open for as
// long as the finding may be removed. Nothing is changed, no link followed,
// nobody woken, and no file system asked that may not answer (FUSE, another
// machine's), unless Options vouch for it. shown is the path for messages. With the kind Guess the kind is
// found out from the type and the name. A name that is not there is
// fs.ErrNotExist.
func (j *Judge) Look(ctx context.Context, dir *fsat.Dir, name, shown string, kind Kind) (*Finding, error) {
	if err := fsat.ValidName(name); err != nil {
		return nil, fmt.Errorf("%s: %w", shown, err)
	}
	node, err := dir.OpenNode(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", shown, err)
	}
	defer node.Close()
	return j.LookHeld(ctx, node, dir, name, shown, kind)
}

// LookHeld is Look for whoever holds the object: node, an O_PATH descriptor that stays
// the caller's, is judged, whatever is at its name in dir now.
func (j *Judge) LookHeld(ctx context.Context, node *fsat.Node, dir *fsat.Dir, name, shown string, kind Kind) (*Finding, error) {
	f := &Finding{Path: shown, judge: j, dir: dir, name: name, asked: kind}
	o := &object{node: node, dir: dir, name: name}
	if err := j.judge(ctx, f, o); err != nil {
		return nil, fmt.Errorf("%s: %w", shown, err)
	}
	return f, nil
}

// judge fills f with what is found out of o. An error is one of the context, or
// of a descriptor that cannot be looked at.
func (j *Judge) judge(ctx context.Context, f *Finding, o *object) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.Verdict, f.Evidence, f.PID = CannotTell, nil, 0
	g, err := j.groundOf(ctx, o)
	if err != nil {
		return err
	}
	o.ground = g
	f.Identity = identityOf(&o.st, g)
	f.Kind = f.asked
	if fits := kindOf(o.name, &o.st); f.asked == Guess {
		f.Kind = fits
	} else if g.answers && typeOf(f.asked) != o.st.Type() {
		f.Kind = Other
		f.decide(CannotTell, WrongType, "a %s is no %s", f.Identity.Type, f.asked)
		return nil
	}
	f.Evidence = append(f.Evidence, g.evidence...)
	if !g.answers {
		j.unasked(f, o)
		return nil
	}
	switch f.Kind {
	case Socket:
		return j.socket(ctx, f, o)
	case PIDFile, Lock:
		return j.file(ctx, f, o)
	case FIFO:
		return j.leftBehind(ctx, f, o, "a FIFO is used by its name: nobody has to have it open")
	case Directory:
		return j.directory(ctx, f, o)
	default:
		f.decide(CannotTell, WrongType, "nothing tells whether anybody uses a %s of this name", f.Identity.Type)
	}
	return nil
}

// unasked says of what lies on a file system that may not answer what the kernel knows
// without it.
func (j *Judge) unasked(f *Finding, o *object) {
	if o.st.Type() == syscall.S_IFSOCK && j.inDump(o) != nil {
		f.decide(Live, SocketBound, "a socket is bound to it, says sock_diag")
		return
	}
	if m := o.ground.mount; m != nil {
		f.decide(CannotTell, NetworkFS, "it lies on a %s, which might not answer, so it was not asked", m.FSType)
		return
	}
	f.decide(CannotTell, UnknownMount, "%s, which might not answer, so it was not asked", o.ground.notOurs)
}

// typeOf is the S_IFMT type that a kind must have.
func typeOf(k Kind) uint32 {
	switch k {
	case PIDFile, Lock:
		return syscall.S_IFREG
	case Socket:
		return syscall.S_IFSOCK
	case FIFO:
		return syscall.S_IFIFO
	case Directory:
		return syscall.S_IFDIR
	}
	return 0
}

// kindOf guesses what an inode is for.
func kindOf(name string, st *fsat.Stat) Kind {
	switch st.Type() {
	case syscall.S_IFSOCK:
		return Socket
	case syscall.S_IFIFO:
		return FIFO
	case syscall.S_IFDIR:
		return Directory
	case syscall.S_IFREG:
		switch {
		case strings.HasSuffix(name, ".pid"):
			return PIDFile
		case strings.HasPrefix(name, "LCK.."), strings.HasSuffix(name, ".lock"), strings.HasSuffix(name, ".lck"):
			return Lock
		}
	}
	return Other
}

func identityOf(st *fsat.Stat, g *ground) Identity {
	id := Identity{Dev: st.Dev, Inode: st.Ino, Type: "device"}
	if st.Btime != fsat.NoTime {
		id.Btime = st.Btime
	}
	if g.mount != nil {
		id.Superblock = fmt.Sprintf("%d:%d", g.mount.Major, g.mount.Minor)
	}
	switch st.Type() {
	case syscall.S_IFREG:
		id.Type = "file"
	case syscall.S_IFSOCK:
		id.Type = "socket"
	case syscall.S_IFIFO:
		id.Type = "fifo"
	case syscall.S_IFDIR:
		id.Type = "directory"
	case syscall.S_IFLNK:
		id.Type = "link"
	}
	return id
}

// born is when the inode was made, or where the file system does not tell (tmpfs
// before Linux 6.6 or so), when it was changed.
func (o *object) born() int64 {
	if o.st.Btime != fsat.NoTime {
		return latest(o.st.Btime)
	}
	return o.written()
}

// rawDev is st_dev as stat(2) has it.
func rawDev(st *fsat.Stat) uint64 { return linux.Makedev(uint32(st.Dev>>32), uint32(st.Dev)) }
