package stale

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slashrun/slashrun/internal/fsat"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/locks"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/sockdiag"
)

// ground is what is known of the place that an object lies in.
type ground struct {
	mount *mounts.Mount // nil if the table does not show it
	// vouched says that the user or this run says that it is ours.
	vouched bool
	table   []mounts.Mount
	id      int // of the mount
	// dir is the path of the directory, as our root shows it.
	dir string
	// answers says that the file system answers by itself: see Judge.answers.
	answers bool
	// local says that no other kernel uses the file system.
	local bool
	// ours says that the processes which leave files here are of our own PID
	// namespace; why not, if not.
	ours    bool
	notOurs string
	// exclusive says that nobody alive but us and our ancestors uses it. kin are
	// they.
	exclusive bool
	kin       []process.Process
	evidence  []Evidence
}

func (g *ground) note(p Proof, format string, args ...any) {
	g.evidence = append(g.evidence, evidence(p, format, args...))
}

// place is a directory that the user named.
type place struct {
	mountID int
	path    string
}

func (j *Judge) place(name string) (place, error) {
	d, err := fsat.OpenDir(name)
	if err != nil {
		return place{}, err
	}
	defer d.Close()
	id, err := j.proc.MountID(d.Fd())
	if err != nil {
		return place{}, err
	}
	at, err := j.proc.FdPath(d.Fd())
	return place{id, at}, err
}

func (p place) holds(mountID int, dir string) bool {
	return p.mountID == mountID && (dir == p.path || p.path == "/" || strings.HasPrefix(dir, p.path+"/"))
}

// groundOf finds out where o lies, and fills o.st: first the mount, of which the kernel
// itself tells, then the inode. Only what is certain counts; the evidence says what was
// found for and against it.
func (j *Judge) groundOf(ctx context.Context, o *object) (*ground, error) {
	g, err := j.lies(o)
	if err != nil {
		return nil, err
	}
	if err := o.stat(g); err != nil {
		return nil, err
	}
	if g.mount == nil {
		g.notOurs = "the mount table does not show the mount it lies on"
		g.note(UnknownMount, "%s", g.notOurs)
		return g, nil
	}
	if g.vouched {
		g.local, g.ours = true, true
	} else if !g.local {
		g.notOurs = fmt.Sprintf("it lies on a %s, which another machine may use", g.mount.FSType)
		g.note(NetworkFS, "%s", g.notOurs)
		return g, nil
	} else if !g.answers {
		g.notOurs = fmt.Sprintf("it lies on a %s, whose server may not answer", g.mount.FSType)
		g.note(NetworkFS, "%s", g.notOurs)
		return g, nil
	} else if why := j.containerRoot(g); why.Proof == "" {
		g.ours = true
		g.note(ContainerRoot, "it lies on the root mount of a container (%s)", g.mount.FSType)
	} else {
		g.evidence = append(g.evidence, why)
		g.notOurs = why.Text
		if g.ours = j.initial; !g.ours {
			return g, nil
		}
		return g, j.reached(ctx, g, o)
	}
	if err := j.alone(ctx, g, o.last); err != nil || g.exclusive {
		return g, err
	}
	return g, j.reached(ctx, g, o)
}

// lies finds the mount that o lies on, and asks no file system.
func (j *Judge) lies(o *object) (*ground, error) {
	g := &ground{}
	var err error
	// The directory's mount is the object's, unless something is mounted on the
	// object itself.
	if g.id, err = j.proc.MountID(o.node.Fd()); err != nil {
		return nil, err
	}
	if g.dir, err = j.proc.FdPath(o.dir.Fd()); err != nil {
		return nil, err
	}
	if g.table, err = j.seen.mounts(j.proc); err != nil {
		return nil, err
	}
	if g.mount = mounts.ByID(g.table, g.id); g.mount != nil {
		g.local, g.vouched = mounts.Local(g.mount.FSType), j.vouched(g)
	}
	g.answers = g.vouched || j.answers(g.id, g.mount, g.table)
	return g, nil
}

// answers reports whether the file system of a mount answers by itself. A server, be
// it a process or a machine, may take a question and never answer it, and whoever asked
// cannot even be killed then (FUSE, fs/fuse/dev.c, request_wait_answer). What "/" lies on
// has to answer, or nothing would run here; in a chroot the table does not show it.
func (j *Judge) answers(id int, m *mounts.Mount, table []mounts.Mount) bool {
	if m != nil {
		return mounts.AnswersIn(table, m)
	}
	root, err := j.rootMount()
	return err == nil && id == root
}

