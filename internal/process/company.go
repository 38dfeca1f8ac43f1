package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/slashrun/slashrun/internal/linux"
)

// Company is who is alive in the PID namespace of the procfs, whatever mount
// namespace they are in. Threads of the kernel do not count.
type Company struct {
	Kin    []Process // we ourselves first, then our ancestors
	Others []Process // everybody else; the first 32 of them
	// Incomplete says why there may be others that cannot be seen; empty where all
	// are.
	Incomplete string
}

// Company looks who is alive. It fails where the procfs counts processes as
// another PID namespace does.
func (p *Proc) Company(ctx context.Context) (Company, error) {
	var c Company
	if err := p.ours(); err != nil {
		return c, err
	}
	var list, before []Stat
	for range 4 {
		var err error
		if list, err = p.list(); err != nil {
			return c, err
		}
		// A list is not made at one moment: who is forked while it is made, by one
		// that ends then, may be in none of its parts. If nobody came meanwhile it is
		// whole.
		if before != nil && !newcomer(before, list) {
			break
		}
		before, list = list, nil
	}
	c.Incomplete = p.hidden()
	if list == nil {
		list = before
		c.Incomplete = "processes come and go while they are listed"
	}
	kin := p.kin(list)
	byPID := make(map[int]Process, len(kin))
	for _, st := range list {
		switch {
		case kin[st.PID]:
			byPID[st.PID] = Process{st.PID, st.Comm}
		case !st.Kernel() && !st.Dead() && len(c.Others) < maxReasons:
			c.Others = append(c.Others, Process{st.PID, st.Comm})
		}
	}
	parent := make(map[int]int, len(list))
	for _, st := range list {
		parent[st.PID] = st.Parent
	}
	for pid := p.self; len(c.Kin) < len(byPID); pid = parent[pid] {
		who, ok := byPID[pid]
		if !ok {
			return c, fmt.Errorf("/proc shows no process %d, an ancestor of ours", pid)
		}
		c.Kin = append(c.Kin, who)
	}
	if len(c.Kin) == 0 {
		return c, errors.New("/proc does not show our own process")
	}
	return c, ctx.Err()
}

// newcomer reports whether there is a process in the list after that is not in the
// list before.
func newcomer(before, after []Stat) bool {
	start := make(map[int]uint64, len(before))
	for _, st := range before {
		start[st.PID] = st.Start
	}
	return slices.ContainsFunc(after, func(st Stat) bool {
		was, ok := start[st.PID]
		return !ok || was != st.Start
	})
}

// lively is the directory in the procfs that tells of a living process: its own,
// or where its first thread has ended (pthread_exit(3) in main), which leaves a
// directory with nothing in it, that of a thread that lives.
func (p *Proc) lively(st Stat) string {
	at := strconv.Itoa(st.PID)
	if st.State != 'Z' {
		return at
	}
	threads, err := p.names(at + "/task")
	if err != nil {
		return at
	}
	for _, tid := range threads {
		if b, err := p.ReadFile(at + "/task/" + tid + "/stat"); err == nil {
			if t, err := ParseStat(b); err == nil && t.State != 'Z' && t.State != 'X' {
				return at + "/task/" + tid
			}
		}
	}
	return at
}

// Lively is the directory in the procfs that tells of a living process ("7"), or
// of one of its threads where its first thread has ended ("7/task/9"): for the
// names that ReadFile, Names, Inode and FDInfo take.
func (p *Proc) Lively(st Stat) string { return p.lively(st) }

// OwnNumbers returns nil if the numbers of this procfs are those of our own PID
// namespace, so that they mean to a system call what they mean here.
func (p *Proc) OwnNumbers() error { return p.ours() }

// PIDNamespace is the inode number of our PID namespace, 0 where it cannot be
// read.
func (p *Proc) PIDNamespace() uint64 { return p.pidNamespace(p.self) }

// Holds tells how the process holds the inode: "cwd", "root", "fd 7", or "" where
// it does not; dev is as stat(2) has it. Of ourselves the descriptors in except do
// not count. A thread with a descriptor table of its own is not seen. An error
// means that it cannot be told; a process that has ended holds nothing.
func (p *Proc) Holds(pid int, dev, ino uint64, except ...int) (how string, err error) {
	st, err := p.stat(pid)
	if errors.Is(err, ErrNoProcess) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	at := p.lively(st) + "/"
	match := func(link string) (bool, error) {
		// What else it holds may lie on a file system that does not answer.
		var sx linux.StatxT
		err := linux.Statx(p.fd, at+link, linux.AT_NO_AUTOMOUNT|linux.AT_STATX_DONT_SYNC, linux.STATX_INO, &sx)
		if err == nil {
			return linux.Makedev(sx.Dev_major, sx.Dev_minor) == dev && sx.Ino == ino, nil
		}
		var st syscall.Stat_t
		if errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EPERM) {
			err = linux.Fstatat(p.fd, at+link, linux.AT_NO_AUTOMOUNT, &st)
		}
		if gone(err) {
			return false, nil
		}
		return err == nil && uint64(st.Dev) == dev && st.Ino == ino, err
	}
	for _, link := range [...]string{"cwd", "root"} {
		if ok, err := match(link); ok || err != nil {
			return link, err
		}
	}
	names, err := p.names(at + "fd")
	if gone(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if n, err := strconv.Atoi(name); pid == p.self && err == nil && slices.Contains(except, n) {
			continue
		}
		if ok, err := match("fd/" + name); ok || err != nil {
			return "fd " + name, err
		}
	}
	return "", nil
}

