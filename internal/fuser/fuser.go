package fuser

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/slashrun/slashrun/internal/linux"
	"github.com/slashrun/slashrun/internal/locks"
	"github.com/slashrun/slashrun/internal/mounts"
	"github.com/slashrun/slashrun/internal/process"
	"github.com/slashrun/slashrun/internal/sockdiag"
)

// ID names an inode as stat(2) does.
type ID struct {
	Dev, Ino uint64
}

// Device is a file system, by both of its numbers.
type Device struct {
	Stat uint64 // st_dev of its inodes; on btrfs and overlayfs there are several
	// Super is the device of the superblock, as makedev(3) makes it: what the mount
	// table, /proc/locks and sock_diag have.
	Super uint64
}

// Object is an inode by all of its names.
type Object struct {
	ID
	Super uint64 // see Device
	// Number is that of the inode as the kernel counts it, which on an overlay of
	// several file systems is not what stat(2) says; 0 if it is not known.
	Number uint64
}

// Device is the file system that o is in.
func (o Object) Device() Device { return Device{o.Dev, o.Super} }

// Identify finds the names of the inode that is open as fd, which may be an O_PATH
// descriptor. A file system that does not answer may block it, as it may the
// caller's own stat(2). The mount has to be in our mount table.
func Identify(p *process.Proc, fd int) (Object, error) {
	var o Object
	var err error
	if o.Dev, o.Ino, err = p.Inode("self/fd/" + strconv.Itoa(fd)); err != nil {
		return o, err
	}
	info, err := p.FDInfo("self", fd)
	if err != nil {
		return o, err
	}
	o.Number = info.Ino
	text, err := p.MountInfo(false)
	if err != nil {
		return o, err
	}
	table, err := mounts.ParseText(text)
	if err != nil {
		return o, err
	}
	m := mounts.ByID(table, info.MountID)
	if m == nil {
		return o, fmt.Errorf("the mount with id %d is not in our mount table", info.MountID)
	}
	o.Super = linux.Makedev(m.Major, m.Minor)
	return o, nil
}

// How says in which way an inode is used.
type How string

// The ways.
const (
	Open   How = "open"   // a descriptor
	Mapped How = "mapped" // into memory
	Cwd    How = "cwd"    // a working directory
	Root   How = "root"   // a root directory
	Exe    How = "exe"    // the program that runs
	Locked How = "locked" // Use.Lock; beside the descriptor that it is held by

	Bound      How = "bound"      // a socket that is bound to it, not listening
	Listening  How = "listening"  // a socket that is bound to it and listens
	Accepted   How = "accepted"   // the server's end of a connection
	Connected  How = "connected"  // the client's end, or a datagram socket that sends to it
	Connecting How = "connecting" // a client that waits to be accepted
)

// Use is that a process uses an inode.
type Use struct {
	// Process is who; PID 0 is a user that exists and is nobody whom we can see: a
	// socket in flight, or of a process outside, or a lock.
	process.Process
	// Start is when the process started, as process.Stat has it: Proc.Started turns
	// it into a time.
	Start uint64 `json:"-"`
	// Thread is the thread that has its own table of descriptors or its own
	// directories, 0 if it is the whole process.
	Thread int    `json:"thread,omitempty"`
	How    How    `json:"how"`
	FD     int    `json:"fd"`               // -1 without
	Access string `json:"access,omitempty"` // "r", "w", "rw"; "path" for O_PATH
	// Path is the name by which the process has it, in the kernel's words: with
	// " (deleted)" behind what has no name any more. It is seen from our root, and for
	// another mount namespace from the root of that.
	Path   string      `json:"path,omitempty"`
	Lock   *locks.Lock `json:"lock,omitempty"`
	Socket *Socket     `json:"socket,omitempty"`
	// More is how many more descriptors, mappings or connections of this kind the
	// same process has.
	More int `json:"more,omitempty"`
}

// Socket is what the kernel says of a socket.
type Socket struct {
	Type string `json:"type"` // "stream", "dgram", "seqpacket"
	Ino  uint32 `json:"inode"`
	Name string `json:"name,omitempty"` // as it was given to bind(2)
	// Queue is how many connections wait to be accepted, of at most Backlog + 1; of
	// a socket that does not listen, how many bytes wait to be read.
	Queue   uint32 `json:"queue"`
	Backlog uint32 `json:"backlog,omitempty"`
	// NetNS is the inode number of the network namespace it is in, 0 for ours. That
	// of a connection which was accepted is the client's.
	NetNS uint64 `json:"netns,omitempty"`
	// UID is the user who made it, nil if the kernel does not tell (before Linux 5.4).
	UID *uint32 `json:"uid,omitempty"`

	listens bool
}

// Full reports whether a listening socket takes no connection more: whoever
// connects waits, and its process is busy or hung.
func (s *Socket) Full() bool { return s.listens && s.Queue > s.Backlog }

// Node is an inode that is used.
type Node struct {
	ID
	Mode    uint32 // of stat(2); 0 if it was never looked at, as a socket's is not
	Known   bool   // Nlink, Size and Blocks were told
	Nlink   uint32
	Size    int64
	Blocks  int64  // of 512 bytes
	Path    string // as in Use, of the first
	Deleted bool   // it has no name any more, and is there for its users alone
}