// stat fills o.st. What may not answer is asked nothing: what the kernel remembers is
// told, or nothing.
func (o *object) stat(g *ground) error {
	if g.answers {
		return o.node.Stat(&o.st)
	}
	if _, err := fsat.StatKnown(o.node.Fd(), "", &o.st); err != nil {
		o.st = fsat.Stat{Btime: fsat.NoTime}
	}
	return nil
}

// vouched reports whether somebody who knows says that the ground is ours: this
// run, which made it, or the user.
func (j *Judge) vouched(g *ground) bool {
	if j.opts.Made != nil && j.opts.Made(g.id) {
		g.note(MadeByThisRun, "it lies on a mount that this run made")
		return true
	}
	for _, p := range j.named {
		if p.holds(g.id, g.dir) {
			g.note(NamedExclusive, "%s is named as exclusively ours", p.path)
			return true
		}
	}
	return false
}

// seen is what one look has seen and the next need not look for again. A removal
// does.
type seen struct {
	mu    sync.Mutex
	text  []byte // of the mount table
	table []mounts.Mount
	who   process.Company
	at    time.Time // of who
	socks []sockdiag.Socket
	when  time.Time // of socks

	layers  []layer
	layered time.Time

	tables    []foreignTable
	tablesErr error
	toured    time.Time
	around    *surroundings
	above     *above
	locks     map[lockKey]locks.Lock
	leases    map[lockKey]locks.Lock
	lockedAt  time.Time
}

// mounts is the mount table, read and parsed again only if a mount came or went.
func (s *seen) mounts(p *process.Proc) ([]mounts.Mount, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := p.MountInfo(false)
	if err != nil {
		return nil, err
	}
	if len(text) > 0 && len(text) == len(s.text) && &text[0] == &s.text[0] {
		return s.table, nil
	}
	table, err := mounts.ParseText(text)
	if err != nil {
		return nil, err
	}
	s.text, s.table = text, table
	return table, nil
}

// company is who is alive. Unless it is to be fresh, it may be some milliseconds
// old, so that a walk over many objects lists the processes once.
func (s *seen) company(ctx context.Context, p *process.Proc, fresh bool) (process.Company, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !fresh && time.Since(s.at) < companyLasts {
		return s.who, nil
	}
	c, err := p.Company(ctx)
	if err == nil {
		s.who, s.at = c, time.Now()
	}
	return c, err
}

// sockets is the list of this network namespace, which may be a second old: it only
// ever speaks for life. Empty where the kernel gives none.
func (s *seen) sockets() []sockdiag.Socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.when.IsZero() || time.Since(s.when) > time.Second {
		s.socks, _ = sockdiag.Dump()
		s.when = time.Now()
	}
	return s.socks
}

const companyLasts = 5 * time.Millisecond

// alone sets g.exclusive if nobody is alive but us and our ancestors.
func (j *Judge) alone(ctx context.Context, g *ground, fresh bool) error {
	c, err := j.seen.company(ctx, j.proc, fresh)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		g.note(Hidden, "who else is alive cannot be seen: %v", err)
	case c.Incomplete != "":
		g.note(Hidden, "who else is alive cannot be seen: %s", c.Incomplete)
	case len(c.Others) > 0:
		g.note(NotAlone, "process %d (%s) is alive", c.Others[0].PID, c.Others[0].Comm)
	default:
		g.note(Alone, "nobody is alive in this PID namespace but us and our ancestors")
		g.exclusive, g.kin = true, c.Kin
	}
	return nil
}

// containerRoot returns empty evidence if the mount is "/" and a container's own,
// else the first sign against it. The signs are those of a mount namespace that
// was copied from a host, or from a container whose other processes we do not
// see: there the emptiness of our PID namespace proves nothing.
func (j *Judge) containerRoot(g *ground) Evidence {
	no := func(p Proof, format string, args ...any) Evidence {
		return evidence(p, format, args...)
	}
	m := g.mount
	switch {
	case j.ourNS == 0:
		return no(Hidden, "/proc/self/ns/pid cannot be read")
	case j.initial:
		return no(HostNamespace, "this is the initial PID namespace: other programs of the machine may use %s", g.dir)
	case m.Point != "/":
		return no(OtherMount, "it lies on the mount on %s, which others may use, too", m.Point)
	}
	if err := j.proc.OwnNumbers(); err != nil {
		return no(Hidden, "%v", err)
	}
	// A chroot below a mount shows no mount on "/"; a chroot to a mount point does,
	// and there "/" is this mount.
	if root, err := j.rootMount(); err != nil || root != m.ID {
		return no(OtherMount, "it lies on another mount than /")
	}
	return hostSign(m, g.table, visible)
}

