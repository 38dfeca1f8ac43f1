package fuser

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/locks"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
)

// scan is one Scan.
type scan struct {
	proc    *process.Proc
	opts    Options
	index   *Index
	devices []device
	ids     map[ID]bool // nil: all of the devices
	sockfs  uint64      // device of socket:[N]
	nsfs    uint64      // device of net:[N]
	asksAll bool        // every look asks a file system
	kcmp    bool        // numbers of processes are ours to give to kcmp(2)
	unseen  unseen
	// vanished says that in this round a process ended before all of it was seen.
	vanished bool

	comms   map[int]process.Stat
	holders map[uint32][]holder // of sockets, by their inode
	mine    map[uint32]bool     // sockets of our own, which are left out
	netns   map[uint64]netns    // by their inode
}

// device is a file system that is asked about.
type device struct {
	Device
	// plain says that /proc/PID/maps names its inodes as stat(2) does.
	plain bool
}

// holder has a descriptor of a socket.
type holder struct {
	st     process.Stat
	thread int
	fd     int
}

// netns is how a network namespace can be entered.
type netns struct {
	links []string // of processes, in the procfs; a few, as they may end
	mount string   // where it is mounted
}

// maxLinks is how many processes are asked for a network namespace.
const maxLinks = 8

func newScan(p *process.Proc, o Options) (*scan, error) {
	if o.Patience <= 0 {
		o.Patience = time.Second
	}
	o.Patience = max(o.Patience, 10*time.Millisecond)
	s := &scan{proc: p, opts: o, comms: map[int]process.Stat{}, holders: map[uint32][]holder{}, netns: map[uint64]netns{}}
	s.index = &Index{uses: map[ID][]Use{}, nodes: map[ID]*Node{}, sockets: map[superIno][]Use{}, objects: map[ID]Object{}}
	for _, d := range o.Devices {
		s.device(d)
	}
	if o.Want == nil && len(o.Devices) == 0 {
		s.ids = map[ID]bool{}
	}
	for _, ob := range o.Objects {
		s.index.objects[ob.ID] = ob
		s.device(ob.Device())
		if s.ids != nil {
			s.ids[ob.ID] = true
		}
	}
	if err := s.kinds(); err != nil {
		return nil, err
	}
	s.kcmp, s.asksAll = p.OwnNumbers() == nil, asksAll()
	fd, err := linux.NetlinkSocket(linux.NETLINK_SOCK_DIAG, time.Second)
	if err == nil {
		var st syscall.Stat_t
		if err = linux.Fstatat(fd, "", linux.AT_EMPTY_PATH, &st); err == nil {
			s.sockfs = uint64(st.Dev)
		}
		linux.Close(fd)
	}
	if ours(err) {
		return nil, err
	}
	if dev, _, err := p.Inode("self/ns/net"); err == nil {
		s.nsfs = dev
	}
	if err := s.own(); err != nil {
		return nil, err
	}
	return s, nil
}

// own finds our own sockets, which are not to look like sockets of nobody.
func (s *scan) own() error {
	if s.opts.Self {
		return nil
	}
	d, err := s.proc.Dir("self/fd")
	if ours(err) {
		return err
	}
	if err != nil {
		return nil
	}
	defer d.Close()
	list, err := d.Numbers(nil)
	if err != nil {
		return err
	}
	s.mine = map[uint32]bool{}
	for _, fd := range list {
		if link, err := d.Readlink(strconv.Itoa(fd)); err == nil && strings.HasPrefix(link, "socket:[") {
			s.mine[uint32(process.NamespaceID(link))] = true // written as a namespace's
		}
	}
	return nil
}

func (s *scan) device(d Device) {
	if !slices.Contains(s.index.devices, d) {
		s.index.devices = append(s.index.devices, d)
		s.devices = append(s.devices, device{Device: d})
	}
}

