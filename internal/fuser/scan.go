package fuser

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	link  string // a process's, in the procfs
	mount string // where it is mounted
}

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
	s.kcmp = p.OwnNumbers() == nil
	if o.Sockets {
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

// newcomers reads who is there and was not before.
func (s *scan) newcomers() ([]process.Stat, error) {
	top, err := s.proc.Dir(".")
	if err != nil {
		return nil, err
	}
	defer top.Close()
	pids, err := top.Numbers(nil)
	if err != nil {
		return nil, err
	}
	var fresh []process.Stat
	var buf []byte
	for _, pid := range pids {
		if _, ok := s.comms[pid]; ok {
			continue
		}
		var st process.Stat
		switch st, buf, err = top.Stat(pid, buf); {
		case process.Gone(err):
			s.vanished = true
			continue
		case refused(err): // hidepid=1 shows that it is there, and no more
			s.comms[pid] = process.Stat{PID: pid}
			s.unseen.denied++
			continue
		case err != nil:
			return nil, err
		}
		s.comms[pid] = st
		if st.Dead() {
			s.vanished = true
			continue
		}
		if st.Kernel() || pid == s.proc.Self() && !s.opts.Self {
			continue
		}
		fresh = append(fresh, st)
	}
	return fresh, nil
}

// spot is what is being looked at.
type spot struct {
	n      int // of the process in its list
	thread int // 0: the process
	what   place
	which  uint64 // the descriptor, the address of the mapping
}

type place int

const (
	atProcess place = iota // what asks no other file system than the procfs
	atCwd
	atRoot
	atExe
	atFD
	atMap
)

// link is the name of what was looked at, below the process's directory.
func (s spot) link() string {
	dir := ""
	if s.thread != 0 {
		dir = "task/" + strconv.Itoa(s.thread) + "/"
	}
	switch s.what {
	case atCwd:
		return dir + "cwd"
	case atRoot:
		return dir + "root"
	case atExe:
		return dir + "exe"
	case atFD:
		return dir + "fd/" + strconv.FormatUint(s.which, 10)
	}
	return ""
}

// hangs bounds how many descriptors may keep us waiting before all others are
// given up too.
const hangs = 8

// look goes through the list in another goroutine, which is left behind where it
// hangs: another begins with the same process, and does not touch that again, nor
// what is on the same mount.
func (s *scan) look(ctx context.Context, list []process.Stat) error {
	skip := map[spot]bool{}
	var dead []string
	for next, hung := 0, 0; next < len(list); {
		w := &worker{scan: s, list: list, skip: skip, dead: dead, out: make(chan *found), stop: make(chan struct{})}
		go w.run(next)
		stuck, at, err := s.gather(ctx, w, &next)
		if err != nil {
			return err
		}
		if !stuck {
			continue
		}
		st := list[at.n]
		s.unseen.hang(st)
		if hung++; hung > hangs {
			s.unseen.givenUp += len(list) - next
			return nil
		}
		skip = maps.Clone(skip) // the one left behind may read the old ones
		skip[at] = true
		if link := at.link(); link != "" {
			if path, err := s.proc.Readlink(s.proc.Lively(st) + "/" + link); err == nil {
				if point := s.mountOf(path); point != "" {
					dead = append(slices.Clip(dead), point)
				}
			}
		}
	}
	return nil
}

// mountOf is the mount point that the path is on, if that is a network file system
// or FUSE.
func (s *scan) mountOf(path string) (point string) {
	text, err := s.proc.MountInfo(false)
	if err != nil {
		return ""
	}
	table, err := mounts.ParseText(text)
	if err != nil {
		return ""
	}
	local := true
	for i := range table {
		if m := &table[i]; under(path, m.Point) && len(m.Point) >= len(point) {
			point, local = m.Point, plain(m.FSType) || m.Point == "/"
		}
	}
	if local {
		return ""
	}
	return point
}

// under reports whether the path p is dir or below it.
func under(p, dir string) bool {
	dir = strings.TrimSuffix(dir, "/")
	return strings.HasPrefix(p, dir) && (len(p) == len(dir) || p[len(dir)] == '/')
}

// gather takes what the worker finds until it is through or hangs at a spot. next
// is the process that comes next.
func (s *scan) gather(ctx context.Context, w *worker, next *int) (stuck bool, at spot, err error) {
	const looks = 4 // so that a pause of all of us is not taken for one of a file system
	tick := time.NewTicker(s.opts.Patience / looks)
	defer tick.Stop()
	defer close(w.stop)
	quiet, last := 0, uint64(0)
	for *next < len(w.list) {
		select {
		case <-ctx.Done():
			return false, spot{}, ctx.Err()
		case f := <-w.out:
			if f.err != nil {
				return false, spot{}, f.err
			}
			s.merge(f)
			*next++
			quiet = 0
		case <-tick.C:
			now, steps := w.where()
			if steps != last {
				quiet, last = 0, steps
			} else if quiet++; quiet >= looks {
				return true, now, nil
			}
		}
	}
	return false, spot{}, nil
}

// merge takes what was found of one process.
func (s *scan) merge(f *found) {
	for _, e := range f.entries {
		s.add(e)
	}
	for ino, h := range f.sockets {
		s.holders[ino] = append(s.holders[ino], h...)
	}
	for ns, link := range f.netns {
		if _, ok := s.netns[ns]; !ok {
			s.netns[ns] = netns{link: link}
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

// worker looks at processes in a goroutine of its own.
type worker struct {
	*scan // of which a worker reads what does not change while workers are at work
	list  []process.Stat
	skip  map[spot]bool
	dead  []string // mount points of file systems that do not answer
	out   chan *found
	stop  chan struct{}

	mu    sync.Mutex
	at    spot
	steps uint64

	text    []byte // of maps and stat, used again
	numbers []int
}

func (w *worker) run(from int) {
	for n := from; n < len(w.list); n++ {
		f := &found{st: w.list[n]}
		if w.enter(spot{n: n}) {
			w.process(f, n)
		} else {
			f.hangs++
		}
		select {
		case w.out <- f:
		case <-w.stop:
			return
		}
	}
}

// enter notes what is looked at next, and reports whether it is to be: not where
// it hung before.
func (w *worker) enter(at spot) bool {
	w.mu.Lock()
	w.at = at
	w.steps++
	w.mu.Unlock()
	return !w.skip[at]
}

func (w *worker) where() (spot, uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at, w.steps
}

// stopped reports whether nobody waits for us any more, as we hung.
func (w *worker) stopped() bool {
	select {
	case <-w.stop:
		return true
	default:
		return false
	}
}
