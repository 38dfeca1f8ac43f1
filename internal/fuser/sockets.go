package fuser

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/sockdiag"
)

// socket is one of a network namespace.
type socket struct {
	sockdiag.Socket
	netns uint64 // 0: ours
}

// sockets adds who is bound to, listens on and is connected to the socket files.
func (s *scan) sockets(ctx context.Context) error {
	all, err := s.dumps(ctx)
	if err != nil {
		return err
	}
	t := socketTable{scan: s, byIno: make(map[uint32]*socket, len(all)), senders: map[uint32][]*socket{}, listens: map[sockdiag.File]bool{}, notes: map[alike]int{}}
	for i := range all {
		k := &all[i]
		t.byIno[k.Ino] = k
		if k.Peer != 0 && k.Type == dgram {
			t.senders[k.Peer] = append(t.senders[k.Peer], k)
		}
		if k.File != nil && k.State == sockdiag.Listening {
			t.listens[*k.File] = true
		}
	}
	for i := range all {
		if all[i].File != nil && s.opts.Sockets {
			t.bound(&all[i])
		}
	}
	s.queues(all)
	s.outOfList(t.byIno)
	return nil
}

const dgram = 2 // SOCK_DGRAM

// maxNetworks bounds how many network namespaces are entered: any user can make
// thousands.
const maxNetworks = 1024

var errTooMany = errors.New("there are too many")

