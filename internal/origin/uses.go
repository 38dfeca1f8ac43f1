package origin

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/slashrun/slashrun/internal/fuser"
	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/view"
)

// uses finds out who uses the subjects, with one look at all processes.
func (s *session) uses() error {
	if s.o.Proc == nil || len(s.subject) == 0 {
		return nil
	}
	o := fuser.Options{}
	if s.dir == "" {
		s.eachObject(&o)
	} else {
		s.devices(&o)
	}
	if len(o.Objects)+len(o.Devices) == 0 {
		return nil
	}
	index, err := fuser.Scan(s.ctx, s.o.Proc, o)
	if err != nil {
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		s.why = append(s.why, "who uses it: "+err.Error())
		return nil
	}
	for _, why := range index.Incomplete {
		s.why = append(s.why, "who uses it: "+why)
	}
	members := map[int]User{}
	for _, x := range s.subject {
		if uses := index.Of(x.id()); len(uses) > 0 {
			s.fill(x, uses, members)
		}
	}
	return nil
}

// id is the inode as stat(2) has it.
func (r *Report) id() fuser.ID {
	return fuser.ID{Dev: linux.Makedev(uint32(r.Dev>>32), uint32(r.Dev)), Ino: r.Inode}
}

// eachObject asks about the subjects one by one.
func (s *session) eachObject(o *fuser.Options) {
	for _, x := range s.subject {
		if x.Inode == 0 || x.Type == Symlink || x.Mount != nil && ofKernel(x.Mount.Type) {
			continue
		}
		obj := fuser.Object{ID: x.id()}
		if x.at != nil {
			if full, err := fuser.Identify(s.o.Proc, x.at.node.Fd()); err == nil {
				obj = full
			}
		}
		if obj.Super == 0 {
			obj.Super = superOf(x.Mount, obj.Dev)
		}
		o.Objects = append(o.Objects, obj)
		o.Sockets = o.Sockets || x.Type == Socket
	}
}

// superOf is the device of the superblock, where the mount table does not tell that
// of the inode.
func superOf(m *Mount, otherwise uint64) uint64 {
	var major, minor uint32
	if m == nil {
		return otherwise
	}
	if _, err := fmt.Sscanf(m.Superblock, "%d:%d", &major, &minor); err != nil {
		return otherwise
	}
	return linux.Makedev(major, minor)
}

// devices asks about all inodes of a tree at once, by the file systems they are in.
func (s *session) devices(o *fuser.Options) {
	wanted := make(map[fuser.ID]struct{}, len(s.subject))
	seen := map[*Mount]uint64{}
	for _, x := range s.subject {
		if x.Inode == 0 || x.Type == Symlink {
			continue
		}
		id := x.id()
		wanted[id] = struct{}{}
		o.Sockets = o.Sockets || x.Type == Socket
		if dev, ok := seen[x.Mount]; !ok || dev != id.Dev {
			seen[x.Mount] = id.Dev
			d := fuser.Device{Stat: id.Dev, Super: superOf(x.Mount, id.Dev)}
			if !slices.Contains(o.Devices, d) {
				o.Devices = append(o.Devices, d)
			}
		}
	}
	o.Want = func(id fuser.ID) bool { _, ok := wanted[id]; return ok }
}

// strength is the order of the ways, and of the users.
func strength(how fuser.How) int {
	order := [...]fuser.How{fuser.Listening, fuser.Bound, fuser.Locked, fuser.Open, fuser.Mapped, fuser.Exe, fuser.Cwd, fuser.Root, fuser.Accepted, fuser.Connected, fuser.Connecting}
	for i, h := range order {
		if h == how {
			return i
		}
	}
	return len(order)
}

// maxUsers is how many users of one path a report names.
const maxUsers = 64

// fill puts the users of one inode into its report, one of a process.
func (s *session) fill(x *subject, uses []fuser.Use, members map[int]User) {
	uses = slices.Clone(uses)
	slices.SortStableFunc(uses, func(a, b fuser.Use) int { return cmp.Compare(strength(a.How), strength(b.How)) })
	var pids []int
	details := map[int][]string{}
	for _, u := range uses {
		i := slices.Index(pids, u.PID)
		if i < 0 {
			if len(pids) == maxUsers {
				x.MoreUsers++
				continue
			}
			i = len(pids)
			pids = append(pids, u.PID)
			x.UsedBy = append(x.UsedBy, s.member(u, members))
		}
		if x.holder == 0 && s.mayHaveMade(x, &u) {
			x.holder = i + 1
		}
		if how := string(u.How); !slices.Contains(x.UsedBy[i].How, how) {
			x.UsedBy[i].How = append(x.UsedBy[i].How, how)
		}
		if d := detail(&u); d != "" && len(details[i]) < 4 && !slices.Contains(details[i], d) {
			details[i] = append(details[i], d)
		}
	}
	for i, d := range details {
		x.UsedBy[i].Detail = strings.Join(d, ", ")
	}
}