// Options says what to look for. An inode is asked about if it is one of Objects,
// or in one of Devices and Want takes it.
type Options struct {
	Objects []Object
	Devices []Device
	Want    func(ID) bool // nil takes all; called from another goroutine
	// Sockets says that socket files may be among them, and asks who is bound to them
	// and connected. The sockets are listed in any case: any file may lie in a queue.
	Sockets bool
	// Self says that our own process counts as well.
	Self bool
	// Patience is how long one descriptor may take before it is given up as one of a
	// file system that does not answer; 0 is a second.
	Patience time.Duration
}

// Index is who uses what. It does not change any more, so it is safe for
// concurrent use.
type Index struct {
	// Incomplete says what could not be seen, at most a dozen lines. Where it is not
	// empty, no use proves nothing.
	Incomplete []string

	uses    map[ID][]Use
	nodes   map[ID]*Node
	sockets map[superIno][]Use
	devices []Device
	objects map[ID]Object
}

// superIno is an inode as sock_diag names it.
type superIno struct {
	super uint64
	ino   uint32
}

// Of lists who uses the inode: who has it open, then who has it as a directory or
// mapped, then locks, then sockets; each by process.
func (x *Index) Of(id ID) []Use {
	list := slices.Clone(x.uses[id])
	if len(x.sockets) == 0 {
		return list
	}
	if o, ok := x.objects[id]; ok {
		return append(list, x.sockets[o.socket()]...)
	}
	for _, d := range x.devices { // of which no two are the same
		if d.Stat == id.Dev {
			list = append(list, x.sockets[superIno{d.Super, uint32(id.Ino)}]...)
		}
	}
	return list
}

// socket is the name of o at sock_diag.
func (o Object) socket() superIno { return superIno{o.Super, uint32(cmp.Or(o.Number, o.Ino))} }

// All gives every inode that is used, in the order of its numbers, with the users.
// A socket file that nobody has open is in it with the number that sock_diag
// gives, 32 bits.
func (x *Index) All() iter.Seq2[Node, []Use] {
	return func(yield func(Node, []Use) bool) {
		nodes := maps.Clone(x.nodes)
		for key := range x.sockets {
			if id, ok := x.socketFile(key); ok && nodes[id] == nil {
				nodes[id] = &Node{ID: id, Mode: syscall.S_IFSOCK}
			}
		}
		for _, id := range slices.SortedFunc(maps.Keys(nodes), compareIDs) {
			if !yield(*nodes[id], x.Of(id)) {
				return
			}
		}
	}
}

// socketFile is the inode that sock_diag names: one that was looked at, if there
// is one, else the number as it is.
func (x *Index) socketFile(key superIno) (id ID, ok bool) {
	for _, o := range x.objects {
		if o.socket() == key {
			return o.ID, true
		}
	}
	for _, d := range x.devices {
		if d.Super != key.super {
			continue
		}
		at := ID{d.Stat, uint64(key.ino)}
		if x.nodes[at] != nil {
			return at, true
		}
		if !ok {
			id, ok = at, true
		}
	}
	return id, ok
}

func compareIDs(a, b ID) int { return cmp.Or(cmp.Compare(a.Dev, b.Dev), cmp.Compare(a.Ino, b.Ino)) }

// Deleted lists the inodes that have no name any more and are open or mapped. A
// socket whose file was removed cannot be told from one of another name: see All.
func (x *Index) Deleted() []Node {
	var list []Node
	for _, n := range x.nodes {
		if n.Deleted {
			list = append(list, *n)
		}
	}
	slices.SortFunc(list, func(a, b Node) int { return compareIDs(a.ID, b.ID) })
	return list
}

// Scan looks at every process once. An error means that there is no answer at all
// (no list of processes, none of our own descriptors left, ctx); whatever else
// fails is told in Incomplete.
func Scan(ctx context.Context, p *process.Proc, o Options) (*Index, error) {
	s, err := newScan(p, o)
	if err != nil {
		return nil, err
	}
	if err := s.processes(ctx); err != nil {
		return nil, err
	}
	if err := s.locks(); err != nil {
		return nil, err
	}
	if err := s.sockets(ctx); err != nil {
		return nil, err
	}
	for _, list := range s.index.uses {
		slices.SortStableFunc(list, func(a, b Use) int { return cmp.Compare(a.How.rank(), b.How.rank()) })
	}
	s.index.Incomplete = s.unseen.list(s)
	return s.index, nil
}

// rank is the place of a way in a list: what is open, then the directories, then
// the locks.
func (h How) rank() int {
	switch h {
	case Open:
		return 0
	case Locked:
		return 2
	}
	return 1
}

func socketType(s *sockdiag.Socket) string {
	switch s.Type {
	case syscall.SOCK_STREAM:
		return "stream"
	case syscall.SOCK_DGRAM:
		return "dgram"
	case syscall.SOCK_SEQPACKET:
		return "seqpacket"
	}
	return strconv.Itoa(int(s.Type))
}