// dumps lists the unix sockets of every network namespace that can be entered.
func (s *scan) dumps(ctx context.Context) ([]socket, error) {
	own, err := sockdiag.Dump()
	if ours(err) {
		return nil, err
	}
	if err != nil {
		s.unseen.sockets = "the kernel gives no list of unix sockets: " + err.Error()
		return nil, nil
	}
	list := make([]socket, 0, len(own))
	add := func(of []sockdiag.Socket, ns uint64) {
		for _, k := range of {
			list = append(list, socket{k, ns})
		}
	}
	add(own, 0)
	link, err := s.proc.Readlink("thread-self/ns/net")
	if err != nil {
		link, _ = s.proc.Readlink("self/ns/net")
	}
	self := process.NamespaceID(link)
	s.mountedNetworks()
	ids := make([]uint64, 0, len(s.netns))
	for id := range s.netns {
		if id != self {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	if extra := len(ids) - maxNetworks; extra > 0 {
		s.unseen.netns, s.unseen.netnsWhy = extra, errTooMany
		ids = ids[:maxNetworks]
	}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		of, err := s.dumpIn(id)
		if ours(err) {
			return nil, err
		}
		if err != nil && !process.Gone(err) {
			if s.unseen.netns++; s.unseen.netnsWhy == nil {
				s.unseen.netnsWhy = err
			}
		}
		add(of, id)
	}
	return list, nil
}

// mountedNetworks adds the network namespaces that are mounted on a file, as "ip
// netns" does it.
func (s *scan) mountedNetworks() {
	text, err := s.proc.MountInfo(false)
	if err != nil {
		return
	}
	table, err := mounts.ParseText(text)
	if err != nil {
		return
	}
	for i := range table {
		m := &table[i]
		if m.FSType != "nsfs" || !strings.HasPrefix(m.Root, "net:") || !reachable(table, m.Point) {
			continue
		}
		if id := process.NamespaceID(m.Root); id != 0 {
			n := s.netns[id]
			n.mount = m.Point
			s.netns[id] = n
		}
	}
}

// reachable reports whether no file system on the way to a path can keep us
// waiting.
func reachable(table []mounts.Mount, path string) bool {
	return !slices.ContainsFunc(table, func(m mounts.Mount) bool {
		return under(path, m.Point) && !mounts.AnswersIn(table, &m)
	})
}

// dumpIn lists the sockets of another network namespace.
func (s *scan) dumpIn(id uint64) ([]sockdiag.Socket, error) {
	fd, err := s.enter(id)
	if err != nil {
		return nil, err
	}
	defer linux.Close(fd)
	return sockdiag.DumpIn(fd)
}

// enter opens a network namespace by whichever way still leads there.
func (s *scan) enter(id uint64) (fd int, err error) {
	n := s.netns[id]
	err = fs.ErrNotExist
	for _, link := range n.links {
		now, e := s.proc.Readlink(link)
		if e == nil && process.NamespaceID(now) == id {
			if fd, err = s.proc.OpenLink(link); err == nil {
				return fd, nil
			}
		}
	}
	if n.mount != "" {
		return linux.Openat(linux.AT_FDCWD, n.mount, linux.O_RDONLY|linux.O_NONBLOCK|linux.O_NOFOLLOW, 0)
	}
	return -1, err
}

// socketTable is all sockets.
type socketTable struct {
	*scan
	byIno   map[uint32]*socket
	senders map[uint32][]*socket // datagram sockets that are connected to one
	listens map[sockdiag.File]bool
	notes   map[alike]int // where in the list of its file
}

// bound notes who uses the file that k is bound to, if it is asked about.
func (t *socketTable) bound(k *socket) {
	super := linux.Makedev(k.File.Major, k.File.Minor)
	if !t.wantsSocket(super, k.File.Ino) {
		return
	}
	key := superIno{super, k.File.Ino}
	how := Bound
	switch {
	case k.State == sockdiag.Listening:
		how = Listening
	case t.accepted(k):
		how = Accepted
	}
	t.hold(key, how, k)
	if k.Peer != 0 && how == Accepted {
		t.hold(key, Connected, t.peer(k.Peer, k))
	}
	for _, peer := range t.senders[k.Ino] {
		t.hold(key, Connected, peer)
	}
	for _, ino := range k.Waiting {
		t.hold(key, Connecting, t.peer(ino, k))
	}
}

// accepted reports whether k came out of accept(2), which gives it the address of
// the socket that listens. A client's own address is its alone, and most have none.
func (t *socketTable) accepted(k *socket) bool {
	if k.State != sockdiag.Established || k.Type == dgram {
		return false
	}
	peer := t.byIno[k.Peer]
	return t.listens[*k.File] || peer != nil && peer.File == nil
}

// peer is the socket with that inode, which may be of a network namespace that we
// do not see.
func (t *socketTable) peer(ino uint32, of *socket) *socket {
	if k := t.byIno[ino]; k != nil {
		return k
	}
	return &socket{Socket: sockdiag.Socket{Ino: ino, Type: of.Type}}
}

// wantsSocket reports whether the file is asked about.
func (t *socketTable) wantsSocket(super uint64, ino uint32) bool {
	for _, o := range t.index.objects {
		if o.Super == super && uint32(cmp.Or(o.Number, o.Ino)) == ino {
			return true
		}
	}
	for i := range t.devices {
		if d := &t.devices[i]; d.Super == super && t.ids == nil && t.given(d.Stat) && (t.opts.Want == nil || t.opts.Want(ID{d.Stat, uint64(ino)})) {
			return true
		}
	}
	return false
}

// hold notes all who have a descriptor of the socket k, or that nobody has whom we
// see.
func (t *socketTable) hold(key superIno, how How, k *socket) {
	info := &Socket{Type: socketType(&k.Socket), Ino: k.Ino, Name: k.Name, Queue: k.Queue, Backlog: k.Backlog, NetNS: k.netns, listens: k.State == sockdiag.Listening}
	if k.UID.Known {
		info.UID = &k.UID.ID
	}
	holders := t.holders[k.Ino]
	for _, h := range holders {
		t.note(key, Use{Process: process.Process{PID: h.st.PID, Comm: h.st.Comm}, Start: h.st.Start,
			Thread: h.thread, How: how, FD: h.fd, Socket: info})
	}
	if len(holders) == 0 && !t.mine[k.Ino] {
		t.note(key, Use{How: how, FD: -1, Socket: info})
	}
}

// alike is what uses have in common that are told as one: a process's descriptors
// of one socket, or its connections.
type alike struct {
	file        superIno
	how         How
	pid, thread int
	ino         uint32 // 0 for connections
	name        string
	netns       uint64
}

func (t *socketTable) note(key superIno, u Use) {
	a := alike{key, u.How, u.PID, u.Thread, u.Socket.Ino, u.Socket.Name, u.Socket.NetNS}
	if u.How != Bound && u.How != Listening {
		a.ino = 0
	}
	list := t.index.sockets[key]
	if i, ok := t.notes[a]; ok {
		list[i].More++
		return
	}
	t.notes[a] = len(list)
	t.index.sockets[key] = append(list, u)
}

// maxQueues bounds how many sockets are asked for what lies in their queues.
const maxQueues = 1024

// queues counts the descriptors that lie in the queues of sockets. Only sockets in
// which something lies are looked at: a datagram of no bytes escapes.
func (s *scan) queues(all []socket) {
	looked := 0
	for i := range all {
		k := &all[i]
		if k.Queue == 0 || len(s.holders[k.Ino]) == 0 {
			continue
		}
		if looked++; looked > maxQueues {
			s.unseen.queues++
			continue
		}
		if info, err := s.info(s.holders[k.Ino][0]); err == nil {
			s.unseen.inFlight += info.InFlight
		}
	}
}

func (s *scan) info(h holder) (process.FDInfo, error) {
	at := s.proc.Lively(h.st)
	if h.thread != 0 {
		at = strconv.Itoa(h.st.PID) + "/task/" + strconv.Itoa(h.thread)
	}
	return s.proc.FDInfo(at, h.fd)
}

// maxOutOfList bounds how many sockets that are in no list of unix sockets are
// asked what they are; most are of the internet.
const maxOutOfList = 4096

// outOfList counts the unix sockets that processes have and no network namespace
// showed: their own is kept by nothing but them. Since Linux 5.6 fdinfo tells them
// from others.
func (s *scan) outOfList(listed map[uint32]*socket) {
	asked := 0
	for ino, list := range s.holders {
		if listed[ino] != nil {
			continue
		}
		if asked++; asked > maxOutOfList {
			return
		}
		if info, err := s.info(list[0]); err == nil && info.Unix {
			s.unseen.outOfList++
		}
	}
}