// mayHaveMade reports whether a use speaks for a maker: who listens, or who writes and is
// the owner. Anybody may read a stranger's file, and be a process of any name.
func (s *session) mayHaveMade(x *subject, u *fuser.Use) bool {
	switch {
	case u.PID == 0, x.Type == CharDevice, x.Type == BlockDevice, x.Type == Directory:
		return false
	case u.How == fuser.Bound, u.How == fuser.Listening:
		return true
	}
	return u.How == fuser.Open && strings.Contains(u.Access, "w") && s.effective(u.PID) == int(x.UID)
}

// effective is the effective user of a process, -1 if it cannot be seen.
func (s *session) effective(pid int) int {
	text, err := s.o.Proc.ReadFile(fmt.Sprintf("%d/status", pid))
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok { // real, effective, saved, file system's
			if ids := strings.Fields(rest); len(ids) > 1 {
				if id, err := strconv.Atoi(ids[1]); err == nil {
					return id
				}
			}
		}
	}
	return -1
}

// member is the process of a use: when it started, and what it belongs to.
func (s *session) member(u fuser.Use, known map[int]User) User {
	if m, ok := known[u.PID]; ok && m.Comm == u.Comm {
		return m
	}
	m := User{PID: u.PID, Comm: u.Comm}
	if u.PID > 0 {
		if at, err := s.o.Proc.Started(process.Stat{PID: u.PID, Start: u.Start}); err == nil {
			m.Since = at
		}
		if g, err := s.o.Proc.Membership(fmt.Sprint(u.PID)); err == nil {
			m.Unit, m.Container = g.Unit, g.Container
		}
	}
	known[u.PID] = m
	return m
}

// detail says more of one use, in words.
func detail(u *fuser.Use) string {
	switch {
	case u.Socket != nil && u.How == fuser.Listening:
		text := fmt.Sprintf("queue %d, backlog %d", u.Socket.Queue, u.Socket.Backlog)
		if u.Socket.Full() {
			text += ": full, it is busy or hangs"
		}
		if u.Socket.NetNS != 0 {
			text += fmt.Sprintf(", in network namespace %d", u.Socket.NetNS)
		}
		return text
	case u.Socket != nil && u.Socket.NetNS != 0:
		return fmt.Sprintf("in network namespace %d", u.Socket.NetNS)
	case u.Lock != nil:
		text := u.Lock.Kind
		if !u.Lock.Exclusive {
			text += " shared"
		}
		return text
	case u.How == fuser.Open && u.FD >= 0:
		text := fmt.Sprintf("fd %d", u.FD)
		if u.Access != "" {
			text += " " + u.Access
		}
		return text
	}
	return ""
}

// reach finds out where other mount namespaces show the subjects.
func (s *session) reach() error {
	if s.o.Proc == nil {
		return nil
	}
	var views *view.Views
	for _, x := range s.subject {
		if x.at == nil || x.at.mount == nil || !s.table.answers(x.at.mount) || ofKernel(x.at.mount.FSType) || x.Type == Symlink {
			continue
		}
		t, err := view.TargetOf(s.o.Proc, x.at.node.Fd())
		if err != nil {
			x.Unseen = append(x.Unseen, "other mount namespaces: "+err.Error())
			continue
		}
		if views == nil {
			if views, err = view.Open(s.ctx, s.o.Proc); err != nil {
				if s.ctx.Err() == nil {
					s.why = append(s.why, "other mount namespaces: "+err.Error())
				}
				return s.ctx.Err()
			}
			defer views.Close()
			for _, why := range views.Incomplete {
				s.why = append(s.why, "other mount namespaces: "+why)
			}
		}
		places, err := views.Reach(s.ctx, t)
		if err != nil {
			if s.ctx.Err() != nil {
				return s.ctx.Err()
			}
			x.Unseen = append(x.Unseen, "other mount namespaces: "+err.Error())
			continue
		}
		for _, p := range places {
			p.Namespaces = slices.DeleteFunc(slices.Clone(p.Namespaces), func(n view.Namespace) bool { return n.Own && p.Path == x.where() })
			if len(p.Namespaces) > 0 {
				x.Reached = append(x.Reached, p)
			}
		}
	}
	return nil
}