// Tables calls visit with the mount table of every process that is in another
// mount namespace, another PID namespace (below ours) or below another root than
// we, once for each table as far as they can be told apart, until visit returns
// false. foreign says that the process is in another PID namespace. A process that
// cannot be seen is passed over, and told in the error when all others have been
// visited: then nothing is known of it.
func (p *Proc) Tables(ctx context.Context, visit func(who Process, foreign bool, table []byte) bool) error {
	if err := p.ours(); err != nil {
		return err
	}
	var hidden error // the first that could not be seen
	if why := p.hidden(); why != "" {
		hidden = errors.New(why)
	}
	ours, err := p.view("self")
	if err != nil {
		return err
	}
	list, err := p.list()
	if err != nil {
		return err
	}
	seen := map[[3]string]bool{ours: true}
	for _, st := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		if st.Kernel() || st.Dead() {
			continue
		}
		at := p.lively(st)
		places := []string{at}
		if ns, err := linux.Readlinkat(p.fd, at+"/ns/pid"); err == nil && ns != ours[0] {
			// Its threads share the PID namespace, and may have other mounts.
			if threads, err := p.names(strconv.Itoa(st.PID) + "/task"); err == nil {
				for _, tid := range threads {
					places = append(places, strconv.Itoa(st.PID)+"/task/"+tid)
				}
			}
		}
		for _, at := range places {
			switch more, err := p.tableOf(st, at, ours[0], seen, visit); {
			case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOMEM):
				return err // of ours, not of theirs
			case err != nil:
				hidden = cmp.Or(hidden, err)
			case !more:
				return nil
			}
		}
	}
	return hidden
}

// tableOf visits the mount table of one process or thread, unless one like it was
// seen. What has ended meanwhile has none.
func (p *Proc) tableOf(st Stat, at, ours string, seen map[[3]string]bool, visit func(Process, bool, []byte) bool) (more bool, err error) {
	theirs, err := p.view(at)
	if gone(err) || err == nil && seen[theirs] {
		return true, nil
	}
	if err != nil {
		return false, unseen(st, "namespaces", err)
	}
	table, err := p.ReadFile(at + "/mountinfo")
	if gone(err) || errors.Is(err, syscall.EINVAL) { // EINVAL: it is about to end and has no namespace any more
		return true, nil
	}
	if err != nil {
		return false, unseen(st, "mounts", err)
	}
	seen[theirs] = true
	return visit(Process{st.PID, st.Comm}, theirs[0] != ours, table), nil
}

// view is what decides what a process sees: its PID namespace, its mount namespace
// and its root.
func (p *Proc) view(pid string) (v [3]string, err error) {
	for i, link := range [...]string{"/ns/pid", "/ns/mnt", "/root"} {
		if v[i], err = linux.Readlinkat(p.fd, pid+link); err != nil {
			return v, err
		}
	}
	return v, nil
}

// Inhabitant is a process that lives in the PID namespace with this inode number,
// or one of no PID if there is none. It fails where one cannot be seen.
func (p *Proc) Inhabitant(ctx context.Context, ns uint64) (Process, error) {
	if why := p.hidden(); why != "" {
		return Process{}, errors.New(why)
	}
	list, err := p.list()
	if err != nil {
		return Process{}, err
	}
	for _, st := range list {
		if st.Kernel() || st.Dead() {
			continue
		}
		link, err := linux.Readlinkat(p.fd, p.lively(st)+"/ns/pid")
		switch {
		case gone(err):
		case err != nil:
			return Process{}, unseen(st, "PID namespace", err)
		case link == "pid:["+strconv.FormatUint(ns, 10)+"]":
			return Process{st.PID, st.Comm}, nil
		}
	}
	return Process{}, ctx.Err()
}

func unseen(st Stat, what string, err error) error {
	return fmt.Errorf("cannot see the %s of process %d (%s): %w", what, st.PID, strings.ToValidUTF8(st.Comm, "?"), err)
}

// Mounted is when the first procfs of our PID namespace was mounted, in
// nanoseconds of CLOCK_REALTIME as that clock was then: its root inode is made at
// that time, and nothing changes it but chmod and touch.
func (p *Proc) Mounted() (int64, error) {
	var st syscall.Stat_t
	if err := linux.Fstatat(p.fd, "", linux.AT_EMPTY_PATH, &st); err != nil {
		return 0, err
	}
	return max(st.Ctim.Nano(), st.Mtim.Nano()), nil
}

// MountID is the id of the mount that a descriptor is on, as the mount table has
// it: statx(2) since Linux 5.8, else fdinfo.
func (p *Proc) MountID(fd int) (int, error) {
	var st linux.StatxT
	err := linux.Statx(fd, "", linux.AT_EMPTY_PATH|linux.AT_STATX_DONT_SYNC, linux.StatxMountID, &st)
	if err == nil && st.Mask&linux.StatxMountID != 0 {
		return int(st.Mnt_id), nil
	}
	text, err := p.ReadFile("self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strconv.Atoi(strings.TrimSpace(v))
		}
	}
	return 0, errors.New("/proc/self/fdinfo does not tell the mount")
}