// kinds finds out of which devices the mappings are told by the numbers of stat(2).
// Of one that is not in our mount table that is not known.
func (s *scan) kinds() error {
	text, err := s.proc.MountInfo(false)
	if err != nil {
		if ours(err) {
			return err
		}
		return nil
	}
	table, err := mounts.ParseText(text)
	if err != nil {
		return err
	}
	for i := range s.devices {
		d := &s.devices[i]
		for j := range table {
			if m := &table[j]; linux.Makedev(m.Major, m.Minor) == d.Super {
				d.plain = d.Stat == d.Super && plain(m.FSType)
				break
			}
		}
	}
	return nil
}

// plain reports whether a file system's inodes have one number everywhere: in
// stat(2), in /proc/PID/maps and in the mount table. Others may, and cost more.
func plain(fstype string) bool {
	switch fstype {
	case "tmpfs", "ramfs", "devtmpfs", "ext2", "ext3", "ext4", "xfs", "rootfs", "hugetlbfs", "mqueue", "proc", "sysfs":
		return true
	}
	return false
}

// ours reports whether the error is about our own means, which run out for
// everything that follows.
func ours(err error) bool {
	for _, e := range [...]syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// wants reports whether the inode is asked about.
func (s *scan) wants(dev, ino uint64) bool {
	for i := range s.devices {
		if s.devices[i].Stat == dev {
			id := ID{dev, ino}
			if s.ids != nil {
				return s.ids[id]
			}
			if _, ok := s.index.objects[id]; ok {
				return true
			}
			return s.opts.Want == nil && s.given(dev) || s.opts.Want != nil && s.opts.Want(id)
		}
	}
	return false
}

// given reports whether the whole device was asked for, not an object of it.
func (s *scan) given(dev uint64) bool {
	return slices.ContainsFunc(s.opts.Devices, func(d Device) bool { return d.Stat == dev })
}

// rounds bounds how often the list of processes is made anew.
const rounds = 32

// processes looks at all of them. One that ended before it was looked at may have
// left what it had to a child that it forked when the list was made already: then
// there is another round, for those who were not there before.
func (s *scan) processes(ctx context.Context) error {
	for range rounds {
		s.vanished = false
		fresh, err := s.newcomers()
		if err != nil {
			return err
		}
		if err := s.look(ctx, fresh); err != nil {
			return err
		}
		if !s.vanished {
			return nil
		}
	}
	s.unseen.churn = true
	return nil
}

// newcomers lists who is there and was not before.
func (s *scan) newcomers() ([]int, error) {
	top, err := s.proc.Dir(".")
	if err != nil {
		return nil, err
	}
	defer top.Close()
	pids, err := top.Numbers(nil)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(pids, func(pid int) bool {
		_, known := s.comms[pid]
		return known || pid == s.proc.Self() && !s.opts.Self
	}), nil
}

// merge takes what was found of one process.
func (s *scan) merge(f *found) {
	if f.st.PID != 0 {
		s.comms[f.st.PID] = f.st
	}
	for _, e := range f.entries {
		s.add(e)
	}
	for ino, h := range f.sockets {
		s.holders[ino] = append(s.holders[ino], h...)
	}
	for ns, link := range f.netns {
		if n := s.netns[ns]; len(n.links) < maxLinks {
			n.links = append(n.links, link)
			s.netns[ns] = n
		}
	}
	s.vanished = s.vanished || f.ended
	s.unseen.merge(f)
}

// add notes a use.
func (s *scan) add(e entry) {
	id := e.node.ID
	if n := s.index.nodes[id]; n == nil {
		s.index.nodes[id] = &e.node
	} else if !n.Known && e.node.Known {
		*n = e.node
	}
	s.index.uses[id] = appendUse(s.index.uses[id], e.use)
}

// appendUse tells descriptors of one process as one where nothing else tells them
// apart. They are close to each other in the list.
func appendUse(list []Use, u Use) []Use {
	for i := len(list) - 1; i >= max(0, len(list)-16) && list[i].PID == u.PID; i-- {
		switch o := &list[i]; {
		case o.Thread != u.Thread || o.How != u.How:
		case u.Lock != nil:
			if u.Lock.Kind == locks.POSIX && *o.Lock == *u.Lock {
				return list // it is the process's: every descriptor of the file shows it
			}
		case o.Access == u.Access:
			o.More++
			return list
		}
	}
	return append(list, u)
}