// hostSign looks in the mount table for a sign that root, the mount on "/", is not
// a container's own; empty evidence says that there is none. seen reports whether
// a path leads to anything.
func hostSign(root *mounts.Mount, table []mounts.Mount, seen func(string) bool) Evidence {
	no := func(format string, args ...any) Evidence {
		return evidence(NotContainerRoot, format, args...)
	}
	if root.Root == "/" && !containerTypes.has(root.FSType) {
		return no("/ is the whole of a file system (%s), as a machine's is", root.FSType)
	}
	if where, ok := upperdir(root); ok && strings.HasPrefix(where, "/") && seen(where) {
		return no("the upper layer of / is in sight, in %s", where)
	}
	procs := 0
	for i := range table {
		o := &table[i]
		if o.Point == "/proc" && o.FSType == "proc" {
			procs++
		}
		switch {
		case procs > 1:
			return no("a second /proc lies below ours: this mount namespace was copied from one with other processes")
		case hostTypes.has(o.FSType) && o.Root == "/":
			return no("a %s is mounted on %s, as on a machine", o.FSType, o.Point)
		case hostPoint(o.Point):
			return no("%s is a mount, as on a machine", o.Point)
		case o.ID != root.ID && o.Major == root.Major && o.Minor == root.Minor && (o.Point == "/home" || under(root.Root, o.Root)):
			return no("%s shows more of the file system that / is a part of", o.Point)
		case o.Point == "/run" && seen("/run/systemd/system"):
			return no("a systemd runs on /run")
		}
	}
	return Evidence{}
}

// names is a set. As a slice it costs no start of a program anything.
type names []string

func (n names) has(s string) bool { return slices.Contains(n, s) }

// Local reports whether one kernel alone has mounted a file system of this type, as
// /proc/PID/mountinfo names it.
func Local(fstype string) bool { return mounts.Local(fstype) }

// containerTypes are file systems that runtimes make for a container's root, of
// which they mount the whole.
var containerTypes = names{"overlay", "fuse.fuse-overlayfs"}

// hostTypes are file systems that a machine has mounted and a container, unless
// it was given the machine's, has not. (Single nodes of devtmpfs are bound into
// rootless containers: those mounts have another root than "/".)
var hostTypes = names{
	"devtmpfs", "securityfs", "debugfs", "tracefs", "configfs", "pstore",
	"efivarfs", "autofs", "binfmt_misc", "fusectl", "rpc_pipefs", "nfsd", "bpf",
}

// hostPoint reports mount points that machines have.
func hostPoint(p string) bool {
	switch p {
	case "/boot", "/boot/efi", "/efi", "/sysroot":
		return true
	}
	return false
}

// visible reports whether the path leads to anything.
func visible(name string) bool {
	var st fsat.Stat
	return fsat.StatAt(linux.AT_FDCWD, name, &st) == nil
}

// rootMount is the id of the mount that "/" is in.
func (j *Judge) rootMount() (int, error) {
	root, err := fsat.OpenDir("/")
	if err != nil {
		return 0, err
	}
	defer root.Close()
	return j.proc.MountID(root.Fd())
}

// reached takes g.ours back if a process of a PID namespace below ours has the
// place in sight: the PIDs in its files may be numbers of that one. In the initial
// PID namespace these are all that there are.
func (j *Judge) reached(ctx context.Context, g *ground, o *object) error {
	switch why, err := j.layer(ctx, g, o); {
	case err != nil:
		return err
	case why != "":
		g.ours, g.notOurs = false, why
		g.note(Layer, "%s", why)
		return nil
	}
	why, err := j.inSight(ctx, g, o)
	if why != "" {
		g.ours, g.notOurs = false, why
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && g.ours {
		g.ours, g.notOurs = false, err.Error()
	}
	if !g.ours {
		g.note(ForeignNamespace, "%s", g.notOurs)
	}
	return nil
}

// insideOf is the path of g's directory within its file system.
func insideOf(g *ground) (string, bool) {
	if !under(g.dir, g.mount.Point) {
		return "", false
	}
	return path.Join(g.mount.Root, strings.TrimPrefix(g.dir, strings.TrimSuffix(g.mount.Point, "/"))), true
}

// under reports whether the path p is dir or below it.
func under(p, dir string) bool {
	dir = strings.TrimSuffix(dir, "/")
	return p == dir || strings.HasPrefix(p, dir+"/")
}
